//! What waits, for those who look at it.

use super::{Load, Scheduler};
use crate::time::Timestamp;

impl<T> Scheduler<T> {
    /// What waits in each class.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// When the first to come of those who wait in a class came.
    pub fn oldest(&self, class: usize) -> Option<Timestamp> {
        self.slots.oldest(class).map(|waiting| waiting.entry.arrived)
    }

    /// What a tenant has waiting, in all classes.
    pub fn load_of(&self, tenant: u64) -> Load {
        let lanes = self.lanes.iter().filter_map(|lanes| lanes.of(tenant));
        lanes.fold(Load::default(), |mut sum, lane| {
            sum.merge(&lane.load);
            sum
        })
    }

    /// When the first to come of a tenant's requests in a class came. Looks at all of them.
    pub fn oldest_of(&self, class: usize, tenant: u64) -> Option<Timestamp> {
        let requests = &self.lanes[class].of(tenant)?.requests;
        let waiting =
            requests.keys().filter_map(|(.., slot)| self.slots.get(self.slots.ticket(*slot)));
        waiting.map(|waiting| waiting.entry.arrived).min()
    }

    /// The tenants that wait in a class, in the order of their turns: what they have waiting.
    pub fn tenants(&self, class: usize) -> impl Iterator<Item = (u64, Load)> {
        self.lanes[class].in_order().map(|lane| (lane.tenant, lane.load))
    }
}
