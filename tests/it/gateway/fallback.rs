//! Requests that go elsewhere, and those that do not.

mod faults;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidegate::simulator::Simulator;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::upstream::{COMPLETION, Upstream, answer, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{
    ACCOUNT_KEY, ANY, Gateway, config_text, header, hello, refusal, roomy, send, with,
};

const SECOND_KEY: &str = "csk-planted-second-key";

/// A gateway with one fallback to another account at `second`.
fn gateway(first: &str, second: &str, changes: &str, more: &str) -> Gateway {
    let fallback = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\n{changes}\n[[fallback]]\nname = \"second\"\n\
         for = \"*\"\nbase_url = {second:?}\napi_key = \"env:SECOND_KEY\"\n{more}"
    );
    start(first, &fallback)
}

fn start(first: &str, changes: &str) -> Gateway {
    let environment = [("ACCOUNT_KEY", ACCOUNT_KEY), ("SECOND_KEY", SECOND_KEY)];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Gateway::start_in(&config_text(first, changes), environment)
}

fn fallbacks(name: &str, cause: &str) -> String {
    format!("tidegate_fallbacks_total{{cause=\"{cause}\",fallback=\"{name}\"}}")
}

/// One request a day.
const SCARCE: &str = r#"models."*".limits = [
  { unit = "requests", limit = 1, per = "1d", name = "day", mode = "sliding", learn = "never" },
]"#;

#[tokio::test]
async fn what_would_be_an_error_is_served_elsewhere_and_says_so() {
    let nobody = Simulator::start(roomy(), ANY).await.expect("a free port");
    let away = nobody.base_url();
    nobody.shutdown().await;
    let opens = "breaker = { failures = 1, open = \"1h\", max_open = \"1h\" }";
    for (first, changes, cause, tries) in [
        ("500 Oops", "retry.max_attempts = 2", "failure", 2),
        ("502 Oops", "retry.max_attempts = 1", "failure", 1),
        ("500 Oops", opens, "failure", 1),
        ("503 Busy", "retry.max_attempts = 3", "overload", 3),
        ("529 Busy", "retry.max_attempts = 1", "overload", 1),
        ("away", "retry.max_attempts = 2", "failure", 0),
        ("away", opens, "failure", 0),
    ] {
        let why = format!("{first}, {changes}");
        let broken = Upstream::answering(answer(first, "", "no")).await;
        let url = if first == "away" { away.clone() } else { broken.url() };
        let second = Upstream::answering(completion()).await;
        let gateway = gateway(&url, &second.url(), changes, "");
        let body = hello().to_string();
        let response = send(gateway.post("/v1/chat/completions").body(body.clone())).await;
        assert_eq!(response.status(), 200, "{why}");
        assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), Some("second"), "{why}");
        assert_eq!(header(&response, "x-tidegate-source"), None, "{why}");
        assert_eq!(response.text().await.expect("whole"), COMPLETION);
        let seen = second.last_of(1);
        assert_eq!(seen.all("authorization"), [format!("Bearer {SECOND_KEY}")], "{why}");
        assert_eq!((seen.body, broken.seen().len()), (body.into_bytes(), tries), "{why}");
        let keys: Vec<_> =
            broken.seen().iter().map(|it| it.all("authorization").concat()).collect();
        assert!(keys.iter().all(|key| *key == format!("Bearer {ACCOUNT_KEY}")), "{why}");
        assert_eq!(gateway.metric(&fallbacks("second", cause)).await.to_string(), "1", "{why}");
        assert_eq!(gateway.metric("tidegate_fallbacks_total").await.to_string(), "1", "{why}");
        assert_eq!(gateway.outcome("completed").await.to_string(), "1", "{why}");
        let status = gateway.settled().await;
        assert_eq!(status["pools"].as_array().map(Vec::len), Some(2), "each has its own: {why}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn quota_that_is_used_up_is_a_reason_and_each_account_has_its_own() {
    let (first, second) =
        (Upstream::answering(completion()).await, Upstream::answering(completion()).await);
    let gateway = gateway(&first.url(), &second.url(), SCARCE, "on = [\"quota\"]");
    for (name, seen) in [(None, (1, 0)), (Some("second"), (1, 1))] {
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), name);
        response.bytes().await.expect("whole");
        assert_eq!((first.seen().len(), second.seen().len()), seen);
        gateway.settled().await;
    }
    // Nothing is left anywhere: the refusal is that of the account that was asked first.
    let response = send(gateway.chat(&hello())).await;
    assert_eq!(header(&response, "x-tidegate-fallback"), None);
    assert_eq!(header(&response, "x-tidegate-limited-by").as_deref(), Some("requests/day"));
    refusal(response, 429, "wait_exceeded").await;
    assert_eq!(gateway.metric(&fallbacks("second", "quota")).await.to_string(), "1");
    gateway.close().await;
}

#[tokio::test]
async fn it_is_used_for_what_it_is_meant_for_and_not_where_the_caller_forbids_it() {
    for (on, header_value, status) in [
        ("[\"quota\", \"overload\"]", "on", 500),
        ("[\"failure\"]", "off", 500),
        ("[\"failure\"]", "on", 200),
        ("[\"failure\"]", "maybe", 400),
    ] {
        let first = Upstream::answering(answer("500 Oops", "", "{}")).await;
        let second = Upstream::answering(completion()).await;
        let gateway =
            gateway(&first.url(), &second.url(), "retry.max_attempts = 1", &format!("on = {on}"));
        let response =
            send(gateway.chat(&hello()).header("x-tidegate-fallback", header_value)).await;
        assert_eq!(response.status(), status, "{on}, {header_value}");
        let named = header(&response, "x-tidegate-fallback");
        assert_eq!(named.is_some(), status == 200, "{on}, {header_value}");
        assert_eq!(second.seen().len(), usize::from(status == 200));
        let passed_on = second.seen().iter().any(|it| !it.all("x-tidegate-fallback").is_empty());
        assert!(!passed_on, "it is between caller and gateway");
        drop(response);
        gateway.close().await;
    }
}

#[tokio::test]
async fn no_budget_for_retries_is_none_for_fallbacks_and_bad_requests_go_nowhere() {
    let budget = "retry = { max_attempts = 1, budget_percent = 0, budget_per_second = 0 }";
    for (status, changes) in [("500 Oops", budget), ("400 Bad", ""), ("401 No", ""), ("404 No", "")]
    {
        let first = Upstream::answering(answer(status, "", "{}")).await;
        let second = Upstream::answering(completion()).await;
        let gateway = gateway(&first.url(), &second.url(), changes, "");
        let response = send(gateway.chat(&hello())).await;
        assert!(status.starts_with(response.status().as_str()), "{status}");
        assert_eq!((first.seen().len(), second.seen().len()), (1, 0), "{status}");
        drop(response);
        gateway.close().await;
    }
}

#[tokio::test]
async fn another_model_is_asked_by_its_own_name_and_has_its_own_quota() {
    let first = Upstream::start(|_, mut socket| async move {
        // The account is well, one model is not.
        socket.write_all(&answer("500 Oops", "", "{}")).await.ok().map(|()| socket)
    })
    .await;
    let changes = r#"
        retry.max_attempts = 1
        [models.n]
        output_reservation = { default = 50 }
        limits = [{ unit = "requests", limit = 7, per = "1d", name = "day", mode = "sliding" }]
        [[fallback]]
        name = "smaller"
        for = "m"
        model = "n"
    "#;
    let gateway = Gateway::start(&first.url(), changes);
    let body = "{ \"seed\":12345678901234567890, \"model\" : \"m\",\"messages\":[]}";
    let response =
        send(gateway.post("/v1/chat/completions").header("authorization", "Bearer own").body(body))
            .await;
    assert_eq!(response.status(), 500, "the last word is the fallback's");
    assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), Some("smaller"));
    drop(response);
    let seen = first.seen();
    let bodies: Vec<_> = seen.iter().map(|it| String::from_utf8_lossy(&it.body)).collect();
    assert_eq!(bodies, [body, &body.replace("\"m\"", "\"n\"")], "and not a byte else");
    assert_eq!(seen[1].all("authorization"), ["Bearer own"], "the same account");
    let status = gateway.settled().await;
    let pools = status["pools"].as_array().expect("a list");
    let spent: Vec<_> = pools
        .iter()
        .map(|pool| {
            let quota = &pool["constraints"][0];
            let left = quota["available"].as_i64().expect("a number");
            (pool["model"].as_str().expect("text"), quota["limit"].as_i64().expect("one") - left)
        })
        .collect();
    assert_eq!(spent, [("m", 1), ("n", 1)]);
    let usage: Value =
        serde_json::from_str(&gateway.page("/usage?by=model").await.1).expect("JSON");
    assert!(usage.to_string().contains("\"n\""), "it is booked where it was spent: {usage}");
    gateway.close().await;
}

#[tokio::test]
async fn the_next_in_order_is_tried_and_never_the_one_before() {
    let broken = || async { Upstream::answering(answer("500 Oops", "", "{}")).await };
    let (first, second, third) = (broken().await, broken().await, broken().await);
    let entry = |name: &str, upstream: &Upstream| {
        let url = upstream.url();
        format!(
            "[[fallback]]\nname = \"{name}\"\nfor = \"m\"\nbase_url = {url:?}\napi_key = \"env:SECOND_KEY\"\n"
        )
    };
    let other = "[[fallback]]\nname = \"other\"\nfor = \"another\"\nmodel = \"n\"\n";
    let changes = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\nretry.max_attempts = 1\n{}{other}{}",
        entry("second", &second),
        entry("third", &third)
    );
    let gateway = start(&first.url(), &changes);
    let response = send(gateway.chat(&hello())).await;
    assert_eq!(response.status(), 500);
    assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), Some("third"));
    drop(response);
    let seen = [first.seen(), second.seen(), third.seen()];
    assert_eq!(seen.each_ref().map(Vec::len), [1, 1, 1]);
    assert!(seen[0][0].at <= seen[1][0].at && seen[1][0].at <= seen[2][0].at, "one by one");
    assert_eq!(
        gateway.outcome("upstream_error").await.to_string(),
        "1",
        "one request, one outcome"
    );
    gateway.close().await;
}

/// An upstream that answers when it is told to.
async fn held() -> (Upstream, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let upstream = Upstream::start(move |_, mut socket| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            socket.write_all(&completion()).await.ok().map(|()| socket)
        }
    })
    .await;
    (upstream, go)
}

#[tokio::test]
async fn one_that_has_waited_for_long_leaves_the_line_for_one_that_can_send_it() {
    let (first, go) = held().await;
    let second = Upstream::answering(completion()).await;
    let changes = "models.\"*\".max_concurrent = 1";
    let gateway = gateway(&first.url(), &second.url(), changes, "after = \"50ms\"");
    let running = tokio::spawn(gateway.chat(&hello()).send());
    first.wait_seen(1).await;
    let response = send(gateway.chat(&hello())).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), Some("second"));
    response.bytes().await.expect("whole");
    gateway.wait_queued(0).await;
    go.notify_one();
    let response = running.await.expect("no panic").expect("an answer");
    assert_eq!(header(&response, "x-tidegate-fallback"), None);
    response.bytes().await.expect("whole");
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
    assert_eq!(gateway.metric(&fallbacks("second", "overload")).await.to_string(), "1");
    gateway.close().await;
}

#[tokio::test]
async fn one_that_can_wait_is_not_sent_to_where_it_would_wait_too() {
    let (first, go) = held().await;
    let (second, there) = held().await;
    let changes = "models.\"*\".max_concurrent = 1";
    for after in ["50ms", "1h"] {
        let gateway =
            gateway(&first.url(), &second.url(), changes, &format!("after = \"{after}\""));
        let before = first.seen().len();
        // One here; with a short patience one more there.
        let mut running = vec![tokio::spawn(gateway.chat(&hello()).send())];
        first.wait_seen(before + 1).await;
        if after == "50ms" {
            running.push(tokio::spawn(gateway.chat(&hello()).send()));
            second.wait_seen(1).await;
        }
        let waiting = tokio::spawn(gateway.chat(&hello()).send());
        gateway.wait_queued(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.wait_queued(1).await;
        go.notify_one();
        first.wait_seen(before + 2).await;
        go.notify_one();
        let response = waiting.await.expect("no panic").expect("an answer");
        assert_eq!(
            (response.status().as_u16(), header(&response, "x-tidegate-fallback")),
            (200, None)
        );
        there.notify_one();
        for running in running {
            running.await.expect("no panic").expect("an answer").bytes().await.expect("whole");
        }
        response.bytes().await.expect("whole");
        gateway.close().await;
    }
    assert_eq!(second.seen().len(), 1);
}

#[tokio::test]
async fn a_stream_whose_head_is_out_stays_where_it_is() {
    let (first, go) = held().await;
    let second = Upstream::answering(completion()).await;
    let changes = "models.\"*\".max_concurrent = 1\nadmission.heartbeat_after = \"20ms\"\n\
                   admission.heartbeat_every = \"50ms\"";
    let gateway = gateway(&first.url(), &second.url(), changes, "after = \"60ms\"");
    let running = tokio::spawn(gateway.chat(&hello()).send());
    first.wait_seen(1).await;
    let mut wire =
        Wire::open(gateway.api, chat("", with(hello(), "stream", true).to_string())).await;
    let head = wire.head().await.expect("the head of a stream");
    assert!(head.all("x-tidegate-fallback").is_empty());
    // Four comments: more than the time after which it would have gone.
    for _ in 0..4 {
        assert!(wire.chunk().await.expect("a comment").starts_with(b": queued"));
    }
    go.notify_one();
    first.wait_seen(2).await;
    assert_eq!(second.seen().len(), 0, "it could not say that it goes there");
    go.notify_one();
    running.await.expect("no panic").expect("an answer").bytes().await.expect("whole");
    drop(wire);
    gateway.close().await;
}
