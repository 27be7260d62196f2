//! Following a log: what others append is pushed; what was not pushed is asked for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::calls::Inner;
use super::log::{Log, Outcome, State};
use super::position::{Entry, Epoch, Position, Step};
use super::wire::{Phase, Publication};

/// Publications that wait for their follower; one that is slower asks for what it missed.
const MOST_WAITING: usize = 1_024;
/// Events that wait for whoever reads them.
const MOST_EVENTS: usize = 256;
/// What a reply mentions has been published before the reply: so long it may be under way.
const PUSH_TIME: Duration = Duration::from_millis(20);
/// The pause after an attempt to catch up that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// A timer needs some instant; nothing is done at this one.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// Something that happened to a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The next entry, this replica's own included.
    Entry(Entry),
    /// What was known is void; this takes its place.
    State(State),
    /// An epoch has ended: call [`Log::reassert`]. A [`Event::State`] follows.
    Reassert,
    /// Calls are not made any more: the server does not answer.
    Lost,
    /// Calls are made again. What was missed follows.
    Back,
}

/// The events of a log; ends with the log's store. Dropping it ends the following.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    pub(super) fn start(log: &Log, position: Position) -> Self {
        let (events, receiver) = mpsc::channel(MOST_EVENTS);
        let inner = &log.0;
        inner.inbox.lock().restart(&position);
        inner.store.logs.lock().insert(inner.channel().to_owned(), Arc::downgrade(inner));
        inner.store.wake.notify_one();
        let number = inner.inbox.lock().followers;
        let follower = Follower { position, number, up: true, again: None, check: None };
        inner.store.tasks.spawn(follower.run(Arc::downgrade(inner), events));
        Self(receiver)
    }

    /// The next event.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

/// What waits for the follower.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Publication>,
    /// Something may not have been pushed.
    missed: bool,
    /// The server waits for what this replica knows.
    asked: bool,
    epoch: Epoch,
    /// The last entry that the follower has passed on.
    seq: u64,
    /// The last that a reply has mentioned.
    expected: u64,
    /// How often following was started.
    followers: u64,
}

impl Inbox {
    fn restart(&mut self, position: &Position) {
        self.waiting.clear();
        (self.missed, self.asked) = (true, false);
        self.epoch = position.epoch.clone();
        (self.seq, self.expected) = (position.seq, position.seq);
        self.followers += 1;
    }

    pub(super) fn push(&mut self, publication: Publication) {
        if self.followers == 0 {
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.clear();
            self.missed = true;
        } else {
            self.waiting.push_back(publication);
        }
    }

    pub(super) const fn miss(&mut self) {
        self.missed = true;
    }

    pub(super) const fn asked(&mut self, asked: bool) {
        self.asked = asked;
    }

    /// A reply mentions this entry; whether the follower has not passed it on yet.
    pub(super) fn expect(&mut self, epoch: &Epoch, seq: u64) -> bool {
        if *epoch == self.epoch {
            self.expected = self.expected.max(seq);
        } else {
            self.missed = true;
        }
        self.followers > 0 && (self.missed || seq > self.seq)
    }
}

struct Follower {
    position: Position,
    /// Which one it is of those that were started.
    number: u64,
    up: bool,
    /// When to ask anew.
    again: Option<Instant>,
    /// When what replies have mentioned should have been pushed.
    check: Option<Instant>,
}

/// The reader is gone.
struct Closed;

impl Follower {
    async fn run(mut self, log: Weak<Inner>, events: mpsc::Sender<Event>) {
        while let Some(log) = log.upgrade() {
            tokio::select! {
                result = self.step(&log, &events) => if result.is_err() { return },
                () = events.closed() => return,
                () = log.store.stop.cancelled() => return,
            }
        }
    }

    /// Does what there is to do, then waits for something to happen.
    async fn step(&mut self, log: &Inner, events: &mpsc::Sender<Event>) -> Result<(), Closed> {
        let send = async |event| events.send(event).await.map_err(|_| Closed);
        let is_up = log.store.is_up();
        if is_up != self.up {
            self.up = is_up;
            send(if is_up { Event::Back } else { Event::Lost }).await?;
            if is_up {
                log.inbox.lock().miss();
            }
        }
        loop {
            let next = {
                let mut inbox = log.inbox.lock();
                if inbox.followers != self.number {
                    return Err(Closed);
                }
                inbox.waiting.pop_front()
            };
            let Some(publication) = next else { break };
            for entry in self.publication(log, publication) {
                send(Event::Entry(entry)).await?;
            }
            self.passed(log);
        }
        if self.up && self.is_due(log) {
            (self.again, self.check) = (None, None);
            self.catch_up(log, events).await?;
        }
        let next = [self.again, self.check].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = log.signal.notified() => {}
            () = sleep_until(next) => {}
        }
        Ok(())
    }

    /// Whether the server has to be asked now for what follows the position.
    fn is_due(&mut self, log: &Inner) -> bool {
        let now = Instant::now();
        let mut inbox = log.inbox.lock();
        let missed = std::mem::take(&mut inbox.missed);
        if missed || self.again.is_some_and(|again| again <= now) {
            return true;
        }
        if inbox.expected <= inbox.seq {
            self.check = None;
            return false;
        }
        // A reply may have overtaken what was published before it.
        *self.check.get_or_insert(now + PUSH_TIME) <= now
    }

    /// The entries of a publication that are next.
    fn publication(&mut self, log: &Inner, publication: Publication) -> Vec<Entry> {
        let Publication { phase, epoch, entries } = publication;
        if phase == Phase::Gather || epoch != self.position.epoch {
            log.inbox.lock().miss();
            return Vec::new();
        }
        let mut next = Vec::new();
        for entry in entries {
            match self.position.accept(&entry) {
                Step::Next => next.push(entry),
                Step::Known => {}
                Step::Gap => log.inbox.lock().miss(),
            }
        }
        next
    }

    fn passed(&self, log: &Inner) {
        let mut inbox = log.inbox.lock();
        inbox.seq = self.position.seq;
        if inbox.epoch != self.position.epoch {
            inbox.epoch = self.position.epoch.clone();
            inbox.expected = inbox.seq;
        }
    }

    /// Asks for what is after the position until there is nothing left.
    async fn catch_up(&mut self, log: &Inner, events: &mpsc::Sender<Event>) -> Result<(), Closed> {
        let send = async |event| events.send(event).await.map_err(|_| Closed);
        let soon = |pause| Some(Instant::now() + pause);
        loop {
            let is_new = self.position.epoch.id.is_empty();
            let read = if is_new { Ok(Outcome::Stale) } else { log.read(&self.position).await };
            let (entries, whole) = match read {
                Ok(Outcome::Appended(entries)) => (entries, true),
                Ok(Outcome::Behind(entries)) => (entries, false),
                Ok(Outcome::Wait(left)) => {
                    let asked = std::mem::take(&mut log.inbox.lock().asked);
                    if asked {
                        send(Event::Reassert).await?;
                    }
                    // Somebody has to call when the time is over; an opening is published.
                    self.again = soon(left + PUSH_TIME);
                    return Ok(());
                }
                Ok(Outcome::Stale) => match log.load().await {
                    Ok(Ok(state)) => {
                        self.position = state.position.clone();
                        self.passed(log);
                        log.began(&self.position.epoch);
                        return send(Event::State(state)).await;
                    }
                    Ok(Err(left)) => {
                        self.again = soon(left + PUSH_TIME);
                        return Ok(());
                    }
                    Err(_) => {
                        self.again = soon(PAUSE);
                        return Ok(());
                    }
                },
                Err(_) => {
                    self.again = soon(PAUSE);
                    return Ok(());
                }
            };
            for entry in entries {
                if self.position.accept(&entry) == Step::Next {
                    send(Event::Entry(entry)).await?;
                }
            }
            self.passed(log);
            if whole {
                return Ok(());
            }
        }
    }
}
