//! What of a quota is used, against what the requests and the others are like.

use std::io;
use std::path::Path;

use crate::best::{GROWS, Sender, Sight, curve, shared};
use crate::oracle::{REQUESTS, TOKENS};
use crate::run::Pair::{BucketOnBucket, FixedOnFixed, SlidingOnFixed, SlidingOnSliding};
use crate::run::{Pair, run};
use crate::table::Table;
use crate::workload::{MILLI, MINUTE, SECOND, Shown, Workload, per};

const PAIRS: [(&str, Pair); 4] = [
    ("bucket", BucketOnBucket),
    ("sliding", SlidingOnSliding),
    ("sliding on fixed", SlidingOnFixed),
    ("fixed", FixedOnFixed),
];

fn sweep(points: impl IntoIterator<Item = (u64, u64)>) -> Table {
    let mut table = Table::new(&["mode", "reserved", "seconds", "used"]);
    for (tenths, takes) in points {
        for (mode, pair) in PAIRS {
            let used = run(&Workload::uniform(tenths, takes), pair, 1).utilisation();
            let (ratio, seconds) = (tenths as f64 / 10.0, takes as f64 / SECOND as f64);
            table.row(&[&mode, &ratio, &seconds, &used]);
        }
    }
    table
}

/// Against the size of the reservation.
pub(crate) fn reservation(folder: &Path) -> io::Result<()> {
    let ratios = [10, 15, 20, 30, 40, 50, 60, 80, 100];
    let times = [2, 6, 12].map(|it| it * SECOND);
    let points = times.into_iter().flat_map(|takes| ratios.map(|tenths| (tenths, takes)));
    sweep(points).write(folder, "reservation")
}

/// Against the time that a request takes.
pub(crate) fn latency(folder: &Path) -> io::Result<()> {
    let times = [500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 16_000, 20_000];
    let points = [20, 40].into_iter().flat_map(|tenths| times.map(|it| (tenths, it * MILLI)));
    sweep(points).write(folder, "latency")
}

/// Runs everything with answers that show nothing, and with answers that show what is left.
fn with_and_without(workload: &Workload, mut row: impl FnMut(bool, &crate::run::Run)) {
    for (seen, shown) in [(false, Shown::default()), (true, Shown::ALL)] {
        let workload = Workload { shown, ..workload.clone() };
        row(seen, &run(&workload, BucketOnBucket, 1));
    }
}

/// Streams whose callers go away, so that nobody says what they used; the upstream refunds them.
pub(crate) fn cut(folder: &Path) -> io::Result<()> {
    let mut table = Table::new(&["cut", "observed", "used", "rejected", "sent"]);
    for cut in (0..=300).step_by(25) {
        let workload = Workload {
            name: "cut",
            // More requests than there are tokens for: tokens bind.
            limits: vec![per(REQUESTS, 2_000, MINUTE), per(TOKENS, 1_500_000, MINUTE)],
            cut,
            cut_refunded: true,
            used: 500..=3_000,
            reserved: 12_000..=16_000,
            ..Workload::steady()
        };
        with_and_without(&workload, |seen, run| {
            let (cut, used) = (f64::from(cut) / 1_000.0, run.utilisation());
            table.row(&[&cut, &seen, &used, &run.story.rejected, &run.story.sent]);
        });
    }
    table.write(folder, "cut")
}

/// Others with the same quota, who are told nothing of this ledger.
pub(crate) fn foreign(folder: &Path) -> io::Result<()> {
    let mut table = Table::new(&["foreign", "observed", "used", "rejected", "sent"]);
    for share in (0..=400).step_by(50) {
        let workload =
            Workload { name: "foreign", foreign: (share, 5_000..=30_000), ..Workload::steady() };
        with_and_without(&workload, |seen, run| {
            let (share, used) = (f64::from(share) / 1_000.0, run.utilisation());
            table.row(&[&share, &seen, &used, &run.story.rejected, &run.story.sent]);
        });
    }
    table.write(folder, "foreign")
}

/// The most that can be used of a log that others use too, by what is rejected, and what the gateway does.
pub(crate) fn bound(folder: &Path) -> io::Result<()> {
    let mut table = Table::new(&["foreign", "sender", "used", "rejected"]);
    for share in [100, 300] {
        let workload = shared(share);
        let foreign = f64::from(share) / 1_000.0;
        for (name, sight, grows) in [
            ("all", Sight::Now, 0),
            ("growing", Sight::Heads, GROWS),
            ("constant", Sight::Heads, 0),
        ] {
            let sender = Sender { sight, margin: 0, grows, passing: false };
            for (_, it) in curve(&workload, sender, (0..=18).map(|it| it * 5_000)) {
                table.row(&[&foreign, &name, &it.used, &it.rejected]);
            }
        }
        let gateway = run(&workload, SlidingOnSliding, 1);
        table.row(&[&foreign, &"gateway", &gateway.utilisation(), &gateway.rejected()]);
    }
    table.write(folder, "bound")
}
