//! Metrics of single tenants: of those that hold keys, and of more than are told apart.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Gateway, hello, pair, roomy, send};

const REQUESTS: &str = "tidegate_tenant_requests_total";

/// The samples of a counter of tenants, by tenant and the other label.
fn of_tenants(page: &str, name: &str) -> BTreeMap<(String, String), u64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let samples = lines.map(|line| {
        let mut quoted = line.split('"');
        let mut label = || {
            quoted.next();
            quoted.next().expect("a label").to_owned()
        };
        let (tenant, other) = (label(), label());
        let value = line.rsplit(' ').next().and_then(|it| it.parse().ok());
        ((tenant, other), value.expect("a whole number"))
    });
    samples.collect()
}

/// Asks as each of these callers, some at once; all are answered.
async fn ask_as(gateway: &Gateway, callers: impl Iterator<Item = u32>) {
    let requests = callers.map(|caller| {
        let request = gateway.chat(&hello()).bearer_auth(format!("planted-{caller}"));
        async move {
            let answer = send(request).await;
            assert_eq!(answer.status(), 200, "caller {caller}");
            answer.bytes().await.expect("whole");
        }
    });
    futures_util::stream::iter(requests).buffer_unordered(16).collect::<()>().await;
}

/// The most that can be configured, of tenants that each have a pool of their own; so small a window
/// that pools which rest make room for others.
const MANY: &str = r#"
metrics.max_tenants = 1_000
models."*".limits = [
  { unit = "requests", limit = 1_000, per = "100ms", name = "minute" },
  { unit = "requests", limit = 1_000, per = "100ms", name = "hour" },
  { unit = "requests", limit = 1_000, per = "100ms", name = "day" },
  { unit = "tokens", limit = 1_000_000, per = "100ms", name = "minute" },
  { unit = "tokens", limit = 1_000_000, per = "100ms", name = "hour" },
  { unit = "tokens", limit = 1_000_000, per = "100ms", name = "day" },
]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tenants_fit_into_a_scrape() {
    let (_simulator, gateway) = pair(roomy(), MANY).await;
    ask_as(&gateway, 0..10_000).await;
    gateway.settled().await;
    let (_, page) = gateway.page("/metrics").await;
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    assert!(!page.contains("planted"), "no key is a label");
    let first = of_tenants(&page, REQUESTS);
    let mut names: Vec<_> = first.keys().map(|(tenant, _)| tenant.clone()).collect();
    names.dedup();
    assert_eq!(names.len(), 1_002, "a thousand, the others, and those without a name");
    assert_eq!(first.values().sum::<u64>(), 10_000);
    assert_eq!(first[&("(other)".to_owned(), "completed".to_owned())], 9_000);
    // They come again in another order: the same have names, and nothing goes down.
    ask_as(&gateway, (0..10_000).rev().step_by(7)).await;
    gateway.settled().await;
    let second = of_tenants(&gateway.page("/metrics").await.1, REQUESTS);
    assert!(first.keys().eq(second.keys()), "the same names");
    assert!(first.iter().all(|(key, count)| second[key] >= *count), "nothing goes down");
    assert_eq!(second.values().sum::<u64>(), 10_000 + 1_429);
    gateway.close().await;
}

#[tokio::test]
async fn every_request_counts_under_one_tenant() {
    let keys = r#"
upstream.api_key = "env:ACCOUNT_KEY"
[[keys]]
name = "team-a"
hash = "sha256:HASH"
[[keys]]
name = "team-b"
hash = "sha256:0101010101010101010101010101010101010101010101010101010101010101"
"#;
    let (simulator, gateway) = pair(roomy(), &keys.replace("HASH", &hash("planted-key"))).await;
    let asked = || gateway.chat(&hello()).bearer_auth("planted-key");
    for (request, status) in [
        (asked(), 200),
        (asked().header("x-sim-fault", "cut,no-usage"), 200),
        (asked().header("x-sim-fault", "status:400"), 400),
        (asked().body(json!({}).to_string()), 400),
        (gateway.chat(&hello()).bearer_auth("planted-other"), 401),
        (gateway.client.get(gateway.url("/nowhere")), 404),
    ] {
        let answer = send(request).await;
        assert_eq!(answer.status(), status);
        let _ = answer.bytes().await;
    }
    gateway.settled().await;
    let (_, page) = gateway.page("/metrics").await;
    let requests = of_tenants(&page, REQUESTS);
    let of = |tenant: &str, fate: &str| requests[&(tenant.to_owned(), fate.to_owned())];
    for (tenant, fates) in [("team-a", [1, 2, 1, 0]), ("team-b", [0; 4]), ("(other)", [0; 4])] {
        let seen = ["completed", "failed", "refused", "gone"].map(|fate| of(tenant, fate));
        assert_eq!(seen, fates, "{tenant}");
    }
    // Neither the wrong key nor the path that is none has a tenant.
    assert_eq!((of("(none)", "refused"), of("(none)", "completed")), (2, 0));
    assert_eq!(requests.len(), 4 * 4);
    let tokens = of_tenants(&page, "tidegate_tenant_tokens_total");
    assert_eq!(tokens[&("team-a".to_owned(), "prompt".to_owned())], 10);
    // Who waits is shown by name, too.
    let depth = "tidegate_tenant_queue_depth{tenant=\"team-a\"}";
    assert!((gateway.metric(depth).await).abs() < 0.5);
    drop(simulator);
    gateway.close().await;
}

#[tokio::test]
async fn who_waits_is_shown_by_name() {
    let keys = r#"
models."*".max_concurrent = 1
upstream.api_key = "env:ACCOUNT_KEY"
[[keys]]
name = "team-a"
hash = "sha256:HASH"
"#;
    let (simulator, gateway) = pair(roomy(), &keys.replace("HASH", &hash("planted-key"))).await;
    let ask = |fault: &'static str| {
        let request = gateway.chat(&hello()).bearer_auth("planted-key");
        tokio::spawn(request.header("x-sim-fault", fault).send())
    };
    let first = ask("hang");
    crate::support::wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let others = [ask(""), ask("")];
    gateway.wait_metric("tidegate_tenant_queue_depth{tenant=\"team-a\"}", 2.0).await;
    gateway.wait_metric("tidegate_tenant_queue_depth{tenant=\"(other)\"}", 0.0).await;
    first.abort();
    for other in others {
        other.await.expect("no panic").expect("an answer").bytes().await.expect("whole");
    }
    let (_, page) = gateway.page("/metrics").await;
    assert!(gateway.metric("tidegate_tenant_queue_depth{tenant=\"team-a\"}").await < 0.5);
    let waited = gateway.metric("tidegate_tenant_wait_seconds_total{tenant=\"team-a\"}").await;
    assert!(waited > 0.0, "{page}");
    gateway.close().await;
}

/// SHA-256, in hexadecimal digits.
fn hash(key: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}
