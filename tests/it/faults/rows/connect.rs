//! Faults before the request is at the upstream.

use super::super::relay::{End, Fault, Play};
use super::super::table::{
    BOTH, BROKEN, Charge, Entry, Expect, GOOD, How, LATE, Row, UNREACHABLE, row,
};
use super::{NO_CONNECTION, NO_HEAD};

const CONNECT: &str = "connect";
const TLS: &str = "TLS handshake";
const REQUEST: &str = "request sent";

/// A kept connection that breaks under the request: it is answered on another.
const REPLACED: Expect = Expect {
    failure: Some("broken"),
    retry: Some("stale_connection"),
    charge: Charge::Held,
    // The other one is not kept.
    reused: false,
    ..GOOD
};

const fn entry(stage: &'static str, fault: &'static str, entry: Entry) -> Row {
    let (how, changes) = (How::Connect(entry), NO_CONNECTION);
    Row { stage, fault, streamed: BOTH, how, expect: UNREACHABLE, changes }
}

const fn kept(fault: &'static str, how: Fault, expect: Expect) -> Row {
    Row { stage: REQUEST, fault, streamed: BOTH, how: How::Kept(how), expect, changes: "" }
}

const RESET: Fault = Fault::Before(|_| Play::of("", End::Reset));
const CLOSE: Fault = Fault::Before(|_| Play::of("", End::Close));

pub(super) fn rows() -> Vec<Row> {
    vec![
        entry(CONNECT, "refused", Entry::Refused),
        entry(CONNECT, "the host name has no address", Entry::NoSuchHost),
        entry(CONNECT, "nobody accepts (stall)", Entry::Stalls),
        entry(TLS, "stall", Entry::TlsStalls),
        entry(TLS, "closed", Entry::TlsCloses),
        entry(TLS, "the upstream does not speak TLS", Entry::NoTls),
        entry(TLS, "certificate expired", Entry::Expired),
        entry(TLS, "certificate of another host", Entry::OtherName),
        entry(TLS, "certificate of an unknown authority", Entry::UnknownAuthority),
        row(REQUEST, "reset, request not processed", BOTH, RESET, BROKEN),
        row(
            REQUEST,
            "reset, request processed",
            BOTH,
            Fault::After(|_| Play::of("", End::Reset)),
            BROKEN,
        ),
        row(REQUEST, "closed, request not processed", BOTH, CLOSE, BROKEN),
        row(
            REQUEST,
            "closed, request processed",
            BOTH,
            Fault::After(|_| Play::of("", End::Close)),
            BROKEN,
        ),
        row(REQUEST, "closed, `retry.lost_answers = false`", BOTH, CLOSE, LOST)
            .under("retry.lost_answers = false"),
        kept("kept connection is reset as it is used again", RESET, REPLACED),
        kept("kept connection is closed as it is used again", CLOSE, REPLACED),
        kept("the same, `retry.lost_answers = false`", RESET, LOST)
            .under("retry.lost_answers = false"),
        row(REQUEST, "no answer (stall)", BOTH, Fault::After(|_| Play::of("", End::Stall)), LATE)
            .under(NO_HEAD),
    ]
}

/// Not sent again, because it is not wanted.
const LOST: Expect = Expect { retry: None, ..BROKEN };
