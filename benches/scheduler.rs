//! What one step of the queue costs while very many wait: percentiles, because a queue that is fast
//! on average and slow once in a while holds a pool's lock once in a while.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use tidegate::admission::scheduler::{ClassRule, Entry, Scheduler, Ticket};
use tidegate::limit::Cost;
use tidegate::time::Timestamp;
use tokio::time::Instant;

const STEPS: usize = 400_000;

/// One measured step: someone comes, whoever's turn it is goes, and someone who came earlier gives
/// up; what keeps as many waiting is not measured.
struct Line {
    scheduler: Scheduler<()>,
    rng: fastrand::Rng,
    tenants: u64,
    now: Timestamp,
    tickets: Vec<Ticket>,
}

impl Line {
    fn new(waiting: usize, tenants: u64) -> Self {
        let classes = [(0, 500), (1, 250), (2, 50)].map(|(rank, share)| ClassRule {
            rank,
            share,
            paced: false,
        });
        let rng = fastrand::Rng::with_seed(1);
        let now = Timestamp::from_nanos(1_772_064_000_000_000_000);
        let scheduler = Scheduler::new(&classes);
        let mut line = Self { scheduler, rng, tenants, now, tickets: Vec::new() };
        for _ in 0..waiting {
            let entry = line.draw();
            let ticket = line.push(entry);
            line.tickets.push(ticket);
        }
        line
    }

    fn draw(&mut self) -> Entry {
        self.now = self.now.after(Duration::from_millis(1));
        let cost = Cost::new(1, self.rng.u64(1_000..20_000));
        let deadline = self.now.after(Duration::from_millis(self.rng.u64(1_000..600_000)));
        let tenant = self.rng.u64(..self.tenants);
        Entry {
            fair: cost.tokens / 4,
            bytes: 4_000,
            class: self.rng.usize(..3),
            tenant,
            weight: NonZeroU32::new(1 + u32::from(tenant.is_multiple_of(4))).expect("above zero"),
            ..Entry::new(cost, self.now, deadline)
        }
    }

    fn push(&mut self, entry: Entry) -> Ticket {
        let place = self.scheduler.place();
        self.scheduler.insert(place, entry, ())
    }

    /// Push, pop and cancel, timed together.
    fn step(&mut self) -> Duration {
        let (first, second, pick) =
            (self.draw(), self.draw(), self.rng.usize(..self.tickets.len()));
        let start = Instant::now();
        let one = self.push(black_box(first));
        let (head, _) = self.scheduler.head().expect("someone waits");
        let gone = self.scheduler.dispatch(head).expect("the head waits");
        let cancelled = self.scheduler.remove(self.tickets[pick]).is_some();
        let spent = start.elapsed();
        let fair = gone.charge.fair();
        self.scheduler.settle(gone.charge, fair / 2);
        self.tickets[pick] = one;
        if cancelled {
            // Not timed: keeps as many waiting.
            let ticket = self.push(second);
            let other = self.rng.usize(..self.tickets.len());
            if self.scheduler.get(self.tickets[other]).is_none() {
                self.tickets[other] = ticket;
            }
        }
        spent
    }
}

#[expect(clippy::print_stdout, reason = "the measure is the output")]
fn main() {
    for (waiting, tenants) in [(1_000, 10), (100_000, 1_000), (1_000_000, 100_000)] {
        let mut line = Line::new(waiting, tenants);
        let mut times: Vec<_> = (0..STEPS).map(|_| line.step()).collect();
        times.sort_unstable();
        let at = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let index = (share * (STEPS - 1) as f64) as usize;
            times[index]
        };
        println!(
            "scheduler: push + pop + cancel, {waiting} waiting, {tenants} tenants: \
             p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}
