//! Rings the store's thread from the path of requests.
//!
//! The state is one of three. A ring that finds the thread [`AWAKE`] or the bell [`RUNG`] only leaves
//! its mark: the thread looks at its next turn. One that finds it [`ASLEEP`] wakes it.
//!
//! Ring while the lock under which the change was made is held, or after: the thread first resets the
//! bell and then takes that lock to collect. Whoever has the lock before it is collected; whoever has
//! it after it sees the bell reset, and rings.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

/// The thread works, and nobody has rung since it last looked.
const AWAKE: u8 = 0;
/// Somebody has rung.
const RUNG: u8 = 1;
/// The thread sleeps until somebody rings.
const ASLEEP: u8 = 2;

/// Tells the store's thread that there is something to keep; cheap to clone and to call.
#[derive(Clone, Debug, Default)]
pub struct Waker(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    state: AtomicU8,
    thread: OnceLock<Thread>,
    orders: Mutex<Vec<Order>>,
}

/// What the thread is asked to do beside its work.
#[derive(Debug)]
pub(super) enum Order {
    /// Commit what there is now, and say whether it is on disk.
    Flush(std::sync::mpsc::SyncSender<bool>),
    /// Commit what there is, mark it as complete, say whether that went well, and end.
    Stop(std::sync::mpsc::SyncSender<bool>),
    /// End.
    Abandon,
}

impl Waker {
    /// There is something to keep.
    #[inline]
    pub fn wake(&self) {
        // While it works, most rings find that another has been there: no write to a shared line.
        if self.0.state.load(Ordering::Relaxed) != RUNG {
            self.ring();
        }
    }

    /// There is something to keep that cannot wait for the thread's next turn.
    pub fn hurry(&self) {
        self.0.state.swap(RUNG, Ordering::AcqRel);
        // Also if it waits for its next turn.
        self.unpark();
    }

    fn ring(&self) {
        if self.0.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    /// Gives the thread an order, which it follows at once.
    pub(super) fn order(&self, order: Order) {
        self.0.orders.lock().push(order);
        self.0.state.swap(RUNG, Ordering::AcqRel);
        // Also if it waits for its next turn.
        self.unpark();
    }

    /// This is the thread.
    pub(super) fn answered_here(&self) {
        // Set once: there is one thread.
        let _ = self.0.thread.set(thread::current());
    }

    /// The orders given since the last call.
    pub(super) fn orders(&self) -> Vec<Order> {
        std::mem::take(&mut self.0.orders.lock())
    }

    /// Whether somebody has rung since the last call.
    pub(super) fn answer(&self) -> bool {
        self.0.state.swap(AWAKE, Ordering::AcqRel) == RUNG
    }

    /// Waits for the next turn; an order is reason not to, and so is a hurry.
    pub(super) fn pause(&self, span: Duration) {
        if self.0.orders.lock().is_empty() {
            thread::park_timeout(span);
        }
    }

    /// Sleeps until somebody rings, unless somebody has.
    pub(super) fn sleep(&self) {
        let state = &self.0.state;
        if state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        // `park` may return without a reason.
        while state.load(Ordering::Acquire) == ASLEEP {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// However rings fall between the thread's turns, each is followed by a look at what was done
    /// before it.
    #[test]
    fn no_ring_is_lost() {
        const EACH: u64 = 20_000;
        let (waker, done) = (Waker::default(), Arc::new(Mutex::new(0_u64)));
        let seen = Arc::new(AtomicU64::new(0));
        let sleeper = {
            let (waker, done, seen) = (waker.clone(), Arc::clone(&done), Arc::clone(&seen));
            thread::spawn(move || {
                waker.answered_here();
                while seen.load(Ordering::SeqCst) < 2 * EACH {
                    if waker.answer() {
                        seen.store(*done.lock(), Ordering::SeqCst);
                    } else {
                        waker.sleep();
                    }
                }
            })
        };
        let ringers: Vec<_> = (0..2)
            .map(|_| {
                let (waker, done) = (waker.clone(), Arc::clone(&done));
                thread::spawn(move || {
                    for step in 0..EACH {
                        *done.lock() += 1;
                        waker.wake();
                        if step % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        for thread in ringers {
            thread.join().expect("no panic");
        }
        // It would sleep for ever if the last ring were lost.
        sleeper.join().expect("no panic");
        assert_eq!(seen.load(Ordering::SeqCst), 2 * EACH);
    }

    #[test]
    fn an_order_ends_a_pause() {
        let waker = Waker::default();
        let thread = {
            let waker = waker.clone();
            thread::spawn(move || {
                waker.answered_here();
                while waker.orders().is_empty() {
                    waker.pause(Duration::from_secs(3_600));
                }
            })
        };
        waker.order(Order::Abandon);
        thread.join().expect("it ends");
    }
}
