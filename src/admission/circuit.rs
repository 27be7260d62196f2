//! Whether the upstream is there at all: a circuit breaker with probation.
//!
//! Failures in a row open the circuit, and nothing is sent. After a while one request is, on
//! probation: if the upstream answers it, the circuit closes (after as many such probes as are asked
//! for); if not, it stays open for twice as long.
//!
//! ```text
//!            failures in a row                     time is up, one goes
//! closed ───────────────────────▶ open ─────────────────────────────────▶ half-open
//!    ▲                             ▲  it fails (for twice as long)            │
//!    │                             └──────────────────────────────────────────┤
//!    └────────────────────────────────────────────────────────────────────────┘ it is answered
//! ```
//!
//! # Invariants
//!
//! - Pure: the rule, `now` and chance are arguments.
//! - While it is half-open, one request is at the upstream that was sent since, and no more.
//! - Only what was sent in the present state counts ([`Round`]): old news neither opens nor closes it.
//! - A probe that nobody learns anything from (its caller hung up) makes room for the next one.
//! - Bounded: it remembers as many instants as failures open it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Timestamp;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Failures in a row that open it; 0 for never.
    pub failures: u32,
    /// Within which they have to happen.
    pub window: Duration,
    /// How long it stays open the first time, at most; twice as long each time that a probe fails.
    pub open: Duration,
    /// The longest that it stays open.
    pub max_open: Duration,
    /// Probes in a row that have to be answered, one after the other.
    pub probes: u32,
    /// How long requests wait for it to close, counted from when it opened. Later they are refused.
    pub wait: Duration,
}

impl Rule {
    /// A circuit that never opens.
    pub const OFF: Self = Self {
        failures: 0,
        window: Duration::ZERO,
        open: Duration::ZERO,
        max_open: Duration::ZERO,
        probes: 1,
        wait: Duration::ZERO,
    };
}

/// The state of a circuit, for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Requests go.
    Closed,
    /// One request is on its way to find out, or may go.
    HalfOpen,
    /// Nothing goes.
    Open,
}

impl Phase {
    /// Every phase, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// The state that a request was sent in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Round(u64);

/// What a report did to the circuit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It opened, for so long.
    Opened(Duration),
    /// It closed, after so long.
    Closed(Duration),
}

/// A circuit.
#[derive(Debug, Default)]
pub struct Circuit {
    state: State,
    round: Round,
}

#[derive(Debug)]
enum State {
    /// When it failed since it last answered, within the window.
    Closed(VecDeque<Timestamp>),
    Broken(Broken),
}

/// Why nothing goes: since when the circuit has not been closed, and how often a probe has failed.
#[derive(Clone, Copy, Debug)]
struct Broken {
    since: Timestamp,
    failed: u32,
    /// Probes that were answered.
    answered: u32,
    /// When a probe may go; `None` while one is on its way.
    probe_at: Option<Timestamp>,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(VecDeque::new())
    }
}

impl Circuit {
    /// Whether a request may go.
    ///
    /// # Errors
    ///
    /// When one may, if that is known: it is not while a probe is on its way.
    pub fn check(&self, now: Timestamp) -> Result<(), Option<Timestamp>> {
        match &self.state {
            State::Closed(_) => Ok(()),
            State::Broken(Broken { probe_at, .. }) => match *probe_at {
                Some(at) if at <= now => Ok(()),
                until => Err(until),
            },
        }
    }

    /// A request goes that passed the [check](Self::check).
    pub fn begin(&mut self) -> Round {
        if let State::Broken(broken) = &mut self.state {
            broken.probe_at = None;
            self.turn();
        }
        self.round
    }

    /// The upstream has answered a request of this round.
    pub fn answered(&mut self, rule: &Rule, round: Round, now: Timestamp) -> Option<Change> {
        if round != self.round {
            return None;
        }
        match &mut self.state {
            State::Closed(failures) => {
                failures.clear();
                None
            }
            State::Broken(broken) => {
                broken.answered += 1;
                if broken.answered < rule.probes {
                    broken.probe_at = Some(now);
                    self.turn();
                    return None;
                }
                let span = now.since(broken.since);
                self.state = State::default();
                self.turn();
                Some(Change::Closed(span))
            }
        }
    }

    /// The upstream has failed a request of this round. `chance` is any number: how long the circuit
    /// stays open, between half and all of what the rule says.
    pub fn failed(
        &mut self,
        rule: &Rule,
        round: Round,
        chance: u16,
        now: Timestamp,
    ) -> Option<Change> {
        if round != self.round || rule.failures == 0 {
            return None;
        }
        let (since, failed) = match &mut self.state {
            State::Closed(failures) => {
                failures.push_back(now);
                while failures.front().is_some_and(|at| now.since(*at) > rule.window) {
                    failures.pop_front();
                }
                if failures.len() < usize::try_from(rule.failures).unwrap_or(usize::MAX) {
                    return None;
                }
                (now, 0)
            }
            State::Broken(Broken { since, failed, .. }) => (*since, failed.saturating_add(1)),
        };
        let span = spread(rule.open.saturating_mul(1 << failed.min(16)).min(rule.max_open), chance);
        let probe_at = Some(now.after(span));
        self.state = State::Broken(Broken { since, failed, answered: 0, probe_at });
        self.turn();
        Some(Change::Opened(span))
    }

    /// A request of this round has ended, whatever was learned from it before.
    pub fn left(&mut self, round: Round, now: Timestamp) {
        if let State::Broken(broken) = &mut self.state
            && round == self.round
            && broken.probe_at.is_none()
        {
            broken.probe_at = Some(now);
            self.turn();
        }
    }

    /// Whether a request of this round is a probe that nothing is known of yet.
    pub fn is_probe(&self, round: Round) -> bool {
        round == self.round && self.phase() == Phase::HalfOpen
    }

    /// When nobody waits for it any more; `None` while it is closed.
    pub fn gives_up_at(&self, rule: &Rule) -> Option<Timestamp> {
        match &self.state {
            State::Closed(_) => None,
            State::Broken(Broken { since, .. }) => Some(since.after(rule.wait)),
        }
    }

    /// Its phase.
    pub const fn phase(&self) -> Phase {
        match &self.state {
            State::Closed(_) => Phase::Closed,
            State::Broken(Broken { probe_at: None, .. }) => Phase::HalfOpen,
            State::Broken(_) => Phase::Open,
        }
    }

    /// What is sent from now on is told from what was before.
    fn turn(&mut self) {
        self.round.0 += 1;
    }
}

/// From half of a span to all of it.
fn spread(span: Duration, chance: u16) -> Duration {
    let half = span / 2;
    half + half * u32::from(chance) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests;
