//! The ledger under answers that show what is left: what it loses by not knowing it gets back, and
//! what others take it notices.

use crate::run::Pair::{
    AutoOnBucket, AutoOnFixed, AutoOnSliding, BucketOnBucket, BucketOnFixed, BucketOnSliding,
    FixedOnBucket, FixedOnFixed, FixedOnSliding, SlidingOnBucket, SlidingOnFixed, SlidingOnSliding,
};
use crate::run::{ALL, Pair, Run, are_a_million, foreign, simulate};
use crate::workload::{SECOND, Shown, Workload, hours};

fn shown() -> Workload {
    Workload { shown: Shown::ALL, ..Workload::steady() }
}

/// No rejection, and of a bucket at least this part used.
fn uses(workload: &Workload, pairs: &[Pair], least: f64) -> Vec<Run> {
    let runs = simulate(workload, pairs);
    for run in runs.iter().filter(|run| run.pair == BucketOnBucket) {
        let used = run.utilisation();
        assert!(used >= least, "{} {:?}: {used:.5}", workload.name, run.pair);
    }
    runs
}

#[test]
fn steady_overload_with_headers() {
    uses(&Workload { name: "shown", lasts: hours(12), ..shown() }, &ALL, 0.999);
}

#[test]
fn cut_streams_come_back_with_the_next_answer() {
    for (name, cut, lasts) in [("10 % cut", 100, hours(24)), ("30 % cut", 300, hours(39))] {
        let workload = Workload {
            name,
            cut,
            lasts,
            cut_refunded: true,
            used: 500..=3_000,
            reserved: 12_000..=16_000,
            ..shown()
        };
        are_a_million(name, &uses(&workload, &[BucketOnBucket], 0.99));
    }
}

#[test]
fn headers_that_are_missing_rounded_or_late() {
    let late = (300, 3 * SECOND);
    let mut runs = Vec::new();
    for (name, shown) in [
        ("half missing", Shown { missing: 500, ..Shown::ALL }),
        ("rounded", Shown { rounded: 1_000, ..Shown::ALL }),
        ("overtaking", Shown { late, ..Shown::ALL }),
        ("all of it", Shown { missing: 500, rounded: 1_000, late, ..Shown::ALL }),
        ("only tokens", Shown { windows: 2, ..Shown::ALL }),
    ] {
        let cut = Workload { cut: 200, cut_refunded: true, ..Workload::steady() };
        let workload = Workload { name, shown, lasts: hours(17), ..cut };
        runs.append(&mut uses(&workload, &ALL, 0.99));
    }
    are_a_million("headers missing, rounded, reordered", &runs);
}

#[test]
fn others_use_a_part_of_the_quota() {
    let mut all = Vec::new();
    for (name, share) in [("10 % foreign", 100), ("30 % foreign", 300)] {
        let workload = Workload { name, foreign: (share, 5_000..=30_000), ..shown() };
        // Two pairs have a bucket behind them and two fixed windows, the log has twice as many runs.
        let workload = Workload { lasts: hours(66), ..workload };
        let pairs =
            [BucketOnBucket, SlidingOnBucket, SlidingOnSliding, SlidingOnFixed, FixedOnFixed];
        let runs = foreign(&workload, &pairs);
        for run in runs {
            let (used, rejected) = (run.utilisation(), run.rejected());
            // What is kept free in a log is lost, and with less of it more would be rejected: what could
            // be had at best is in `of_a_log_that_others_use_too_nobody_gets_all`.
            let least = match (run.pair, share) {
                (SlidingOnSliding, 100) => 0.957,
                (SlidingOnSliding, _) => 0.949,
                _ => 0.98,
            };
            assert!(used >= least, "{name} {:?}: {used:.5} used", run.pair);
            assert!(rejected <= 0.005, "{name} {:?}: {rejected:.5} rejected", run.pair);
            all.push(run);
        }
    }
    are_a_million("10 and 30 % foreign", &all);
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
        let pairs = [BucketOnFixed, BucketOnSliding, FixedOnBucket, FixedOnSliding];
        for run in foreign(&workload, &pairs) {
            let (used, rejected) = (run.utilisation(), run.rejected());
            assert!(used >= 0.85, "{name} {:?}: {used:.5} used", run.pair);
            // Who takes it for fixed sends a whole period at once, and has to lose some of it to know.
            let most = if matches!(run.pair, FixedOnBucket | FixedOnSliding) { 0.05 } else { 0.02 };
            assert!(rejected <= most, "{name} {:?}: {rejected:.5} rejected", run.pair);
        }
    }
}

#[test]
fn limits_that_change_are_kept_to() {
    // Down by half and up again, fifty times: whoever asks in the moment in which they go down is
    // told so.
    let relimits = (1..100_u64).map(|it| (10 * it, if it % 2 == 1 { 50 } else { 200 })).collect();
    let workload = Workload { name: "limits change", relimits, lasts: hours(285), ..shown() };
    let runs = foreign(&workload, &[BucketOnBucket]);
    for run in &runs {
        let (used, rejected) = (run.utilisation(), run.rejected());
        assert!(rejected <= 0.001, "{rejected:.5} rejected");
        // For half of the time there is half of it.
        assert!(used >= 0.99 * 0.75, "{used:.5} used");
    }
    are_a_million("limits change", &runs);
}

#[test]
fn a_clock_that_goes_back_costs_time_and_nothing_else() {
    let name = "clock steps";
    let workload = Workload { name, clock_lag: 20 * SECOND, lasts: hours(194), ..shown() };
    are_a_million(name, &uses(&workload, &[BucketOnBucket], 0.999));
}

#[test]
fn more_left_than_the_limit_counts_as_the_limit() {
    // The upstream has half as much again as it names. Whoever asks in bursts finds all of it there.
    let shown = Shown { old_limits: true, ..Shown::ALL };
    let workload = Workload {
        name: "more than the limit",
        shown,
        relimits: vec![(0, 150)],
        pauses: (20, 0..=40 * SECOND),
        traced: true,
        ..Workload::steady()
    };
    for run in foreign(&workload, &[BucketOnBucket]) {
        assert_eq!((run.story.rejected, run.story.modes[1]), (0, "bucket"));
        let limit = 1_500_000;
        let moments = &run.story.moments;
        assert!(moments.iter().any(|it| it.left > 2_000_000), "more than the limit was shown");
        for it in moments {
            assert!(it.level + it.held.cast_signed() <= limit, "{it:?}");
        }
    }
}

#[test]
fn what_was_used_before_the_first_answer_is_not_taken_for_others_use() {
    let workload = Workload { name: "used before", used_before: 600, traced: true, ..shown() };
    for run in simulate(&workload, &[BucketOnBucket]) {
        // A margin would be kept free from the first answer on, for two windows: an eighth of the limit.
        let early = run.story.moments.iter().filter(|it| (5..60).contains(&(it.at / SECOND)));
        let least = early.map(|it| it.level).min();
        assert!(least.is_some_and(|level| level < 50_000), "{least:?} left at the least");
    }
}

#[test]
fn doubt_lasts_twice_as_long_each_time_up_to_sixty_four_windows() {
    let workload = Workload {
        name: "doubt",
        shown: Shown::default(),
        relimits: vec![(0, 100)],
        traced: true,
        lasts: hours(8),
        ..Workload::steady()
    };
    for run in foreign(&workload, &[BucketOnSliding]) {
        let spells = run.story.moments.chunk_by(|a, b| a.sliding == b.sliding);
        let spells = spells.filter(|spell| spell[0].sliding);
        // In windows of a minute; the last one is cut short by the end of the run.
        let mut lasted: Vec<u64> =
            spells.map(|it| (it[it.len() - 1].at - it[0].at).div_ceil(60 * SECOND)).collect();
        lasted.pop();
        let doubled = [2, 4, 8, 16, 32].into_iter().chain(std::iter::repeat(64));
        assert!(lasted.len() > 6, "{lasted:?}");
        assert!(lasted.iter().copied().eq(doubled.take(lasted.len())), "{lasted:?}");
    }
}
