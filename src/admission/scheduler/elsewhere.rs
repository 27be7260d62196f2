//! The order of turns where several replicas share a quota.
//!
//! Every replica orders its own requests. What makes one order of it is that all charge every tenant
//! and class for whatever goes anywhere, so that tags mean the same everywhere; and that each knows
//! who goes first at the others, and lets go before its own who comes before them.

use super::lanes::Lane;
use super::{Charge, Departure, Entry, Scheduler, Ticket};
use crate::limit::{Head, Line, Turn};

/// Who goes first at other replicas.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Vec<(u64, Head)>);

impl Elsewhere {
    pub(super) fn of_class(&self, class: usize) -> impl Iterator<Item = &Head> {
        self.0.iter().map(|(_, head)| head).filter(move |head| head.turn.class == class)
    }
}

impl<T> Scheduler<T> {
    /// At another replica this one goes first now, or nobody waits there any more.
    pub fn waits_elsewhere(&mut self, replica: u64, head: Option<Head>) {
        if let Some(index) = self.elsewhere.0.iter().position(|(other, _)| *other == replica) {
            let (_, before) = self.elsewhere.0.swap_remove(index);
            self.classes.left_elsewhere(before.turn.class);
        }
        if let Some(mut head) = head {
            head.turn.class = head.turn.class.min(self.lanes.len() - 1);
            self.classes.joined_elsewhere(head.turn.class);
            self.elsewhere.0.push((replica, head));
        }
    }

    /// The replica at which somebody waits who comes before everybody here, and who that is.
    pub fn first_elsewhere(&self) -> Option<(u64, Head)> {
        let class = self.classes.next_anywhere()?;
        let lanes = &self.lanes[class];
        // A tenant that waits here as well has one turn: whoever of its own is first takes it.
        let place = |(_, head): &&(u64, Head)| {
            let here = lanes.of(head.turn.tenant).filter(|lane| !lane.requests.is_empty());
            (here.map_or(head.turn.tag, Lane::tag), head.order)
        };
        let all = self.elsewhere.0.iter().filter(|(_, head)| head.turn.class == class);
        let first = all.min_by_key(place)?;
        let (tag, order) = place(&first);
        let before = lanes.in_order().next().is_none_or(|here| {
            let same = here.tenant == first.1.turn.tenant;
            let own = here.requests.first_key_value().map_or(order, |((order, ..), _)| *order);
            !here.comes_by(tag) || (same && order < own)
        });
        before.then_some(*first)
    }

    /// Whether anybody waits at another replica.
    pub const fn is_waited_elsewhere(&self) -> bool {
        !self.elsewhere.0.is_empty()
    }

    /// A request goes at another replica: its tenant and its class are charged for it.
    pub fn pass_elsewhere(&mut self, turn: &Turn) -> Charge {
        let class = turn.class.min(self.lanes.len() - 1);
        let bill = self.lanes[class].pass_elsewhere(turn);
        let paid = self.classes.dispatched(class, turn.fair, false);
        Charge { class, bill, paid }
    }

    /// Goes on with the tags of others, who have come to these in each class.
    pub fn count_from(&mut self, turns: &[i128]) {
        for (index, lanes) in self.lanes.iter_mut().enumerate() {
            lanes.count_from(turns.get(index).copied().unwrap_or(0));
        }
    }

    /// Whose turn a request takes.
    pub fn turn_of(&self, ticket: Ticket) -> Option<Turn> {
        self.get(ticket).map(|entry| self.turn(entry))
    }

    /// Whose turn a request takes that goes without having to wait.
    pub fn turn(&self, entry: &Entry) -> Turn {
        let class = entry.class.min(self.lanes.len() - 1);
        let Entry { tenant, weight, fair, .. } = *entry;
        Turn { class, tenant, weight, fair, tag: self.lanes[class].tag_now(tenant) }
    }

    /// Who goes first here, for the others to know.
    pub fn head_for_others(&self) -> Option<Head> {
        let (ticket, entry) = self.head()?;
        let order = self.slots.get(ticket).and_then(|it| it.place.order());
        let order = order.unwrap_or(entry.deadline);
        let (turn, load) = (self.turn(entry), self.loads[entry.class]);
        let line = Line {
            queued: load.queued as u64,
            fair: load.fair,
            safe: load.safe,
            tenants: self.lanes[entry.class].waiting() as u64,
        };
        Some(Head { turn, cost: entry.cost, order, line })
    }

    /// Takes a departure back: the request waits on, where it was.
    pub fn put_back(&mut self, departure: Departure<T>) -> Ticket {
        let Departure { entry, item, left, charge, .. } = departure;
        let place = self.release(charge, left);
        self.insert(place, entry, item)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::limit::Cost;
    use crate::time::Timestamp;

    fn entry(tenant: u64, class: usize) -> Entry {
        let (cost, at) = (Cost::new(1, 10), Timestamp::from_nanos(0));
        Entry { tenant, class, ..Entry::new(cost, at, Timestamp::from_nanos(100)) }
    }

    /// Three replicas that hear of one another at once serve tenants as one would: whoever's tag is
    /// least goes, wherever it waits.
    #[test]
    fn replicas_take_turns_by_tenant_and_not_by_replica() {
        // Tenants 1 to 8 wait at the first replica, one at each of the others.
        let tenants: [&[u64]; 3] = [&[1, 2, 3, 4, 5, 6, 7, 8], &[9], &[10]];
        let mut replicas: Vec<Scheduler<u64>> = (0..3).map(|_| Scheduler::default()).collect();
        for (replica, tenants) in replicas.iter_mut().zip(tenants) {
            for tenant in tenants.iter().flat_map(|tenant| [*tenant; 100]) {
                let place = replica.place();
                replica.insert(place, entry(tenant, 0), tenant);
            }
        }
        let mut served = [0_u32; 11];
        for _ in 0..500 {
            let heads: Vec<_> = replicas.iter().map(Scheduler::head_for_others).collect();
            for (own, replica) in replicas.iter_mut().enumerate() {
                for (other, head) in heads.iter().enumerate().filter(|(other, _)| *other != own) {
                    replica.waits_elsewhere(other as u64, *head);
                }
            }
            let who = replicas.iter().position(|it| it.first_elsewhere().is_none());
            let who = who.expect("somebody is first");
            let (ticket, _) = replicas[who].head().expect("somebody waits");
            let turn = replicas[who].turn_of(ticket).expect("waiting");
            let gone = replicas[who].dispatch(ticket).expect("waiting");
            served[usize::try_from(gone.item).expect("small")] += 1;
            replicas[who].settle(gone.charge, 10);
            for (other, replica) in replicas.iter_mut().enumerate().filter(|(it, _)| *it != who) {
                assert_ne!(other, who);
                let charge = replica.pass_elsewhere(&turn);
                replica.settle(charge, 10);
            }
        }
        assert_eq!(served[1..], [50; 10]);
    }

    /// A tenant that waits at two replicas has one turn, and whoever of its requests is first takes it.
    #[test]
    fn of_one_tenant_the_first_goes_wherever_it_waits() {
        let mut replicas: Vec<Scheduler<u64>> = (0..2).map(|_| Scheduler::default()).collect();
        for (own, replica) in replicas.iter_mut().enumerate() {
            for index in 0..50_u64 {
                // By turns, the first replica's a little earlier each time.
                let deadline = Timestamp::from_nanos(1_000 + 2 * index + own as u64);
                let place = replica.place();
                replica.insert(place, Entry { deadline, ..entry(1, 0) }, index);
            }
        }
        let mut order = Vec::new();
        for _ in 0..100 {
            let heads: Vec<_> = replicas.iter().map(Scheduler::head_for_others).collect();
            replicas[0].waits_elsewhere(1, heads[1]);
            replicas[1].waits_elsewhere(0, heads[0]);
            let who = replicas
                .iter()
                .position(|it| it.head().is_some() && it.first_elsewhere().is_none());
            let who = who.expect("somebody is first");
            let (ticket, _) = replicas[who].head().expect("somebody waits");
            let turn = replicas[who].turn_of(ticket).expect("waiting");
            let gone = replicas[who].dispatch(ticket).expect("waiting");
            order.push(2 * gone.item + who as u64);
            replicas[who].settle(gone.charge, 10);
            let charge = replicas[1 - who].pass_elsewhere(&turn);
            replicas[1 - who].settle(charge, 10);
        }
        assert!(order.is_sorted(), "{order:?}");
    }

    /// One that comes to a replica while others of its tenant wait at another has their turn, too.
    #[test]
    fn a_tenant_has_one_turn_wherever_it_begins_to_wait() {
        let mut replicas: Vec<Scheduler<usize>> = (0..2).map(|_| Scheduler::default()).collect();
        let wait = |replica: &mut Scheduler<usize>, tenant, deadline| {
            let place = replica.place();
            let deadline = Timestamp::from_nanos(deadline);
            replica.insert(place, Entry { deadline, ..entry(tenant, 0) }, 0);
        };
        for index in 0..60 {
            wait(&mut replicas[0], 1, 100 + index);
            wait(&mut replicas[0], 2, 100 + index);
        }
        let mut late = 0;
        for step in 0..100 {
            if step == 20 {
                // From here on, at the other one, as urgent as those that are next.
                replicas[1].count_from(&[50 << 20]);
                (0..20).for_each(|index| wait(&mut replicas[1], 1, 110 + index));
            }
            let heads: Vec<_> = replicas.iter().map(Scheduler::head_for_others).collect();
            replicas[0].waits_elsewhere(1, heads[1]);
            replicas[1].waits_elsewhere(0, heads[0]);
            let who = replicas
                .iter()
                .position(|it| it.head().is_some() && it.first_elsewhere().is_none());
            let who = who.expect("somebody is first");
            let (ticket, _) = replicas[who].head().expect("somebody waits");
            let turn = replicas[who].turn_of(ticket).expect("waiting");
            let gone = replicas[who].dispatch(ticket).expect("waiting");
            replicas[who].settle(gone.charge, 10);
            let charge = replicas[1 - who].pass_elsewhere(&turn);
            replicas[1 - who].settle(charge, 10);
            late += who;
        }
        // Of the tenant's forty turns since, every other one, until none was left.
        assert!((18..=20).contains(&late), "{late}");
    }

    #[test]
    fn one_that_comes_later_begins_where_the_others_are() {
        let (mut old, mut new): (Scheduler<()>, Scheduler<()>) = Default::default();
        let mut turns = vec![0];
        for _ in 0..1_000 {
            let turn = old.turn(&entry(1, 0));
            let place = old.place();
            let (_, charge) = old.pass(place, &entry(1, 0));
            old.settle(charge, 10);
            turns = vec![turn.tag];
        }
        let place = new.place();
        new.insert(place, entry(2, 0), ());
        new.count_from(&turns);
        let place = old.place();
        old.insert(place, entry(1, 0), ());
        let (old, new) = (old.head_for_others(), new.head_for_others());
        let apart = old.expect("waits").turn.tag - new.expect("waits").turn.tag;
        // One request: what the first has just had.
        assert!(apart <= 10 << 20, "{apart}");
    }

    #[test]
    fn what_was_not_granted_waits_on_where_it_was() {
        let mut scheduler: Scheduler<u64> = Scheduler::default();
        for tenant in [1, 2, 1, 2] {
            let place = scheduler.place();
            scheduler.insert(place, entry(tenant, 0), tenant);
        }
        let first = scheduler.head_for_others().expect("somebody waits");
        let (ticket, _) = scheduler.head().expect("somebody waits");
        let departure = scheduler.dispatch(ticket).expect("waiting");
        assert_ne!(scheduler.head_for_others(), Some(first));
        scheduler.put_back(departure);
        assert_eq!(scheduler.head_for_others(), Some(first));
    }

    #[test]
    fn a_better_class_elsewhere_goes_first_and_one_of_lower_rank_does_not() {
        let rule = |rank| super::super::ClassRule { rank, share: 0, paced: false };
        let mut scheduler: Scheduler<()> = Scheduler::new(&[rule(0), rule(1)]);
        let place = scheduler.place();
        scheduler.insert(place, entry(1, 1), ());
        let turn = |class| Turn {
            class,
            tenant: 9,
            weight: NonZeroU32::MIN,
            fair: 1,
            tag: if class == 0 { 1 << 40 } else { 0 },
        };
        let head = |class| {
            let (cost, order, line) = (Cost::new(1, 1), Timestamp::from_nanos(1), Line::default());
            Some(Head { turn: turn(class), cost, order, line })
        };
        scheduler.waits_elsewhere(7, head(0));
        assert_eq!(scheduler.first_elsewhere().map(|(replica, _)| replica), Some(7));
        assert!(scheduler.head().is_some(), "who waits here is still found");
        scheduler.waits_elsewhere(7, None);
        assert_eq!(scheduler.first_elsewhere(), None);
        let place = scheduler.place();
        scheduler.insert(place, entry(2, 0), ());
        scheduler.waits_elsewhere(7, head(1));
        assert_eq!(scheduler.first_elsewhere(), None);
    }
}
