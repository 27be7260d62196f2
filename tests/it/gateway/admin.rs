//! What the gateway tells of itself, and that it paces as it was told to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::simulator::{Latency, Options};
use tokio::io::AsyncWriteExt;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{
    ACCOUNT_KEY, Gateway, REQUESTS, TOKENS, hello, pair, roomy, send, wait_for, with,
};

/// Every sample of a page in the Prometheus text format, checked line by line.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "twice: {line}");
            assert!(name.starts_with("tidegate_"), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| help.ends_with('.')), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let family = series.split('{').next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|it| family.strip_suffix(it));
            let known = kinds.contains_key(family) || base.is_some_and(|it| kinds.contains_key(it));
            assert!(known, "no type: {line}");
            let value = value.parse().expect("a number");
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

#[tokio::test]
async fn metrics_parse_and_every_request_is_counted_once() {
    let (simulator, gateway) = pair(roomy(), "retry.max_attempts = 1").await;
    let mut sent = 0.0;
    for (fault, body) in [
        // First, on a connection that has not served yet: it is not taken for a stale one.
        ("reset", hello()),
        ("", hello()),
        ("", with(hello(), "stream", true)),
        ("status:500", hello()),
        ("status:402", hello()),
        ("cut", with(hello(), "stream", true)),
        ("error-event", with(hello(), "stream", true)),
        ("no-usage", hello()),
        ("", json!({})),
        ("", with(hello(), "max_completion_tokens", 200_000)),
    ] {
        let response = send(gateway.chat(&body).header("x-sim-fault", fault)).await;
        // Some end early: that is what they are for.
        let _ = response.bytes().await;
        sent += 1.0;
    }
    for path in ["/v1/models", "/v1/tcp_warming", "/nowhere", "/v1/chat/completions"] {
        send(gateway.client.get(gateway.url(path))).await.bytes().await.expect("whole");
        sent += 1.0;
    }
    gateway.settled().await;
    let samples = samples(&gateway.page("/metrics").await.1);
    let total: f64 = samples
        .iter()
        .filter(|(series, _)| series.starts_with("tidegate_requests_total{"))
        .map(|(_, value)| value)
        .sum();
    assert!((total - sent).abs() < 0.1, "{total} of {sent}: {samples:#?}");
    for (series, value) in [
        ("tidegate_requests_total{outcome=\"completed\"}", 4.0),
        ("tidegate_requests_total{outcome=\"upstream_error\"}", 2.0),
        ("tidegate_requests_total{outcome=\"upstream_unavailable\"}", 1.0),
        ("tidegate_requests_total{outcome=\"upstream_cut\"}", 1.0),
        ("tidegate_requests_total{outcome=\"stream_error\"}", 1.0),
        ("tidegate_requests_total{outcome=\"above_limit\"}", 1.0),
        ("tidegate_requests_total{outcome=\"invalid\"}", 3.0),
        ("tidegate_requests_total{outcome=\"local\"}", 1.0),
        ("tidegate_tokens_used_total{kind=\"prompt\"}", 20.0),
        ("tidegate_tokens_used_total{kind=\"completion\"}", 20.0),
        ("tidegate_usage_missing_total", 2.0),
        ("tidegate_queue_wait_seconds_count", 8.0),
        ("tidegate_estimate_ratio_count", 2.0),
        ("tidegate_upstream_first_token_seconds_count", 3.0),
        ("tidegate_requests_in_flight", 0.0),
        ("tidegate_body_bytes", 0.0),
        ("tidegate_pools", 1.0),
    ] {
        let seen = samples.get(series).copied().unwrap_or(f64::NAN);
        assert!((seen - value).abs() < 0.1, "{series} is {seen}, not {value}");
    }
    assert_eq!(simulator.stats().started, 8);
    gateway.close().await;
}

#[tokio::test]
async fn the_status_shows_every_pool_with_its_levels() {
    let (simulator, gateway) = pair(roomy(), "models.\"*\".max_concurrent = 1").await;
    let first = Wire::open(gateway.api, chat("x-sim-fault: hang\r\n", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let second = Wire::open(gateway.api, chat("", hello().to_string())).await;
    gateway.wait_queued(1).await;
    let status = gateway.status().await;
    let keys = |value: &Value| {
        value.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>().join(" "))
    };
    let top = "at batches body_bytes config connections draining in_flight pools pools_total \
               refusals tenants today uptime_seconds version";
    assert_eq!(keys(&status).as_deref(), Some(top));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["in_flight"], &status["draining"]), (&json!(2), &json!(false)));
    assert_eq!(status["body_bytes"], 2 * hello().to_string().len());
    assert_eq!(status["pools"].as_array().map(Vec::len), Some(1));
    let pool = &status["pools"][0];
    for (key, value) in [
        ("model", json!("m")),
        ("profile", json!("*")),
        ("queued", json!(1)),
        ("queued_bytes", json!(hello().to_string().len())),
        ("in_flight", json!(1)),
        ("limited_by", json!("concurrency")),
        ("stalled", json!(false)),
    ] {
        assert_eq!(pool[key], value, "{key}: {pool:#}");
    }
    assert!(pool["oldest_wait_seconds"].as_f64().is_some_and(|it| (0.0..10.0).contains(&it)));
    let [requests, tokens] = [&pool["constraints"][0], &pool["constraints"][1]];
    for (level, unit, window, limit) in
        [(requests, "requests", "day", REQUESTS), (tokens, "tokens", "minute", TOKENS)]
    {
        let held = level["held"].as_u64().expect("a number");
        assert_eq!((level["unit"].as_str(), level["window"].as_str()), (Some(unit), Some(window)));
        assert_eq!((&level["limit"], &level["mode"]), (&json!(limit), &json!("sliding")));
        assert_eq!(level["available"], json!(limit - held), "{level}");
        assert!(held >= 1, "{level}");
    }
    drop((first, second));
    gateway.close().await;
}

#[tokio::test]
async fn the_status_says_who_was_turned_away_and_how_the_upstream_does() {
    let changes = "retry.max_attempts = 1\nmodels.\"*\".max_concurrent = 1";
    let (simulator, gateway) = pair(roomy(), changes).await;
    let hostile = "<img src=x onerror=alert(1)>";
    for (fault, body, status) in [
        ("", hello(), 200),
        ("status:500", hello(), 500),
        ("", with(with(hello(), "max_completion_tokens", 200_000), "model", hostile), 413),
    ] {
        let response = send(gateway.chat(&body).header("x-sim-fault", fault)).await;
        assert_eq!(response.status(), status, "{fault}");
        response.bytes().await.expect("whole");
    }
    let first = Wire::open(gateway.api, chat("x-sim-fault: hang\r\n", hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let late = send(gateway.chat(&hello()).header("x-tidegate-max-wait", "10ms")).await;
    assert_eq!(late.status(), 429);
    late.bytes().await.expect("whole");
    drop(first);
    // Last: after it nobody is let go.
    let refused = send(gateway.chat(&hello()).header("x-sim-fault", "quota:tokens-minute")).await;
    assert_eq!(refused.status(), 429);
    refused.bytes().await.expect("whole");
    let status = gateway.settled().await;
    let refusals = status["refusals"].as_array().expect("a list");
    let of = |key: &str| refusals.iter().map(|it| it[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reason"), ["token_quota_exceeded", "wait_exceeded", "above_limit"]);
    assert_eq!(of("source"), ["upstream", "gateway", "gateway"]);
    assert_eq!(of("status"), [429, 429, 413]);
    assert_eq!(of("model"), ["m", "m", hostile]);
    assert_eq!(of("limited_by")[1..], ["concurrency", "tokens/minute"]);
    assert!(refusals[1]["retry_after_seconds"].is_number(), "{refusals:#?}");
    assert_eq!(refusals[2]["retry_after_seconds"], Value::Null, "no wait helps");
    let pools = status["pools"].as_array().expect("a list");
    let pool = pools.iter().find(|pool| pool["model"] == "m").expect("a pool");
    let upstream = &pool["upstream"];
    for (key, value) in [
        ("successes", json!(1)),
        ("failures", json!(1)),
        ("refusals", json!(1)),
        ("last_failure", json!("status 500")),
        ("last_refusal", json!("token_quota")),
        ("last_refusal_quota", json!("tokens/minute")),
        ("last_refusal_blame", json!("foreign")),
    ] {
        assert_eq!(upstream[key], value, "{key}: {upstream:#}");
    }
    for limit in pool["constraints"].as_array().expect("a list") {
        assert_eq!((&limit["learned"], &limit["binding"]), (&json!(false), &json!(false)));
        assert_eq!(limit["configured_limit"], limit["limit"], "{limit}");
    }
    gateway.close().await;
}

#[tokio::test]
async fn whoever_watches_does_not_hold_up_the_end() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let url = format!("http://{}/events", gateway.admin);
    let mut watching = send(gateway.client.get(url)).await;
    let first = watching.chunk().await.expect("open").expect("an event");
    assert!(first.starts_with(b"event: status\ndata: {"), "{first:?}");
    gateway.close().await;
    while let Ok(Some(event)) = watching.chunk().await {
        assert!(event.starts_with(b"event: status\n"), "{event:?}");
    }
}

#[tokio::test]
async fn probes_and_configuration_are_there_and_nothing_can_be_changed() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "upstream.api_key = \"env:ACCOUNT_KEY\"");
    assert_eq!(gateway.page("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(gateway.page("/readyz").await, (200, "ready\n".to_owned()));
    let (status, config) = gateway.page("/config").await;
    assert!(status == 200 && !config.contains(ACCOUNT_KEY));
    assert!(config.contains("env:ACCOUNT_KEY") && config.contains(&upstream.addr.to_string()));
    config.parse::<toml::Table>().expect("it is a configuration file");
    assert_eq!(gateway.page("/v1/models").await.0, 404);
    for path in ["/", "/metrics", "/status", "/history", "/events", "/config", "/livez", "/readyz"]
    {
        let url = format!("http://{}{path}", gateway.admin);
        assert_eq!(send(gateway.client.post(url)).await.status(), 405, "{path}");
    }
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn no_more_than_allowed_are_at_the_upstream_at_once() {
    let latency = Latency { first_token: Duration::from_millis(30), ..Latency::ZERO };
    let (simulator, gateway) =
        pair(Options { latency, ..roomy() }, "models.\"*\".max_concurrent = 3").await;
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let body = with(hello(), "stream", number % 2 == 0);
            let request = gateway.chat(&body);
            tokio::spawn(async move { send(request).await.bytes().await.expect("whole") })
        })
        .collect();
    for request in requests {
        assert!(!request.await.expect("no panic").is_empty());
    }
    let stats = simulator.stats();
    assert_eq!((stats.completed, stats.peak_in_flight), (20, 3));
    assert_eq!(gateway.spent().await, (20, 400));
    gateway.close().await;
}

#[tokio::test]
async fn requests_keep_their_distance() {
    const GAP: Duration = Duration::from_millis(60);
    // What a packet may gain or lose on its way through one machine.
    const SLACK: Duration = Duration::from_millis(30);
    let bytes = completion();
    let upstream = Upstream::start(move |_, mut socket| {
        let bytes = bytes.clone();
        async move { socket.write_all(&bytes).await.ok().map(|()| socket) }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "models.\"*\".min_gap = \"60ms\"");
    let requests: Vec<_> = (0..6).map(|_| tokio::spawn(gateway.chat(&hello()).send())).collect();
    for request in requests {
        let response = request.await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), 200);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 6);
    for (later, number) in seen.iter().zip(0_u32..) {
        for (earlier, before) in seen.iter().zip(0..number) {
            let (gap, least) = (later.at - earlier.at, (number - before) * GAP);
            assert!(gap + SLACK >= least, "{gap:?} for {least:?}");
        }
    }
    let whole = seen[5].at - seen[0].at;
    assert!(whole < 12 * GAP, "nor do they wait for longer: {whole:?}");
    gateway.close().await;
}
