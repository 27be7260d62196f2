//! Requests over HTTP/1.1 whose answers nobody reads, and a body for a gateway that has answered already.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat, request};
use crate::support::{Gateway, hello};

#[tokio::test]
async fn requests_sent_ahead_without_end_are_not_read_without_end() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "server.write_timeout = \"300ms\"");
    let mut socket = TcpStream::connect(gateway.api).await.expect("it listens");
    let burst = request("GET /v1/tcp_warming", "", "").repeat(1_000);
    let mut taken = 0;
    while taken < 10_000_000 {
        match timeout(Duration::from_millis(500), socket.write_all(&burst)).await {
            Ok(Ok(())) => taken += 1_000,
            _ => break,
        }
    }
    // What fits into the buffers of both sockets, and no more.
    assert!(taken < 10_000_000, "all of them were taken");
    let mut next = Wire::open(gateway.api, chat("", hello().to_string())).await;
    assert_eq!(next.answer().await.status, 200, "others are served meanwhile");
    drop(next);
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    drop(socket);
    gateway.close().await;
}

#[tokio::test]
async fn a_refused_caller_that_never_stops_sending_is_cut() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let head = "POST /nothing HTTP/1.1\r\nhost: g\r\ncontent-length: 99999999999\r\n\r\n";
    let mut wire = Wire::open(gateway.api, head).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.all("connection")), (404, vec!["close"]));
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 1_000 && wire.socket.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    assert!((16..1_000).contains(&sent), "{sent} MiB were thrown away");
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}
