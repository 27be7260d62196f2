//! Room for connections: so many at once, and those that have been idle for longest make place for new ones.
//!
//! # Invariants
//!
//! - A connection with a request on it, be it waiting, at the upstream or being answered, is never closed
//!   to make room. Neither is one that has only just become idle.
//! - Nobody is closed while nobody else knocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a connection has to have been idle to be closed for another: time for whoever has just
/// connected to say what they want, and for an SDK to use again what it has just used. Without it, more
/// callers than there is room for would do nothing but close each other's connections.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Of those that may be closed, one in so many is at once: to look through all of them for each that
/// knocks would be a flood's work to multiply.
const PART: usize = 64;

/// The room behind one listener.
#[derive(Clone, Debug)]
pub(super) struct Room {
    slots: Arc<Semaphore>,
    inside: Arc<Mutex<Inside>>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Inside {
    all: HashMap<u64, Arc<Occupant>>,
    next: u64,
}

/// A connection, as whoever needs its place sees it.
#[derive(Debug)]
pub(super) struct Occupant {
    requests: AtomicU32,
    /// Since when there is none, in milliseconds since `began`.
    idle_since: AtomicU64,
    began: Instant,
    leave: Notify,
}

/// A place in the room, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    number: u64,
    occupant: Arc<Occupant>,
    _slot: Option<OwnedSemaphorePermit>,
}

/// A request on a connection, until its answer has been sent or given up.
#[derive(Debug)]
pub(super) struct Busy(Arc<Occupant>);

impl Room {
    /// For so many connections.
    pub(super) fn new(most: usize) -> Self {
        let slots = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { slots, inside: Arc::default(), began: Instant::now() }
    }

    /// A place for one that knocks, as soon as there is one; `evicted` is told how many others were asked
    /// to leave for it.
    pub(super) async fn enter(&self, evicted: impl Fn(usize)) -> Place {
        let slot = loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                break Some(slot);
            }
            evicted(self.evict());
            let free = Arc::clone(&self.slots).acquire_owned();
            if let Ok(slot) = tokio::time::timeout(AT_LEAST, free).await {
                // It is never closed.
                break slot.ok();
            }
        };
        self.place(slot)
    }

    /// A place, if there is one.
    pub(super) fn try_enter(&self) -> Option<Place> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(self.place(Some(slot)))
    }

    fn place(&self, slot: Option<OwnedSemaphorePermit>) -> Place {
        let occupant = Arc::new(Occupant::new(self.began));
        let mut inside = self.inside.lock();
        let number = inside.next;
        inside.next += 1;
        inside.all.insert(number, Arc::clone(&occupant));
        drop(inside);
        Place { room: self.clone(), number, occupant, _slot: slot }
    }

    /// Asks those to leave that have been idle for longest; returns how many.
    fn evict(&self) -> usize {
        let now = millis(self.began);
        let least = u64::try_from(AT_LEAST.as_millis()).unwrap_or(u64::MAX);
        let inside = self.inside.lock();
        let idle = inside.all.values().filter_map(|it| Some((it.idle_since()?, it)));
        let mut idle: Vec<_> = idle.filter(|(since, _)| since + least <= now).collect();
        if idle.is_empty() {
            return 0;
        }
        let count = idle.len().div_ceil(PART);
        idle.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
        for (_, occupant) in &idle[..count] {
            occupant.leave.notify_one();
        }
        count
    }
}

impl Occupant {
    fn new(began: Instant) -> Self {
        Self {
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(millis(began)),
            began,
            leave: Notify::new(),
        }
    }

    /// Notes that a request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn idle_since(&self) -> Option<u64> {
        let idle = self.requests.load(Ordering::Relaxed) == 0;
        idle.then(|| self.idle_since.load(Ordering::Relaxed))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // First, so that nobody sees the end of an earlier request in the place of this one's.
        self.0.idle_since.store(millis(self.0.began), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

impl Place {
    /// Who has the place.
    pub(super) const fn occupant(&self) -> &Arc<Occupant> {
        &self.occupant
    }

    /// Waits until somebody else needs the place and nothing goes on in it.
    pub(super) async fn needed(&self) {
        loop {
            self.occupant.leave.notified().await;
            // A request may have come since it was chosen.
            if self.occupant.idle_since().is_some() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.inside.lock().all.remove(&self.number);
    }
}

/// Milliseconds since then.
fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    async fn enter(room: &Room) -> Place {
        room.enter(|_| {}).await
    }

    /// The numbers of those that have been asked to leave since they were asked about last.
    fn asked(places: &[Place]) -> Vec<u64> {
        let asked = places.iter().filter(|place| place.needed().now_or_never().is_some());
        asked.map(|place| place.number).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_idle_for_longest_makes_room_and_nobody_who_is_busy() {
        let room = Room::new(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(enter(&room).await);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let busy = places[0].occupant().begin();
        // It has been here for long, but not idle for long.
        drop(places[1].occupant().begin());
        tokio::time::sleep(Duration::from_secs(2)).await;
        for next in [2, 3, 1] {
            assert_eq!((room.evict(), asked(&places)), (1, vec![next]));
            places.retain(|place| place.number != next);
        }
        assert_eq!((room.evict(), asked(&places)), (0, vec![]));
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_while_there_is_room_or_who_has_only_just_come() {
        let room = Room::new(2);
        let (first, second) = (enter(&room).await, enter(&room).await);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(first.needed().now_or_never().is_none(), "nobody knocks");
        drop((first.occupant().begin(), second.occupant().begin()));
        let asked = AtomicU32::new(0);
        let count = |some| {
            asked.fetch_add(u32::try_from(some).expect("few"), Ordering::Relaxed);
        };
        let third = room.enter(count);
        let mut third = std::pin::pin!(third);
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 0, "both were busy just now");
        let began = Instant::now();
        tokio::select! {
            _ = third.as_mut() => {}
            () = first.needed() => drop(first),
            () = second.needed() => drop(second),
        }
        assert_eq!((asked.load(Ordering::Relaxed), began.elapsed()), (1, AT_LEAST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_meanwhile_is_left_alone() {
        let room = Room::new(1);
        let only = enter(&room).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(room.evict(), 1);
        let busy = only.occupant().begin();
        assert!(only.needed().now_or_never().is_none(), "it has been chosen, and is not idle now");
        drop(busy);
        assert!(only.needed().now_or_never().is_none(), "nor later: that was another time");
        drop(only);
        assert!(room.inside.lock().all.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_a_part_goes_at_once() {
        let room = Room::new(640);
        let mut places = Vec::new();
        for _ in 0..640 {
            places.push(enter(&room).await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let busy: Vec<_> = places[..320].iter().map(|it| it.occupant().begin()).collect();
        assert_eq!(room.evict(), 5);
        let asked = asked(&places);
        assert!(asked.len() == 5 && asked.iter().all(|number| *number >= 320), "{asked:?}");
        drop(busy);
    }
}
