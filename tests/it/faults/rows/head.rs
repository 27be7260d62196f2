//! Faults of an answer's head.

use super::super::relay::{End, Fault, Play, Real};
use super::super::table::{BOTH, BROKEN, Expect, GOOD, LATE, PLAIN, Row, UNREAD, row};
use super::{NO_HEAD, OK};

const HEAD: &str = "head";
const INTERIM: &str = "interim answer";

/// A 101 that nobody has asked for.
const SWITCHED: Expect = Expect {
    caller: super::super::table::Caller::Own(502, "upstream_protocol"),
    failure: None,
    retry: None,
    ..BROKEN
};

/// Half of the real head.
fn half(real: &Real, end: End) -> Play {
    let mut head = real.framed(OK, "");
    head.truncate(head.len() / 2);
    Play::of(head, end)
}

/// The real answer with these headers, which make it none.
fn odd(real: &Real, headers: &str) -> Play {
    Play { end: End::Close, ..real.whole(OK, headers) }
}

/// The real answer after these bytes.
fn after(bytes: &str, real: &Real) -> Play {
    let whole = real.whole(OK, "");
    Play { pieces: [vec![bytes.into()], whole.pieces].concat(), ..whole }
}

pub(super) fn rows() -> Vec<Row> {
    let broken = |fault, how| row(HEAD, fault, BOTH, how, BROKEN);
    vec![
        broken("closed in the middle", Fault::After(|real| half(real, End::Close))),
        broken("reset in the middle", Fault::After(|real| half(real, End::Reset))),
        row(HEAD, "stall in the middle", BOTH, Fault::After(|real| half(real, End::Stall)), LATE)
            .under(NO_HEAD),
        broken(
            "not HTTP",
            Fault::After(|_| Play::of("220 mail.example ESMTP\r\n\r\n", End::Close)),
        ),
        broken("empty lines and nothing else", Fault::After(|_| Play::of("\r\n\r\n", End::Close))),
        broken("status of two digits", Fault::After(|real| real.whole("HTTP/1.1 20 OK", ""))),
        broken(
            "HTTP/3.0 in the status line",
            Fault::After(|real| real.whole("HTTP/3.0 200 OK", "")),
        ),
        broken(
            "larger than 400 KiB",
            Fault::After(|real| odd(real, &format!("x-long: {}\r\n", "x".repeat(1 << 20)))),
        ),
        broken(
            "more than 100 headers",
            Fault::After(|real| odd(real, &"x-many: 1\r\n".repeat(200))),
        ),
        broken("blank in a header's name", Fault::After(|real| odd(real, "x bad: 1\r\n"))),
        broken("header without a colon", Fault::After(|real| odd(real, "nonsense\r\n"))),
        broken("NUL in a header's value", Fault::After(|real| odd(real, "x-nul: a\0b\r\n"))),
        broken(
            "header continued on the next line",
            Fault::After(|real| odd(real, "x-fold: a\r\n b\r\n")),
        ),
        row(
            HEAD,
            "two different lengths",
            PLAIN,
            Fault::After(|real| odd(real, "content-length: 5\r\ncontent-length: 6\r\n")),
            BROKEN,
        ),
        broken(
            "length that is no number",
            Fault::After(|real| Play::of(real.head(OK, "content-length: many\r\n"), End::Close)),
        ),
        broken(
            "length below zero",
            Fault::After(|real| Play::of(real.head(OK, "content-length: -1\r\n"), End::Close)),
        ),
        broken(
            "length above 2^64",
            Fault::After(|real| {
                Play::of(real.head(OK, "content-length: 99999999999999999999\r\n"), End::Close)
            }),
        ),
        row(
            HEAD,
            "the same length twice",
            PLAIN,
            Fault::After(|real| {
                let length = format!("content-length: {}\r\n", real.body.len());
                real.whole(OK, &length)
            }),
            GOOD,
        ),
        row(
            INTERIM,
            "`100 Continue` first",
            BOTH,
            Fault::After(|real| after("HTTP/1.1 100 Continue\r\n\r\n", real)),
            GOOD,
        ),
        row(
            INTERIM,
            "`103 Early Hints` first",
            BOTH,
            Fault::After(|real| after("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", real)),
            GOOD,
        ),
        row(
            INTERIM,
            "fifty of them first",
            BOTH,
            Fault::After(|real| after(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(50), real)),
            GOOD,
        ),
        row(
            INTERIM,
            "one, and nothing after it (stall)",
            BOTH,
            Fault::After(|_| Play::of("HTTP/1.1 103 Early Hints\r\n\r\n", End::Stall)),
            LATE,
        )
        .under(NO_HEAD),
        row(
            INTERIM,
            "one, and closed",
            BOTH,
            Fault::After(|_| Play::of("HTTP/1.1 103 Early Hints\r\n\r\n", End::Close)),
            BROKEN,
        ),
        row(
            INTERIM,
            "`101 Switching Protocols`",
            BOTH,
            Fault::After(|_| {
                Play::of(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                    End::Keep,
                )
            }),
            SWITCHED,
        ),
        row(
            HEAD,
            "`204 No Content`",
            BOTH,
            Fault::After(|_| Play::of("HTTP/1.1 204 No Content\r\n\r\n", End::Keep)),
            Expect { caller: super::super::table::Caller::Theirs(204), ..UNREAD },
        ),
        row(
            HEAD,
            "another type: HTML under 200",
            BOTH,
            Fault::After(|_| {
                let page = "<html>sign in</html>";
                Play::of(
                    format!(
                        "{OK}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
                        page.len()
                    ),
                    End::Keep,
                )
                .with(page)
            }),
            UNREAD,
        ),
    ]
}
