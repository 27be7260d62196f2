//! An upstream that is away, or has too much to do: requests wait for it, and it is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tidegate::simulator::{Fault, Simulator};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::upstream::{Upstream, answer, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{
    ANY, Gateway, eventually, header, hello, pair, refusal, roomy, send, wait_for, with,
};

const CONNECT: &str = "tidegate_upstream_failures_total{kind=\"connect\"}";

fn transitions(to: &str) -> String {
    format!("tidegate_upstream_circuit_transitions_total{{to=\"{to}\"}}")
}

/// An address of this machine where nobody listens, for now.
async fn nobody() -> (std::net::SocketAddr, String) {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let (addr, url) = (simulator.addr(), simulator.base_url());
    simulator.shutdown().await;
    (addr, url)
}

#[tokio::test]
async fn an_upstream_that_is_away_is_left_alone_and_everyone_is_served_when_it_is_back() {
    let (addr, url) = nobody().await;
    let changes = r#"
        retry.max_attempts = 3
        breaker = { failures = 3, open = "20ms", max_open = "80ms" }
        models."*".max_concurrent = 4
    "#;
    let gateway = Gateway::start(&url, changes);
    let requests = (0..40).map(|_| tokio::spawn(gateway.chat(&hello()).send()));
    let requests: Vec<_> = requests.collect();
    // Far more probes than any one request has attempts.
    let probed = async || (gateway.metric(&transitions("half_open")).await > 5.5).then_some(());
    eventually("probes", probed).await;
    gateway.wait_queued(40).await;
    let _simulator = Simulator::start(roomy(), addr).await.expect("the port is free again");
    for request in requests {
        let response = request.await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("whole");
    }
    let [failures, probes, opened, closed] = [
        gateway.metric(CONNECT).await,
        gateway.metric(&transitions("half_open")).await,
        gateway.metric(&transitions("open")).await,
        gateway.metric(&transitions("closed")).await,
    ];
    // Two that did not open it yet, four that were on their way when the third did; then one at a time.
    assert!(failures <= probes + 6.0, "{failures} attempts, {probes} probes");
    assert_eq!((opened, closed), (probes, 1.0), "each probe but the last failed");
    assert_eq!(gateway.spent().await, (40, 40 * 20), "what was never sent is not charged");
    gateway.close().await;
}

#[tokio::test]
async fn one_that_cannot_wait_is_told_when_to_come_back() {
    let (_, url) = nobody().await;
    for (wait, limited_by) in [("1h", "1h"), ("0s", "nothing")] {
        let breaker = format!(
            "breaker = {{ failures = 1, open = \"1h\", max_open = \"1h\", wait = \"{wait}\" }}"
        );
        let gateway = Gateway::start(&url, &breaker);
        for nth in 1..=3 {
            let patience = if limited_by == "1h" { "30ms" } else { "1h" };
            let request = gateway.chat(&hello()).header("x-tidegate-max-wait", patience);
            let response = send(request).await;
            assert_eq!(header(&response, "x-tidegate-limited-by").as_deref(), Some("circuit"));
            assert_eq!(header(&response, "x-tidegate-source").as_deref(), Some("gateway"));
            assert_eq!(header(&response, "retry-after").as_deref(), Some("60"), "{nth}");
            let error = refusal(response, 503, "circuit_open").await;
            assert!(error["message"].as_str().expect("text").contains("come back in"), "{error}");
        }
        assert_eq!(gateway.metric(CONNECT).await.to_string(), "1", "nobody else was sent");
        assert_eq!(gateway.outcome("upstream_unavailable").await.to_string(), "3");
        assert_eq!(gateway.metric("tidegate_upstream_circuit_state").await.to_string(), "2");
        let status = gateway.settled().await;
        assert_eq!(status["pools"][0]["circuit"], "open");
        gateway.close().await;
    }
}

#[tokio::test]
async fn what_opens_it_and_what_does_not() {
    for (fault, opens) in [
        ("status:500", true),
        ("status:502", true),
        ("status:503", true),
        ("status:529", true),
        ("reset", true),
        ("close", true),
        ("hang", true),
        ("status:400", false),
        ("status:401", false),
        ("status:404", false),
        ("blocked", false),
        ("queue", false),
        ("quota:requests-hour", false),
        ("cut", false),
        ("", false),
    ] {
        let changes = r#"
            retry.max_attempts = 1
            upstream.head_timeout = "300ms"
            breaker = { failures = 2, open = "1h", max_open = "1h" }
        "#;
        let (_simulator, gateway) = pair(roomy(), changes).await;
        for _ in 0..2 {
            let request = gateway.chat(&hello()).header("x-sim-fault", fault);
            let _ = send(request).await.bytes().await;
            gateway.settled().await;
        }
        let opened = gateway.metric(&transitions("open")).await;
        assert_eq!(opened.to_string(), if opens { "1" } else { "0" }, "{fault}");
        let state = gateway.metric("tidegate_upstream_circuit_state").await;
        assert_eq!(state.to_string(), if opens { "2" } else { "0" }, "{fault}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn one_request_that_always_fails_is_its_own_fault_and_a_hang_up_is_nobodys() {
    let changes = "breaker = { failures = 2, open = \"1h\", max_open = \"1h\" }";
    let (simulator, gateway) = pair(roomy(), changes).await;
    let failing = gateway.chat(&hello()).header("x-sim-fault", "status:500");
    assert_eq!(send(failing).await.status(), 500);
    assert!(simulator.stats().started > 2, "it was tried again");
    for _ in 0..3 {
        let wire =
            Wire::open(gateway.api, chat("x-sim-fault: hang\r\n", hello().to_string())).await;
        wait_for(&simulator, |stats| stats.in_flight == 1).await;
        drop(wire);
        wait_for(&simulator, |stats| stats.in_flight == 0).await;
    }
    assert_eq!(gateway.metric(&transitions("open")).await.to_string(), "0");
    gateway.close().await;
}

/// An upstream that takes so many at once, and holds them until it is let go.
struct Narrow {
    upstream: Upstream,
    takes: Arc<AtomicUsize>,
    inside: Arc<AtomicUsize>,
    /// Answers are held back while this is above what is inside.
    together: Arc<AtomicUsize>,
    go: Arc<Notify>,
}

impl Narrow {
    async fn start(takes: usize) -> Self {
        let new = |number| Arc::new(AtomicUsize::new(number));
        let (takes, inside, together, go) = (new(takes), new(0), new(0), Arc::new(Notify::new()));
        let (most, now, all, full) =
            (Arc::clone(&takes), Arc::clone(&inside), Arc::clone(&together), Arc::clone(&go));
        let upstream = Upstream::start(move |_, mut socket| {
            let (most, now, all, full) =
                (Arc::clone(&most), Arc::clone(&now), Arc::clone(&all), Arc::clone(&full));
            async move {
                let before = now.fetch_add(1, Ordering::SeqCst);
                let bytes = if before >= most.load(Ordering::SeqCst) {
                    answer("503 Service Unavailable", "", "busy")
                } else {
                    if before + 1 >= all.load(Ordering::SeqCst) {
                        full.notify_waiters();
                    } else {
                        full.notified().await;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    completion()
                };
                now.fetch_sub(1, Ordering::SeqCst);
                socket.write_all(&bytes).await.ok().map(|()| socket)
            }
        })
        .await;
        Self { upstream, takes, inside, together, go }
    }
}

#[tokio::test]
async fn an_overloaded_upstream_gets_what_it_bears_and_all_again_when_it_bears_that() {
    let narrow = Narrow::start(3).await;
    let gateway = Gateway::start(&narrow.upstream.url(), "retry.max_attempts = 40");
    let rounds = |count: usize| {
        let gateway = &gateway;
        join_all((0..12).map(move |_| async move {
            for _ in 0..count {
                let response = send(gateway.chat(&hello())).await;
                assert_eq!(response.status(), 200, "none is lost");
                response.bytes().await.expect("whole");
            }
        }))
    };
    rounds(15).await;
    let tries = narrow.upstream.seen().len();
    assert!(tries < 2 * 180, "{tries} tries of 180 requests: too many are sent");
    assert!(gateway.metric("tidegate_concurrency_cuts_total").await > 1.5);
    let limit = gateway.status().await["pools"][0]["concurrency_limit"].as_u64();
    assert!(limit.is_some_and(|limit| limit < 7), "{limit:?} is about what it bears");
    assert!(gateway.metric("tidegate_pool_concurrency_limit").await < 7.0);

    narrow.takes.store(usize::MAX, Ordering::SeqCst);
    let before = narrow.upstream.seen().len();
    // Up to twice the 12 that were too many once: 24 * 25 / 2 answers at the most.
    let mut sent = 0;
    while gateway.metric("tidegate_pool_concurrency_limit").await.is_finite() {
        assert!(sent <= 24 * 25 / 2, "the limit goes away");
        rounds(2).await;
        sent += 24;
    }
    assert_eq!(narrow.upstream.seen().len() - before, sent, "nothing was refused");
    // All of them at once: none is answered before the last is there.
    narrow.together.store(12, Ordering::SeqCst);
    rounds(1).await;
    assert_eq!(narrow.inside.load(Ordering::SeqCst), 0);
    narrow.go.notify_waiters();
    gateway.close().await;
}

#[tokio::test]
async fn an_overload_never_raises_what_is_configured() {
    let narrow = Narrow::start(2).await;
    let changes = "retry.max_attempts = 40\nmodels.\"*\".max_concurrent = 3";
    let gateway = Gateway::start(&narrow.upstream.url(), changes);
    let ask = || async {
        let response = send(gateway.chat(&with(hello(), "user", "any"))).await;
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("whole");
    };
    join_all((0..30).map(|_| ask())).await;
    assert!(gateway.metric("tidegate_concurrency_cuts_total").await > 0.5);
    narrow.takes.store(usize::MAX, Ordering::SeqCst);
    for _ in 0..10 {
        ask().await;
        assert!(gateway.metric("tidegate_pool_concurrency_limit").await < 3.5);
    }
    assert_eq!(gateway.metric("tidegate_pool_concurrency_limit").await.to_string(), "3");
    gateway.close().await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_says_nothing_of_the_upstream() {
    let changes = "breaker = { failures = 1, open = \"1h\", max_open = \"1h\" }";
    let (simulator, gateway) = pair(roomy(), changes).await;
    simulator.script([vec![Fault::IdleClose], vec![], vec![Fault::IdleClose]]);
    for _ in 0..4 {
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("whole");
    }
    let stale = gateway.metric("tidegate_retries_total{reason=\"stale_connection\"}").await;
    assert!(stale > 0.5, "some broke: {stale}");
    assert!(gateway.metric(&transitions("open")).await < 0.5, "one failure would have opened it");
    gateway.close().await;
}
