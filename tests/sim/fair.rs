//! Who gets how much, and who waits how long: the queue's promises to tenants and classes.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tidegate::admission::PoolConfig;
use tidegate::limit::{Constraint, Mode, Unit};

use crate::line::{Job, Line, QUOTA, RATE, Seen, pause, pool, quantile, simulate};
use crate::seed::{rng, say};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn waits(seen: &[Seen], of: impl Fn(&Seen) -> bool) -> Vec<Duration> {
    seen.iter().filter(|it| of(it)).filter_map(Seen::waited).collect()
}

/// Tokens used by tenant (or class) of those that started in the second half or so.
fn used_by(seen: &[Seen], from: Duration, by: impl Fn(&Job) -> u64) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for it in seen.iter().filter(|it| it.waited().is_some_and(|wait| it.came + wait >= from)) {
        *sums.entry(by(&it.job)).or_default() += it.job.used;
    }
    sums
}

/// Jain's index: 1 if all are equal, 1/n if one has everything.
fn jain(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<_> = values.into_iter().collect();
    let (sum, squares) =
        values.iter().fold((0.0, 0.0), |(sum, squares), it| (sum + it, squares + it * it));
    sum * sum / (values.len() as f64 * squares)
}

/// A tenant that asks now and then, at half of what its share of the quota is good for.
fn light(line: &Line, tenant: u64, mut rng: Rng) {
    let rate = RATE / 10.0 / 1_000.0 / 2.0;
    line.open(move || Some((pause(&mut rng, rate), Job::any(&mut rng, tenant))));
}

#[test]
fn a_crowd_of_one_tenant_costs_the_others_two_slots_at_most() {
    let mut rng = rng("crowd");
    let lasts = seconds(8 * 3_600);
    let forks: Vec<Rng> = (0..10).map(|_| rng.fork()).collect();
    let mut crowd = rng.fork();
    let seen = simulate(pool(QUOTA, Mode::Bucket), lasts, async |line| {
        let keep = move || Job::any(&mut crowd, 0);
        line.closed(1_000, keep);
        (1..10).zip(&forks).for_each(|(tenant, rng)| light(&line, tenant, rng.clone()));
    });
    let together = quantile(waits(&seen, |it| it.job.tenant > 0), 95);
    // Each alone, with a tenth of the quota.
    let mut alone = Vec::new();
    for (tenant, rng) in (1..10).zip(&forks) {
        // Their share and no more: what others leave of a minute is not saved up for them, so the
        // bucket is as small as it can be for the largest request.
        let share = Constraint::new(Unit::Tokens, 3_200, seconds(32), "share", Mode::Bucket);
        let config = PoolConfig { constraints: vec![share.unwrap()], ..pool(QUOTA, Mode::Bucket) };
        let seen = simulate(config, lasts, async |line| {
            light(&line, tenant, rng.clone());
        });
        alone.extend(waits(&seen, |_| true));
    }
    let alone = quantile(alone, 95);
    let slot = Duration::from_secs_f64(1_000.0 / RATE);
    say(format_args!(
        "light tenants' p95 wait: {together:?} beside 1,000 queued, {alone:?} alone, slot {slot:?}"
    ));
    assert!(together <= alone + 2 * slot, "{together:?} {alone:?}");
    // More than was promised: they do not even wait as if the crowd were one more of them.
    assert!(together <= 10 * slot, "{together:?}");
}

#[test]
fn tenants_that_always_wait_use_the_same_whatever_their_requests_are_like() {
    let mut rng = rng("jain");
    let lasts = seconds(12 * 3_600);
    let seen = simulate(pool(QUOTA, Mode::Bucket), lasts, async |line| {
        for tenant in 0..10_u64 {
            let mut rng = rng.fork();
            // Small and large requests, estimates that are many times too high or too low, many
            // requests in line or a few.
            let (scale, wrong) = (1 + tenant % 3, 1 + tenant % 4);
            line.closed(if tenant % 2 == 0 { 3 } else { 50 }, move || {
                let it = Job::any(&mut rng, tenant);
                Job {
                    used: it.used * scale,
                    safe: it.safe * scale,
                    fair: it.fair * wrong / 2,
                    ..it
                }
            });
        }
    });
    let used = used_by(&seen, seconds(3_600), |job| job.tenant);
    let index = jain(used.values().map(|used| *used as f64));
    say(format_args!("Jain's index by tokens: {index:.5}, {used:?}"));
    assert!(used.len() == 10 && index >= 0.99, "{index} {used:?}");
}

#[test]
fn weights_are_shares() {
    let mut rng = rng("weights");
    let weights = [1, 2, 4];
    let seen = simulate(pool(QUOTA, Mode::Bucket), seconds(12 * 3_600), async |line| {
        for (tenant, weight) in (0..).zip(weights) {
            let mut rng = rng.fork();
            line.closed(20, move || Job { weight, ..Job::any(&mut rng, tenant) });
        }
    });
    let used = used_by(&seen, seconds(3_600), |job| job.tenant);
    let all: u64 = used.values().sum();
    for (tenant, weight) in (0..).zip(weights) {
        let share = used[&tenant] as f64 / all as f64;
        let right = f64::from(weight) / 7.0;
        say(format_args!("weight {weight}: {share:.4} of the tokens, {right:.4} by weight"));
        assert!((share / right - 1.0).abs() <= 0.02, "{share} {right}");
    }
}

#[test]
fn classes_that_always_wait_get_their_guaranteed_shares() {
    let mut rng = rng("classes");
    let seen = simulate(pool(QUOTA, Mode::Bucket), seconds(12 * 3_600), async |line| {
        for class in 0..3 {
            let mut rng = rng.fork();
            // Estimates are off by as much as double in one class.
            line.closed(20, move || {
                let it = Job::any(&mut rng, class as u64);
                Job { class, fair: it.fair * (1 + class as u64 % 2), ..it }
            });
        }
    });
    let used = used_by(&seen, seconds(3_600), |job| job.class as u64);
    let all: u64 = used.values().sum();
    for (class, guaranteed) in [(0, 0.5), (1, 0.25), (2, 0.05)] {
        let share = used[&class] as f64 / all as f64;
        say(format_args!("class {class}: {share:.4} of the tokens, {guaranteed} guaranteed"));
        assert!(share >= guaranteed - 0.002, "{class}: {share}");
    }
    assert!(used[&2] as f64 / all as f64 <= 0.052, "rank decides what is left: {used:?}");
}

#[test]
fn a_batch_that_takes_all_there_is_hardly_delays_interactive_requests() {
    let mut rng = rng("interactive");
    let lasts = seconds(24 * 3_600);
    for load in [0.3, 0.5, 0.7, 0.8] {
        let (first, second) = (rng.fork(), rng.fork());
        let p95 = |batch: bool| {
            let (mut interactive, mut bulk) = (first.clone(), second.clone());
            let seen = simulate(pool(QUOTA, Mode::Bucket), lasts, async |line| {
                line.open(move || {
                    let it = Job { class: 0, ..Job::any(&mut interactive, 0) };
                    Some((pause(&mut interactive, load * RATE / 1_000.0), it))
                });
                if batch {
                    line.closed(100, move || Job { class: 2, ..Job::any(&mut bulk, 1) });
                }
            });
            quantile(waits(&seen, |it| it.job.class == 0), 95)
        };
        let (without, with) = (p95(false), p95(true));
        // What is held for the largest request there is.
        let largest = Duration::from_secs_f64(3_200.0 / RATE);
        say(format_args!(
            "interactive p95 wait at a load of {load}: {without:?} alone, {with:?} beside a batch; \
             the largest request takes {largest:?}"
        ));
        assert!(with <= without.mul_f64(1.2) + largest, "{load}: {without:?} {with:?}");
    }
}
