//! The log's time, while the server's clock is set forwards and backwards.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use tidegate::store::shared::Shared;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::server::{Proxy, Redis};
use super::twin::{Twin, config};

const HOUR: i64 = 3_600_000_000;

/// The script, with the server's clock off by what a key says. There is no such key for the script
/// that gateways send.
pub(super) fn stepped() -> String {
    let clock =
        "local time = redis.call('TIME')\n  return tonumber(time[1]) * 1000000 + tonumber(time[2])";
    let script = Shared::script();
    assert_eq!(script.matches("redis.call('TIME')").count(), 1, "the clock is read in one place");
    assert_eq!(script.matches(clock).count(), 1);
    script.replace(clock, &format!("{clock} + tonumber(redis.call('GET', 'step') or 0)"))
}

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// The server's clock is set by so many microseconds.
    Step(i64),
    /// Time passes.
    Pass(u64),
    /// A replica appends something.
    Append(usize),
    /// A replica starts anew.
    Restart(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => prop_oneof![Just(HOUR), Just(-HOUR), -HOUR..HOUR].prop_map(Act::Step),
        3 => (1..60_u64).prop_map(Act::Pass),
        5 => (0..3_usize).prop_map(Act::Append),
        1 => (0..2_usize).prop_map(Act::Restart),
    ]
}

async fn play(acts: Vec<Act>) -> Result<(), TestCaseError> {
    let redis = Redis::start().await;
    let (config, script) = (config(&redis.url(), "grace = \"50ms\"\n"), stepped());
    let mut twins = Vec::new();
    for _ in 0..3 {
        twins.push(Twin::scripted(&config, &script).ready().await);
    }
    // The third never restarts: somebody has to have a clock that goes on.
    for twin in &twins {
        twin.tell("begin").await;
    }
    let mut off = 0;
    // The first entry was stamped between these two.
    let began = Instant::now();
    twins[2].tell("first").await;
    let first_received = began.elapsed();
    let first = *twins[2].known.lock().times.last().expect("one");
    let mut last = first;
    for act in acts {
        match act {
            Act::Step(by) => {
                off += by;
                redis.ask::<()>(&["SET", "step", &off.to_string()]);
            }
            Act::Pass(millis) => sleep(Duration::from_millis(millis)).await,
            Act::Restart(index) => {
                // Heard of by somebody with a clock of its own before it begins.
                twins[2].tell("heartbeat").await;
                twins[index] = Twin::scripted(&config, &script).ready().await;
            }
            Act::Append(index) => {
                let sent = began.elapsed();
                twins[index].tell("x").await;
                let received = began.elapsed();
                let at = *twins[index].known.lock().times.last().expect("one");
                prop_assert!(at >= last, "never backwards");
                last = at;
                let log = at.since(first);
                // Neither minted nor destroyed, but for what calls and pushes take on their way when
                // the clock has just been set.
                let slack = Duration::from_millis(150);
                prop_assert!(log <= received + slack, "{log:?} of {received:?}: minted");
                let least = sent.saturating_sub(first_received);
                prop_assert!(log + slack >= least, "{log:?} of {least:?}: destroyed");
            }
        }
    }
    Ok(())
}

#[test]
fn a_step_of_the_servers_clock_neither_mints_nor_destroys_time() {
    let runtime = Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(Cases { cases: 12, max_shrink_iters: 20, ..Cases::default() });
    let acts = prop::collection::vec(act(), 10..40);
    runner.run(&acts, |acts| runtime.block_on(play(acts))).expect("the law holds");
}

#[tokio::test]
async fn a_clock_set_back_while_the_server_was_down_does_not_stop_time() {
    let mut redis = Redis::start().await;
    let (config, script) = (config(&redis.url(), "grace = \"100ms\"\n"), stepped());
    let twin = Twin::scripted(&config, &script).ready().await;
    let _beat = twin.beating(Duration::from_millis(50));
    twin.tell("before").await;
    let (before, began) = (twin.log.now(), Instant::now());
    for step in [-HOUR, HOUR] {
        redis.kill();
        redis.restart().await;
        redis.ask::<()>(&["SET", "step", &step.to_string()]);
        twin.tell("after").await;
        let passed = twin.log.now().since(before);
        let real = began.elapsed();
        let slack = Duration::from_millis(300);
        assert!(passed + slack >= real && passed <= real + slack, "{passed:?} of {real:?}");
    }
}

/// The time that has passed since the last call is known to who waited, whatever the server's clock
/// says.
#[tokio::test]
async fn a_clock_set_back_in_a_silence_does_not_undo_it() {
    let redis = Redis::start().await;
    let (config, script) = (config(&redis.url(), "grace = \"50ms\"\n"), stepped());
    let twin = Twin::scripted(&config, &script).ready().await;
    twin.tell("before").await;
    let (before, began) = (*twin.known.lock().times.last().expect("one"), Instant::now());
    for step in 1..4 {
        sleep(Duration::from_millis(300)).await;
        redis.ask::<()>(&["SET", "step", &(-HOUR * step).to_string()]);
        twin.tell("after").await;
    }
    let real = began.elapsed();
    let passed = twin.known.lock().times.last().expect("one").since(before);
    assert!(passed + Duration::from_millis(200) >= real, "{passed:?} of {real:?}");
    // A newcomer has seen nothing yet, and sets nothing back either.
    redis.ask::<()>(&["SET", "step", &(-HOUR * 9).to_string()]);
    let newcomer = Twin::scripted(&config, &script).ready().await;
    newcomer.tell("new").await;
    let times = newcomer.known.lock().times.clone();
    assert!(times.len() == 5 && times.is_sorted(), "{times:?}");
}

/// What replies and pushes are under way is not lost, however often it is.
#[tokio::test]
async fn no_time_is_lost_between_replicas_that_are_far_apart() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port).await;
    let config = config(&proxy.url(), "grace = \"50ms\"\n");
    let twins = [Twin::start(&config).ready().await, Twin::start(&config).ready().await];
    proxy.way.lock().delay = Duration::from_millis(30);
    twins[0].tell("before").await;
    twins[1].until("it", |known| known.list.len() == 1).await;
    let (before, began) = (*twins[0].known.lock().times.last().expect("one"), Instant::now());
    // What is under way each time comes to 1.8 seconds; a busy machine does not.
    for index in 1..=60 {
        twins[index % 2].tell("x").await;
        twins[1 - index % 2].until("it", |known| known.list.len() > index).await;
    }
    let real = began.elapsed();
    let passed = twins[0].known.lock().times.last().expect("one").since(before);
    assert!(passed + Duration::from_millis(900) >= real, "{passed:?} of {real:?}");
}
