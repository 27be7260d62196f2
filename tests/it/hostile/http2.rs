//! HTTP/2: requests that are none, frames that break its rules, and floods of good ones.

mod broken;
mod floods;

use super::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PRIORITISED, Peer, RST_STREAM,
    fields, frame,
};
use crate::support::upstream::{Seen, Upstream, completion};
use crate::support::wire::{Wire, chat, request};
use crate::support::{Gateway, hello};

type Field = (&'static str, &'static str);

const PROTOCOL_ERROR: u32 = 1;

const GET: [Field; 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "g"), (":path", "/v1/models")];
const POST: [Field; 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "g"),
    (":path", "/v1/chat/completions"),
];

fn block(list: &[Field]) -> Vec<u8> {
    let bytes = list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    fields(&bytes.collect::<Vec<_>>())
}

/// A request without a body.
fn head(stream: u32, list: &[Field]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(list))
}

async fn pair(changes: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), changes);
    (upstream, gateway)
}

/// What a peer gets for one stream.
#[derive(Debug, Eq, PartialEq)]
enum Got {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    End,
}

async fn got(peer: &mut Peer, stream: u32) -> Got {
    while let Some(event) = peer.event().await {
        let Frame { kind, stream: of, .. } = event;
        match kind {
            HEADERS if of == stream => return Got::Status(event.status()),
            RST_STREAM if of == stream => return Got::Reset(event.code()),
            GOAWAY => return Got::GoAway(event.code()),
            _ => {}
        }
    }
    Got::End
}

/// The gateway goes on, and nothing is left of what came before.
async fn goes_on(gateway: Gateway) {
    let mut next = Wire::open(gateway.api, request("GET /v1/tcp_warming", "", "")).await;
    assert_eq!(next.answer().await.status, 200);
    drop(next);
    gateway.close().await;
}

fn replaced(list: &[Field], name: &str, value: &'static str) -> Vec<Field> {
    list.iter().map(|&(key, old)| (key, if key == name { value } else { old })).collect()
}

fn without(list: &[Field], name: &str) -> Vec<Field> {
    list.iter().copied().filter(|(key, _)| *key != name).collect()
}

fn and(list: &[Field], more: &[Field]) -> Vec<Field> {
    [list, more].concat()
}

/// Malformed requests, by RFC 9113, 8.1.1: nothing of them reaches the upstream.
fn malformed() -> Vec<(&'static str, Vec<Field>)> {
    let get = &GET[..];
    vec![
        ("8.2: a name in capitals", and(get, &[("X-Own", "1")])),
        ("8.2.2: connection", and(get, &[("connection", "close")])),
        ("8.2.2: keep-alive", and(get, &[("keep-alive", "timeout=5")])),
        ("8.2.2: proxy-connection", and(get, &[("proxy-connection", "keep-alive")])),
        ("8.2.2: transfer-encoding (H2.TE)", and(get, &[("transfer-encoding", "chunked")])),
        ("8.2.2: upgrade", and(get, &[("upgrade", "h2c")])),
        ("8.2.2: te of anything but trailers", and(get, &[("te", "chunked")])),
        ("8.2.1: CR LF in a value (H2 request splitting)", and(get, &[("x", "a\r\nx-evil: 1")])),
        ("8.2.1: LF in a value", and(get, &[("x", "a\nx-evil: 1")])),
        ("8.2.1: CR in a value", and(get, &[("x", "a\rb")])),
        ("8.2.1: NUL in a value", and(get, &[("x", "a\0b")])),
        ("8.2.1: CR LF in a name", and(get, &[("x: a\r\nx-evil", "1")])),
        ("8.2.1: a colon in a name (header name injection)", and(get, &[("x:evil", "1")])),
        ("8.2.1: a space in a name", and(get, &[("x evil", "1")])),
        ("8.2.1: a NUL in a name", and(get, &[("x\0", "1")])),
        ("8.2.1: an empty name", and(get, &[("", "1")])),
        ("8.3.1: no method", without(get, ":method")),
        ("8.3.1: no scheme", without(get, ":scheme")),
        ("8.3.1: no path", without(get, ":path")),
        ("8.3.1: an empty path", replaced(get, ":path", "")),
        ("8.3.1: two methods", and(get, &[(":method", "POST")])),
        ("8.3.1: two paths", and(get, &[(":path", "/admin")])),
        ("8.3.1: two authorities", and(get, &[(":authority", "evil")])),
        ("8.3: a pseudo-header after a field", and(&[("x", "1")], get)),
        ("8.3: a pseudo-header that is none", and(get, &[(":evil", "1")])),
        ("8.3: a pseudo-header of answers", and(get, &[(":status", "200")])),
        ("8.5: CONNECT with a path", replaced(get, ":method", "CONNECT")),
        ("a path with a line in it", replaced(get, ":path", "/v1/models HTTP/1.1\r\nx-evil: 1")),
        ("a path with a space in it", replaced(get, ":path", "/v1/models HTTP/1.1")),
        ("a path that is a URL", replaced(get, ":path", "http://evil.example/v1/models")),
        ("a path without its slash", replaced(get, ":path", "v1/models")),
        ("a path with an at sign", replaced(get, ":path", "@evil.example/v1/models")),
        ("a method with a line in it", replaced(get, ":method", "GET /admin HTTP/1.1\r\nx: ")),
        ("a method with a space in it", replaced(get, ":method", "GET /admin")),
        ("an authority with a line in it", replaced(get, ":authority", "g\r\nx-evil: 1")),
        ("an authority with a path", replaced(get, ":authority", "g/../admin")),
        ("an authority with a space", replaced(get, ":authority", "g evil")),
        ("a scheme with a URL in it", replaced(get, ":scheme", "http://evil.example/?")),
        ("8.3.1: a host that differs", and(get, &[("host", "evil.example")])),
        ("two hosts", and(&without(get, ":authority"), &[("host", "g"), ("host", "evil")])),
        ("no host at all", without(get, ":authority")),
        ("two lengths (H2.CL)", and(get, &[("content-length", "0"), ("content-length", "5")])),
        ("a length and no body (H2.CL)", and(get, &[("content-length", "5")])),
        ("a length below zero", and(get, &[("content-length", "-1")])),
        ("a field twice", and(get, &[("content-type", "a"), ("content-type", "b")])),
        ("too long a target", replaced(get, ":path", LONG)),
        ("8.3.1: a path that is none", replaced(get, ":path", "*")),
    ]
}

const LONG: &str = {
    const BYTES: [u8; 9_000] = [b'/'; 9_000];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

#[tokio::test]
async fn malformed_requests_are_refused_and_go_nowhere() {
    let (upstream, gateway) = pair("").await;
    for (what, list) in malformed() {
        let mut peer = Peer::open(gateway.api, &[]).await;
        peer.send(&head(1, &list)).await;
        match got(&mut peer, 1).await {
            Got::Reset(PROTOCOL_ERROR) | Got::Status(400 | 404 | 405 | 414) => {
                // A fault of one stream is not the connection's.
                peer.send(&head(3, &replaced(&GET, ":path", "/v1/tcp_warming"))).await;
                assert_eq!(got(&mut peer, 3).await, Got::Status(200), "{what}");
            }
            Got::GoAway(PROTOCOL_ERROR) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
    let seen = upstream.seen();
    assert!(seen.is_empty(), "{seen:#?}");
    goes_on(gateway).await;
}

#[tokio::test]
async fn what_may_be_unusual_reaches_the_upstream_in_its_own_terms() {
    for (what, list, line, has) in [
        ("te: trailers", and(&GET, &[("te", "trailers")]), "GET /v1/models HTTP/1.1", None),
        (
            "cookies one by one (RFC 9113, 8.2.3)",
            and(&GET, &[("cookie", "a=1"), ("cookie", "b=2")]),
            "GET /v1/models HTTP/1.1",
            Some(("cookie", "a=1; b=2")),
        ),
        (
            "a host beside the authority",
            and(&GET, &[("host", "g")]),
            "GET /v1/models HTTP/1.1",
            None,
        ),
        (
            "a host instead of the authority",
            and(&without(&GET, ":authority"), &[("host", "g")]),
            "GET /v1/models HTTP/1.1",
            None,
        ),
        ("another scheme", replaced(&GET, ":scheme", "ftp"), "GET /v1/models HTTP/1.1", None),
        (
            "a query with encoded line ends",
            replaced(&GET, ":path", "/v1/models?a=%0d%0ax-evil:%201"),
            "GET /v1/models?a=%0d%0ax-evil:%201 HTTP/1.1",
            None,
        ),
        (
            "fields for a hop that HTTP/2 does not have",
            and(&GET, &[("proxy-authorization", "Basic a"), ("expect", "100-continue")]),
            "GET /v1/models HTTP/1.1",
            None,
        ),
    ] {
        let (upstream, gateway) = pair("").await;
        let mut peer = Peer::open(gateway.api, &[]).await;
        peer.send(&head(1, &list)).await;
        assert_eq!(got(&mut peer, 1).await, Got::Status(200), "{what}");
        let seen = upstream.last_of(1);
        assert_eq!(seen.line(), line, "{what}");
        assert_eq!(seen.all("host"), [upstream.addr.to_string()], "{what}");
        for name in ["te", "expect", "proxy-authorization", "x-evil", "transfer-encoding"] {
            assert!(seen.all(name).is_empty(), "{what}: {name}");
        }
        if let Some((name, value)) = has {
            assert_eq!(seen.all(name), [value], "{what}");
        }
        drop(peer);
        goes_on(gateway).await;
    }
}

#[tokio::test]
async fn a_body_has_the_length_that_its_head_says() {
    let body = hello().to_string();
    let length = body.len();
    for (what, announced, sent, reaches) in [
        ("as announced", length.to_string(), body.clone(), true),
        ("not announced", String::new(), body.clone(), true),
        ("shorter", (length + 1).to_string(), body.clone(), false),
        ("longer (H2.CL)", (length - 1).to_string(), body.clone(), false),
        ("nothing is announced (H2.CL)", "0".to_owned(), body.clone(), false),
        ("a plus", format!("+{length}"), body.clone(), false),
        ("more than a number", "99999999999999999999".to_owned(), body.clone(), false),
    ] {
        let (upstream, gateway) = pair("").await;
        let mut peer = Peer::open(gateway.api, &[]).await;
        let mut list: Vec<(&[u8], &[u8])> =
            POST.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        if !announced.is_empty() {
            list.push((b"content-length", announced.as_bytes()));
        }
        let head = frame(HEADERS, END_HEADERS, 1, &fields(&list));
        let data = frame(DATA, END_STREAM, 1, sent.as_bytes());
        peer.send(&[head, data].concat()).await;
        let got = got(&mut peer, 1).await;
        if reaches {
            assert_eq!(got, Got::Status(200), "{what}");
            assert_eq!(upstream.last_of(1).body, sent.as_bytes(), "{what}");
        } else {
            let refused =
                matches!(got, Got::Reset(PROTOCOL_ERROR) | Got::GoAway(_) | Got::Status(400));
            assert!(refused, "{what}: {got:?}");
            assert!(upstream.seen().is_empty(), "{what}");
        }
        drop(peer);
        goes_on(gateway).await;
    }
}

#[tokio::test]
async fn trailers_and_padding_change_nothing() {
    let (upstream, gateway) = pair("").await;
    let body = hello().to_string();
    let (first, second) = body.split_at(10);
    let mut peer = Peer::open(gateway.api, &[]).await;
    let padded =
        |data: &str, pad: u8| [&[pad][..], data.as_bytes(), &vec![0; usize::from(pad)]].concat();
    let bytes = [
        frame(
            HEADERS,
            END_HEADERS | PRIORITISED,
            1,
            &[&[0, 0, 0, 0, 16][..], &block(&POST)].concat(),
        ),
        frame(DATA, PADDED, 1, &padded(first, 255)),
        frame(DATA, 0, 1, b""),
        frame(DATA, PADDED, 1, &padded(second, 0)),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &block(&[("content-length", "3"), ("host", "evil")]),
        ),
    ];
    peer.send(&bytes.concat()).await;
    assert_eq!(got(&mut peer, 1).await, Got::Status(200));
    let seen: Seen = upstream.last_of(1);
    assert_eq!(seen.body, body.as_bytes());
    assert_eq!(seen.all("content-length"), [body.len().to_string()]);
    assert_eq!(seen.all("host"), [upstream.addr.to_string()]);
    drop(peer);
    goes_on(gateway).await;
}

#[tokio::test]
async fn a_refused_body_is_reset_and_the_connection_goes_on() {
    let changes = "server.max_body_bytes = \"1KiB\"";
    let (upstream, gateway) = pair(changes).await;
    let mut peer = Peer::open(gateway.api, &[]).await;
    for (stream, path, status) in [(1, "/v1/nothing", 404), (3, "/v1/chat/completions", 413)] {
        let list = and(&replaced(&POST, ":path", path), &[("content-length", "50000")]);
        let bytes = [
            frame(HEADERS, END_HEADERS, stream, &block(&list)),
            frame(DATA, 0, stream, &[b'a'; 10_000]),
        ];
        peer.send(&bytes.concat()).await;
        assert_eq!(got(&mut peer, stream).await, Got::Status(status));
        assert!(matches!(got(&mut peer, stream).await, Got::Reset(_)), "nobody waits for the rest");
    }
    peer.send(&head(5, &GET)).await;
    assert_eq!(got(&mut peer, 5).await, Got::Status(200));
    assert_eq!(upstream.seen().len(), 1);
    drop(peer);
    goes_on(gateway).await;
}

/// A wire that says whether it is still answered.
async fn good_answer(gateway: &Gateway) {
    let mut wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
    assert_eq!(wire.answer().await.status, 200, "others are served meanwhile");
}
