//! Frames that break the rules, and odd ones that do not.

use super::super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, setting,
};
use super::{GET, Got, POST, block, goes_on, got, head, pair};

/// Frames that end the connection (RFC 9113, 4 to 6); each comes after a preface, and before any
/// request unless it is one.
fn broken_frames() -> Vec<(&'static str, Vec<u8>)> {
    let get = block(&GET);
    let open = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    let after = |bytes: Vec<u8>| [open.clone(), bytes].concat();
    vec![
        ("6.1: DATA for no stream", frame(DATA, 0, 0, b"x")),
        ("6.1: DATA for a stream that is not open", frame(DATA, 0, 5, b"x")),
        ("6.1: padding longer than the frame", after(frame(DATA, PADDED, 1, &[200, 1, 2]))),
        ("6.1: padded and empty", after(frame(DATA, PADDED, 1, &[]))),
        ("6.2: HEADERS for no stream", frame(HEADERS, END_HEADERS | END_STREAM, 0, &get)),
        ("5.1.1: a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, &get)),
        (
            "6.2: padding longer than the head",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[255, 0x82]),
        ),
        ("4.2: a frame that is too large", frame(DATA, 0, 1, &[0; 17 << 10])),
        ("4.3: a head that is not HPACK", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40])),
        (
            "4.3: HPACK that ends in the middle",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 9, b'a']),
        ),
        ("4.3: an index that is none", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xbf])),
        ("6.3: PRIORITY for no stream", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 0])),
        ("6.4: RST_STREAM for no stream", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])),
        ("6.4: RST_STREAM for an idle stream", frame(RST_STREAM, 0, 9, &[0, 0, 0, 8])),
        ("6.4: RST_STREAM of three bytes", after(frame(RST_STREAM, 0, 1, &[0, 0, 8]))),
        ("6.5: SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0])),
        ("6.5: SETTINGS for a stream", frame(SETTINGS, 0, 1, &setting(3, 1))),
        ("6.5: an acknowledgement with settings", frame(SETTINGS, ACK, 0, &setting(3, 1))),
        ("6.5.2: a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31))),
        ("6.5.2: frames of a hundred bytes", frame(SETTINGS, 0, 0, &setting(5, 100))),
        (
            "6.6: PUSH_PROMISE of a client",
            after(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ),
        ("6.7: PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("6.7: PING for a stream", frame(PING, 0, 1, &[0; 8])),
        ("6.8: GOAWAY for a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        ("6.9: WINDOW_UPDATE of nothing", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 0])),
        ("6.9: WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])),
        ("6.9.1: a window beyond 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("6.10: CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &get)),
        (
            "6.10: another frame within a head",
            [frame(HEADERS, END_STREAM, 1, &get), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "6.10: CONTINUATION for another stream",
            [frame(HEADERS, END_STREAM, 1, &get), frame(CONTINUATION, END_HEADERS, 3, &[])]
                .concat(),
        ),
        ("3.4: HTTP/1 after the preface", b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n".to_vec()),
    ]
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection() {
    let (upstream, gateway) = pair("").await;
    for (what, bytes) in broken_frames() {
        let mut peer = Peer::open(gateway.api, &[]).await;
        peer.send(&bytes).await;
        let code = peer.end().await;
        assert!(code.is_none_or(|code| code != 0), "{what}: an error, and not a farewell");
    }
    assert!(upstream.seen().is_empty());
    goes_on(gateway).await;
}

#[tokio::test]
async fn frames_that_are_odd_and_allowed_are_nothing() {
    let (upstream, gateway) = pair("").await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    let odd = [
        frame(0xfa, 0xff, 0, b"an extension (5.5)"),
        frame(SETTINGS, 0, 0, &setting(0x0a0a, 7)),
        frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 0]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        // A reserved bit that is set, a GOAWAY of a client that goes on.
        frame(PING, 0, 0x8000_0000, &[1; 8]),
    ];
    peer.send(&odd.concat()).await;
    peer.send(&head(1, &GET)).await;
    assert_eq!(got(&mut peer, 1).await, Got::Status(200));
    assert_eq!(upstream.seen().len(), 1);
    drop(peer);
    goes_on(gateway).await;
}
