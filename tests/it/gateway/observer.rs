//! What the gateway learns from the upstream's rate-limit headers and refusals.

use serde_json::Value;
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{Fault, HeaderStyle, Options, Reservation};

use crate::support::{Gateway, eventually, hello, number, pair, roomy, send, with};

/// Limits of the upstream that do not refill while a test runs.
fn limited(requests: u64, tokens: u64) -> Options {
    Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, requests),
            Limit::per(Unit::Tokens, Name::Day, tokens),
        ],
        headers: HeaderStyle::Matrix,
        ..roomy()
    }
}

/// The gateway's own idea of them: twice as large.
const CONFIGURED: &str = r#"models."*".limits = [
  { unit = "requests", limit = 2_000, per = "1d" },
  { unit = "tokens", limit = 200_000, per = "1d" },
]"#;

const FAST: &str = "limit = 60_000, per = \"1m\", name = \"day\", learn = \"never\"";

/// A constraint of the only pool.
async fn constraint(gateway: &Gateway, unit: &str) -> Value {
    let status = gateway.settled().await;
    let all = status["pools"][0]["constraints"].as_array().expect("a list").clone();
    all.into_iter().find(|it| it["unit"] == unit).expect("it is limited")
}

async fn ask(gateway: &Gateway) -> u16 {
    let answer = send(gateway.chat(&hello())).await;
    let status = answer.status().as_u16();
    answer.bytes().await.expect("whole");
    status
}

#[tokio::test]
async fn a_smaller_limit_is_learned_at_once_and_a_larger_one_the_third_time() {
    for (theirs, learned) in [(500, [500, 500, 500]), (9_000, [2_000, 2_000, 9_000])] {
        let (_simulator, gateway) = pair(limited(theirs, 1_000_000), CONFIGURED).await;
        for limit in learned {
            assert_eq!(ask(&gateway).await, 200);
            assert_eq!(constraint(&gateway, "requests").await["limit"], limit, "{theirs}");
        }
        gateway.close().await;
    }
    let changes = CONFIGURED.replace("limit = 2_000", "learn = \"down\", limit = 2_000");
    let (_simulator, gateway) = pair(limited(9_000, 1_000_000), &changes).await;
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await, 200);
    }
    let level = constraint(&gateway, "requests").await;
    assert_eq!((&level["limit"], &level["available"]), (&2_000.into(), &1_996.into()), "a budget");
    gateway.close().await;
}

#[tokio::test]
async fn what_others_use_is_seen_in_the_next_answer() {
    let (simulator, gateway) = pair(limited(2_000, 200_000), CONFIGURED).await;
    assert_eq!(ask(&gateway).await, 200);
    for _ in 0..10 {
        simulator.spend(None, "m", 10_000).expect("there is room");
    }
    let before = constraint(&gateway, "tokens").await["available"].as_i64().expect("a number");
    assert!(before > 199_000, "nobody has said anything: {before}");
    assert_eq!(ask(&gateway).await, 200);
    let level = constraint(&gateway, "tokens").await;
    let after = level["available"].as_i64().expect("a number");
    assert!((99_000..=100_000).contains(&after), "{level:#}");
    assert!(level["drift"].as_i64().expect("a number") > 90_000, "{level:#}");
    assert!((gateway.metric("tidegate_drift_units").await) > 90_000.0);
    let stats = simulator.report(None, "m").expect("it was asked").counters;
    assert_eq!(stats.rejected, 0);
    gateway.close().await;
}

#[tokio::test]
async fn a_refusal_is_put_down_to_others_where_this_pool_has_hardly_used_anything() {
    // A quota that is used up is asked again at the pace at which it refills: so a fast one.
    let changes = CONFIGURED.replace("limit = 2_000, per = \"1d\"", FAST);
    let (simulator, gateway) = pair(limited(2_000, 200_000), &changes).await;
    simulator.script([Fault::parse_all("quota:requests-day").expect("a fault")]);
    assert_eq!(ask(&gateway).await, 200, "it was asked again");
    let blamed = |blame: &str| {
        let name = format!("tidegate_upstream_quota_rejections_total{{blame=\"{blame}\"}}");
        let gateway = &gateway;
        async move { gateway.metric(&name).await }
    };
    let counts = [blamed("foreign").await, blamed("attributable").await];
    assert_eq!(counts.map(|it| it.to_string()), ["1", "0"]);
    assert_eq!(constraint(&gateway, "requests").await["mode"], "bucket", "and nothing is doubted");
    simulator.script([Fault::parse_all("quota:requests-second").expect("a fault")]);
    assert_eq!(ask(&gateway).await, 200);
    assert_eq!(blamed("unlisted").await.to_string(), "1", "there is no such limit here");
    gateway.close().await;
}

#[tokio::test]
async fn a_probe_finds_out_what_is_left_before_others_go() {
    let changes = format!("admission.cold_start = \"probe\"\n{CONFIGURED}");
    let (simulator, gateway) = pair(limited(2_000, 200_000), &changes).await;
    for _ in 0..19 {
        simulator.spend(None, "m", 10_000).expect("there is room");
    }
    let all = (0..8).map(|_| async { ask(&gateway).await });
    let all = futures_util::future::join_all(all).await;
    assert_eq!(all, [200; 8], "what is left is enough for these");
    let left = constraint(&gateway, "tokens").await["available"].as_i64().expect("a number");
    assert!((8_000..=10_000).contains(&left), "{left}");
    let stats = simulator.report(None, "m").expect("it was asked").counters;
    assert_eq!(stats.rejected, 0);
    gateway.close().await;
}

#[tokio::test]
async fn no_more_is_held_for_answers_than_the_upstream_reserves() {
    let reservation = Reservation { default: 100, cap: Some(100), prompt_slack_percent: 0 };
    let limits = vec![Limit::per(Unit::Tokens, Name::Minute, 10_000)];
    // A minute of a second: the limit is soon whole again.
    let options = Options { reservation, limits, time_scale: 60.0, ..roomy() };
    let changes = r#"models."*".limits = [
      { unit = "tokens", limit = 10_000, per = "1s", name = "minute" },
    ]"#;
    let (_simulator, gateway) = pair(options, changes).await;
    let body = with(hello(), "max_completion_tokens", 4_000);
    let mut held = Vec::new();
    for _ in 0..30 {
        let answer = send(gateway.chat(&body)).await;
        held.push(number(&answer, "x-tidegate-estimated-tokens"));
        answer.bytes().await.expect("whole");
        // Nothing of the quota is used when it is sent: so what is missing afterwards is its own.
        eventually("a full quota", async || {
            let level = constraint(&gateway, "tokens").await;
            (level["available"] == level["limit"]).then_some(())
        })
        .await;
    }
    assert!(held[0] >= 4_000, "{held:?}");
    assert!(held[29] < 2_000, "{held:?}");
    gateway.close().await;
}
