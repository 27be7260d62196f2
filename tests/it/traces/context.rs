//! Trace context: taken in, passed on, and decided by.

use super::collector::Collector;
use super::{CHAT, PARENT, TRACE, gateway, traceparent};
use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, hello, send};

#[tokio::test]
async fn an_unsampled_parent_is_not_traced_and_passed_on_as_such() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let gateway = gateway(&upstream.url(), &collector, "");
    let headers = format!("traceparent: {}\r\ntracestate: a=1\r\n", traceparent("00"));
    let mut wire = Wire::open(gateway.api, chat(&headers, hello().to_string())).await;
    assert_eq!(wire.answer().await.status, 200);
    drop(wire);
    let seen = upstream.last_of(1);
    assert_eq!(seen.all("traceparent"), [traceparent("00")]);
    assert_eq!(seen.all("tracestate"), ["a=1"]);
    gateway.close().await;
    assert!(collector.messages().is_empty(), "{:#?}", collector.spans());
}

#[tokio::test]
async fn a_malformed_parent_is_as_none() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let gateway = gateway(&upstream.url(), &collector, "");
    let good = traceparent("01");
    let malformed = [
        "traceparent: 00-1-2-03\r\n".to_owned(),
        format!("traceparent: {}\r\n", good.to_uppercase()),
        format!("traceparent: {good}\r\ntraceparent: {good}\r\n"),
        "traceparent: caf\u{e9}\r\n".to_owned(),
        format!("traceparent: 00-{}-{PARENT}-01\r\n", "0".repeat(32)),
        format!("traceparent: {good}-{}\r\n", "x".repeat(4_000)),
        String::new(),
    ];
    for headers in &malformed {
        let headers = format!("{headers}tracestate: a=1\r\n");
        let mut wire = Wire::open(gateway.api, chat(&headers, hello().to_string())).await;
        assert_eq!(wire.answer().await.status, 200, "{headers}");
    }
    gateway.close().await;
    let (spans, calls) = (collector.named(CHAT), collector.named("chat m"));
    assert_eq!((spans.len(), calls.len()), (malformed.len(), malformed.len()));
    for ((span, call), seen) in spans.iter().zip(&calls).zip(upstream.seen()) {
        assert_eq!((span.parent(), span.0.trace_state.as_str()), (String::new(), ""));
        assert_ne!(span.trace(), TRACE);
        let sent = format!("00-{}-{}-01", span.trace(), call.id());
        assert_eq!(seen.all("traceparent"), [sent.as_str()]);
        assert!(seen.all("tracestate").is_empty(), "it belongs to no trace");
    }
}

#[tokio::test]
async fn without_a_collector_the_callers_headers_pass_as_they_came() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    for headers in [
        format!("traceparent: {}\r\ntracestate: a=1\r\n", traceparent("01")),
        "traceparent: no\r\ntracestate: a=1\r\n".to_owned(),
    ] {
        let mut wire = Wire::open(gateway.api, chat(&headers, hello().to_string())).await;
        assert_eq!(wire.answer().await.status, 200);
        let seen = upstream.seen().pop().expect("it came");
        assert!(headers.contains(seen.all("traceparent")[0]), "{}", seen.head);
        assert_eq!(seen.all("tracestate"), ["a=1"]);
    }
    gateway.close().await;
}

#[tokio::test]
async fn a_share_of_the_traces_is_kept_and_the_upstream_told_which() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let config = collector.config("sample_ratio = 0.5\nprovider = \"own\"\nservice_name = \"s\"");
    let gateway = Gateway::start(&upstream.url(), &config);
    let count = 64;
    for _ in 0..count {
        send(gateway.chat(&hello())).await.bytes().await.expect("whole");
    }
    gateway.close().await;
    let told: Vec<_> =
        upstream.seen().iter().map(|seen| seen.all("traceparent")[0].to_owned()).collect();
    let kept = collector.named(CHAT);
    // Fewer or more come about once in ten million runs.
    assert!((11..=53).contains(&kept.len()), "{}", kept.len());
    let sampled: Vec<_> = told.iter().filter(|it| it.ends_with("-01")).collect();
    assert_eq!(sampled.len(), kept.len());
    for span in &kept {
        assert!(sampled.iter().any(|it| it.contains(&span.trace())), "{span:#?}");
    }
    assert_eq!(collector.named("chat m")[0].get("gen_ai.provider.name"), "own");
    assert_eq!(collector.resource()["service.name"], "s");
}
