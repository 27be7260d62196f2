//! More of it than anybody needs: each flood ends, others are served meanwhile, and nothing is left.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, Peer, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, fields, frame, setting,
};
use super::{GET, Got, POST, block, goes_on, good_answer, got, head, pair, replaced};
use crate::support::Gateway;
use crate::support::upstream::{Upstream, answer, completion};

const ENHANCE_YOUR_CALM: u32 = 11;

/// Sends the same again and again, without reading; how much of it was taken before the connection
/// ended or its peer was made to wait.
async fn flood(peer: &mut Peer, piece: &[u8], times: usize) -> (usize, bool) {
    let burst = piece.repeat(100);
    for round in 0..times.div_ceil(100) {
        match timeout(Duration::from_millis(500), peer.socket.write_all(&burst)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return (round * 100, true),
            Err(_) => return (round * 100, false),
        }
    }
    (times, false)
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    // CVE-2023-44487: a request and its reset in one packet.
    let (_upstream, gateway) = pair("").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    for stream in (1..4_000).step_by(2) {
        let bytes = [head(stream, &GET), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
        if !peer.send(&bytes).await {
            break;
        }
    }
    let code = peer.end().await;
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    good_answer(&gateway).await;
    goes_on(gateway).await;
}

#[tokio::test]
async fn requests_that_are_made_to_be_given_up_end_the_connection() {
    // The same, one by one: each has reached the upstream, which hangs, before it is reset.
    let upstream = Upstream::start(|_, socket| async move {
        let _open = socket;
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut peer = Peer::open(gateway.api, &[]).await;
    let mut given_up = 0;
    for stream in (1..4_000).step_by(2) {
        peer.send(&head(stream, &GET)).await;
        if !peer.sync().await {
            break;
        }
        peer.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
        given_up += 1;
    }
    assert!((100..400).contains(&given_up), "{given_up}");
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn giving_up_now_and_then_is_everybodys_right() {
    let (_upstream, gateway) = pair("").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    let warm = replaced(&GET, ":path", "/v1/tcp_warming");
    let mut stream = 1;
    for _ in 0..300 {
        peer.send(&head(stream, &warm)).await;
        assert_eq!(got(&mut peer, stream).await, Got::Status(200));
        // One that is given up for each that is answered.
        peer.send(&frame(HEADERS, END_HEADERS, stream + 2, &block(&POST))).await;
        assert!(peer.sync().await);
        peer.send(&frame(RST_STREAM, 0, stream + 2, &[0, 0, 0, 8])).await;
        stream += 4;
    }
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn streams_that_are_broken_on_purpose_end_the_connection() {
    // CVE-2025-8671 (MadeYouReset): the peer sends no reset, it makes the server send them.
    let (_upstream, gateway) = pair("").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    let mut broken = 0;
    for stream in (1..8_000).step_by(2) {
        let zero = frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 0]);
        let bytes = [frame(HEADERS, END_HEADERS, stream, &block(&POST)), zero].concat();
        if !peer.send(&bytes).await || !peer.sync().await {
            break;
        }
        broken += 1;
    }
    assert!(broken < 1_000, "{broken}");
    drop(peer);
    good_answer(&gateway).await;
    goes_on(gateway).await;
}

#[tokio::test]
async fn floods_that_nobody_reads_the_answers_of_are_bounded() {
    // CVE-2019-9512 (pings), CVE-2019-9515 (settings): each is answered, and answers need room.
    for (what, piece) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &setting(3, 100))),
        ("empty settings", frame(SETTINGS, 0, 0, &[])),
    ] {
        let (_upstream, gateway) = pair("server.write_timeout = \"300ms\"").await;
        let mut peer = Peer::open(gateway.api, &[]).await;
        let (taken, ended) = flood(&mut peer, &piece, 2_000_000).await;
        // What fits into both sockets' buffers, and no more.
        assert!(ended || taken < 2_000_000, "{what}: {taken} were taken");
        good_answer(&gateway).await;
        // It is made to wait and then cut, as whoever takes nothing.
        gateway.wait_metric("tidegate_connections ", 0.0).await;
        drop(peer);
        goes_on(gateway).await;
    }
}

#[tokio::test]
async fn heads_without_end_end_the_connection() {
    // CVE-2024-27316 and others (CONTINUATION flood), CVE-2019-9516 (empty fields).
    let (_upstream, gateway) = pair("").await;
    let list = fields(&[(&b"x-own"[..], &[b'a'; 4_000][..])]);
    for (what, piece) in [
        ("large pieces", frame(CONTINUATION, 0, 1, &list)),
        ("empty pieces", frame(CONTINUATION, 0, 1, &[])),
        ("small pieces", frame(CONTINUATION, 0, 1, &fields(&[(b"a", b"")]))),
    ] {
        let mut peer = Peer::open(gateway.api, &[]).await;
        peer.send(&frame(HEADERS, END_STREAM, 1, &block(&GET))).await;
        let (taken, ended) = flood(&mut peer, &piece, 2_000_000).await;
        assert!(ended, "{what}: {taken} were taken");
    }
    good_answer(&gateway).await;
    goes_on(gateway).await;
}

#[tokio::test]
async fn a_head_that_unpacks_too_large_is_refused() {
    // CVE-2016-6581 (HPACK bomb): one entry of the table, again and again.
    let (upstream, gateway) = pair("").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    let mut bomb = block(&GET);
    // A literal that is indexed, and becomes 62.
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'a'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let got = got(&mut peer, 1).await;
    let refused = matches!(got, Got::Status(431) | Got::Reset(_) | Got::GoAway(1..));
    assert!(refused, "{got:?}");
    assert!(upstream.seen().is_empty());
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let upstream = Upstream::start(|_, socket| async move {
        let _open = socket;
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut peer = Peer::open(gateway.api, &[]).await;
    for stream in (1..=2 * 257).step_by(2) {
        peer.send(&head(stream, &GET)).await;
    }
    // REFUSED_STREAM: it may be sent again.
    assert_eq!(got(&mut peer, 2 * 256 + 1).await, Got::Reset(7));
    upstream.wait_seen(256).await;
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn a_window_that_never_opens_holds_nothing() {
    // CVE-2019-9511 (data dribble) and its like: the answer is there, and nobody takes it.
    let big = answer("200 OK", "", vec![b'a'; 1 << 20]);
    let upstream = Upstream::answering(big).await;
    let changes = "server.write_timeout = \"200ms\"\nserver.header_timeout = \"400ms\"";
    let gateway = Gateway::start(&upstream.url(), changes);
    // A window of nothing for each stream; the connection itself is read, and pings are answered.
    let mut peer = Peer::open(gateway.api, &[(4, 0)]).await;
    for stream in [1, 3, 5] {
        peer.send(&head(stream, &GET)).await;
        assert_eq!(got(&mut peer, stream).await, Got::Status(200));
    }
    // The answers are given up first, then the connection that rests: a farewell, and the end.
    assert_eq!(peer.end().await, Some(0));
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    goes_on(gateway).await;
}

#[tokio::test]
async fn a_connection_that_only_answers_pings_is_closed() {
    let (_upstream, gateway) = pair("server.header_timeout = \"300ms\"").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    peer.send(&head(1, &GET)).await;
    assert_eq!(got(&mut peer, 1).await, Got::Status(200));
    assert_eq!(peer.end().await, Some(0), "a farewell, and not an error");
    goes_on(gateway).await;
}

#[tokio::test]
async fn a_request_that_waits_is_not_idle() {
    let upstream = Upstream::start(|_, mut socket| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let sent = socket.write_all(&completion()).await;
        sent.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "server.header_timeout = \"200ms\"");
    let mut peer = Peer::open(gateway.api, &[]).await;
    peer.send(&head(1, &GET)).await;
    assert_eq!(got(&mut peer, 1).await, Got::Status(200));
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn frames_without_a_point_hold_nobody_up() {
    // CVE-2019-9513 (priorities), CVE-2019-9518 (empty frames), and windows one byte at a time.
    let (_upstream, gateway) = pair("").await;
    for piece in [
        frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 9]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(0xfb, 0, 0, b"an extension"),
        frame(DATA, 0, 1, &[]),
    ] {
        let mut peer = Peer::open(gateway.api, &[]).await;
        peer.send(&frame(HEADERS, END_HEADERS, 1, &block(&POST))).await;
        flood(&mut peer, &piece, 100_000).await;
        good_answer(&gateway).await;
        drop(peer);
    }
    goes_on(gateway).await;
}

#[tokio::test]
async fn half_a_preface_and_silence_after_it() {
    let (_upstream, gateway) = pair("server.header_timeout = \"300ms\"").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    peer.send(&frame(HEADERS, END_STREAM, 1, &block(&GET))).await;
    // A head that never ends: there is no request, and there will be none.
    peer.end().await;
    goes_on(gateway).await;
}
