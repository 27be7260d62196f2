//! Streamed answers: the same bytes, at once, no faster than they are read, and metered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate::simulator::{Options, UsagePlacement};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Upstream, chunk};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, eventually, header, hello, number, pair, roomy, send, with};

/// A stream with all that its shape allows: comments, both line ends, several data lines, text
/// beyond ASCII, and usage in the last chunk.
const EVENTS: &str = ": waiting\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
    data: {\"choices\":[{\"delta\":{\"content\":\"\u{1F30A} \\\"usage\\\": \"}}]}\r\n\r\n\
    event: ping\nid: 1\n\ndata: {\"choices\":[],\ndata:  \"usage\":{\"prompt_tokens\":3,\
    \"completion_tokens\":4,\"total_tokens\":7},\"time_info\":{\"total_time\":0.1}}\n\n\
    data: [DONE]\n\n";

fn stream_body() -> String {
    with(hello(), "stream", true).to_string()
}

#[tokio::test]
async fn a_streams_bytes_equal_the_upstreams_re_split_at_every_byte() {
    let upstream = Upstream::start(|number, mut socket| async move {
        // The first comes byte by byte, each in a chunk and a packet of its own; the others in two
        // pieces, split one byte later each time.
        let bytes = EVENTS.as_bytes();
        let pieces: Vec<&[u8]> = match number {
            0 => bytes.chunks(1).collect(),
            at => vec![&bytes[..at], &bytes[at..]],
        };
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        for piece in pieces {
            socket.write_all(&chunk(piece)).await.ok()?;
        }
        socket.write_all(LAST_CHUNK).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::connect(gateway.api).await;
    for at in 0..EVENTS.len() {
        wire.send(chat("", stream_body())).await;
        let answer = wire.answer().await;
        assert_eq!(answer.text(), EVENTS, "split at {at}");
        assert_eq!(answer.all("content-type"), ["text/event-stream"]);
    }
    let count = i64::try_from(EVENTS.len()).expect("some hundreds");
    assert_eq!(gateway.spent().await, (count, 7 * count), "however it was split");
    gateway.close().await;
}

#[tokio::test]
async fn the_first_chunk_arrives_while_the_stream_goes_on() {
    let read = Arc::new(Notify::new());
    let go_on = Arc::clone(&read);
    let upstream = Upstream::start(move |_, mut socket| {
        let go_on = Arc::clone(&go_on);
        async move {
            socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
            for part in ["data: 1\n\n", "data: 2", "\n", "\n"] {
                socket.write_all(&chunk(part)).await.ok()?;
                go_on.notified().await;
            }
            socket.write_all(LAST_CHUNK).await.ok().map(|()| socket)
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    // The upstream sends the next piece only when this one has been read.
    for part in ["data: 1\n\n", "data: 2", "\n", "\n"] {
        assert_eq!(wire.chunk().await.expect("a piece"), part.as_bytes());
        read.notify_one();
    }
    assert!(wire.chunk().await.expect("the end").is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_the_upstream_back() {
    const PIECE: usize = 64 << 10;
    // What the kernel keeps on two loopback connections at most, and then some.
    const MOST: u64 = 32 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let upstream = Upstream::start(move |_, mut socket| {
        let count = Arc::clone(&count);
        async move {
            socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
            let piece = chunk(vec![b':'; PIECE]);
            loop {
                socket.write_all(&piece).await.ok()?;
                count.fetch_add(PIECE as u64, Ordering::Relaxed);
            }
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let mut last = 0;
    let stuck = eventually("the upstream is held back", async || {
        // Twenty looks at 5 ms without a byte more.
        for _ in 0..20 {
            let now = written.load(Ordering::Relaxed);
            if now == 0 || now != last {
                last = now;
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(last)
    })
    .await;
    assert!(stuck < MOST, "{stuck} bytes were pulled for nobody");
    let mut read = 0;
    while read < 2 * stuck {
        read += wire.chunk().await.expect("more").len() as u64;
    }
    let ahead = written.load(Ordering::Relaxed) - read;
    assert!(ahead < MOST, "it goes on as it is read, not further: {ahead} ahead");
    drop(wire);
    gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_stream_settles_with_the_usage_it_told_wherever_that_stood() {
    for (usage, tokens) in [
        (UsagePlacement::LastChunk, Some(20)),
        (UsagePlacement::OwnChunk, Some(20)),
        (UsagePlacement::Never, None),
    ] {
        let (_simulator, gateway) = pair(Options { usage, ..roomy() }, "").await;
        let response = send(gateway.chat(&with(hello(), "stream", true))).await;
        let held = number(&response, "x-tidegate-estimated-tokens");
        assert_eq!(
            header(&response, "content-type").as_deref(),
            Some("text/event-stream; charset=utf-8")
        );
        assert!(response.text().await.expect("whole").ends_with("data: [DONE]\n\n"));
        let charged = tokens.unwrap_or_else(|| i64::try_from(held).expect("small"));
        assert_eq!(gateway.spent().await, (1, charged), "{usage:?}");
        let missing = gateway.metric("tidegate_usage_missing_total").await;
        assert_eq!(missing > 0.5, tokens.is_none());
        assert!((gateway.outcome("completed").await - 1.0).abs() < 0.1);
        gateway.close().await;
    }
}

#[tokio::test]
async fn a_refund_counts_only_after_the_settle_delay() {
    let (_simulator, gateway) = pair(roomy(), "admission.settle_delay = \"800ms\"").await;
    let response = send(gateway.chat(&hello())).await;
    let held = number(&response, "x-tidegate-estimated-tokens");
    response.bytes().await.expect("whole");
    let status = gateway.status().await;
    let tokens = &status["pools"][0]["constraints"][1];
    assert_eq!(tokens["held"], held, "{status:#}");
    assert_eq!(tokens["available"], crate::support::TOKENS - held);
    assert_eq!(gateway.spent().await, (1, 20));
    gateway.close().await;
}

#[tokio::test]
async fn a_broken_stream_breaks_for_the_caller_too_and_is_charged_as_held() {
    for (fault, outcome, whole, exact) in [
        ("cut:1", "upstream_cut", false, false),
        ("cut:0,gzip", "upstream_cut", false, false),
        ("error-event:1", "stream_error", true, false),
        ("tiny-frames", "completed", true, true),
    ] {
        let (simulator, gateway) = pair(Options { chunk_tokens: 4, ..roomy() }, "").await;
        let request = gateway.chat(&with(hello(), "stream", true)).header("x-sim-fault", fault);
        let response = send(request).await;
        assert_eq!(response.status(), 200, "{fault}");
        let held = i64::try_from(number(&response, "x-tidegate-estimated-tokens")).expect("small");
        assert_eq!(response.bytes().await.is_ok(), whole, "{fault}");
        assert_eq!(gateway.spent().await, (1, if exact { 20 } else { held }), "{fault}");
        assert!((gateway.outcome(outcome).await - 1.0).abs() < 0.1, "{fault}");
        assert_eq!(simulator.stats().started, 1, "{fault}: never again after the first byte");
        gateway.close().await;
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_broken_off() {
    let upstream = Upstream::start(|_, mut socket| async move {
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        socket.write_all(&chunk("data: {}\n\n")).await.ok()?;
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "upstream.idle_timeout = \"80ms\"");
    let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    assert_eq!(wire.chunk().await.expect("a piece"), b"data: {}\n\n");
    let end = wire.end().await;
    assert!(!end.ends_with(LAST_CHUNK), "not an end in order: {end:?}");
    assert!((gateway.outcome("upstream_timeout").await - 1.0).abs() < 0.1);
    assert_eq!(upstream.seen().len(), 1);
    gateway.close().await;
}

#[tokio::test]
async fn an_error_whose_body_falls_silent_is_broken_off() {
    for status in ["400 Bad Request", "503 Service Unavailable"] {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 100\r\n\r\nhalf");
        let upstream = Upstream::start(move |_, mut socket| {
            let head = head.clone();
            async move {
                socket.write_all(head.as_bytes()).await.ok()?;
                std::future::pending().await
            }
        })
        .await;
        let changes = "upstream.idle_timeout = \"80ms\"\nretry.max_attempts = 1";
        let gateway = Gateway::start(&upstream.url(), changes);
        let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
        let head = wire.head().await.expect("a head");
        assert!(status.starts_with(&head.status.to_string()));
        assert_eq!(wire.end().await, b"half", "{status}: as far as it came, and a broken end");
        gateway.close().await;
    }
}

#[tokio::test]
async fn an_unmetered_answer_that_falls_silent_is_broken_off() {
    let upstream = Upstream::start(|_, mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.ok()?;
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "upstream.idle_timeout = \"80ms\"");
    let get = crate::support::wire::request("GET /v1/models", "", "");
    let mut wire = Wire::open(gateway.api, get).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    assert_eq!(wire.end().await, b"half");
    gateway.close().await;
}
