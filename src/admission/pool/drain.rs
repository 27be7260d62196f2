//! The end of a pool: from a last instant on nobody starts, and whoever could not before is told at
//! once instead of then.

use std::sync::Arc;
use std::time::Duration;

use super::state::State;
use super::{Pool, Refused};
use crate::admission::scheduler::Ticket;
use crate::time::Timestamp;

impl Pool {
    /// Everything is to be over at `end`: whoever can still be answered by then goes on waiting, and
    /// may come; who cannot is refused, now if that can be told, else when it is too late. `spare` of
    /// the time is kept for telling them.
    pub fn drain(self: &Arc<Self>, end: Timestamp, spare: Duration) {
        self.change(|state, now| {
            let span = end.since(now);
            // What others' heads took says little of one request, so no more than half is kept for it.
            let kept = state.expected_head().min(span / 2).max(spare).min(span);
            state.drain(now.after(span.saturating_sub(kept)), now);
        });
    }

    /// When the last one may start, if the pool has an end.
    pub fn last_start(&self) -> Option<Timestamp> {
        self.state.lock().closing
    }
}

impl State {
    /// Whether nobody may start any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.closing.is_some_and(|last| last <= now)
    }

    /// Whether `at` is after the end.
    pub(super) fn is_too_late(&self, at: Timestamp) -> bool {
        self.closing.is_some_and(|last| last < at)
    }

    fn drain(&mut self, last: Timestamp, now: Timestamp) {
        let last = self.closing.map_or(last, |before| before.min(last));
        self.closing = Some(last);
        let (over, known) = (last <= now, self.forecast.is_known());
        // Nobody is turned away on a guess: by the forecast as it was told, without a margin.
        let late = self.scheduler.waiting().filter(|(_, entry, waiter)| {
            over || known && entry.arrived.after(waiter.forecast) > last
        });
        let late: Vec<Ticket> = late.map(|(ticket, ..)| ticket).collect();
        for ticket in late {
            if let Some((_, waiter)) = self.scheduler.remove(ticket) {
                // A waiter that has gone needs no answer.
                let _ = waiter.answer.send(Err(Refused::Closed));
            }
        }
    }

    /// Refuses everybody when the end has come.
    pub(super) fn end_waits(&mut self, now: Timestamp) {
        if self.is_over(now) && !self.scheduler.is_empty() {
            self.drain(now, now);
        }
    }
}
