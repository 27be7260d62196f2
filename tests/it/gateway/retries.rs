//! Failures of the upstream: dealt with while the caller has seen nothing, else passed on.

use std::time::Duration;

use tidegate::simulator::{Fault, Simulator};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::upstream::{COMPLETION, Upstream, answer, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{
    Gateway, eventually, header, hello, number, pair, refusal, roomy, send, wait_for, with,
};

fn retries(reason: &str) -> String {
    format!("tidegate_retries_total{{reason=\"{reason}\"}}")
}

/// Limits that refill within milliseconds.
const FAST: &str = r#"models."*".limits = [
  { unit = "requests", limit = 100_000_000, per = "1d", name = "day" },
  { unit = "tokens", limit = 100_000_000, per = "1m", name = "minute" },
]"#;

#[tokio::test]
async fn a_failure_before_the_first_byte_is_not_the_callers_business() {
    for (fault, reason, kind, charged) in [
        ("quota:requests-day", "quota", Some("request_quota"), false),
        ("quota:tokens-minute", "quota", Some("token_quota"), false),
        ("quota:requests-second", "quota", Some("request_quota"), false),
        ("queue", "overload", Some("queue"), false),
        ("queue:503", "overload", Some("queue"), false),
        ("status:503", "overload", Some("queue"), false),
        ("status:529", "overload", Some("queue"), false),
        ("status:500", "server_error", None, true),
        ("status:502", "server_error", None, true),
        ("reset", "broken", None, true),
        ("close", "broken", None, true),
    ] {
        // A quota that is said to be used up is tried again at the pace at which it refills.
        let quota = fault.starts_with("quota");
        let (simulator, gateway) = pair(roomy(), if quota { FAST } else { "" }).await;
        simulator.script([Fault::parse_all(fault).expect("a fault")]);
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), 200, "{fault}");
        let held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
        assert!(response.bytes().await.expect("whole").ends_with(b"}"));
        let spent = if charged { (2, 20 + held) } else { (1, 20) };
        if !quota {
            assert_eq!(gateway.spent().await, spent, "{fault}: what may have been charged counts");
        }
        let stats = simulator.stats();
        assert_eq!((stats.started, stats.completed), (2, 1), "{fault}");
        assert!((gateway.metric("tidegate_retries_total").await - 1.0).abs() < 0.1, "{fault}");
        assert!((gateway.metric(&retries(reason)).await - 1.0).abs() < 0.1, "{fault}: {reason}");
        let rejections = gateway.metric("tidegate_upstream_rejections_total").await;
        assert!((rejections - f64::from(u8::from(kind.is_some()))).abs() < 0.1, "{fault}");
        if let Some(kind) = kind {
            let name = format!("tidegate_upstream_rejections_total{{kind=\"{kind}\"}}");
            assert!((gateway.metric(&name).await - 1.0).abs() < 0.1, "{fault}: {kind}");
        }
        assert!((gateway.outcome("completed").await - 1.0).abs() < 0.1, "{fault}: once");
        gateway.close().await;
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced_at_the_price_of_a_retry() {
    let (simulator, gateway) = pair(roomy(), "retry.max_attempts = 2").await;
    simulator.script([vec![Fault::IdleClose], vec![], vec![Fault::IdleClose]]);
    let mut held = 0;
    for _ in 0..3 {
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), 200);
        held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
        response.bytes().await.expect("whole");
        gateway.settled().await;
    }
    assert!((gateway.metric(&retries("stale_connection")).await - 1.0).abs() < 0.1);
    assert_eq!(gateway.spent().await, (4, 60 + held), "somebody may have seen the first try");
    let models = gateway.client.get(gateway.url("/v1/models"));
    assert_eq!(send(models).await.status(), 200, "what changes nothing may be sent twice");
    let stats = simulator.stats();
    assert_eq!((stats.started, stats.completed, stats.unmetered), (3, 3, 1));
    gateway.close().await;
}

#[tokio::test]
async fn a_kept_connection_that_breaks_under_a_request_at_work_is_charged() {
    let upstream = Upstream::start(|number, mut socket| async move {
        if number == 1 {
            // It has read the request and works on it: no keep-alive race lasts so long.
            tokio::time::sleep(Duration::from_millis(400)).await;
            return None;
        }
        socket.write_all(&completion()).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut held = 0;
    for _ in 0..2 {
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), 200);
        held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
        response.bytes().await.expect("whole");
        gateway.settled().await;
    }
    let connections: Vec<_> = upstream.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert_eq!(gateway.spent().await, (3, 14 + held), "a lost answer is a spent answer");
    assert!((gateway.metric(&retries("broken")).await - 1.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_tried_until_it_is() {
    let simulator = Simulator::start(roomy(), crate::support::ANY).await.expect("a free port");
    let (addr, url) = (simulator.addr(), simulator.base_url());
    simulator.shutdown().await;
    let changes =
        "retry.max_attempts = 10000\nretry.backoff = \"5ms\"\nretry.max_backoff = \"5ms\"";
    let gateway = Gateway::start(&url, changes);
    let request = tokio::spawn(gateway.chat(&hello()).send());
    let tried = async || (gateway.metric(&retries("connect")).await > 3.0).then_some(());
    eventually("it is tried again", tried).await;
    let _simulator = Simulator::start(roomy(), addr).await.expect("the port is free again");
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(gateway.spent().await, (1, 20), "what was never sent is not charged");
    gateway.close().await;
}

#[tokio::test]
async fn an_upstream_that_stays_away_is_a_bad_gateway() {
    let simulator = Simulator::start(roomy(), crate::support::ANY).await.expect("a free port");
    let url = simulator.base_url();
    simulator.shutdown().await;
    let gateway = Gateway::start(&url, "retry.max_attempts = 3");
    let response = send(gateway.chat(&hello())).await;
    refusal(response, 502, "upstream_unreachable").await;
    assert!((gateway.metric(&retries("connect")).await - 2.0).abs() < 0.1);
    let models = gateway.client.get(gateway.url("/v1/models"));
    refusal(send(models).await, 502, "upstream_unreachable").await;
    assert_eq!(gateway.spent().await, (0, 0));
    gateway.close().await;
}

#[tokio::test]
async fn the_last_error_is_the_upstreams_own() {
    let text = "content-type: text/html\r\nretry-after: 56\r\nx-request-id: theirs\r\n\
                x-ratelimit-limit-requests-day: 5\r\nx-should-retry: true\r\n";
    let json = r#"{"message": "x", "type":"y","param":"quota","code":"token_quota_exceeded"}"#;
    let long = "x".repeat(200_000);
    for (status, body, attempts) in [
        ("429 Too Many Requests", json, 3),
        ("503 Service Unavailable", "<html>busy</html>", 3),
        ("500 Internal Server Error", long.as_str(), 3),
        ("529 Own", "", 3),
        ("501 Not Implemented", "no", 1),
    ] {
        let upstream = Upstream::answering(answer(status, text, body)).await;
        let changes = "retry.max_attempts = 3\nretry.max_backoff = \"1ms\"";
        let gateway = Gateway::start(&upstream.url(), changes);
        let mut wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
        let answer = wire.answer().await;
        assert!(status.starts_with(&answer.status.to_string()), "{status}: {answer:?}");
        assert_eq!(answer.text(), body, "{status}");
        for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
            assert_eq!(answer.all(name), [value], "{status}");
        }
        assert_eq!(upstream.seen().len(), attempts, "{status}");
        assert!((gateway.outcome("upstream_error").await - 1.0).abs() < 0.1, "{status}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn retries_end_before_the_callers_deadline() {
    let (simulator, gateway) = pair(
        roomy(),
        "retry.max_attempts = 10000\nretry.backoff = \"40ms\"\nretry.max_backoff = \"40ms\"",
    )
    .await;
    for fault in [Fault::Status(500), Fault::Queue(429), Fault::Reset] {
        simulator.set_fault_rates(vec![(fault, 1.0)]).expect("a share");
        let began = Instant::now();
        let response = send(gateway.chat(&hello()).header("x-tidegate-max-wait", "200ms")).await;
        let took = began.elapsed();
        let status = response.status().as_u16();
        assert_eq!(status, if fault == Fault::Reset { 502 } else { status }, "{fault}");
        assert!([429, 500, 502].contains(&status), "{fault}: {status}");
        assert!((60..20_000).contains(&took.as_millis()), "{fault}: {took:?}");
        drop(response);
        gateway.settled().await;
    }
    gateway.close().await;
}

#[tokio::test]
async fn retries_have_a_budget() {
    let upstream = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let budget = "retry.budget_percent = 0\nretry.budget_per_second = 0";
    let gateway = Gateway::start(&upstream.url(), budget);
    for count in 1..=5 {
        assert_eq!(send(gateway.chat(&hello())).await.status(), 500);
        assert_eq!(upstream.seen().len(), count, "an outage is not made worse");
    }
    gateway.close().await;

    let upstream = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let budget = "retry.budget_percent = 50\nretry.budget_per_second = 0";
    let gateway = Gateway::start(&upstream.url(), budget);
    for _ in 0..20 {
        assert_eq!(send(gateway.chat(&hello())).await.status(), 500);
    }
    let retried = upstream.seen().len() - 20;
    assert!((8..=10).contains(&retried), "half as many retries as requests: {retried}");
    gateway.close().await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout_and_is_not_asked_for_again() {
    let (simulator, gateway) = pair(roomy(), "upstream.head_timeout = \"100ms\"").await;
    let response = send(gateway.chat(&hello()).header("x-sim-fault", "hang")).await;
    let held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
    refusal(response, 504, "upstream_timeout").await;
    let stats = wait_for(&simulator, |stats| stats.aborted == 1).await;
    assert_eq!((stats.started, stats.in_flight), (1, 0), "the call is cut");
    assert_eq!(gateway.spent().await, (1, held), "it may have been answered for all we know");
    assert!((gateway.outcome("upstream_timeout").await - 1.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_goes_before_those_who_came_later() {
    let upstream = Upstream::start(|number, mut socket| async move {
        let bytes = if number == 0 {
            // Late enough for the others to have queued up.
            tokio::time::sleep(Duration::from_millis(150)).await;
            answer("503 Service Unavailable", "", "busy")
        } else {
            completion()
        };
        socket.write_all(&bytes).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "models.\"*\".max_concurrent = 1");
    let mut wires = Vec::new();
    for user in ["first", "second", "third"] {
        let body = with(hello(), "user", user).to_string();
        wires.push(Wire::open(gateway.api, chat("", body)).await);
        upstream.wait_seen(1).await;
        gateway.wait_queued(u32::try_from(wires.len() - 1).expect("few")).await;
    }
    for wire in &mut wires {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text()), (200, COMPLETION));
    }
    let users = upstream.seen().into_iter().map(|seen| {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
        body["user"].as_str().expect("text").to_owned()
    });
    assert_eq!(users.collect::<Vec<_>>(), ["first", "first", "second", "third"]);
    assert_eq!(gateway.spent().await, (3, 21));
    drop(wires);
    gateway.close().await;
}

#[tokio::test]
async fn one_that_hangs_up_while_its_retry_waits_leaves_nothing_behind() {
    for fault in [Fault::Queue(503), Fault::Status(500)] {
        let changes = "retry.backoff = \"20s\"\nretry.max_backoff = \"20s\"";
        let (simulator, gateway) = pair(roomy(), changes).await;
        simulator.script([vec![fault]]);
        let wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
        gateway.wait_metric("tidegate_retries_total", 1.0).await;
        drop(wire);
        gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
        gateway.close().await;
    }
}

#[tokio::test]
async fn a_packed_refusal_is_understood() {
    let text = br#"{"message":"Requests per minute limit exceeded","type":"t","param":"quota",
        "code":"request_quota_exceeded"}"#;
    let mut packed = Vec::new();
    let mut packer = flate2::read::GzEncoder::new(&text[..], flate2::Compression::fast());
    std::io::Read::read_to_end(&mut packer, &mut packed).expect("memory");
    let refusal = answer("429 Too Many Requests", "content-encoding: gzip\r\n", packed);
    let upstream = Upstream::start(move |number, mut socket| {
        let bytes = if number == 0 { refusal.clone() } else { completion() };
        async move { socket.write_all(&bytes).await.ok().map(|()| socket) }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let response = send(gateway.chat(&hello())).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-encoding")), (200, None));
    let name = "tidegate_upstream_rejections_total{kind=\"request_quota\"}";
    assert!((gateway.metric(name).await - 1.0).abs() < 0.1);
    drop(response);
    gateway.close().await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_bad_gateway_and_may_have_cost() {
    let upstream = Upstream::start(|_, mut socket| async move {
        socket.write_all(b"220 mail.example ESMTP\r\n\r\n").await.ok().and(None)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "retry.max_attempts = 3");
    let response = send(gateway.chat(&hello())).await;
    let held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
    refusal(response, 502, "upstream_broken").await;
    assert_eq!((upstream.seen().len(), gateway.spent().await), (3, (3, 3 * held)));
    gateway.close().await;
}
