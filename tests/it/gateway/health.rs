//! What the metrics say of the upstream's health.

use tidegate::time::Epoch;

use crate::support::{hello, pair, roomy, send};

#[tokio::test]
async fn failures_in_a_row_are_counted_until_the_upstream_answers_well() {
    let (_simulator, gateway) = pair(roomy(), "retry.max_attempts = 1").await;
    let health = async || {
        let mut seen = Vec::new();
        for name in ["consecutive_failures", "failures_total"] {
            seen.push(gateway.metric(&format!("tidegate_upstream_{name}")).await.to_string());
        }
        seen
    };
    let ask = async |fault: &str| {
        let _ = send(gateway.chat(&hello()).header("x-sim-fault", fault)).await.bytes().await;
        health().await
    };
    let last = "tidegate_upstream_last_success_timestamp_seconds";
    assert_eq!(ask("status:500").await, ["1", "1"]);
    assert!(gateway.metric(last).await < 1.0, "it has never been well");
    assert_eq!(ask("queue:503").await, ["2", "2"], "too much to do is a failure to whoever asks");
    assert_eq!(ask("status:400").await, ["2", "2"], "neither: somebody says no");
    assert_eq!(ask("").await, ["0", "2"]);
    let at = gateway.metric(last).await;
    let now = Epoch::start().now().as_nanos() / 1_000_000_000;
    assert!((at - f64::from(u32::try_from(now).expect("before 2106"))).abs() < 60.0, "{at}");
    assert_eq!(ask("close").await, ["1", "3"]);
    assert_eq!(ask("quota:requests-day").await, ["1", "3"], "neither, too");
    for (kind, count) in
        [("server_error", "2"), ("broken", "1"), ("connect", "0"), ("timeout", "0")]
    {
        let name = format!("tidegate_upstream_failures_total{{kind=\"{kind}\"}}");
        assert_eq!(gateway.metric(&name).await.to_string(), count, "{kind}");
    }
    gateway.close().await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_fails_each_attempt() {
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", nobody.local_addr().expect("bound"));
    drop(nobody);
    let gateway = crate::support::Gateway::start(&url, "retry.max_attempts = 3");
    assert_eq!(send(gateway.chat(&hello())).await.status(), 502);
    let name = "tidegate_upstream_failures_total{kind=\"connect\"}";
    assert_eq!(gateway.metric(name).await.to_string(), "3", "each attempt counts");
    send(gateway.client.get(gateway.url("/v1/models"))).await;
    assert_eq!(gateway.metric("tidegate_upstream_consecutive_failures").await.to_string(), "4");
    gateway.close().await;
}
