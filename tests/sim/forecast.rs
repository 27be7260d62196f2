//! Whether callers are told the truth about their wait: those turned away would have waited too long,
//! those let in start in time.

use std::time::Duration;

use fastrand::Rng;
use tidegate::limit::{Constraint, Mode, Unit};

use crate::line::{Fate, Job, Line, QUOTA, RATE, Seen, pause, pool, quantile, simulate};
use crate::seed::{rng, say};

const LASTS: Duration = Duration::from_secs(6 * 3_600);
/// Until answers have been seen, nothing is known.
const LEARNING: Duration = Duration::from_secs(600);

/// A tenant like no other: callers who each have one request.
fn anyone(rng: &mut Rng) -> u64 {
    rng.u64(1_000..)
}

/// Requests of 1,000 tokens on average, who wait from five seconds to three minutes.
fn job(rng: &mut Rng, tenant: u64) -> Job {
    let job = Job::any(rng, tenant);
    Job { patience: Duration::from_secs_f64(5.0 * 36.0_f64.powf(rng.f64())), ..job }
}

struct Score {
    refused: usize,
    refused_rightly: usize,
    admitted: usize,
    in_time: usize,
    error: f64,
}

fn score(seen: &[Seen]) -> Score {
    let seen = || seen.iter().filter(|it| it.came >= LEARNING);
    let ghosts = seen().filter_map(|it| match it.fate {
        Fate::Refused { would_wait: Some(wait) } => Some(wait > it.job.patience),
        _ => None,
    });
    let ghosts: Vec<bool> = ghosts.collect();
    let ends = seen().filter(|it| !matches!(it.fate, Fate::Refused { .. }));
    let ends: Vec<bool> = ends.map(|it| it.waited().is_some()).collect();
    let errors = seen().filter_map(|it| match it.fate {
        Fate::Started { waited, forecast } if waited > Duration::from_secs(1) => {
            Some(waited.max(forecast) - waited.min(forecast))
        }
        _ => None,
    });
    Score {
        refused: ghosts.len(),
        refused_rightly: ghosts.iter().filter(|it| **it).count(),
        admitted: ends.len(),
        in_time: ends.iter().filter(|it| **it).count(),
        error: quantile(errors.collect(), 50).as_secs_f64(),
    }
}

/// Runs a workload and holds it against both promises.
fn told_the_truth(name: &str, mode: Mode, callers: impl AsyncFnOnce(Line, &mut Rng)) {
    let mut rng = rng(name);
    let seen = simulate(pool(QUOTA, mode), LASTS, async |line| callers(line, &mut rng).await);
    let Score { refused, refused_rightly, admitted, in_time, error } = score(&seen);
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    let (right, kept) = (share(refused_rightly, refused), share(in_time, admitted));
    say(format_args!(
        "{name:<28} {admitted} let in, {:.2} % in time; {refused} of those refused looked at, {:.2} % \
         rightly; forecasts off by {error:.2} s (median)",
        100.0 * kept,
        100.0 * right
    ));
    assert!(refused >= 100 && admitted >= 1_000, "{name}: {refused} {admitted}: too few to tell");
    assert!(right >= 0.95, "{name}: {right} of those refused would have missed");
    assert!(kept >= 0.99, "{name}: {kept} of those let in started in time");
}

/// Many callers, twice as much as the quota.
#[test]
fn callers_of_all_kinds_overloaded() {
    told_the_truth("callers", Mode::Bucket, async |line, rng| {
        let mut rng = rng.fork();
        line.open(move || {
            let tenant = anyone(&mut rng);
            Some((pause(&mut rng, 2.0 * RATE / 1_000.0), job(&mut rng, tenant)))
        });
    });
}

/// Three classes: what the better ones leave is not enough for the last. Requests are small here: what
/// is left varies with every request of a better class, and nobody knows those in advance. A batch waits for
/// minutes.
#[test]
fn classes_beside_each_other() {
    told_the_truth("classes", Mode::Bucket, async |line, rng| {
        for (class, rate) in [(0, 0.3), (1, 0.4), (2, 0.8)] {
            let mut rng = rng.fork();
            line.open(move || {
                let tenant = anyone(&mut rng);
                let it = job(&mut rng, tenant);
                let it =
                    Job { class, used: it.used / 20, fair: it.fair / 20, safe: it.safe / 20, ..it };
                let patience = if class == 2 { it.patience * 6 } else { it.patience };
                let it = Job { patience, ..it };
                Some((pause(&mut rng, rate * RATE / 50.0), it))
            });
        }
    });
}

/// Nine in ten small, one in ten huge (a fortieth of a minute's quota); answers far below what is held
/// for them.
#[test]
fn small_and_huge() {
    told_the_truth("small and huge", Mode::Bucket, async |line, rng| {
        let mut rng = rng.fork();
        line.open(move || {
            let huge = rng.u32(..10) == 0;
            let tenant = anyone(&mut rng);
            let it = job(&mut rng, tenant);
            let (used, fair) =
                if huge { (4_500 + it.used * 3 / 2, 6_000) } else { (it.used / 2, 500) };
            let it = Job { used: used / 4, fair: fair / 4, safe: fair * 3 / 4, ..it };
            Some((pause(&mut rng, 2.0 * RATE / 262.0), it))
        });
    });
}

/// A window of which nobody knows how it refills: there small requests pass those that have to wait
/// for a large gap, which is a matter of sixteen places. The line is a hundred long here.
#[test]
fn a_window_that_is_not_a_bucket() {
    told_the_truth("sliding", Mode::Sliding, async |line, rng| {
        let mut rng = rng.fork();
        line.open(move || {
            let tenant = anyone(&mut rng);
            let it = job(&mut rng, tenant);
            let it = Job { used: it.used / 5, fair: it.fair / 5, safe: it.safe / 5, ..it };
            Some((pause(&mut rng, 2.0 * RATE / 200.0), it))
        });
    });
}

/// Calls that come in waves: five minutes of three times the quota, five of a third.
#[test]
fn waves() {
    told_the_truth("waves", Mode::Bucket, async |line, rng| {
        let mut rng = rng.fork();
        let mut at = Duration::ZERO;
        line.open(move || {
            let high = (at.as_secs() / 300).is_multiple_of(2);
            let pause = pause(&mut rng, if high { 3.0 } else { 0.33 });
            at += pause;
            let tenant = anyone(&mut rng);
            Some((pause, job(&mut rng, tenant)))
        });
    });
}

/// Limits of an hour on top of those of a minute.
#[test]
fn a_longer_window_that_binds() {
    let mut rng = rng("hour");
    let mut config = pool(QUOTA, Mode::Bucket);
    let hour = Duration::from_secs(3_600);
    config.constraints.push(
        Constraint::new(Unit::Requests, 1_800, hour, "hour", Mode::Bucket).expect("within bounds"),
    );
    let seen = simulate(config, LASTS, async |line| {
        line.open(move || {
            let tenant = anyone(&mut rng);
            Some((pause(&mut rng, 1.5), job(&mut rng, tenant)))
        });
    });
    let Score { refused, refused_rightly, admitted, in_time, error } = score(&seen);
    say(format_args!(
        "hour ({error:.2} s off): {in_time} of {admitted} in time, {refused_rightly} of {refused} rightly"
    ));
    assert!(refused >= 100 && refused_rightly * 100 >= refused * 95);
    assert!(in_time * 100 >= admitted * 99);
}
