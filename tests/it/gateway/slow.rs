//! Peers that take their time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::support::upstream::{STREAM_HEAD, Upstream, chunk, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, eventually, hello, with};

const SHORT: &str = "server.header_timeout = \"400ms\"";

/// Waits for the gateway to close a connection, and checks that it did neither early nor late.
async fn closes(mut wire: Wire, began: Instant, what: &str) -> Vec<u8> {
    let rest = wire.end().await;
    let took = began.elapsed();
    assert!((390..20_000).contains(&took.as_millis()), "{what}: {took:?}");
    rest
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_not_enough_is_closed() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SHORT);
    let h2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (bytes, what) in [
        ("", "silence"),
        ("P", "one byte"),
        ("PRI * HT", "half a preface"),
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-sl", "half a head"),
        ("\r\n\r\n", "blank lines"),
        (h2, "HTTP/2 and no request"),
    ] {
        let began = Instant::now();
        let wire = Wire::open(gateway.api, bytes).await;
        let rest = closes(wire, began, what).await;
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{what}");
    }
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_at_its_time() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SHORT);
    let began = Instant::now();
    let mut wire = Wire::open(gateway.api, "GET /v1/models HTTP/1.1\r\nhost: g\r\nx: ").await;
    // A byte every 20 ms would keep a timeout between bytes content for ever.
    while wire.socket.write_all(b"x").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "it is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_kept_connection_may_idle_and_is_closed_in_the_end() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SHORT);
    let mut wire = Wire::connect(gateway.api).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        wire.send(chat("", hello().to_string())).await;
        assert_eq!(wire.answer().await.status, 200, "600 ms in all, 200 at a time");
    }
    assert!(closes(wire, Instant::now(), "idle").await.is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_request_under_way_is_not_held_to_the_time_for_heads() {
    let upstream = Upstream::start(|_, mut socket| async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        socket.write_all(&completion()).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), SHORT);
    let mut wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
    assert_eq!(wire.answer().await.status, 200);
    gateway.close().await;
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_cut_and_its_permit_is_free() {
    let upstream = Upstream::start(|number, mut socket| async move {
        if number > 0 {
            return socket.write_all(&completion()).await.ok().map(|()| socket);
        }
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        let piece = chunk(vec![b':'; 64 << 10]);
        loop {
            socket.write_all(&piece).await.ok()?;
        }
    })
    .await;
    let changes = "server.write_timeout = \"200ms\"\nmodels.\"*\".max_concurrent = 1";
    let gateway = Gateway::start(&upstream.url(), changes);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
    let mut stuck = socket.connect(gateway.api).await.expect("it listens");
    let body = with(hello(), "stream", true).to_string();
    stuck.write_all(&chat("", body)).await.expect("it is taken");
    upstream.wait_seen(1).await;
    let mut next = Wire::open(gateway.api, chat("", hello().to_string())).await;
    assert_eq!(next.answer().await.status, 200, "it gets the permit of the one that is stuck");
    assert!((gateway.outcome("client_gone").await - 1.0).abs() < 0.1);
    drop((stuck, next));
    gateway.close().await;
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_is_left_alone() {
    const PIECES: usize = 8;
    let upstream = Upstream::start(|_, mut socket| async move {
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        for _ in 0..PIECES {
            socket.write_all(&chunk(vec![b':'; 2 << 20])).await.ok()?;
        }
        socket.write_all(b"0\r\n\r\n").await.ok().map(|()| socket)
    })
    .await;
    let changes = "server.write_timeout = \"500ms\"\nupstream.idle_timeout = \"500ms\"";
    let gateway = Gateway::start(&upstream.url(), changes);
    let mut wire =
        Wire::open(gateway.api, chat("", with(hello(), "stream", true).to_string())).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let began = Instant::now();
    let mut read = 0;
    loop {
        let data = wire.chunk().await.expect("the stream goes on");
        if data.is_empty() {
            break;
        }
        let before = read / (1 << 20);
        read += data.len();
        if read / (1 << 20) > before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(read, PIECES * (2 << 20));
    assert!(began.elapsed() > Duration::from_millis(600), "longer than either limit");
    let open = async || (gateway.outcome("completed").await > 0.5).then_some(());
    eventually("it completes", open).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_caller_over_http_2_that_takes_nothing_is_cut_too() {
    let upstream = Upstream::start(|number, mut socket| async move {
        if number > 0 {
            return socket.write_all(&completion()).await.ok().map(|()| socket);
        }
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        let piece = chunk(vec![b':'; 64 << 10]);
        loop {
            socket.write_all(&piece).await.ok()?;
        }
    })
    .await;
    let changes = "server.write_timeout = \"200ms\"\nmodels.\"*\".max_concurrent = 1";
    let gateway = Gateway::start(&upstream.url(), changes);
    let socket = tokio::net::TcpStream::connect(gateway.api).await.expect("it listens");
    // The connection is read all the time, pings are answered; only the stream's window stays shut.
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1_024)
        .handshake(TokioIo::new(socket))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(gateway.url("/v1/chat/completions"))
        .body(Full::new(Bytes::from(with(hello(), "stream", true).to_string())))
        .expect("a request");
    let stuck = sender.send_request(request).await.expect("a head");
    assert_eq!(stuck.status(), 200);
    let mut next = Wire::open(gateway.api, chat("", hello().to_string())).await;
    assert_eq!(next.answer().await.status, 200, "it gets the permit of the one that is stuck");
    assert!((gateway.outcome("client_gone").await - 1.0).abs() < 0.1);
    drop((stuck, next, sender));
    gateway.close().await;
    connection.abort();
}
