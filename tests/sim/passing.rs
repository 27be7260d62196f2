//! What smaller requests use of a window while the first in line does not fit into what is left.

use std::time::Duration;

use tidegate::admission::PoolConfig;
use tidegate::limit::{ColdStart, Mode};

use crate::law;
use crate::line::{Job, Seen, pool, simulate};
use crate::oracle::{Limit, Semantics, TOKENS};
use crate::seed::{rng, say};

/// Tokens a window, the window, and how many of them.
const LIMIT: u64 = 1_500_000;
const WINDOW: Duration = Duration::from_secs(60);
const WINDOWS: u32 = 18_900;
/// Requests that wait at any time: more than are looked at for one that fits.
const DEPTH: usize = 60;

/// When a request started, in nanoseconds since the beginning, and what it used.
fn spend(seen: &Seen) -> Option<(u64, u64)> {
    let at = (seen.came + seen.waited()?).as_nanos();
    Some((u64::try_from(at).expect("some hours"), seen.job.used))
}

/// Of requests of 500 to 6,000 tokens one in ten is as large as a quarter of the window, or a
/// fifteenth. In strict order, what is left before such a one is a tenth of the quota.
#[test]
fn where_nobody_knows_how_a_window_refills_hardly_anything_is_left() {
    let mut rng = rng("passing");
    let phase = rng.u64(..60_000_000_000);
    let start = PoolConfig { cold_start: ColdStart::Full, ..pool(LIMIT, Mode::Sliding) };
    // The last window is not begun anew.
    let lasts = WINDOW * WINDOWS - Duration::from_secs(1);
    let seen = simulate(start, lasts, async |line| {
        line.closed(DEPTH, move || {
            let huge = rng.u32(..10) == 0;
            let used = if huge { rng.u64(100_000..400_000) } else { rng.u64(500..6_000) };
            Job {
                class: 1,
                tenant: 1,
                weight: 1,
                safe: used,
                fair: used,
                used,
                service: Duration::ZERO,
                patience: Duration::from_secs(1_000_000),
            }
        });
    });
    let started = seen.iter().filter(|it| it.waited().is_some());
    let count = started.clone().count();
    let used: u64 = started.clone().map(|it| it.job.used).sum();
    let share = used as f64 / (LIMIT * u64::from(WINDOWS)) as f64;
    let longest = started.filter_map(|it| it.waited()).max().unwrap_or_default();
    say(format_args!(
        "{:.3} % of the quota used by {count} requests; the longest wait was {longest:?}",
        100.0 * share,
    ));
    assert!(share >= 0.995, "{share:.5} used");
    assert!(count >= 1_000_000, "{count} requests");
    let mut spends: Vec<_> = seen.iter().filter_map(spend).collect();
    spends.sort_unstable();
    let window = u64::try_from(WINDOW.as_nanos()).expect("a minute");
    let limit = Limit { unit: TOKENS, limit: LIMIT, window };
    for semantics in [Semantics::Bucket, Semantics::Fixed { phase }, Semantics::Sliding] {
        let excess = law::excess(semantics, &limit, &spends);
        assert!(excess <= 0, "and no window has more than its limit: {excess}, {semantics:?}");
    }
}
