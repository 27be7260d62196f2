//! The life of one request: at the upstream, and seen from the sender.

use tidegate::limit::{Blame, Mode, Reading, Spent};
use tidegate::time::Timestamp;

use super::{Event, Flight, Held, NAMES, World, cost, unit};
use crate::oracle::{REQUESTS, TOKENS};
use crate::workload::{Fate, Job, Shown, drawn};

impl World<'_> {
    pub(super) fn happen(&mut self, event: Event) {
        // Others may have used later readings since.
        self.late_clock = self.now - self.rng.u64(0..=self.workload.clock_lag);
        match event {
            Event::Wake => self.armed = self.armed.filter(|armed| *armed > self.now),
            Event::Arrive(index) => self.arrive(index),
            Event::Head(index) => {
                let Some(Flight { held: Held::There(sent), arrived_at, shown, .. }) =
                    &mut self.flights[index]
                else {
                    return;
                };
                // Read before the lock was free, but after the upstream's charge.
                let now = Timestamp::from_nanos(self.late_clock.max(*arrived_at));
                self.ledger.charged(sent, now);
                let Shown { windows, missing, rounded, old_limits, .. } = self.workload.shown;
                if windows == 0 || drawn(self.rng, missing) {
                    return;
                }
                let limits = self.workload.limits.iter().enumerate();
                let readings =
                    limits.zip(shown).filter(|((index, _), _)| windows >> index & 1 == 1);
                let readings = readings.map(|((index, limit), (most, left))| {
                    let left = u64::try_from(*left).unwrap_or(0);
                    // Nobody rounds more than a hundredth away.
                    let rounded = if rounded * 100 > limit.limit { 1 } else { rounded };
                    let left = (left + rounded / 2) / rounded * rounded;
                    Reading {
                        unit: unit(limit),
                        window: NAMES[index],
                        limit: Some(if old_limits { limit.limit } else { *most }),
                        remaining: Some(left),
                    }
                });
                self.ledger.observe(sent, readings, now);
            }
            Event::Cut(cut) => self.oracle.refund(cut.0, cut.1, self.now),
            Event::Foreign => self.foreign(),
            Event::Relimit(per_cent) => self.oracle.relimit(per_cent, self.now),
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
                    flight.refused_by = Some(window);
                }
                return self.schedule(refusal, Event::End(index));
            }
        };
        self.set_pending(index, [0, i128::from(job.hold) - i128::from(job.reserve)]);
        let windows = if self.is_shown() { self.workload.limits.len() } else { 0 };
        let shown = (0..windows).map(|it| self.oracle.shown(it, self.now)).collect();
        if let Some(flight) = &mut self.flights[index] {
            (flight.entry, flight.shown) = (Some(entry), shown);
        }
        let delay = self.workload.settle_delay;
        let ended = match job.fate {
            Fate::Cut { seen: true } => {
                self.schedule(head, Event::Head(index));
                // Settled at once: the charge has been seen.
                let cut = head + self.rng.u64(0..=job.stream);
                if self.workload.cut_refunded {
                    self.schedule(cut + job.there, Event::Cut(Box::new((entry, job.used))));
                }
                cut
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
        let refunded = self.workload.cut_refunded;
        self.story.note(&job, refunded, self.now, ended - sent_at, head - sent_at);
    }

    /// Somebody else sends a request, and is told nothing; refused ones give up.
    fn foreign(&mut self) {
        let Some(others) = &mut self.others else { return };
        let Some((gap, tokens)) = self.workload.draw_others(others) else { return };
        self.schedule(self.now + gap, Event::Foreign);
        self.story.foreign_refused += u64::from(self.oracle.admit(tokens, self.now).is_err());
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
            (Held::There(sent), Fate::Refused) => {
                let Some(window) = flight.refused_by else { return self.ledger.reject(sent, now) };
                let limit = self.workload.limits[window];
                let (unit, name) = (unit(&limit), NAMES[window]);
                let blame = self.ledger.refused(&sent, unit, name, now);
                self.ledger.reject(sent, now);
                self.ledger.drained(unit, name, None, now);
                let ours = u64::from(blame != Blame::Foreign);
                self.story.attributable += ours;
                // Right after a burst nothing can tell others from periods: what is left is the same.
                let settled = self.now > self.started + 2 * limit.window;
                self.story.attributable_later += if settled { ours } else { 0 };
            }
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
        let shown = self.is_shown();
        let Some(flight) = &mut self.flights[index] else { return };
        let charged = pending[REQUESTS] == 0;
        // By the upstream's own word, more comes back than the ledger itself would give back.
        let timed = charged && (self.mode != Mode::Bucket || shown);
        let pending = if timed { pending.map(|units| units.min(0)) } else { pending };
        for ((sum, old), new) in self.pending.iter_mut().zip(&mut flight.pending).zip(pending) {
            *sum += new - *old;
            *old = new;
        }
    }
}
