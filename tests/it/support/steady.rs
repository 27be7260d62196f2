//! Measurements in real time on machines that others use too: one during which the machine stood still
//! says nothing about the gateway.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::FutureExt;
use tidegate::time::Epoch;

/// Times that a measurement is made at most.
const RUNS: u32 = 3;
/// A nap, and what a machine with nothing better to do makes of it at most.
const NAP: Duration = Duration::from_millis(5);
const ROUSED: Duration = Duration::from_millis(20);
/// A run is void if so much of it, one part in so many, was lost to naps that took too long.
const VOID: u32 = 50;

/// Runs `measure`, whose assertions may fail only if the machine did its part: what fails is run again
/// if the machine stood still for more than a fiftieth of that time, three times in all at the most. What
/// is wrong with the gateway fails on a machine that is fast enough, and every time on one that is not.
pub(crate) async fn steady(what: &str, measure: impl AsyncFn()) {
    for run in 1.. {
        let watch = Watch::start();
        let result = AssertUnwindSafe(measure()).catch_unwind().await;
        let (lost, lasted) = watch.end();
        let Err(panic) = result else { return };
        if run == RUNS || lost * VOID <= lasted {
            resume_unwind(panic);
        }
        void(what, run, lost, lasted);
    }
}

#[expect(clippy::print_stdout, reason = "a run that does not count has to be seen")]
fn void(what: &str, run: u32, lost: Duration, lasted: Duration) {
    println!("{what}: run {run} is void, the machine stood still for {lost:?} of {lasted:?}");
}

/// A thread that naps, and finds out how much longer than it wanted.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, Duration)>,
}

impl Watch {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let epoch = Epoch::start();
            let (began, mut lost) = (epoch.now(), Duration::ZERO);
            let mut before = began;
            while !told.load(Ordering::Relaxed) {
                thread::sleep(NAP);
                let now = epoch.now();
                lost += now.since(before).saturating_sub(ROUSED);
                before = now;
            }
            (lost, before.since(began))
        });
        Self { over, thread }
    }

    /// How long the machine stood still, and how long it was watched.
    fn end(self) -> (Duration, Duration) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does nothing that could go wrong")
    }
}
