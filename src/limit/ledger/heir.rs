//! What a ledger needs to go on where another one ended.

use super::Ledger;
use crate::limit::{Cost, Unit};
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
}
