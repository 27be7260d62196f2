//! Faults of an answer's body.

use std::time::Duration;

use super::super::relay::{End, Fault, Play, Real};
use super::super::table::{
    BOTH, CUT, FAILED_STREAM, GOOD, PLAIN, Row, SILENT, STREAMED, UNREAD, row,
};
use super::{NO_BODY, OK};
use crate::support::upstream::{LAST_CHUNK, chunk};

const BODY: &str = "body";
const FRAMING: &str = "body's framing";
const EVENTS: &str = "events";
const PACKED: &str = "packed body";

/// The head and the first half of the body.
fn half(real: &Real, end: End) -> Play {
    let ([first, _], body) = real.halves();
    Play::of([real.framed(OK, ""), first].concat(), end).with(body)
}

/// All but the end of the framing.
fn open(real: &Real, end: End) -> Play {
    Play::of([real.framed(OK, ""), chunk(&real.body)].concat(), end).with(real.body.clone())
}

/// The head and nothing else.
fn bare(real: &Real, end: End) -> Play {
    Play::of(real.framed(OK, ""), end)
}

/// This as a chunked body, and then the connection is closed.
fn chunked(real: &Real, body: impl Into<Vec<u8>>, rest: &[u8]) -> Play {
    let head = real.head(OK, "transfer-encoding: chunked\r\n");
    let body = body.into();
    Play::of([head, chunk(&body), rest.to_vec()].concat(), End::Close).with(body)
}

/// A stream that has these events after the first half of its own.
fn events(real: &Real, rest: &[u8]) -> Play {
    let (_, first) = real.halves();
    real.instead([&first, rest].concat()).whole(OK, "")
}

/// The whole answer, said to be packed.
fn said_to_be(real: &Real, coding: &str) -> Play {
    real.whole(OK, &format!("content-encoding: {coding}\r\n"))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut packer = flate2::read::GzEncoder::new(body, flate2::Compression::fast());
    std::io::Read::read_to_end(&mut packer, &mut packed).expect("memory");
    packed
}

/// The text of the body without its usage.
fn without_usage(real: &Real) -> Vec<u8> {
    String::from_utf8_lossy(&real.body).replace("\"usage\"", "\"other\"").into()
}

pub(super) fn rows() -> Vec<Row> {
    [breaks(), framing(), sse(), packed()].concat()
}

fn breaks() -> Vec<Row> {
    vec![
        row(BODY, "closed after the head", BOTH, Fault::After(|real| bare(real, End::Close)), CUT),
        row(BODY, "reset after the head", BOTH, Fault::After(|real| bare(real, End::Reset)), CUT),
        row(
            BODY,
            "stall after the head",
            BOTH,
            Fault::After(|real| bare(real, End::Stall)),
            SILENT,
        )
        .under(NO_BODY),
        row(BODY, "closed in the middle", BOTH, Fault::After(|real| half(real, End::Close)), CUT),
        row(BODY, "reset in the middle", BOTH, Fault::After(|real| half(real, End::Reset)), CUT),
        row(BODY, "stall in the middle", BOTH, Fault::After(|real| half(real, End::Stall)), SILENT)
            .under(NO_BODY),
        row(
            BODY,
            "closed before the last chunk, after `[DONE]`",
            STREAMED,
            Fault::After(|real| open(real, End::Close)),
            CUT.used(),
        ),
        row(
            BODY,
            "stall before the last chunk, after `[DONE]`",
            STREAMED,
            Fault::After(|real| open(real, End::Stall)),
            SILENT.used(),
        )
        .under(NO_BODY),
        row(
            BODY,
            "byte by byte, with pauses",
            BOTH,
            Fault::After(|real| {
                let whole = real.whole(OK, "");
                let pieces = whole.pieces.concat().chunks(40).map(<[u8]>::to_vec).collect();
                Play { pieces, pause: Duration::from_millis(2), ..whole }
            }),
            GOOD,
        ),
    ]
}

fn framing() -> Vec<Row> {
    let cut = |fault, how| row(FRAMING, fault, BOTH, how, CUT);
    vec![
        row(
            FRAMING,
            "length too large",
            BOTH,
            Fault::After(|real| {
                let length = format!("content-length: {}\r\n", real.body.len() + 100);
                let bytes = [real.head(OK, &length), real.body.clone()].concat();
                Play::of(bytes, End::Close).with(real.body.clone())
            }),
            CUT.used(),
        ),
        row(
            FRAMING,
            "length too small: the rest of the body follows",
            BOTH,
            Fault::After(|real| {
                let half = real.body.len() / 2;
                let head = real.head(OK, &format!("content-length: {half}\r\n"));
                Play::of([head, real.body.clone()].concat(), End::Keep).with(&real.body[..half])
            }),
            UNREAD.closed(),
        ),
        row(
            FRAMING,
            "another answer follows that nobody has asked for",
            BOTH,
            Fault::After(|real| {
                let whole = real.whole(OK, "");
                let planted = real.instead("planted").whole(OK, "");
                Play::of([whole.pieces.concat(), planted.pieces.concat()].concat(), End::Keep)
                    .with(whole.body)
            }),
            GOOD.closed(),
        ),
        cut(
            "chunk size that is no number",
            Fault::After(|real| chunked(real, "data: 1\n\n", b"zz\r\n")),
        ),
        cut(
            "chunk size above 2^64",
            Fault::After(|real| chunked(real, "data: 1\n\n", b"fffffffffffffffff\r\n")),
        ),
        cut(
            "chunk longer than its size",
            Fault::After(|real| chunked(real, "data: 1\n\n", b"1\r\nabc\r\n").with("data: 1\n\na")),
        ),
        cut(
            "chunk extension of 1 MiB",
            Fault::After(|real| {
                let rest = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20));
                chunked(real, "data: 1\n\n", rest.as_bytes())
            }),
        ),
        cut(
            "trailers of 1 MiB",
            Fault::After(|real| {
                let rest = format!("0\r\nx-long: {}\r\n\r\n", "x".repeat(1 << 20));
                chunked(real, "data: 1\n\n", rest.as_bytes())
            }),
        ),
        row(
            FRAMING,
            "trailers",
            BOTH,
            Fault::After(|real| {
                let head = real.head(OK, "transfer-encoding: chunked\r\ntrailer: x-late\r\n");
                let rest = b"0\r\nx-late: 1\r\n\r\n";
                Play::of([head, chunk(&real.body), rest.to_vec()].concat(), End::Keep)
                    .with(real.body.clone())
            }),
            GOOD,
        ),
        row(
            FRAMING,
            "a length and chunks",
            BOTH,
            Fault::After(|real| {
                let head = real.head(OK, "content-length: 5\r\ntransfer-encoding: chunked\r\n");
                Play::of([head, chunk(&real.body), LAST_CHUNK.to_vec()].concat(), End::Close)
                    .with(real.body.clone())
            }),
            GOOD.closed(),
        ),
        row(
            FRAMING,
            "HTTP/1.0, ends with the connection",
            BOTH,
            Fault::After(|real| {
                let bytes = [real.head("HTTP/1.0 200 OK", ""), real.body.clone()].concat();
                Play::of(bytes, End::Close).with(real.body.clone())
            }),
            GOOD.closed(),
        ),
        row(
            FRAMING,
            "HTTP/1.0, ends with the connection, too early",
            BOTH,
            Fault::After(|real| {
                let (_, body) = real.halves();
                let bytes = [real.head("HTTP/1.0 200 OK", ""), body.clone()].concat();
                Play::of(bytes, End::Close).with(body)
            }),
            CUT,
        ),
    ]
}

fn sse() -> Vec<Row> {
    let unread = |fault, how| row(EVENTS, fault, STREAMED, how, UNREAD);
    let good = |fault, how| row(EVENTS, fault, STREAMED, how, GOOD);
    vec![
        good(
            "broken UTF-8",
            Fault::After(|real| {
                real.instead([b"data: \xff\xfe\xc3\n\n", &real.body[..]].concat()).whole(OK, "")
            }),
        ),
        good(
            "an event that is not JSON",
            Fault::After(|real| {
                real.instead([b"data: {{]\n\ndata: [1\n\n", &real.body[..]].concat()).whole(OK, "")
            }),
        ),
        good(
            "a line of 1 MiB",
            Fault::After(|real| {
                let line = format!("data: \"{}\"\n\n", "x".repeat(1 << 20));
                real.instead([line.as_bytes(), &real.body[..]].concat()).whole(OK, "")
            }),
        ),
        unread(
            "a line of 1 MiB that never ends",
            Fault::After(|real| events(real, format!("data: {}", "x".repeat(1 << 20)).as_bytes())),
        ),
        good(
            "no blank line at the end",
            Fault::After(|real| {
                let end = real.body.len() - "\n\n".len();
                real.instead(&real.body[..end]).whole(OK, "")
            }),
        ),
        good(
            "`[DONE]` missing",
            Fault::After(|real| {
                let end = real.body.len() - "data: [DONE]\n\n".len();
                real.instead(&real.body[..end]).whole(OK, "")
            }),
        ),
        unread("ends in the middle, in order", Fault::After(|real| events(real, b""))),
        good(
            "events after `[DONE]`",
            Fault::After(|real| {
                real.instead([&real.body[..], b"data: {\"x\":1}\n\ndata: more\n\n"].concat())
                    .whole(OK, "")
            }),
        ),
        row(
            EVENTS,
            "an error event in the middle",
            STREAMED,
            Fault::After(|real| {
                events(
                    real,
                    b"data: {\"status_code\":500,\"error\":{\"message\":\"m\",\"code\":\"c\"}}\n\n",
                )
            }),
            FAILED_STREAM,
        ),
        row(
            EVENTS,
            "an error event, then closed",
            STREAMED,
            Fault::After(|real| {
                let (_, first) = real.halves();
                let body = [&first[..], b"data: {\"error\":{\"message\":\"m\"}}\n\n"].concat();
                chunked(real, body, b"")
            }),
            CUT,
        ),
        row(
            EVENTS,
            "usage so far in every event, closed in the middle",
            STREAMED,
            Fault::After(|real| {
                let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":1,\"total_tokens\":11}}\n\n";
                chunked(real, event.repeat(3), b"")
            }),
            CUT,
        ),
        row(
            BODY,
            "usage missing",
            BOTH,
            Fault::After(|real| real.instead(without_usage(real)).whole(OK, "")),
            UNREAD,
        ),
        row(
            BODY,
            "usage that makes no sense",
            BOTH,
            Fault::After(|real| {
                let text = String::from_utf8_lossy(&without_usage(real))
                    .replace("\"other\":{", "\"usage\":{\"prompt_tokens\":-7,\"x\":{");
                real.instead(text.replacen("}}\n\n", "}}}\n\n", 0)).whole(OK, "")
            }),
            UNREAD,
        ),
        row(
            BODY,
            "usage beyond belief",
            BOTH,
            Fault::After(|real| {
                let text = String::from_utf8_lossy(&real.body).into_owned();
                let beyond = text.replace("\"total_tokens\":", "\"total_tokens\":999999999");
                assert_ne!(beyond, text);
                real.instead(beyond).whole(OK, "")
            }),
            UNREAD,
        ),
        row(
            BODY,
            "JSON that ends in the middle",
            PLAIN,
            Fault::After(|real| real.instead(&real.body[..real.body.len() / 2]).whole(OK, "")),
            UNREAD,
        ),
        row(BODY, "empty", BOTH, Fault::After(|real| real.instead("").whole(OK, "")), UNREAD),
    ]
}

fn packed() -> Vec<Row> {
    vec![
        row(
            PACKED,
            "gzip, as it should be",
            BOTH,
            Fault::After(|real| said_to_be(&real.instead(gzip(&real.body)), "gzip")),
            GOOD,
        ),
        row(
            PACKED,
            "not gzip, though it says so",
            BOTH,
            Fault::After(|real| said_to_be(real, "gzip")),
            UNREAD,
        ),
        row(
            PACKED,
            "gzip that is damaged in the middle",
            BOTH,
            Fault::After(|real| {
                let mut packed = gzip(&real.body);
                let half = packed.len() / 2;
                packed[half..].fill(0xff);
                said_to_be(&real.instead(packed), "gzip")
            }),
            UNREAD,
        ),
        row(
            PACKED,
            "gzip that ends in the middle",
            BOTH,
            Fault::After(|real| {
                let packed = gzip(&real.body);
                said_to_be(&real.instead(&packed[..20]), "gzip")
            }),
            UNREAD,
        ),
        row(
            PACKED,
            "a coding that nobody has asked for (br)",
            BOTH,
            Fault::After(|real| said_to_be(&real.instead([0x8b, 0xff, 0x00, 0x80, 0x7f]), "br")),
            UNREAD,
        ),
        row(
            PACKED,
            "not deflate, though it says so",
            BOTH,
            Fault::After(|real| said_to_be(real, "deflate")),
            UNREAD,
        ),
    ]
}
