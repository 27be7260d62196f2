//! What makes a request go elsewhere and what never does, fault by fault; and what is left of it at both.

use std::sync::Arc;

use serde_json::Value;
use tidegate::simulator::Simulator;
use tokio::io::AsyncWriteExt;

use super::{fallbacks, gateway};
use crate::support::upstream::{Upstream, answer};
use crate::support::{ANY, Gateway, header, hello, number, roomy, send, with};

/// What the first upstream does with each request.
#[derive(Clone)]
enum First {
    /// Says this and keeps the connection.
    Says(Vec<u8>),
    /// Says this, which is not all that it announced, and closes.
    Breaks(&'static [u8]),
    /// Says nothing.
    Stalls,
}

struct Row {
    name: &'static str,
    first: First,
    changes: &'static str,
    /// Why it goes elsewhere, if it does.
    goes: Option<&'static str>,
    /// What the caller gets if it does not.
    status: u16,
    /// Whether the first account is charged what was held.
    charged: bool,
}

fn says(status: &str, body: &str) -> First {
    First::Says(answer(status, "content-type: application/json\r\n", body))
}

fn rows() -> Vec<Row> {
    let row = |name, first, goes, status, charged| Row {
        name,
        first,
        changes: "retry.max_attempts = 1",
        goes,
        status,
        charged,
    };
    let quota = r#"{"message":"too much","type":"too_many_tokens_error","param":"quota","code":"token_quota_exceeded"}"#;
    let queue = r#"{"message":"too much","type":"x","param":"queue","code":"queue_exceeded"}"#;
    let head: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n";
    let lost = "retry = { max_attempts = 1, lost_answers = false }";
    let soon = "retry.max_attempts = 1\nupstream.head_timeout = \"500ms\"";
    vec![
        row("429 for quota", says("429 No", quota), Some("quota"), 429, false),
        row("429 for load", says("429 No", queue), Some("overload"), 429, false),
        row("503", says("503 Busy", "{}"), Some("overload"), 503, false),
        row("500", says("500 Oops", "{}"), Some("failure"), 500, true),
        row("504", says("504 Late", "{}"), Some("failure"), 504, true),
        row("closed before the head", First::Breaks(b""), Some("failure"), 502, true),
        row("closed in the head", First::Breaks(b"HTTP/1.1 200"), Some("failure"), 502, true),
        // What may have been worked on, where that is not to be risked; and what took its time already.
        Row { changes: lost, ..row("the same, held dear", First::Breaks(b""), None, 502, true) },
        Row { changes: soon, ..row("no head in time", First::Stalls, None, 504, true) },
        // Its own fault, or nobody's.
        row("400", says("400 Bad", "{}"), None, 400, false),
        row("401", says("401 No", "{}"), None, 401, false),
        row("501", says("501 Never", "{}"), None, 501, true),
        // The caller has seen something of it.
        row("closed in the body", First::Breaks(head), None, 200, true),
    ]
}

async fn upstream(first: First) -> Upstream {
    let first = Arc::new(first);
    Upstream::start(move |_, mut socket| {
        let first = Arc::clone(&first);
        async move {
            match &*first {
                First::Says(bytes) => socket.write_all(bytes).await.ok().map(|()| socket),
                First::Breaks(bytes) => {
                    socket.write_all(bytes).await.ok()?;
                    None
                }
                First::Stalls => std::future::pending().await,
            }
        }
    })
    .await
}

/// Requests and tokens spent of all accounts together.
async fn spent(gateway: &Gateway) -> (i64, i64) {
    let status = gateway.settled().await;
    let pools = status["pools"].as_array().expect("a list");
    let of = |unit: &str| {
        let all = pools.iter().flat_map(|pool| pool["constraints"].as_array().expect("a list"));
        let left = |it: &Value| it["limit"].as_i64().zip(it["available"].as_i64());
        let spent = all.filter(|it| it["unit"] == unit).filter_map(left);
        spent.map(|(limit, left)| limit - left).sum::<i64>()
    };
    (of("requests"), of("tokens"))
}

#[tokio::test]
async fn each_fault_does_what_is_written_of_it_and_leaves_nothing_behind() {
    for row in rows() {
        for stream in [false, true] {
            let Row { name, ref first, changes, goes, status, charged } = row;
            let name = format!("{name}, stream: {stream}");
            let first = upstream(first.clone()).await;
            let second = Simulator::start(roomy(), ANY).await.expect("a free port");
            let gateway = gateway(&first.url(), &second.base_url(), changes, "");
            let response = send(gateway.chat(&with(hello(), "stream", stream))).await;
            let expected = if goes.is_some() { 200 } else { status };
            assert_eq!(response.status(), expected, "{name}");
            let named = header(&response, "x-tidegate-fallback");
            assert_eq!(named.as_deref(), goes.map(|_| "second"), "{name}");
            let held =
                i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("few");
            let whole = response.bytes().await.is_ok();
            assert_eq!(whole, goes.is_some() || status != 200, "{name}");
            assert_eq!(first.seen().len(), 1, "{name}: never twice at the same");
            assert_eq!(second.stats().started, u64::from(goes.is_some()), "{name}");
            // Each account has paid for what it was asked, and nobody holds anything.
            let here = if charged { (1, held) } else { (0, 0) };
            let there = if goes.is_some() { (1, 20) } else { (0, 0) };
            assert_eq!(spent(&gateway).await, (here.0 + there.0, here.1 + there.1), "{name}");
            for cause in ["quota", "overload", "failure"] {
                let count = if goes == Some(cause) { "1" } else { "0" };
                let seen = gateway.metric(&fallbacks("second", cause)).await.to_string();
                assert_eq!(seen, count, "{name}: {cause}");
            }
            let total = gateway.metric("tidegate_requests_total").await;
            assert!((total - 1.0).abs() < 0.1, "{name}: one request, one outcome: {total}");
            let good = gateway.outcome("completed").await;
            assert!((good - if goes.is_some() { 1.0 } else { 0.0 }).abs() < 0.1, "{name}: {good}");
            gateway.close().await;
        }
    }
}

#[tokio::test]
async fn a_hang_up_at_the_second_leaves_nothing_at_the_first() {
    let first = upstream(says("503 Busy", "{}")).await;
    let second = upstream(First::Stalls).await;
    let gateway = gateway(&first.url(), &second.url(), "retry.max_attempts = 1", "");
    let running = tokio::spawn(gateway.chat(&hello()).send());
    second.wait_seen(1).await;
    running.abort();
    let (requests, tokens) = spent(&gateway).await;
    assert!(requests == 1 && tokens > 0, "the second may have worked on it: {requests}, {tokens}");
    gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    gateway.close().await;
}
