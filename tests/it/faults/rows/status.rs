//! Answers that are errors of the upstream's, and how they can be broken themselves.

use super::super::relay::{End, Fault, Play, Real};
use super::super::table::{BOTH, Caller, Charge, Expect, GOOD, Row, failed, row, theirs};
use super::NO_BODY;

const STATUS: &str = "status";
const ERROR: &str = "error's body";

/// An answer with this status line and this error.
fn said(line: &str, code: &str) -> Play {
    let body = format!(r#"{{"message":"m","type":"t","param":"p","code":"{code}"}}"#);
    with(line, "content-type: application/json\r\n", body.as_bytes(), End::Keep)
}

fn with(line: &str, headers: &str, body: &[u8], end: End) -> Play {
    let head = format!("HTTP/1.1 {line}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    Play::of([head.as_bytes(), body].concat(), end).with(body)
}

/// A 500 whose body is longer than what comes of it.
fn half(end: End) -> Play {
    let body = "half of an error";
    Play::of(format!("HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\n{body}"), end).with(body)
}

pub(super) fn rows() -> Vec<Row> {
    let all = |fault, how: fn(&Real) -> Play, expect| {
        row(STATUS, fault, BOTH, Fault::Before(how), expect)
    };
    let overload = |status| theirs(status).again("overload");
    vec![
        all(
            "429 `queue_exceeded`, each time",
            |_| said("429 Too Many Requests", "queue_exceeded"),
            overload(429),
        ),
        all(
            "429 `token_quota_exceeded` that names no window, each time",
            |_| said("429 Too Many Requests", "token_quota_exceeded"),
            theirs(429).again("quota"),
        ),
        all(
            "429 `request_quota_exceeded` that names no window, each time",
            |_| said("429 Too Many Requests", "request_quota_exceeded"),
            theirs(429).again("quota"),
        ),
        all(
            "429 that says nothing, each time",
            |_| with("429 Too Many Requests", "", b"busy", End::Keep),
            overload(429),
        ),
        all(
            "429, connection closed",
            |_| with("429 Too Many Requests", "connection: close\r\n", b"busy", End::Close),
            overload(429).closed(),
        ),
        all(
            "503",
            |_| said("503 Service Unavailable", "queue_exceeded"),
            Expect { failure: Some("server_error"), ..overload(503) },
        ),
        all(
            "529",
            |_| with("529 Overloaded", "", b"", End::Keep),
            Expect { failure: Some("server_error"), ..overload(529) },
        ),
        all("500", |_| said("500 Internal Server Error", "x"), failed(500).again("server_error")),
        all(
            "502 with a page of HTML",
            |_| {
                with(
                    "502 Bad Gateway",
                    "content-type: text/html\r\n",
                    b"<html>bad gateway</html>",
                    End::Keep,
                )
            },
            failed(502).again("server_error"),
        ),
        all("504", |_| said("504 Gateway Timeout", "x"), failed(504).again("server_error")),
        all("501", |_| said("501 Not Implemented", "x"), failed(501)),
        all("505", |_| said("505 HTTP Version Not Supported", "x"), failed(505)),
        all("400", |_| said("400 Bad Request", "wrong_api_format"), theirs(400)),
        all("401", |_| said("401 Unauthorized", "wrong_api_key"), theirs(401)),
        all("402", |_| said("402 Payment Required", "payment_required"), theirs(402)),
        all(
            "403 that is not JSON",
            |_| {
                with(
                    "403 Forbidden",
                    "content-type: text/plain\r\n",
                    b"error code: 1010",
                    End::Keep,
                )
            },
            theirs(403),
        ),
        all("404", |_| said("404 Not Found", "model_not_found"), theirs(404)),
        all(
            "408 and closed",
            |_| with("408 Request Timeout", "connection: close\r\n", b"", End::Close),
            theirs(408).closed(),
        ),
        all("422", |_| said("422 Unprocessable Entity", "x"), theirs(422)),
        all(
            "302 to somewhere else",
            |_| with("302 Found", "location: http://127.0.0.1:1/\r\n", b"", End::Keep),
            theirs(302),
        ),
        row(
            ERROR,
            "500, 1 MiB long",
            BOTH,
            Fault::Before(|_| with("500 Oops", "", "x".repeat(1 << 20).as_bytes(), End::Keep)),
            failed(500).again("server_error"),
        ),
        row(
            ERROR,
            "500, closed in the middle",
            BOTH,
            Fault::Before(|_| half(End::Close)),
            BROKEN_ERROR,
        ),
        row(
            ERROR,
            "500, reset in the middle",
            BOTH,
            Fault::Before(|_| half(End::Reset)),
            BROKEN_ERROR,
        ),
        row(
            ERROR,
            "500, stall in the middle",
            BOTH,
            Fault::Before(|_| half(End::Stall)),
            Expect { outcome: "upstream_timeout", ..BROKEN_ERROR },
        )
        .under(NO_BODY),
        row(
            ERROR,
            "400, closed in the middle",
            BOTH,
            Fault::Before(|_| {
                Play::of("HTTP/1.1 400 Bad\r\ncontent-length: 100\r\n\r\nhalf", End::Close)
                    .with("half")
            }),
            Expect { caller: Caller::Cut(400), outcome: "upstream_cut", ..theirs(400) }.closed(),
        ),
        row(
            ERROR,
            "400, stall in the middle",
            BOTH,
            Fault::Before(|_| {
                Play::of("HTTP/1.1 400 Bad\r\ncontent-length: 100\r\n\r\nhalf", End::Stall)
                    .with("half")
            }),
            Expect { caller: Caller::Cut(400), outcome: "upstream_timeout", ..theirs(400) }
                .closed(),
        )
        .under(NO_BODY),
        row(
            ERROR,
            "429, not gzip though it says so",
            BOTH,
            Fault::Before(|_| {
                with(
                    "429 Too Many Requests",
                    "content-encoding: gzip\r\n",
                    b"\x1f\x8bgarbage",
                    End::Keep,
                )
            }),
            overload(429),
        ),
        row(
            STATUS,
            "200, though it is an error in JSON",
            super::super::table::PLAIN,
            Fault::Before(|_| said("200 OK", "x")),
            Expect { charge: Charge::Held, ..GOOD },
        ),
    ]
}

/// An error of the upstream's that broke off itself.
const BROKEN_ERROR: Expect = Expect {
    caller: Caller::Cut(500),
    outcome: "upstream_cut",
    reused: false,
    ..failed(500).again("server_error")
};
