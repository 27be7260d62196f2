//! When those who wait, or would, will start.

use std::time::Duration;

use super::Request;
use super::state::State;
use crate::admission::forecast;
use crate::admission::scheduler::Entry;
use crate::limit::Unit;
use crate::time::Timestamp;

/// A tenant that nobody is: its requests would be the first in its lane.
const NOBODY: u64 = 0;

impl State {
    /// When a request that begins to wait now will start, as far as can be told.
    pub(super) fn starts(&mut self, entry: &Entry, now: Timestamp) -> Timestamp {
        let load = forecast::Load {
            in_flight: self.in_flight.into(),
            held: self.ledger.open(Unit::Tokens),
            most: self.concurrency.limit(self.config.max_concurrent).map(|it| it.get().into()),
            gap: self.config.min_gap,
            settle: self.config.settle_delay,
            kept_free: self.kept_for_better(entry.class, now),
        };
        let (ahead, ledger) = (self.scheduler.ahead(entry), &mut self.ledger);
        let fits = |unit, units| ledger.fits_at(unit, units, now);
        let start = self.forecast.start(&ahead, entry.cost, &load, now, fits);
        let circuit = self.circuit.check(now).err().flatten();
        let start = start.max(self.backed_off_until).max(self.next_send);
        start.max(circuit.unwrap_or(start))
    }

    /// How long a request of each class, such as there were lately, from a tenant with nothing
    /// waiting would have to wait.
    pub(super) fn outlook(&mut self, now: Timestamp) -> Vec<Duration> {
        let cost = self.forecast.typical();
        let classes = 0..self.scheduler.loads().len();
        let wait = |class| {
            let request =
                Request { class, tenant: NOBODY, ..Request::new(cost, 0, Timestamp::MAX) };
            let idle = self.scheduler.is_empty() && self.ledger.check_as(cost, false, now).is_ok();
            if idle { Duration::ZERO } else { self.starts(&request.entry(now), now).since(now) }
        };
        classes.map(wait).collect()
    }

    /// How long the head of an answer is likely to take.
    pub(super) const fn expected_head(&self) -> Duration {
        self.forecast.expected_head()
    }
}
