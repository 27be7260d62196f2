//! Three gateways that share a quota, when everything is well.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Gateway, Load, jain, report, section, upstream};
use super::server::{PATIENCE, Proxy, Redis};
use crate::overload::{MINUTE_MS, TOKENS_BIND};
use crate::support::steady::steady;

/// Tenants at each of three replicas: 80, 15 and 5 % of the load.
const SPREAD: [usize; 3] = [16, 3, 1];
const TENANTS: usize = 20;
/// Requests that each keeps open: 200 in all, of 75 a minute.
const OPEN: usize = 10;
const MINUTES: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures are half of the test")]
async fn three_replicas_use_a_quota_up_and_share_it_fairly_between_tenants() {
    steady("three_replicas_use_a_quota_up_and_share_it_fairly_between_tenants", async || {
        let redis = Redis::start().await;
        let upstream = upstream(TOKENS_BIND).await;
        let shared = section(&redis.url(), "");
        let start = |_| Gateway::start(&upstream.base_url(), &shared, TENANTS);
        let gateways: Vec<_> = (0..3).map(start).collect();
        let mut load = Load::new(TENANTS);
        let spread = SPREAD.iter().enumerate().flat_map(|(at, count)| vec![at; *count]);
        for (tenant, at) in spread.enumerate() {
            load.add(gateways[at].address, tenant, OPEN);
        }
        timeout(PATIENCE, upstream.wait_for(|stats| stats.started > 0)).await.expect("a request");
        sleep(Duration::from_millis(MINUTES * MINUTE_MS)).await;
        let report = report(&upstream);
        let tallies = load.end().await;
        let stats = upstream.stats();
        let answered: Vec<_> = tallies.iter().map(|tally| tally.answered).collect();
        let fair = jain(answered.iter().map(|count| *count as f64));
        println!(
            "{:.2} % of the quota, {} rejected, Jain {fair:.4}: {answered:?}",
            100.0 * report.utilisation(),
            stats.rejected,
        );
        for gateway in &gateways {
            let asked = gateway.metric("tidegate_shared_holds_total{how=\"asked\"}").await;
            let free = gateway.metric("tidegate_shared_holds_total{how=\"free\"}").await;
            let contended = gateway.metric("tidegate_shared_contended_total").await;
            println!("asked {asked}, free {free}, contended {contended}");
            assert!(asked > 0.0);
            assert!((gateway.metric("tidegate_shared_replicas").await - 3.0).abs() < 0.5);
        }
        assert!(tallies.iter().all(|tally| tally.failed.is_none()), "{tallies:?}");
        assert_eq!(stats.rejected, 0);
        assert!(report.utilisation() >= 0.98);
        assert!(fair >= 0.98);
        for gateway in gateways {
            gateway.stop().await;
        }
        upstream.shutdown().await;
    })
    .await;
}

const BODY: &str = r#"{"model":"any","max_completion_tokens":1,
    "messages":[{"role":"user","content":"Which way does the tide run?"}]}"#;

/// How long the gateway takes to let a request go, one after the other, with plenty left.
async fn idle(shared: &str, upstream: &str, requests: usize) -> Duration {
    let gateway = Gateway::start(upstream, shared, 1);
    let mut waits = Vec::new();
    let client = reqwest::Client::new();
    for _ in 0..requests {
        let began = Instant::now();
        let answer = client
            .post(format!("http://{}/v1/chat/completions", gateway.address))
            .bearer_auth(crate::overload::key(0))
            .header("content-type", "application/json")
            .body(BODY)
            .send()
            .await
            .expect("an answer");
        let status = answer.status();
        let body = answer.text().await.expect("a body");
        assert!(status.is_success(), "{status}: {body}");
        waits.push(began.elapsed());
    }
    gateway.stop().await;
    waits.sort_unstable();
    waits[requests / 2]
}

/// With a server 20 ms away: a request that has to be asked for takes that much longer, and not twice;
/// one that does not, nothing.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures are half of the test")]
async fn an_idle_request_waits_for_one_round_trip_or_for_none() {
    steady("an_idle_request_waits_for_one_round_trip_or_for_none", async || {
        const WAY: Duration = Duration::from_millis(20);
        let redis = Redis::start().await;
        let proxy = Proxy::to(redis.port).await;
        proxy.way.lock().delay = WAY;
        let upstream = upstream(TOKENS_BIND).await;
        let url = upstream.base_url();
        let alone = idle("", &url, 30).await;
        let more = "timeout = \"250ms\"\nfloat = false\nnamespace = \"asking\"";
        let asking = idle(&section(&proxy.url(), more), &url, 30).await;
        let more = "timeout = \"250ms\"\nnamespace = \"floating\"";
        let floating = idle(&section(&proxy.url(), more), &url, 30).await;
        println!("alone {alone:?}, asking {asking:?}, floating {floating:?}");
        assert!(asking >= alone + WAY / 2, "it asks");
        assert!(asking < alone + WAY * 19 / 10, "one round trip");
        assert!(floating < alone + WAY / 2, "none");
        upstream.shutdown().await;
    })
    .await;
}

/// A replica that comes later does not wait for one at which nobody waits any more.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_one_who_has_gone() {
    steady("nobody_waits_for_one_who_has_gone", async || {
        let redis = Redis::start().await;
        let upstream = upstream(TOKENS_BIND).await;
        let shared = section(&redis.url(), "timeout = \"250ms\"");
        let client = reqwest::Client::new();
        let mut gateways = Vec::new();
        for index in 0..3 {
            let gateway = Gateway::start(&upstream.base_url(), &shared, 1);
            let answer = client
                .post(format!("http://{}/v1/chat/completions", gateway.address))
                .bearer_auth(crate::overload::key(0))
                .header("content-type", "application/json")
                .body(BODY)
                .send()
                .await
                .expect("an answer");
            let headers = answer.headers();
            let waited =
                headers.get("x-tidegate-wait-ms").and_then(|it| it.to_str().ok()?.parse().ok());
            // The first one begins the log; the others only have to read it. For one whose turn it is they
            // would wait for 100 ms.
            assert!(index == 0 || waited.is_some_and(|millis: u64| millis < 100), "{headers:?}");
            gateways.push(gateway);
        }
        for gateway in gateways {
            gateway.stop().await;
        }
        upstream.shutdown().await;
    })
    .await;
}
