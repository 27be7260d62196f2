//! What answers and failures say of the upstream, and what the pool makes of that: how many requests
//! may be there at once ([`aimd`](crate::admission::aimd)), and whether any may
//! ([`circuit`](crate::admission::circuit)).
//!
//! # Invariants
//!
//! - Nothing is sent to find out how the upstream does: a probe is a request whose turn it was.
//! - Overload is a matter of how many until one at a time is too many: only then does it open the
//!   circuit.

use super::admitted::Admitted;
use super::grant::Grant;
use super::state::{Answer, State};
use super::{Pool, Refused};
use crate::admission::circuit::{Change, Phase};
use crate::limit::Reading;
use crate::time::Timestamp;

/// What an attempt says of the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// What became of the attempt.
    pub said: Said,
    /// Whether the upstream said that it has too much to do, or was too busy to take a connection.
    pub overload: bool,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// It was answered well.
    Well,
    /// Somebody is there and said no: to this request, or to this much use.
    No,
    /// Somebody is there and has too much to do.
    Busy,
    /// It failed.
    Failed,
    /// It failed, and so had the request before: that may be due to the request. Or due to a connection
    /// that had been closed: it counts only where it was to be found out whether somebody is there.
    FailedAgain,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Whether fewer requests may be at the upstream now.
    pub cut: bool,
    /// What became of the circuit.
    pub circuit: Option<Change>,
}

impl State {
    /// Takes in what a granted request says of the upstream. Tells too whether somebody may have to
    /// be woken for that.
    fn report(
        &mut self,
        grant: &Grant,
        report: Report,
        chance: u16,
        now: Timestamp,
    ) -> (News, bool) {
        let (most, before) = (self.config.max_concurrent, self.concurrency);
        let cut = report.overload && {
            let sent_at = grant.sent_at.unwrap_or(now);
            self.concurrency.overloaded(most, self.in_flight, sent_at, now)
        };
        if report.said == Said::Well {
            self.concurrency.answered(most);
        }
        let (rule, round) = (&self.config.circuit, grant.round);
        let is_probe = self.circuit.is_probe(round);
        let circuit = match report.said {
            Said::Well | Said::No => self.circuit.answered(rule, round, now),
            Said::Busy if !is_probe && !self.concurrency.is_least() => None,
            Said::FailedAgain if !is_probe => None,
            Said::Busy | Said::Failed | Said::FailedAgain => {
                self.circuit.failed(rule, round, chance, now)
            }
        };
        let more = self.concurrency.limit(most) != before.limit(most);
        (News { cut, circuit }, is_probe || circuit.is_some() || more)
    }

    /// What becomes of whoever would wait: the upstream has been away for too long, and is.
    pub(super) fn given_up(&self, now: Timestamp) -> Option<Refused> {
        let at = self.circuit.gives_up_at(&self.config.circuit)?;
        let retry_at = self.circuit.check(now).err()?;
        (at <= now).then_some(Refused::Circuit { retry_at })
    }

    /// When those who wait will be refused for that.
    pub(super) fn gives_up_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.circuit.gives_up_at(&self.config.circuit).filter(|at| *at > now)
    }

    /// Refuses everyone, if the upstream has been away for too long.
    pub(super) fn give_up_waiting(&mut self, answers: &mut Vec<Answer>, now: Timestamp) {
        let Some(refused) = self.given_up(now) else { return };
        while let Some((ticket, _)) = self.scheduler.head() {
            self.refuse(ticket, refused, answers);
        }
    }
}

impl Pool {
    /// Whether the upstream counts as away: whoever waits does until a probe is answered.
    pub fn is_broken(&self) -> bool {
        self.state.lock().circuit.phase() != Phase::Closed
    }
}

impl Admitted {
    /// Says what has been seen of the upstream, once the head of an answer is there or none will
    /// come. `chance` is any number; it decides how long a circuit that opens stays so.
    pub fn report(&mut self, report: Report, chance: u16) -> News {
        let Some(grant) = &self.grant else { return News::default() };
        let (news, wakes) = self.pool.locked(|state, now| state.report(grant, report, chance, now));
        if wakes {
            self.pool.change(|_, _| ());
        }
        news
    }

    /// The head of a good answer arrived: [`Self::charged`], [`Self::report`] and [`Self::observe`] in one
    /// step.
    pub fn answered<'a>(
        &mut self,
        report: Report,
        chance: u16,
        readings: impl Iterator<Item = Reading<'a>>,
    ) -> (Option<(u64, u64)>, News) {
        let (mut reserved, mut news) = (None, News::default());
        if let Some(grant) = &mut self.grant {
            self.pool.change(|state, now| {
                state.charged(grant, now);
                (news, _) = state.report(grant, report, chance, now);
                reserved = state.observe(grant, readings, now);
            });
        }
        (reserved, news)
    }

    /// Whether it goes to find out if the upstream is there again.
    pub fn is_probe(&self) -> bool {
        let is_probe = |grant: &Grant| self.pool.state.lock().circuit.is_probe(grant.round);
        self.grant.as_ref().is_some_and(is_probe)
    }
}

#[cfg(test)]
mod tests;
