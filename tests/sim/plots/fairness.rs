//! Who gets how much: tenants with very different queues, and with different weights, in front of
//! one ledger.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use tidegate::admission::scheduler::{Charge, Entry, Scheduler};
use tidegate::limit::{Constraint, Cost, Denied, Ledger, Mode, Sent, Spent, Unit};
use tidegate::time::Timestamp;

use crate::seed::{START, derived, seed};
use crate::table::Table;
use crate::workload::{MINUTE, SECOND};

/// What is taken to be likely of every request, whatever it turns out to use.
const FAIR: u64 = 8_000;

/// A tenant, who always has so many requests waiting from one instant to another.
#[derive(Clone, Copy)]
struct Tenant {
    weight: u32,
    waiting: usize,
    from: u64,
    until: u64,
    /// Tokens that one of its requests uses.
    used: (u64, u64),
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// A tenant begins to ask, or something has refilled.
    Look,
    /// The answer to a request has ended.
    End(usize),
}

struct Line<'a> {
    tenants: &'a [Tenant],
    ledger: Ledger,
    scheduler: Scheduler<u64>,
    waiting: Vec<usize>,
    flights: Vec<Option<(Sent, Charge, u64)>>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    rng: Rng,
    now: u64,
}

impl<'a> Line<'a> {
    fn new(tenants: &'a [Tenant], name: &str) -> Self {
        let minute = Duration::from_nanos(MINUTE);
        let quota = Constraint::new(Unit::Tokens, 1_500_000, minute, "minute", Mode::Bucket);
        let looks = tenants.iter().map(|tenant| Reverse((tenant.from, Event::Look)));
        Self {
            tenants,
            ledger: Ledger::new(vec![quota.expect("within bounds")], Timestamp::from_nanos(START)),
            scheduler: Scheduler::default(),
            waiting: vec![0; tenants.len()],
            flights: Vec::new(),
            events: looks.collect(),
            rng: derived(seed(), name),
            now: 0,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(START + self.now)
    }

    /// Lets the tenants that ask have as many waiting as they do.
    fn ask(&mut self) {
        for (index, tenant) in self.tenants.iter().enumerate() {
            if !(tenant.from..tenant.until).contains(&self.now) {
                continue;
            }
            while self.waiting[index] < tenant.waiting {
                let used = self.rng.u64(tenant.used.0..=tenant.used.1);
                let cost = Cost::new(1, used + 4_000);
                let weight = NonZeroU32::new(tenant.weight).expect("above zero");
                let entry = Entry {
                    fair: FAIR,
                    tenant: index as u64,
                    weight,
                    ..Entry::new(cost, self.time(), Timestamp::MAX)
                };
                let place = self.scheduler.place();
                self.scheduler.insert(place, entry, used);
                self.waiting[index] += 1;
            }
        }
    }

    /// Sends whatever may go; `tell` is told whose tokens.
    fn send(&mut self, mut tell: impl FnMut(u64, usize, u64)) {
        self.ask();
        while let Some((ticket, entry)) = self.scheduler.head() {
            let (cost, now) = (entry.cost, self.time());
            let hold = match self.ledger.hold(cost, now) {
                Ok(hold) => hold,
                Err(Denied::Wait { until: Some(until), .. }) => {
                    let at = until.as_nanos() - START;
                    return self.events.push(Reverse((at, Event::Look)));
                }
                Err(_) => return,
            };
            let departure = self.scheduler.dispatch(ticket).expect("the head waits");
            let tenant = usize::try_from(departure.entry.tenant).expect("an index");
            self.waiting[tenant] -= 1;
            tell(self.now, tenant, departure.item);
            let mut sent = hold.sent();
            self.ledger.charged(&mut sent, now);
            let takes = self.rng.u64(SECOND..=4 * SECOND);
            self.events.push(Reverse((self.now + takes, Event::End(self.flights.len()))));
            self.flights.push(Some((sent, departure.charge, departure.item)));
            self.ask();
        }
    }

    fn run(mut self, lasts: u64, table: &mut Table) {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at > lasts {
                break;
            }
            self.now = at;
            if let Event::End(index) = event
                && let Some((sent, charge, used)) = self.flights[index].take()
            {
                self.scheduler.settle(charge, used);
                self.ledger.settle(sent, Spent::Exact(Cost::new(1, used)), self.time());
            }
            self.send(|now, tenant, used| {
                table.row(&[&(now as f64 / SECOND as f64), &tenant, &used]);
            });
        }
    }
}

/// A greedy tenant and nine light ones that come later and go again; then three with weights.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let (always, used) = ((0, u64::MAX), (1_000, 20_000));
    let greedy = Tenant { weight: 1, waiting: 1_000, from: always.0, until: always.1, used };
    let light = Tenant { waiting: 3, from: 2 * MINUTE, until: 6 * MINUTE, ..greedy };
    let crowd: Vec<_> = std::iter::once(greedy).chain([light; 9]).collect();
    // What their requests are like has no say in it.
    let weighted = [(1, (1_000, 5_000)), (2, (5_000, 20_000)), (4, (500, 40_000))]
        .map(|(weight, used)| Tenant { weight, waiting: 20, used, ..greedy });
    for (name, tenants) in [("greedy", &crowd[..]), ("weights", &weighted)] {
        let mut table = Table::new(&["seconds", "tenant", "used"]);
        Line::new(tenants, name).run(8 * MINUTE, &mut table);
        table.write(folder, name)?;
    }
    Ok(())
}
