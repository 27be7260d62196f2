//! A ledger in use goes on with other constraints.
//!
//! # Invariants
//!
//! - What was spent stays spent, and what is held stays held and is settled exactly: a limit that is
//!   raised adds what it is raised by, one that is lowered takes as much, into debt if need be.
//! - A constraint is about the same thing as one before if it has its unit and the length of its window;
//!   how it refills, its name and its spread may be others.
//! - A constraint that comes begins with what the others of its unit know of the past.

use std::sync::Arc;

use super::{ColdStart, Ledger, Probe};
use crate::limit::journal::Event;
use crate::limit::window::{Joining, Window};
use crate::limit::{Constraint, Unit};
use crate::time::Timestamp;

impl Ledger {
    /// Goes on with these constraints. What a window was used for stays used, if there is one of the
    /// same unit and length; of one that is new, what is not known to have been used is as `start` says.
    pub fn reconfigure(&mut self, configured: &[Constraint], start: ColdStart, now: Timestamp) {
        let list: Arc<[Constraint]> = configured.into();
        self.record(now, Event::Reconfigured { configured: list, start });
        self.reconfigure_to(configured, start, now);
        let allowed = self.allowed();
        if let Some(journal) = &mut self.journal {
            journal.allow(allowed);
        }
    }

    /// [`Self::reconfigure`], which is not written down.
    pub(in crate::limit) fn reconfigure_to(
        &mut self,
        configured: &[Constraint],
        start: ColdStart,
        now: Timestamp,
    ) {
        let mut before = std::mem::take(&mut self.windows);
        before.iter_mut().for_each(|window| window.advance(now));
        let kept = paired(&before, configured);
        let known: Vec<_> = (0..before.len()).map(|index| self.label(index)).collect();
        let fresh = known.iter().map(|label| label.saturating_add(1)).max().unwrap_or(0);
        let mut fresh = fresh.max(self.unused);
        let joined = configured
            .iter()
            .zip(&kept)
            .map(|(quota, kept)| kept.is_none().then(|| self.join(quota, &before, start, now)));
        let joined: Vec<_> = joined.collect();
        let mut before: Vec<_> = before.into_iter().map(Some).collect();
        let mut labels = Vec::with_capacity(configured.len());
        for ((quota, kept), joined) in configured.iter().zip(kept).zip(joined) {
            let same =
                kept.and_then(|index| Some((before.get_mut(index)?.take()?, *known.get(index)?)));
            let window = match (same, joined) {
                (Some((mut window, label)), _) => {
                    window.reconfigure(quota, now);
                    labels.push(label);
                    window
                }
                (None, joined) => {
                    labels.push(fresh);
                    fresh = fresh.saturating_add(1);
                    let new = || Window::new(quota.clone(), start != ColdStart::Full, now);
                    joined.unwrap_or_else(new)
                }
            };
            self.windows.push(window);
        }
        // Where nobody knows a window by its label any more, all of them can be used again.
        let nothing = self.open[Unit::Requests.index()] == 0;
        (self.labels, self.unused) = if nothing { (Vec::new(), 0) } else { (labels, fresh) };
        let unknown = start == ColdStart::Probe && self.windows.iter().all(Window::is_new);
        self.probe = match self.probe {
            Probe::Sent => Probe::Sent,
            Probe::Wanted | Probe::Done if unknown => Probe::Wanted,
            Probe::Wanted | Probe::Done => Probe::Done,
        };
    }

    /// A window that there was not `before`.
    fn join(
        &self,
        quota: &Constraint,
        before: &[Window],
        start: ColdStart,
        now: Timestamp,
    ) -> Window {
        let unit = quota.unit();
        let of_unit = before.iter().filter(|it| it.quota().unit() == unit);
        // The shortest that reaches back far enough: it tells times apart best. Or the longest.
        let span = |it: &&Window| it.quota().window();
        let knows = of_unit.clone().filter(|it| span(it) >= quota.window()).min_by_key(span);
        let knows = knows.or_else(|| of_unit.max_by_key(span));
        let (open, unheard) = (self.open[unit.index()], self.unheard[unit.index()]);
        let joining = Joining { knows, open, unheard, empty: start != ColdStart::Full };
        Window::join(quota.clone(), &joining, now)
    }

    /// What requests know the window with this index by, whatever its index is by then.
    pub(super) fn label(&self, index: usize) -> u8 {
        let own = u8::try_from(index).unwrap_or(u8::MAX);
        self.labels.get(index).copied().unwrap_or(own)
    }
}

/// By constraint: the window before that it is about, if there is one. The names decide where several
/// have the same unit and length.
fn paired(before: &[Window], configured: &[Constraint]) -> Vec<Option<usize>> {
    let mut free = vec![true; before.len()];
    let mut kept = vec![None; configured.len()];
    for by_name in [true, false] {
        for (quota, kept) in configured.iter().zip(&mut kept).filter(|(_, kept)| kept.is_none()) {
            let is_same = |window: &Window| {
                window.is_about(quota) && (!by_name || window.quota().name() == quota.name())
            };
            let found = (0..before.len()).find(|index| free[*index] && is_same(&before[*index]));
            if let Some(index) = found {
                free[index] = false;
                *kept = Some(index);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests;
