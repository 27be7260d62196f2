//! The life of one request: at the upstream, and seen from the sender.

use tidegate::limit::{Mode, Spent};
use tidegate::time::Timestamp;

use super::{Event, Flight, Held, World, cost};
use crate::oracle::{REQUESTS, TOKENS};
use crate::workload::{Fate, Job, MILLI};

/// How old a reading of the clock may be when it is used: others may have used later ones since.
const CLOCK_LAG: u64 = 5 * MILLI;

impl World<'_> {
    pub(super) fn happen(&mut self, event: Event) {
        self.late_clock = self.now - self.rng.u64(0..=CLOCK_LAG);
        match event {
            Event::Wake => self.armed = self.armed.filter(|armed| *armed > self.now),
            Event::Arrive(index) => self.arrive(index),
            Event::Head(index) => {
                let Some(Flight { held: Held::There(sent), arrived_at, .. }) =
                    &mut self.flights[index]
                else {
                    return;
                };
                // Read before the lock was free, but after the upstream's charge.
                let now = self.late_clock.max(*arrived_at);
                self.ledger.charged(sent, Timestamp::from_nanos(now));
            }
            Event::Refund(index) => {
                let Some(flight) = &mut self.flights[index] else { return };
                let Job { hold, used, reserve, .. } = flight.job;
                if let Some(entry) = flight.entry.take() {
                    self.oracle.refund(entry, used, self.now);
                }
                self.open_debt += i128::from(used.saturating_sub(hold.max(reserve)));
                self.set_pending(index, [0, i128::from(hold) - i128::from(used)]);
            }
            Event::End(index) => self.end(index),
        }
    }

    /// The upstream decides, and the rest of the request's life is known.
    fn arrive(&mut self, index: usize) {
        let Some(Flight { job, sent_at, ref mut arrived_at, .. }) = self.flights[index] else {
            return;
        };
        *arrived_at = self.now;
        let head = self.now + job.first_token + job.back;
        let refusal = self.now + job.back;
        if job.fate == Fate::Refused {
            return self.schedule(refusal, Event::End(index));
        }
        let entry = match self.oracle.admit(job.reserve, self.now) {
            Ok(entry) => entry,
            Err(window) => {
                let excused = self.is_in_debt_for(window, job.reserve);
                self.story.rejected_in_debt += u64::from(excused);
                self.story.rejected += u64::from(!excused);
                let now = self.now;
                self.story.fault(|| format!("window {window} rejected {job:?} at {now}"));
                if let Some(flight) = &mut self.flights[index] {
                    flight.job.fate = Fate::Refused;
                }
                return self.schedule(refusal, Event::End(index));
            }
        };
        self.set_pending(index, [0, i128::from(job.hold) - i128::from(job.reserve)]);
        if let Some(flight) = &mut self.flights[index] {
            flight.entry = Some(entry);
        }
        let delay = self.workload.settle_delay;
        let ended = match job.fate {
            Fate::Cut { seen: true } => {
                self.schedule(head, Event::Head(index));
                // Settled at once: the charge has been seen.
                head + self.rng.u64(0..=job.stream)
            }
            // Nobody knows when it was charged, but within the delay it was.
            Fate::Cut { seen: false } => (sent_at + delay).max(self.now),
            _ => {
                self.schedule(head, Event::Head(index));
                let ended = self.now + job.first_token + job.stream;
                self.schedule(ended + job.refund, Event::Refund(index));
                ended + job.back + delay
            }
        };
        self.schedule(ended, Event::End(index));
        self.story.note(&job, self.now, ended - sent_at, head - sent_at);
    }

    /// Whether debts explain that a window has no room for `tokens`: of a debt the upstream knows
    /// first, and what was sent until the ledger did is too much. What is lacking beyond that is the
    /// ledger's fault.
    fn is_in_debt_for(&mut self, window: usize, tokens: u64) -> bool {
        let (limit, now) = (self.workload.limits[window], self.time());
        if self.workload.in_debt == 0 {
            return false;
        }
        let level = self.ledger.levels(now).nth(window).map_or(0, |level| level.available);
        let debt = self.open_debt - i128::from(level.min(0));
        let needed = (i128::from(tokens) - debt) * i128::from(limit.window);
        limit.unit == TOKENS && debt > 0 && self.oracle.remaining(window, self.now) >= needed
    }

    fn end(&mut self, index: usize) {
        self.set_pending(index, [0; 2]);
        let now = Timestamp::from_nanos(self.late_clock);
        let Some(flight) = self.flights[index].take() else { return };
        self.free.push(index);
        let job = flight.job;
        match (flight.held, job.fate) {
            (Held::Here(hold), _) => self.ledger.release(hold, now),
            (Held::There(sent), Fate::Refused) => self.ledger.reject(sent, now),
            (Held::There(sent), Fate::Cut { .. }) => self.ledger.settle(sent, Spent::Unknown, now),
            (Held::There(sent), _) => {
                self.open_debt -= i128::from(job.used.saturating_sub(job.hold.max(job.reserve)));
                self.ledger.settle(sent, Spent::Exact(cost(job.used)), now);
            }
        }
    }

    /// Replaces a flight's `pending`, and with it the sum. Only a bucket gives back what was charged
    /// whenever that was; the other kinds forget it in time, so there only what has not been
    /// charged yet counts.
    pub(super) fn set_pending(&mut self, index: usize, pending: [i128; 2]) {
        let Some(flight) = &mut self.flights[index] else { return };
        let charged = pending[REQUESTS] == 0;
        let timed = self.mode != Mode::Bucket && charged;
        let pending = if timed { pending.map(|units| units.min(0)) } else { pending };
        for ((sum, old), new) in self.pending.iter_mut().zip(&mut flight.pending).zip(pending) {
            *sum += new - *old;
            *old = new;
        }
    }
}
