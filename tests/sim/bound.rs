//! What nobody can have of a sliding log that others use as well, and how far the gateway is from it.

use crate::best::{GROWS, Outcome, Sender, Sight, curve, shared};
use crate::run::Pair::SlidingOnSliding;
use crate::run::run;
use crate::seed::say;
use crate::workload::Workload;

/// The most that may be rejected.
const RARELY: f64 = 0.005;

/// The most that is used with any margin with which hardly anything is rejected.
fn most(workload: &Workload, sender: Sender) -> f64 {
    let curve = curve(workload, sender, (0..=18).map(|it| it * 5_000));
    let rarely = curve.into_iter().filter(|(_, it)| it.rejected <= RARELY);
    let best = rarely.max_by(|a, b| a.1.used.total_cmp(&b.1.used));
    let (margin, Outcome { used, rejected }) = best.expect("some margin is wide enough");
    let percent = [used, rejected].map(|it| 100.0 * it);
    say(format_args!(
        "{sender:?}: {:.2} % used, {:.2} % rejected with {margin}",
        percent[0], percent[1]
    ));
    used
}

/// Whoever knows what headers can tell, and all of its own requests, cannot use 98 % of such a log with any
/// margin; where others ask for three tenths of it, not even who sees all that happens there and sends
/// in order.
/// And the gateway is not far from that.
#[test]
fn of_a_log_that_others_use_too_nobody_gets_all() {
    for share in [100, 300] {
        let workload = shared(share);
        let heads = Sender { sight: Sight::Heads, margin: 0, grows: 0, passing: false };
        let constant = most(&workload, heads);
        let growing = most(&workload, Sender { grows: GROWS, ..heads });
        let passing = most(&workload, Sender { grows: GROWS, passing: true, ..heads });
        let all = most(&workload, Sender { sight: Sight::Now, ..heads });
        let gateway = run(&workload, SlidingOnSliding, 1);
        let (used, rejected) = (gateway.utilisation(), gateway.rejected());
        let percent = [used, rejected].map(|it| 100.0 * it);
        say(format_args!(
            "{share} ‰: gateway {:.2} % used, {:.2} % rejected",
            percent[0], percent[1]
        ));
        assert!(constant.max(growing).max(passing) < 0.98, "{share}: more can be had");
        assert!(share < 300 || all < 0.98, "{all:.5}: more can be had by who sees everything");
        assert!(rejected <= RARELY, "{rejected:.5} rejected");
        // Its margin finds itself, and it hears of its own requests when it is told.
        assert!(used >= constant - 0.015, "{share}: {used:.5} used, {constant:.5} can be");
        assert!(used >= growing - 0.0225, "{share}: {used:.5} used, {growing:.5} can be");
    }
}
