//! Callers that hang up: whatever they had is free again at once.

use std::time::Duration;

use tidegate::simulator::{Fault, Latency, Options, Simulator};
use tokio::time::Instant;

use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, hello, pair, roomy, wait_for, with};

/// From the hang-up to a free permit and a cut call upstream.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The best of so many has to keep to it: a busy machine may delay one.
const TRIES: usize = 3;

const ONE_AT_A_TIME: &str = "models.\"*\".max_concurrent = 1";

fn body(stream: bool) -> String {
    with(hello(), "stream", stream).to_string()
}

/// Answers of a thousand tokens in a hundred seconds.
fn slow() -> Options {
    let latency = Latency { tokens_per_second: 10, ..Latency::ZERO };
    let output = tidegate::simulator::OutputModel::Fixed(1_000);
    Options { latency, output, chunk_tokens: 1, ..roomy() }
}

#[tokio::test]
async fn one_that_hangs_up_while_it_waits_gives_its_place_up() {
    let (simulator, gateway) = pair(roomy(), ONE_AT_A_TIME).await;
    simulator.script([vec![Fault::Hang]]);
    let first = Wire::open(gateway.api, chat("", body(false))).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let second = Wire::open(gateway.api, chat("", body(false))).await;
    gateway.wait_queued(1).await;
    let mut third = Wire::open(gateway.api, chat("", body(false))).await;
    gateway.wait_queued(2).await;
    drop(second);
    gateway.wait_queued(1).await;
    assert!((gateway.outcome("client_gone").await - 1.0).abs() < 0.1);
    drop(first);
    assert_eq!(third.answer().await.status, 200, "the next in line goes");
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!(
        (stats.started, stats.aborted, stats.completed),
        (2, 1, 1),
        "no call for the second"
    );
    gateway.close().await;
}

/// Lets one caller hang up while another waits for its permit, and checks all that follows.
/// Returns how long it took until the upstream saw the end.
async fn hang_up(simulator: &Simulator, gateway: &Gateway, stream: bool) -> Duration {
    let before = (simulator.stats(), gateway.outcome("client_gone").await);
    let mut first = Wire::open(gateway.api, chat("", body(stream))).await;
    if stream {
        assert_eq!(first.head().await.expect("a head").status, 200);
        assert!(!first.chunk().await.expect("a piece").is_empty());
    }
    wait_for(simulator, |stats| stats.in_flight == 1).await;
    let mut second = Wire::open(gateway.api, chat("x-sim-output-tokens: 1\r\n", body(false))).await;
    gateway.wait_queued(1).await;
    let hung_up = Instant::now();
    drop(first);
    wait_for(simulator, |stats| stats.aborted == before.0.aborted + 1).await;
    let took = hung_up.elapsed();
    assert_eq!(second.answer().await.status, 200, "the permit is free for the next");
    let stats = wait_for(simulator, |stats| stats.in_flight == 0).await;
    assert_eq!(stats.peak_in_flight, 1, "never two at once");
    gateway.settled().await;
    assert!((gateway.outcome("client_gone").await - before.1 - 1.0).abs() < 0.1);
    took
}

#[tokio::test]
async fn one_that_hangs_up_before_or_in_its_answer_frees_permit_and_upstream_at_once() {
    for stream in [false, true] {
        let (simulator, gateway) = pair(slow(), ONE_AT_A_TIME).await;
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            best = best.min(hang_up(&simulator, &gateway, stream).await);
        }
        assert!(best < AT_ONCE, "{best:?} (stream: {stream})");
        let answer = Wire::open(gateway.api, chat("x-sim-output-tokens: 1\r\n", body(false)));
        let answer = answer.await.answer().await;
        let held: i64 = answer.all("x-tidegate-estimated-tokens")[0].parse().expect("a number");
        let tries = i64::try_from(TRIES).expect("a few");
        let expected = (2 * tries + 1, tries * held + (tries + 1) * 11);
        assert_eq!(gateway.spent().await, expected, "hung up: as held; whole: ten and one");
        gateway.close().await;
    }
}

#[tokio::test]
async fn one_that_hangs_up_after_the_last_event_has_had_its_answer() {
    use crate::support::upstream::{STREAM_HEAD, Upstream, chunk};
    use tokio::io::AsyncWriteExt;
    let events = "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\
                  \"total_tokens\":7}}\n\ndata: [DONE]\n\n";
    let upstream = Upstream::start(move |_, mut socket| async move {
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        socket.write_all(&chunk(events)).await.ok()?;
        // The closing chunk never comes: SDKs do not wait for it after `[DONE]`.
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::open(gateway.api, chat("", body(true))).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    assert_eq!(wire.chunk().await.expect("the events"), events.as_bytes());
    drop(wire);
    assert_eq!(gateway.spent().await, (1, 7));
    assert!((gateway.outcome("completed").await - 1.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn one_that_hangs_up_in_its_own_body_was_never_there() {
    let (simulator, gateway) = pair(roomy(), "").await;
    let mut whole = chat("", body(false));
    whole.truncate(whole.len() - 5);
    let wire = Wire::open(gateway.api, whole).await;
    gateway.wait_metric("tidegate_requests_in_flight", 1.0).await;
    drop(wire);
    gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    assert_eq!(simulator.stats().connections, 0);
    assert_eq!(gateway.settled().await["pools"].as_array().map(Vec::len), Some(0));
    gateway.close().await;
}
