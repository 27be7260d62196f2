//! Two models of the upstream, written apart, have to agree on every decision: the oracle of these
//! simulations, and the simulator that the gateway is served with.

use fastrand::Rng;
use tidegate::simulator::quota::{self, Admission, Name, Quota, Unit};

use crate::oracle::{Entry, Limit, Oracle, REQUESTS, Semantics, TOKENS};
use crate::seed::{self, START};

const SECOND: u64 = 1_000_000_000;

fn both(semantics: Semantics, limits: &[Limit]) -> (Oracle, Quota) {
    let theirs: Vec<_> = limits
        .iter()
        .map(|limit| {
            let unit = if limit.unit == REQUESTS { Unit::Requests } else { Unit::Tokens };
            // The names only set the order in which windows are asked.
            let name = if limit.window < 100 * SECOND { Name::Minute } else { Name::Hour };
            let (limit, window_ns) = (limit.limit, limit.window);
            quota::Limit { unit, name, limit, window_ns }
        })
        .collect();
    let kind = match semantics {
        Semantics::Bucket => quota::Semantics::TokenBucket,
        Semantics::Fixed { phase } => quota::Semantics::FixedWindow { phase_ns: phase },
        Semantics::Sliding => quota::Semantics::SlidingLog,
    };
    (Oracle::new(semantics, limits, START), Quota::new(&theirs, kind))
}

/// Random arrivals, refunds, debts and requests that are never settled, at loads around the limit.
#[expect(clippy::panic, reason = "that is how this test fails")]
fn compare(semantics: Semantics, steps: usize, rng: &mut Rng) -> [usize; 2] {
    let window = rng.u64(1..=20) * SECOND + rng.u64(0..SECOND);
    let limits = [
        Limit { unit: REQUESTS, limit: rng.u64(20..200), window },
        Limit { unit: REQUESTS, limit: rng.u64(500..2_000), window: 20 * window + 7 },
        Limit { unit: TOKENS, limit: 100_000, window },
        Limit { unit: TOKENS, limit: rng.u64(500_000..2_000_000), window: 20 * window + 7 },
    ];
    let (mut oracle, mut quota) = both(semantics, &limits);
    let mean_gap = window / rng.u64(100..600);
    let mut open: Vec<(Entry, Admission)> = Vec::new();
    let (mut now, mut decisions) = (START, [0; 2]);
    let _ = quota.remaining(now);
    for _ in 0..steps {
        // Now and then at one instant, or exactly one window later.
        now += match rng.u8(..20) {
            0..3 => 0,
            3 => window,
            _ => rng.u64(0..=2 * mean_gap),
        };
        if rng.bool() && !open.is_empty() {
            let (entry, admission) = open.swap_remove(rng.usize(..open.len()));
            let reserved = admission.tokens();
            if rng.u8(..10) == 0 {
                quota.keep(admission);
            } else {
                let used = rng.u64(0..=reserved + reserved / 8);
                oracle.refund(entry, used, now);
                quota.settle(now, admission, used);
            }
        } else {
            let most = if rng.u8(..10) == 0 { 120_000 } else { 4_000 };
            let tokens = rng.u64(0..=most);
            let (ours, theirs) = (oracle.admit(tokens, now), quota.admit(now, tokens));
            decisions[usize::from(ours.is_ok())] += 1;
            match (ours, theirs) {
                (Ok(entry), Ok(admission)) => open.push((entry, admission)),
                (Err(index), Err(rejection)) => {
                    assert_eq!(limits[index].limit, rejection.limit.limit, "the same window");
                }
                (ours, theirs) => panic!("{semantics:?} at {now}: {ours:?} but {theirs:?}"),
            }
        }
        for (index, level) in quota.remaining(now).iter().enumerate() {
            let ours = oracle.remaining(index, now).div_euclid(i128::from(limits[index].window));
            assert_eq!(i128::from(level.remaining), ours, "{semantics:?}, window {index}, {now}");
        }
    }
    decisions
}

#[test]
fn the_oracle_and_the_simulator_decide_alike() {
    let mut rng = seed::rng("the_oracle_and_the_simulator_decide_alike");
    let mut decisions = [0; 2];
    for _ in 0..40 {
        let phase = rng.u64(..100 * SECOND);
        for semantics in [Semantics::Bucket, Semantics::Fixed { phase }, Semantics::Sliding] {
            let [refused, admitted] = compare(semantics, 1_500, &mut rng);
            decisions[0] += refused;
            decisions[1] += admitted;
        }
    }
    let [refused, admitted] = decisions;
    seed::say(format_args!("{admitted} admitted and {refused} refused alike"));
    assert!(admitted > 20_000 && refused > 5_000, "both ends of the decision are exercised");
}
