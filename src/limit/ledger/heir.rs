//! What a ledger needs to go on where another one ended.

use super::{ColdStart, Ledger, Probe, Sent};
use crate::limit::window::{Counted, Window};
use crate::limit::{Constraint, Cost, Unit};
use crate::time::Timestamp;

impl Ledger {
    /// The most that can be let go by `now`, in each unit.
    pub(in crate::limit) fn most(&mut self, now: Timestamp) -> Cost {
        let mut most = [u64::MAX; Unit::ALL.len()];
        for window in &mut self.windows {
            window.advance(now);
            let left = u64::try_from(window.available(now)).unwrap_or(0);
            let most = &mut most[window.quota().unit().index()];
            *most = left.min(*most);
        }
        // What is not limited is not counted.
        let [requests, tokens, uncached] = most.map(|most| if most == u64::MAX { 0 } else { most });
        Cost { requests, tokens, uncached }
    }

    /// Goes on with these constraints. What a window was used for stays used, if there is one of the
    /// same unit and length; one that is new begins as `start` says.
    pub(in crate::limit) fn reconfigure(
        &mut self,
        configured: Vec<Constraint>,
        start: ColdStart,
        now: Timestamp,
    ) {
        let mut before = std::mem::take(&mut self.windows);
        before.iter_mut().for_each(|window| window.advance(now));
        for quota in configured {
            let same = before.iter().position(|it| it.is_about(&quota));
            self.windows.push(match same {
                Some(index) => before.swap_remove(index).reconfigured(quota, now),
                None => Window::new(quota, start != ColdStart::Full, now),
            });
        }
        let unknown = start == ColdStart::Probe && self.windows.iter().all(|it| it.is_new());
        self.probe = if unknown { Probe::Wanted } else { Probe::Done };
    }

    /// Has the windows that were made anew, when the ledger was reconfigured, hold what is held in the
    /// others.
    pub(in crate::limit) fn carry_over(&mut self, open: Vec<&mut Sent>, now: Timestamp) {
        let mut anew: Vec<_> = self.windows.iter_mut().filter(|it| it.held() == 0).collect();
        for sent in open {
            for window in &mut anew {
                let units = sent.cost.of(window.quota().unit());
                window.hold(units, now);
                if sent.charged_at.is_some() {
                    window.charged(units, now);
                }
            }
            // Those were about windows that may have other numbers now.
            (sent.full, sent.counted) = (0, Counted { bucket: 0, log: 0 });
        }
    }
}
