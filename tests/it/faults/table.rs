//! What is documented of each fault: a row of the matrix, and of `docs/FAULTS.md`.

use super::relay::Fault;

/// A fault and what becomes of a request that meets it, each time that it is sent.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) stage: &'static str,
    pub(super) fault: &'static str,
    /// Whether it is tried with a streamed request, one that is not, or both.
    pub(super) streamed: &'static [bool],
    pub(super) how: How,
    pub(super) expect: Expect,
    /// Changes to the configuration: short timeouts where one is what ends it.
    pub(super) changes: &'static str,
}

pub(super) const BOTH: &[bool] = &[false, true];
pub(super) const STREAMED: &[bool] = &[true];
pub(super) const PLAIN: &[bool] = &[false];

/// How the fault comes about.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// The relay plays something else.
    Relay(Fault),
    /// The same on a connection that has served before.
    Kept(Fault),
    /// The relay speaks HTTP/2, over TLS.
    Http2(Fault),
    /// There is no connection.
    Connect(Entry),
}

/// What keeps the gateway from a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// Nobody listens.
    Refused,
    /// The host has no address.
    NoSuchHost,
    /// Nobody accepts.
    Stalls,
    /// The TLS handshake begins and does not go on.
    TlsStalls,
    /// The connection ends in the TLS handshake.
    TlsCloses,
    /// The upstream does not speak TLS.
    NoTls,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is another host's.
    OtherName,
    /// Nobody knows who signed its certificate.
    UnknownAuthority,
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Caller {
    /// An error of the gateway's own: status and code.
    Own(u16, &'static str),
    /// The upstream's answer, byte for byte.
    Theirs(u16),
    /// Its head and the first part of its body; then the connection ends.
    Cut(u16),
}

/// What an attempt costs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Charge {
    /// The upstream has not charged it.
    Nothing,
    /// It may have: all that was held.
    Held,
    /// It has, and said how much.
    Used,
}

/// All that is documented.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub(super) caller: Caller,
    pub(super) outcome: &'static str,
    /// The label that each attempt counts under in `tidegate_upstream_failures_total`.
    pub(super) failure: Option<&'static str>,
    /// Why it is sent again, if it is.
    pub(super) retry: Option<&'static str>,
    pub(super) charge: Charge,
    /// Whether the connection is used for the next request.
    pub(super) reused: bool,
}

/// Broken before the head: nobody knows what the upstream did.
pub(super) const BROKEN: Expect = Expect {
    caller: Caller::Own(502, "upstream_broken"),
    outcome: "upstream_unavailable",
    failure: Some("broken"),
    retry: Some("broken"),
    charge: Charge::Held,
    reused: false,
};
/// No connection: nothing was sent.
pub(super) const UNREACHABLE: Expect = Expect {
    caller: Caller::Own(502, "upstream_unreachable"),
    failure: Some("connect"),
    retry: Some("connect"),
    charge: Charge::Nothing,
    ..BROKEN
};
/// No head in time.
pub(super) const LATE: Expect = Expect {
    caller: Caller::Own(504, "upstream_timeout"),
    outcome: "upstream_timeout",
    failure: Some("timeout"),
    retry: None,
    ..BROKEN
};
/// Passed on whole, and its usage read.
pub(super) const GOOD: Expect = Expect {
    caller: Caller::Theirs(200),
    outcome: "completed",
    failure: None,
    retry: None,
    charge: Charge::Used,
    reused: true,
};
/// Passed on whole, and nobody knows what it used.
pub(super) const UNREAD: Expect = Expect { charge: Charge::Held, ..GOOD };
/// Broken off in the body.
pub(super) const CUT: Expect = Expect {
    caller: Caller::Cut(200),
    outcome: "upstream_cut",
    charge: Charge::Held,
    reused: false,
    ..GOOD
};
/// Fallen silent in the body.
pub(super) const SILENT: Expect = Expect { outcome: "upstream_timeout", ..CUT };
/// A stream that says in an event that it failed.
pub(super) const FAILED_STREAM: Expect = Expect { outcome: "stream_error", ..UNREAD };

/// The upstream's own refusal or error.
pub(super) const fn theirs(status: u16) -> Expect {
    Expect {
        caller: Caller::Theirs(status),
        outcome: "upstream_error",
        charge: Charge::Nothing,
        ..GOOD
    }
}

/// An error of the upstream's that may have cost.
pub(super) const fn failed(status: u16) -> Expect {
    Expect { failure: Some("server_error"), charge: Charge::Held, ..theirs(status) }
}

impl Expect {
    pub(super) const fn again(self, reason: &'static str) -> Self {
        Self { retry: Some(reason), ..self }
    }

    pub(super) const fn closed(self) -> Self {
        Self { reused: false, ..self }
    }

    pub(super) const fn used(self) -> Self {
        Self { charge: Charge::Used, ..self }
    }
}

/// What happens in the relay.
pub(super) const fn row(
    stage: &'static str,
    fault: &'static str,
    streamed: &'static [bool],
    how: Fault,
    expect: Expect,
) -> Row {
    Row { stage, fault, streamed, how: How::Relay(how), expect, changes: "" }
}

impl Row {
    pub(super) const fn under(self, changes: &'static str) -> Self {
        Self { changes, ..self }
    }

    /// Its line in `docs/FAULTS.md`.
    pub(super) fn line(&self) -> String {
        let Expect { caller, outcome, failure, retry, charge, reused } = self.expect;
        let streamed = match self.streamed {
            [false] => "no",
            [true] => "yes",
            _ => "both",
        };
        let caller = match caller {
            Caller::Own(status, code) => format!("{status} `{code}`"),
            Caller::Theirs(status) => format!("the upstream's {status}, whole"),
            Caller::Cut(status) => format!("the upstream's {status}, cut where it broke"),
        };
        let or = |label: Option<&str>| {
            label.map_or_else(|| "–".to_owned(), |label| format!("`{label}`"))
        };
        let charge = match charge {
            Charge::Nothing => "nothing",
            Charge::Held => "as held",
            Charge::Used => "as used",
        };
        let connection = if reused { "kept" } else { "closed" };
        format!(
            "| {} | {} | {streamed} | {caller} | `{outcome}` | {} | {} | {charge} | {connection} |",
            self.stage,
            self.fault,
            or(failure),
            or(retry)
        )
    }
}
