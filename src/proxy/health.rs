//! What an attempt says of the upstream, told to the pool that sent it: too many at once, away, or
//! well. Whatever changes for that is counted and logged.

use std::error::Error as StdError;
use std::io;

use http::{HeaderMap, StatusCode};

use crate::admission::circuit::Change;
use crate::admission::{Admitted, News, Report, Said};
use crate::metrics::{CircuitState, Rejection};
use crate::proxy::forward::Forward;
use crate::proxy::readings::Readings;
use crate::proxy::tenant::Passage;
use crate::proxy::upstream::Failure;

/// It was answered well.
const WELL: Report = Report { said: Said::Well, overload: false };

impl Forward {
    /// Counts it if it goes to find out whether the upstream is back.
    pub(super) fn note_probe(&self, admitted: &Admitted) {
        if admitted.is_probe() {
            self.gateway.metrics.upstream.circuit(CircuitState::HalfOpen);
            tracing::info!(pool = %self.ask.subject.pool, "a request is sent to see whether the upstream is back");
        }
    }

    /// There is no answer.
    pub(super) fn report_failure(&self, admitted: &mut Admitted, failure: &Failure) {
        let report = match failure {
            // Whether there is a connection does not depend on the request.
            Failure::Connect(error) => {
                Report { said: Said::Failed, overload: is_timeout(&**error) }
            }
            // It is there, and told this connection to go; the next one says more.
            Failure::Unprocessed(_) => Report { said: Said::No, overload: false },
            // Many upstreams close what was idle. It says nothing of how they are, unless it was to be
            // found out.
            Failure::Stale(_) => Report { said: Said::FailedAgain, overload: false },
            Failure::Broken(_) | Failure::Timeout => {
                Report { said: self.failed(), overload: false }
            }
        };
        self.report(admitted, report);
    }

    /// The answer is no success.
    pub(super) fn report_refusal(
        &self,
        admitted: &mut Admitted,
        status: StatusCode,
        kind: Option<Rejection>,
    ) {
        let overload = kind == Some(Rejection::Queue);
        let said = match status.as_u16() {
            503 | 529 => Said::Busy,
            500.. => self.failed(),
            _ => Said::No,
        };
        self.report(admitted, Report { said, overload });
    }

    /// The head of a good answer arrived, with these headers; returns how many tokens the upstream has
    /// reserved for the request, at least and at most, where that can be told.
    pub(super) fn answered(
        &self,
        passage: &mut Passage,
        headers: &HeaderMap,
    ) -> Option<(u64, u64)> {
        passage.tenant_charged();
        let (admitted, readings) = (&mut passage.account, Readings::of(headers));
        let (reserved, news) = admitted.answered(WELL, fastrand::u16(..), readings.iter());
        self.tell(admitted, news);
        admitted.pool().recent().succeeded(admitted.pool().now());
        reserved
    }

    /// Says what has been seen of the upstream.
    fn report(&self, admitted: &mut Admitted, report: Report) {
        let news = admitted.report(report, fastrand::u16(..));
        self.tell(admitted, news);
    }

    /// Counts and logs what a report has changed.
    fn tell(&self, admitted: &Admitted, news: News) {
        let (pool, metrics) = (self.ask.subject.pool, &self.gateway.metrics.upstream);
        if news.cut {
            metrics.concurrency_cuts.inc();
            let limit = admitted.pool().glance().concurrency.map(|it| it.get());
            tracing::debug!(%pool, limit, "the upstream is overloaded: fewer requests go at once");
        }
        match news.circuit {
            Some(Change::Opened(span)) => {
                metrics.circuit(CircuitState::Open);
                let open_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(%pool, open_ms, "the upstream fails: requests wait until it is back");
            }
            Some(Change::Closed(span)) => {
                metrics.circuit(CircuitState::Closed);
                let away_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(%pool, away_ms, "the upstream is back");
            }
            None => {}
        }
    }

    /// How a failure counts that may be due to the request.
    fn failed(&self) -> Said {
        let mut attempts = 0;
        self.record.note(|facts| attempts = facts.attempts);
        if attempts > 1 { Said::FailedAgain } else { Said::Failed }
    }
}

/// Whether nobody took the connection in time, which is what a host that is too busy does.
fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::TimedOut => return true,
            // Its source is that of what it holds, not what it holds.
            Some(error) => error.get_ref().map(|held| held as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_found_however_deep_it_is() {
        let timeout = io::Error::from(io::ErrorKind::TimedOut);
        let within = io::Error::other(io::Error::other(timeout));
        assert!(is_timeout(&within));
        assert!(!is_timeout(&io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused))));
    }
}
