//! A collector that is away, slow or unwilling: nobody notices but the metrics.

use std::time::Duration;

use tokio::time::Instant;

use super::collector::{Answer, Collector};
use super::{CHAT, gateway, simulated};
use crate::support::upstream::{Upstream, answer, completion};
use crate::support::{Gateway, eventually, hello, send};

fn spans(outcome: &str) -> String {
    format!("tidegate_trace_spans_total{{outcome=\"{outcome}\"}}")
}

async fn ask(gateway: &Gateway) {
    let response = send(gateway.chat(&hello())).await;
    assert_eq!(response.status(), 200);
    response.bytes().await.expect("whole");
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    let collector = Collector::start().await;
    collector.answer(Answer::Nothing);
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), &collector.config("max_queued = 4"));
    ask(&gateway).await;
    collector.wait_messages(1).await;
    // The first is on its way; four wait, and the others' two spans each are dropped.
    for _ in 0..10 {
        ask(&gateway).await;
    }
    gateway.settled().await;
    gateway.wait_metric(&spans("dropped"), 12.0).await;
    collector.answer(Answer::Take);
    gateway.wait_metric(&spans("exported"), 10.0).await;
    assert!(gateway.metric(&spans("failed")).await < 0.5);
    gateway.close().await;
    assert_eq!(collector.named(CHAT).len(), 5);
}

#[tokio::test]
async fn a_collector_that_is_away_for_a_while_gets_what_waited() {
    let collector = Collector::start().await;
    let addr = collector.addr();
    let (_simulator, gateway) = simulated(&collector, "").await;
    drop(collector);
    ask(&gateway).await;
    // As long as its port is closed, nothing can be sent.
    tokio::time::timeout(Duration::from_secs(5), gateway.settled())
        .await
        .expect("no request waits");
    let collector = Collector::start_at(addr).await;
    gateway.wait_metric(&spans("exported"), 2.0).await;
    assert_eq!(collector.named(CHAT).len(), 1);
    gateway.close().await;
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted() {
    let collector = Collector::start().await;
    let (_simulator, gateway) = simulated(&collector, "").await;
    collector.answer(Answer::Status(400));
    ask(&gateway).await;
    gateway.wait_metric(&spans("failed"), 2.0).await;
    assert_eq!(collector.messages().len(), 1, "what is wrong with it will be wrong again");
    collector.answer(Answer::Status(503));
    ask(&gateway).await;
    collector.wait_messages(3).await;
    collector.answer(Answer::Reject(1));
    gateway.wait_metric(&spans("failed"), 3.0).await;
    gateway.wait_metric(&spans("exported"), 1.0).await;
    gateway.close().await;
}

#[tokio::test]
async fn the_end_of_the_gateway_waits_for_a_collector_only_so_long() {
    let collector = Collector::start().await;
    collector.answer(Answer::Nothing);
    let upstream = Upstream::answering(completion()).await;
    let gateway = gateway(&upstream.url(), &collector, "");
    ask(&gateway).await;
    let began = Instant::now();
    gateway.close().await;
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(collector.messages().len(), 1, "it was tried");
}

#[tokio::test]
async fn headers_of_the_collectors_own_go_to_nobody_else() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let text = crate::support::config_text(
        &upstream.url(),
        &collector.config("headers = \"env:HEADERS\"\nresource = \"a=b%20c\""),
    );
    let environment = [("HEADERS".to_owned(), "x-collector-key=planted%21".to_owned())];
    let gateway = Gateway::start_in(&text, environment);
    ask(&gateway).await;
    let (_, shown) = gateway.page("/config").await;
    assert!(shown.contains("env:HEADERS") && !shown.contains("planted"), "{shown}");
    eventually("spans", async || (!collector.messages().is_empty()).then_some(())).await;
    gateway.close().await;
    let (headers, body) = collector.messages().remove(0);
    assert_eq!(headers["x-collector-key"], "planted!");
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert!(!String::from_utf8_lossy(&body).contains("planted"));
    assert_eq!(collector.resource()["a"], "b c");
    assert!(upstream.last_of(1).all("x-collector-key").is_empty());
}

#[tokio::test]
async fn each_call_of_a_request_that_goes_elsewhere_names_its_own_host_and_model() {
    let collector = Collector::start().await;
    let first = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let second = Upstream::answering(completion()).await;
    let changes = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\nretry.max_attempts = 1\n[[fallback]]\n\
         name = \"second\"\nfor = \"m\"\nmodel = \"n\"\nbase_url = {:?}\napi_key = \"env:ACCOUNT_KEY\"\n",
        second.url()
    );
    let gateway = gateway(&first.url(), &collector, &changes);
    ask(&gateway).await;
    gateway.close().await;
    let request = collector.only(CHAT);
    let told = ["tidegate.fallback", "gen_ai.request.model", "tidegate.attempts"];
    assert_eq!(told.map(|name| request.get(name)), ["second", "n", "2"]);
    for (name, upstream, status) in [("chat m", first, "500"), ("chat n", second, "200")] {
        let call = collector.only(name);
        assert_eq!(call.get("server.port"), upstream.addr.port().to_string(), "{name}");
        assert_eq!(call.get("url.full"), format!("{}/v1/chat/completions", upstream.url()));
        assert_eq!(call.get("gen_ai.request.model"), name.replace("chat ", ""));
        assert_eq!(call.get("http.response.status_code"), status);
    }
}
