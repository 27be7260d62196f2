//! A thread with a runtime of its own for each core, which shares no task and no connection with the others.
//!
//! What belongs to a connection stays on one thread: its task, the connections to the upstream that its
//! requests take, and their timers. So does what a request has begun that outlives it: the timer of a new
//! pool, a batch.
//!
//! # Invariants
//!
//! - No task is moved from one of the threads to another.
//! - A thread's number never changes; whoever is none of these is at number 0.

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads that a core's runtime may start for what blocks: looking up a host's name does not wait for the
/// counting of a prompt.
const BLOCKING: usize = 2;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the core that this thread belongs to, from 1; 0 is all other threads.
pub fn here() -> usize {
    HERE.get()
}

/// As many threads as there are cores, or as `TOKIO_WORKER_THREADS` says, as for any program of Tokio.
pub fn count() -> NonZeroUsize {
    let told = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|text| text.parse().ok());
    told.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// The threads; they end with the last clone of it, and with them what runs there still.
#[derive(Clone, Debug)]
pub struct Cores(Arc<All>);

#[derive(Debug)]
struct All {
    cores: Vec<Core>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Core {
    runtime: Handle,
    busy: AtomicUsize,
}

impl Cores {
    /// Starts so many.
    ///
    /// # Errors
    ///
    /// If the system does not give a thread, or what its runtime needs.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let mut all = All { cores: Vec::new(), end: CancellationToken::new() };
        for number in 1..=count.get() {
            let mut builder = Builder::new_current_thread();
            let runtime = builder.max_blocking_threads(BLOCKING).enable_all().build()?;
            all.cores.push(Core { runtime: runtime.handle().clone(), busy: AtomicUsize::new(0) });
            let end = all.end.clone();
            thread::Builder::new().name(format!("core-{number}")).spawn(move || {
                HERE.set(number);
                runtime.block_on(end.cancelled());
                runtime.shutdown_background();
            })?;
        }
        Ok(Self(Arc::new(all)))
    }

    /// A seat at the core that has the fewest taken.
    pub fn seat(&self) -> Option<Seat> {
        let taken = self.0.cores.iter().map(|core| core.busy.load(Ordering::Relaxed));
        let (core, _) = taken.enumerate().min_by_key(|(_, taken)| *taken)?;
        let seat = Seat { all: Arc::clone(&self.0), core };
        seat.core().busy.fetch_add(1, Ordering::Relaxed);
        Some(seat)
    }
}

impl Drop for All {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// A seat at a core, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    all: Arc<All>,
    core: usize,
}

impl Seat {
    /// Where to run what sits there.
    pub fn runtime(&self) -> &Handle {
        &self.core().runtime
    }

    fn core(&self) -> &Core {
        &self.all.cores[self.core]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.core().busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn seats_are_spread_and_what_sits_there_runs_there() {
        let cores = Cores::start(NonZeroUsize::new(3).unwrap()).unwrap();
        let (sender, ran) = mpsc::channel();
        let mut seats: Vec<_> = (0..6).map(|_| cores.seat().unwrap()).collect();
        for seat in &seats {
            let sender = sender.clone();
            seat.runtime().spawn(async move { sender.send(here()).unwrap() });
        }
        let mut numbers: Vec<_> = ran.iter().take(6).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 1, 2, 2, 3, 3]);
        assert_eq!(here(), 0);

        // The next one sits where somebody has left.
        let left = seats.remove(4).core;
        assert_eq!(cores.seat().unwrap().core, left);
    }

    #[test]
    fn threads_end_with_the_last_seat() {
        let cores = Cores::start(NonZeroUsize::MIN).unwrap();
        let seat = cores.seat().unwrap();
        drop(cores);
        let (sender, told) = mpsc::channel();
        let ending = sender.clone();
        let held = Held(ending);
        seat.runtime().spawn(async move {
            let held = held;
            sender.send("runs").unwrap();
            std::future::pending::<()>().await;
            drop(held);
        });
        assert_eq!(told.recv().unwrap(), "runs");
        drop(seat);
        assert_eq!(told.recv().unwrap(), "dropped");
    }

    struct Held(mpsc::Sender<&'static str>);

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
}
