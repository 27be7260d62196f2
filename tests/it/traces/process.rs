//! Traces of the program itself: set up by the environment, sent at its end, and joined by its log.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::collector::Collector;
use super::{CHAT, TRACE, traceparent};
use crate::support::process::{Process, file, path, tidegate};
use crate::support::upstream::{Upstream, completion};
use crate::support::{client, config_text, hello};

/// Runs a gateway for one request within a trace; returns its log.
async fn one_request(upstream: &Upstream, changes: &str, set: impl FnOnce(&mut Command)) -> String {
    let config = file(&config_text(&upstream.url(), changes));
    let mut command = tidegate(&["serve", "--stateless", "--config", path(&config)]);
    set(&mut command);
    let gateway = Process::start(&mut command);
    let url = format!("http://{}/v1/chat/completions", gateway.api);
    let request = client().post(url).header("content-type", "application/json");
    let request = request.header("traceparent", traceparent("01")).body(hello().to_string());
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect("whole");
    gateway.signal(Signal::TERM);
    let (code, log) = gateway.end().await;
    assert_eq!(code, Some(0), "{log}");
    log
}

#[tokio::test]
async fn the_environment_alone_sets_traces_up_and_the_log_joins_them() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let log = one_request(&upstream, "log.format = \"json\"", |command| {
        let endpoint = format!("http://{}", collector.addr());
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        command.env("OTEL_SERVICE_NAME", "from-the-environment");
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=planted");
    })
    .await;
    // It ended well within the second for which spans gather: what waited was sent.
    let (span, _) = (collector.only(CHAT), collector.only("chat m"));
    assert_eq!(collector.resource()["service.name"], "from-the-environment");
    assert_eq!(collector.messages()[0].0["x-collector-key"], "planted");
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = lines.iter().find(|line| line["message"] == "request").expect("its line");
    assert_eq!((&line["trace_id"], &line["target"]), (&TRACE.into(), &"tidegate::request".into()));
    assert_eq!(line["request.id"], span.get("tidegate.request.id").as_str());
    assert_eq!(span.trace(), TRACE);
    assert!(!log.contains("planted"), "{log}");
}

#[tokio::test]
async fn with_traces_off_the_log_has_the_callers_trace() {
    let collector = Collector::start().await;
    let upstream = Upstream::answering(completion()).await;
    let log = one_request(&upstream, &collector.config(""), |command| {
        command.env("OTEL_SDK_DISABLED", "true");
    })
    .await;
    assert!(log.contains(&format!(" trace_id={TRACE} ")), "{log}");
    assert!(collector.messages().is_empty());
    assert_eq!(upstream.last_of(1).all("traceparent"), [traceparent("01")]);
}
