//! The ledger under answers that show what is left: what it loses by not knowing it gets back, and
//! what others take it notices.

use crate::run::Pair::{
    AutoOnBucket, AutoOnFixed, AutoOnSliding, BucketOnBucket, BucketOnFixed, BucketOnSliding,
    SlidingOnBucket, SlidingOnFixed, SlidingOnSliding,
};
use crate::run::{ALL, Pair, foreign, simulate};
use crate::workload::{SECOND, Shown, Workload};

fn shown() -> Workload {
    Workload { shown: Shown::ALL, ..Workload::steady() }
}

/// No rejection, and at least this part of the quota used.
fn uses(workload: &Workload, pairs: &[Pair], least: f64) {
    for run in simulate(workload, pairs) {
        let used = run.utilisation();
        assert!(used >= least, "{} {:?}: {used:.5}", workload.name, run.pair);
    }
}

#[test]
fn steady_overload_with_headers() {
    uses(&Workload { name: "shown", ..shown() }, &[BucketOnBucket], 0.999);
    simulate(&Workload { name: "shown", ..shown() }, &ALL[1..]);
}

#[test]
fn cut_streams_come_back_with_the_next_answer() {
    for cut in [100, 300] {
        let name = if cut == 100 { "10 % cut" } else { "30 % cut" };
        let workload = Workload {
            name,
            cut,
            cut_refunded: true,
            used: 500..=3_000,
            reserved: 12_000..=16_000,
            ..shown()
        };
        uses(&workload, &[BucketOnBucket], 0.99);
    }
}

#[test]
fn headers_that_are_missing_rounded_or_late() {
    let late = (300, 3 * SECOND);
    for (name, shown) in [
        ("half missing", Shown { missing: 500, ..Shown::ALL }),
        ("rounded", Shown { rounded: 1_000, ..Shown::ALL }),
        ("overtaking", Shown { late, ..Shown::ALL }),
        ("all of it", Shown { missing: 500, rounded: 1_000, late, ..Shown::ALL }),
        ("only tokens", Shown { windows: 2, ..Shown::ALL }),
    ] {
        let workload = Workload { name, shown, cut: 200, cut_refunded: true, ..Workload::steady() };
        simulate(&workload, &ALL);
        uses(&workload, &[BucketOnBucket], 0.99);
    }
}

#[test]
fn others_use_a_part_of_the_quota() {
    for share in [100, 300] {
        let name = if share == 100 { "10 % foreign" } else { "30 % foreign" };
        let workload = Workload { name, foreign: (share, 5_000..=30_000), ..shown() };
        for pair in [BucketOnBucket, SlidingOnBucket, SlidingOnSliding, SlidingOnFixed] {
            for (used, rejected) in foreign(&workload, pair) {
                // A margin costs a log what it is.
                let least = if pair == BucketOnBucket { 0.98 } else { 0.85 };
                assert!(used >= least, "{name}: {used:.5} used");
                let most = if pair == SlidingOnFixed { 0.02 } else { 0.005 };
                assert!(rejected <= most, "{name}: {rejected:.5} rejected");
            }
        }
    }
}

#[test]
fn the_way_to_refill_is_found_out() {
    let pauses = (20, 0..=40 * SECOND);
    let bursts = Workload { name: "auto, bursts", pauses, ..shown() };
    for workload in [bursts, Workload { name: "auto", ..shown() }] {
        for run in simulate(&workload, &[AutoOnBucket, AutoOnFixed, AutoOnSliding]) {
            let found = run.story.modes[1];
            match run.pair {
                AutoOnBucket => assert_eq!(found, "bucket", "{}", workload.name),
                // Those who never stop asking cannot tell it from a log, and lose nothing by it.
                AutoOnFixed => assert_ne!(found, "bucket", "{}", workload.name),
                _ => assert_eq!(found, "sliding", "{}", workload.name),
            }
        }
    }
}

#[test]
fn a_wrong_mode_is_given_up_when_it_is_contradicted() {
    for shown in [Shown::default(), Shown::ALL] {
        let name = if shown.windows == 0 { "wrong mode, nothing shown" } else { "wrong mode" };
        let workload = Workload { name, shown, relimits: vec![(0, 100)], ..Workload::steady() };
        for pair in [BucketOnFixed, BucketOnSliding] {
            for (used, rejected) in foreign(&workload, pair) {
                assert!(used >= 0.85, "{name} {pair:?}: {used:.5} used");
                assert!(rejected <= 0.02, "{name} {pair:?}: {rejected:.5} rejected");
            }
        }
    }
}

#[test]
fn limits_that_change_are_kept_to() {
    // Down by a third and up again: whoever asks in the moment in which they go down is told so.
    let relimits = vec![(300, 66), (600, 150)];
    let workload = Workload { name: "limits change", relimits, ..shown() };
    for (_, rejected) in foreign(&workload, BucketOnBucket) {
        assert!(rejected <= 0.001, "{rejected:.5} rejected");
    }
}

#[test]
fn a_clock_that_goes_back_costs_time_and_nothing_else() {
    let workload = Workload { name: "clock steps", clock_lag: 20 * SECOND, ..shown() };
    simulate(&workload, &[BucketOnBucket]);
}
