//! Metrics of the listeners: who was not let in, and TLS.

use prometheus::{IntCounter, IntGauge};

use super::Registrar;

/// Why the admin port did not answer what it was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Without the token, or with a wrong one.
    Token,
    /// By a name that is not known to be its own.
    Host,
    /// Sent by a page of another site.
    Origin,
}

impl Refused {
    const ALL: [Self; 3] = [Self::Token, Self::Host, Self::Origin];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Host => "host",
            Self::Origin => "origin",
        }
    }
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shook {
    /// Well.
    Completed,
    /// The two sides did not agree, or the peer went away.
    Failed,
    /// The peer took longer than it may for the head of a request.
    TimedOut,
    /// What came was not TLS.
    Plain,
}

impl Shook {
    const ALL: [Self; 4] = [Self::Completed, Self::Failed, Self::TimedOut, Self::Plain];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Plain => "plain",
        }
    }
}

/// What happens before a request is read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    admin_refused: [IntCounter; Refused::ALL.len()],
    handshakes: [IntCounter; Shook::ALL.len()],
    /// In order of whether it went well.
    reloads: [IntCounter; 2],
    /// When the certificate that is served ends, in seconds since 1970; 0 without one.
    pub certificate_expiry: IntGauge,
    /// Connections that were closed because their address had too many.
    pub connections_refused: IntCounter,
    /// Connections that were closed while idle, to make room.
    pub connections_evicted: IntCounter,
}

impl ServerMetrics {
    /// Registers them.
    pub(super) fn register(new: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            admin_refused: new.counters(
                "tidegate_admin_refused_total",
                "Requests that the admin port did not answer, by what was wrong.",
                "reason",
                Refused::ALL.map(Refused::as_str),
            )?,
            handshakes: new.counters(
                "tidegate_tls_handshakes_total",
                "TLS handshakes, by how they ended.",
                "outcome",
                Shook::ALL.map(Shook::as_str),
            )?,
            reloads: new.counters(
                "tidegate_tls_reloads_total",
                "Times that changed certificates were read, by what came of it.",
                "outcome",
                ["failed", "completed"],
            )?,
            certificate_expiry: new.gauge(
                "tidegate_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends; 0 without one.",
            )?,
            connections_refused: new.counter(
                "tidegate_connections_refused_total",
                "Connections closed at once because their address had too many.",
            )?,
            connections_evicted: new.counter(
                "tidegate_connections_evicted_total",
                "Connections closed while idle to make room for others.",
            )?,
        })
    }

    /// Counts a request that the admin port did not answer.
    pub fn count_refused(&self, why: Refused) {
        self.admin_refused[why as usize].inc();
    }

    /// Counts a handshake that has ended.
    pub fn count_handshake(&self, how: Shook) {
        self.handshakes[how as usize].inc();
    }

    /// Counts certificates that were read again.
    pub fn count_reload(&self, well: bool) {
        self.reloads[usize::from(well)].inc();
    }
}
