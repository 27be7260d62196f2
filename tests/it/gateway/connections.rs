//! More connections than there is room for.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::upstream::{STREAM_HEAD, Upstream, chunk, completion};
use crate::support::wire::{Wire, chat, request};
use crate::support::{Gateway, hello, with};

const EVICTED: &str = "tidegate_connections_evicted_total";

fn warming() -> Vec<u8> {
    request("GET /v1/tcp_warming", "", "")
}

/// Streams that begin at once and end when told to.
async fn held() -> (Upstream, watch::Sender<bool>) {
    let (end, ending) = watch::channel(false);
    let upstream = Upstream::start(move |_, mut socket| {
        let mut ending = ending.clone();
        async move {
            socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
            socket.write_all(&chunk("data: {}\n\n")).await.ok()?;
            ending.wait_for(|it| *it).await.ok()?;
            socket.write_all(b"0\r\n\r\n").await.ok().map(|()| socket)
        }
    })
    .await;
    (upstream, end)
}

fn stream() -> String {
    with(hello(), "stream", true).to_string()
}

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_does() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "server.max_connections = 4");
    let mut silent = Vec::new();
    for open in [1.0, 2.0, 3.0, 4.0] {
        silent.push(Wire::connect(gateway.api).await);
        gateway.wait_metric("tidegate_connections ", open).await;
        // That it is a few milliseconds later says who has been silent for longest.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Half a head, byte by byte, is silence as well.
    silent[1].send("POST /v1/chat/completions HT").await;
    for caller in 0..2 {
        let mut wire =
            Wire::open(gateway.api, chat("connection: close\r\n", hello().to_string())).await;
        assert_eq!(wire.answer().await.status, 200, "caller {caller}");
        assert!(silent[0].end().await.is_empty(), "the one that was silent for longest");
        wire.end().await;
        gateway.wait_metric("tidegate_connections ", 3.0).await;
        silent.remove(0);
        silent.push(Wire::connect(gateway.api).await);
        gateway.wait_metric("tidegate_connections ", 4.0).await;
    }
    gateway.wait_metric(EVICTED, 2.0).await;
    drop(silent);
    gateway.close().await;
}

#[tokio::test]
async fn who_waits_or_is_answered_stays_and_the_next_waits_for_room() {
    let (upstream, end) = held().await;
    let changes = "server.max_connections = 3\nmodels.\"*\".max_concurrent = 1";
    let gateway = Gateway::start(&upstream.url(), changes);
    let closing = "connection: close\r\n";
    let mut first = Wire::open(gateway.api, chat(closing, stream())).await;
    assert_eq!(first.head().await.expect("a head").status, 200);
    let mut queued = Wire::open(gateway.api, chat(closing, stream())).await;
    gateway.wait_queued(1).await;
    // Over HTTP/2, where a connection is busy as long as one of its streams is.
    let socket = TcpStream::connect(gateway.api).await.expect("it listens");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(socket))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(gateway.url("/v1/chat/completions"))
        .body(Full::new(Bytes::from(stream())))
        .expect("a request");
    let third = sender.send_request(request);
    let third = tokio::spawn(async move { third.await.expect("an answer") });
    gateway.wait_queued(2).await;
    let mut late = Wire::open(gateway.api, warming()).await;
    // Longer than a connection has to be idle to be closed for another.
    late.silent(Duration::from_millis(1_300)).await;
    assert!((gateway.metric("tidegate_connections ").await - 3.0).abs() < 0.1);
    assert_eq!(gateway.page("/livez").await.0, 200, "the admin port has room of its own");
    end.send_replace(true);
    assert_eq!(late.answer().await.status, 200, "one out, one in");
    first.end().await;
    assert_eq!(queued.answer().await.status, 200, "nothing of it was lost");
    let third = third.await.expect("no panic");
    assert_eq!(third.status(), 200);
    third.into_body().collect().await.expect("whole");
    assert!(gateway.metric(EVICTED).await < 0.1);
    drop((late, sender));
    connection.abort();
    gateway.close().await;
}
