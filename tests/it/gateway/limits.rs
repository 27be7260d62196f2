//! Waiting and refusals: the wall, the queue's bounds, deadlines, memory and the drain.

use std::time::Duration;

use serde_json::json;
use tidegate::server::Ended;
use tidegate::simulator::Fault;
use tokio::time::Instant;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Answer, Wire, chat};
use crate::support::{
    Gateway, eventually, flat, header, hello, number, pair, refusal, roomy, send, wait_for, with,
};

const ONE_AT_A_TIME: &str = "models.\"*\".max_concurrent = 1";

const SIX: [&str; 6] = [
    "x-ratelimit-limit-requests-day",
    "x-ratelimit-remaining-requests-day",
    "x-ratelimit-reset-requests-day",
    "x-ratelimit-limit-tokens-minute",
    "x-ratelimit-remaining-tokens-minute",
    "x-ratelimit-reset-tokens-minute",
];

fn has_the_six(response: &reqwest::Response) {
    for name in SIX {
        let value = header(response, name).and_then(|text| text.parse::<f64>().ok());
        assert!(value.is_some_and(|it| it >= 0.0), "{name}: {:?}", response.headers());
    }
}

/// When a refusal says to come back, in milliseconds; both headers have to agree.
fn comes_back_after(response: &reqwest::Response) -> u64 {
    let (seconds, millis) = (number(response, "retry-after"), number(response, "retry-after-ms"));
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(seconds, millis.div_ceil(1_000).max(1), "{millis}");
    assert_eq!(header(response, "x-should-retry"), None, "waiting helps");
    millis
}

#[tokio::test]
async fn what_no_wait_can_help_is_refused_at_once_and_told_why() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    for (body, asked) in [
        (with(hello(), "max_completion_tokens", 200_000), 200_000),
        (with(with(hello(), "max_tokens", 50_000), "n", 3), 150_000),
    ] {
        let response = send(gateway.chat(&body)).await;
        assert_eq!(header(&response, "x-should-retry").as_deref(), Some("false"));
        assert_eq!(header(&response, "retry-after"), None);
        has_the_six(&response);
        let estimated = number(&response, "x-tidegate-estimated-tokens");
        assert!((asked..asked + 1_000).contains(&estimated), "{estimated}");
        let error = refusal(response, 413, "above_limit").await;
        let message = error["message"].as_str().expect("text");
        for part in
            ["tokens/minute", "100000", &estimated.to_string(), "max_completion_tokens", "prompt"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.spent().await, (0, 0));
    assert!((gateway.outcome("above_limit").await - 2.0).abs() < 0.1);
    gateway.close().await;
}

/// Asks for more than a limit while others are in the way; it must not have to wait for them.
async fn above_the_wall_at_once(gateway: &Gateway, why: &str) {
    let request = gateway.chat(&with(hello(), "max_completion_tokens", 200_000));
    let answer = tokio::time::timeout(Duration::from_secs(1), request.send()).await;
    assert!(answer.is_ok(), "{why}: it waits for what cannot help");
    let answer = answer.expect("it came").expect("an answer");
    refusal(answer, 413, "above_limit").await;
}

#[tokio::test]
async fn the_wall_is_told_at_once_though_the_queue_is_long() {
    let (simulator, gateway) = pair(roomy(), ONE_AT_A_TIME).await;
    simulator.script([vec![Fault::Hang]]);
    let first = Wire::open(gateway.api, chat("", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let second = Wire::open(gateway.api, chat("", hello().to_string())).await;
    gateway.wait_queued(1).await;
    above_the_wall_at_once(&gateway, "one runs, one waits").await;
    drop((first, second));
    gateway.close().await;
}

#[tokio::test]
async fn the_wall_is_told_at_once_though_all_permits_are_taken() {
    let (simulator, gateway) = pair(roomy(), ONE_AT_A_TIME).await;
    simulator.script([vec![Fault::Hang]]);
    let first = Wire::open(gateway.api, chat("", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    above_the_wall_at_once(&gateway, "one runs, nobody waits").await;
    drop(first);
    gateway.close().await;
}

#[tokio::test]
async fn the_wall_is_told_at_once_though_the_gap_has_not_passed() {
    let (_simulator, gateway) = pair(roomy(), "models.\"*\".min_gap = \"1h\"").await;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    above_the_wall_at_once(&gateway, "the gap").await;
    gateway.close().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let changes = format!("{ONE_AT_A_TIME}\nadmission.max_queued = 2");
    let (simulator, gateway) = pair(roomy(), &changes).await;
    simulator.script([vec![Fault::Hang]]);
    let first = Wire::open(gateway.api, chat("", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let mut waiting = Vec::new();
    for count in 1..=2 {
        waiting.push(Wire::open(gateway.api, chat("", hello().to_string())).await);
        gateway.wait_queued(count).await;
    }
    let response = send(gateway.chat(&hello())).await;
    comes_back_after(&response);
    has_the_six(&response);
    refusal(response, 429, "queue_full").await;
    drop(first);
    for wire in &mut waiting {
        assert_eq!(wire.answer().await.status, 200, "those who wait are not affected");
    }
    assert_eq!(simulator.stats().started, 3);
    assert!((gateway.outcome("queue_full").await - 1.0).abs() < 0.1);
    drop(waiting);
    gateway.close().await;
}

#[tokio::test]
async fn one_who_waits_long_enough_leaves_with_a_refusal() {
    for (changes, headers) in [
        ("", "x-tidegate-max-wait: 120ms\r\n"),
        ("", "x-stainless-read-timeout: 0.12\r\nx-tidegate-max-wait: 1h\r\n"),
        ("", "x-stainless-timeout: 0.12\r\nx-stainless-read-timeout: NOT_GIVEN\r\n"),
        ("admission.max_wait = \"120ms\"", "x-tidegate-max-wait: 10s\r\n"),
    ] {
        let (simulator, gateway) = pair(roomy(), &format!("{ONE_AT_A_TIME}\n{changes}")).await;
        simulator.script([vec![Fault::Hang]]);
        let first = Wire::open(gateway.api, chat("", hello().to_string())).await;
        wait_for(&simulator, |stats| stats.in_flight == 1).await;
        let began = Instant::now();
        let mut second = Wire::open(gateway.api, chat(headers, hello().to_string())).await;
        let answer = second.answer().await;
        let took = began.elapsed();
        assert!((120..20_000).contains(&took.as_millis()), "{headers}: {took:?}");
        assert_eq!(answer.status, 429, "{headers}: {}", answer.text());
        flat(answer.text(), "wait_exceeded");
        assert_eq!((answer.all("retry-after").len(), answer.all(SIX[0]).len()), (1, 1));
        assert_eq!(simulator.stats().started, 1, "it never went");
        assert!((gateway.outcome("wait_exceeded").await - 1.0).abs() < 0.1);
        drop(first);
        gateway.close().await;
    }
}

/// One request in two seconds, back after exactly that time.
const ONE_IN_TWO_SECONDS: &str = "models.\"*\".limits = [ { unit = \"requests\", limit = 1, \
    per = \"2s\", name = \"day\" }, { unit = \"tokens\", limit = 100_000, per = \"1d\", \
    name = \"minute\" } ]";

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused_at_the_door_with_the_honest_wait() {
    let (simulator, gateway) = pair(roomy(), ONE_IN_TWO_SECONDS).await;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    // What is held until it is settled has no date yet.
    gateway.settled().await;
    let hasty = || gateway.chat(&hello()).header("x-tidegate-max-wait", "1ms");
    let response = send(hasty()).await;
    has_the_six(&response);
    let wait = comes_back_after(&response);
    assert!((1..=2_000).contains(&wait), "{wait}");
    let error = refusal(response, 429, "wait_exceeded").await;
    assert!(error["message"].as_str().is_some_and(|it| it.contains("requests/day")), "{error}");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(send(hasty()).await.status(), 200, "whoever comes back when told is let in");
    assert_eq!(simulator.stats().started, 2);
    gateway.close().await;
}

#[tokio::test]
async fn a_request_waits_for_its_quota_instead_of_being_refused() {
    let (simulator, gateway) = pair(roomy(), ONE_IN_TWO_SECONDS).await;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    let began = Instant::now();
    let response = send(gateway.chat(&hello())).await;
    let (took, waited) = (began.elapsed(), number(&response, "x-tidegate-wait-ms"));
    assert_eq!(response.status(), 200);
    assert!((500..=u64::try_from(took.as_millis()).expect("short")).contains(&waited), "{waited}");
    assert_eq!(header(&response, "x-tidegate-limited-by").as_deref(), Some("requests/day"));
    assert_eq!(simulator.stats().started, 2);
    drop(response);
    gateway.close().await;
}

#[tokio::test]
async fn bodies_share_one_bounded_memory() {
    let changes = "admission.max_queued_bytes = 1000";
    let (simulator, gateway) = pair(roomy(), changes).await;
    let long = || with(hello(), "user", "x".repeat(600));
    let first = tokio::spawn(gateway.chat(&long()).header("x-sim-fault", "hang").send());
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    assert!(gateway.metric("tidegate_body_bytes").await > 600.0);
    let response = send(gateway.chat(&long())).await;
    assert_eq!(comes_back_after(&response), 1_000);
    refusal(response, 503, "overloaded").await;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200, "a small one has room");
    first.abort();
    gateway.settled().await;
    assert_eq!(send(gateway.chat(&long())).await.status(), 200, "the memory came back");
    assert!((gateway.outcome("overloaded").await - 1.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn accounts_and_models_are_bounded_and_only_used_ones_stay() {
    let (simulator, gateway) = pair(roomy(), "admission.max_pools = 1").await;
    let above = with(hello(), "max_tokens", 200_000);
    for model in ["a", "b", "c"] {
        let response = send(gateway.chat(&with(above.clone(), "model", model))).await;
        refusal(response, 413, "above_limit").await;
    }
    assert_eq!(send(gateway.chat(&with(hello(), "model", "d"))).await.status(), 200);
    let response = send(gateway.chat(&with(hello(), "model", "e"))).await;
    comes_back_after(&response);
    refusal(response, 503, "overloaded").await;
    assert_eq!(send(gateway.chat(&with(hello(), "model", "d"))).await.status(), 200);
    assert_eq!(simulator.stats().started, 2);
    gateway.close().await;
}

#[tokio::test]
async fn a_drain_serves_who_can_be_served_in_time_and_finishes_what_runs() {
    let (simulator, gateway) = pair(roomy(), ONE_AT_A_TIME).await;
    let slow = chat("x-sim-fault: slow-head:300\r\n", hello().to_string());
    let mut first = Wire::open(gateway.api, slow).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let mut second = Wire::open(gateway.api, chat("", hello().to_string())).await;
    gateway.wait_queued(1).await;
    assert_eq!(gateway.page("/readyz").await, (200, "ready\n".to_owned()));
    gateway.stop.cancel();
    eventually("the drain has begun", async || {
        (gateway.page("/readyz").await == (503, "draining\n".to_owned())).then_some(())
    })
    .await;
    assert_eq!(gateway.status().await["draining"], true);
    for wire in [&mut first, &mut second] {
        let finished: Answer = wire.answer().await;
        assert_eq!(finished.status, 200);
        assert_eq!(finished.all("connection"), ["close"], "no further request is wanted");
    }
    assert_eq!(gateway.ended().await, Ended::Drained);
    assert_eq!(simulator.stats().completed, 2);
}

#[tokio::test]
async fn a_drain_answers_who_waits_in_vain_and_who_gets_no_answer() {
    let changes = format!("{ONE_AT_A_TIME}\nserver.drain_timeout = \"800ms\"");
    let (simulator, gateway) = pair(roomy(), &changes).await;
    let mut first =
        Wire::open(gateway.api, chat("x-sim-fault: hang\r\n", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let mut second = Wire::open(gateway.api, chat("", hello().to_string())).await;
    gateway.wait_queued(1).await;
    gateway.stop.cancel();
    // First the one that waits, when nobody may start any more; then the one without an answer.
    for wire in [&mut second, &mut first] {
        let refused = wire.answer().await;
        assert_eq!((refused.status, refused.all("retry-after")), (503, vec!["1"]));
        flat(refused.text(), "draining");
        assert_eq!(refused.all("connection"), ["close"]);
    }
    assert_eq!(gateway.ended().await, Ended::Aborted, "not everybody was served");
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!(stats.started, 1, "who was refused was not sent");
}

#[tokio::test]
async fn a_drain_serves_those_whose_body_was_still_on_its_way() {
    for model in ["used", "new"] {
        let (simulator, gateway) = pair(roomy(), "").await;
        assert_eq!(send(gateway.chat(&with(hello(), "model", "used"))).await.status(), 200);
        gateway.settled().await;
        let whole = chat("", with(hello(), "model", model).to_string());
        let (most, last) = whole.split_at(whole.len() - 5);
        let mut wire = Wire::open(gateway.api, most).await;
        gateway.wait_metric("tidegate_requests_in_flight", 1.0).await;
        gateway.stop.cancel();
        eventually("the drain has begun", async || {
            (gateway.status().await["draining"] == json!(true)).then_some(())
        })
        .await;
        wire.send(last).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200, "a {model} model: {}", answer.text());
        assert_eq!(answer.all("connection"), ["close"]);
        assert_eq!(gateway.ended().await, Ended::Drained);
        assert_eq!(simulator.stats().completed, 2);
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_retries_that_are_not_due() {
    let changes = "retry.backoff = \"1h\"\nretry.max_backoff = \"1h\"\n\
                   admission.max_wait = \"2h\"\nserver.drain_timeout = \"2s\"";
    for fault in [Fault::Queue(503), Fault::Status(500)] {
        let (simulator, gateway) = pair(roomy(), changes).await;
        simulator.set_fault_rates(vec![(fault, 1.0)]).expect("a share");
        // The delay is random: of eight, hardly one is due within the drain.
        let requests: Vec<_> =
            (0..8).map(|_| tokio::spawn(gateway.chat(&hello()).send())).collect();
        let first = if fault == Fault::Status(500) { 8 } else { 1 };
        wait_for(&simulator, |stats| stats.faulted >= first).await;
        gateway.stop.cancel();
        for request in requests {
            let response = request.await.expect("no panic").expect("an answer");
            assert!([500, 503].contains(&response.status().as_u16()));
        }
        assert_eq!(gateway.ended().await, Ended::Drained);
    }
}
