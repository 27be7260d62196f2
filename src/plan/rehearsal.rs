//! A rehearsal: the gateway's own ledger and line in virtual time, in front of an upstream that
//! counts for itself.
//!
//! Jobs like those of the profile come all at once or at random, wait their turn, and take their
//! time. What the ledger lets go is counted again by the simulated upstream's model of each limit,
//! which shares no code with it. Then the same jobs come to quotas of which one limit is twice as
//! high.
//!
//! # Invariants
//!
//! - **Reproducible.** The same seed gives the same rehearsal; no clock is read.
//! - **Alike.** Every variant gets the same jobs at the same times.

mod world;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use self::world::World;
use super::capacity::{DAY, Question};
use super::decimal::Decimal;
use super::profile::{Example, Spread};
use super::table::{Table, grouped};
use super::text::span;
use crate::limit::Constraint;

/// Jobs of a rehearsal at most: a minute of work, where every limit is doubled in turn.
pub const MOST_JOBS: u64 = 1_000_000;

/// What is rehearsed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What jobs are like; one is drawn for each, and there is at least one.
    pub examples: Vec<Example>,
    /// When they come.
    pub arrivals: Arrivals,
    /// How long it is watched.
    pub lasts: Duration,
    /// How long after an answer its refund is counted.
    pub settle_delay: Duration,
    /// What everything random follows from.
    pub seed: u64,
}

/// When jobs come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrivals {
    /// So many, all at the beginning.
    AtOnce(u64),
    /// So many millionths of a job a second on the average, independently of each other; so many in
    /// all, if that is bounded.
    Random {
        /// Millionths of a job a second.
        per_second_micros: u64,
        /// Jobs at most.
        jobs: u64,
    },
}

/// What came of a rehearsal.
#[derive(Clone, Debug, Serialize)]
pub struct Rehearsal {
    /// What it began with.
    pub seed: u64,
    /// What happened with the limits as they are.
    pub run: Run,
    /// By limit: what would happen if it were twice as high.
    pub doubled: Vec<Doubled>,
}

/// What happened to the jobs.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// How long was watched, in seconds, or until everything was done.
    pub seconds: f64,
    /// Jobs that came.
    pub came: u64,
    /// Jobs that went.
    pub started: u64,
    /// Jobs that were above a limit by themselves.
    pub refused: u64,
    /// Jobs that still waited at the end.
    pub waiting: u64,
    /// How long they waited; those that still did, up to the end.
    pub wait: Wait,
    /// By limit: what was used of it.
    pub used: Vec<Used>,
    /// Jobs that were sent although the upstream's own count had no room for them.
    pub overdrawn: u64,
}

/// How long jobs waited, in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Wait {
    /// Half of them.
    pub p50_ms: u64,
    /// 95 of a hundred.
    pub p95_ms: u64,
    /// 99 of a hundred.
    pub p99_ms: u64,
    /// All.
    pub max_ms: u64,
}

/// What was used of a limit.
#[derive(Clone, Debug, Serialize)]
pub struct Used {
    /// The limit's name.
    pub limit: String,
    /// Units.
    pub units: u64,
    /// The same in hundredths of what comes back in that time, or of one window if that is longer.
    /// More than a hundred is what had been saved up before.
    pub percent: f64,
}

/// What a limit twice as high would buy.
#[derive(Clone, Debug, Serialize)]
pub struct Doubled {
    /// The limit's name.
    pub limit: String,
    /// Jobs a day that can be sustained.
    pub jobs_per_day: u64,
    /// What more that is than with the limits as they are.
    pub more_jobs_per_day: u64,
    /// Jobs that went in this rehearsal.
    pub started: u64,
    /// What 95 of a hundred of them waited at most, in milliseconds.
    pub wait_p95_ms: u64,
}

impl Rehearsal {
    /// Rehearses a scenario with the limits of a question, and with each of them doubled.
    pub fn run(question: &Question, scenario: &Scenario) -> Self {
        let run = World::run(question, scenario);
        let before = question.plan().sustained.most.within(DAY);
        let doubled = (0..question.limits.len()).map(|index| {
            let mut better = question.clone();
            better.limits[index] = doubled(&question.limits[index]);
            let jobs_per_day = better.plan().sustained.most.within(DAY);
            let run = World::run(&better, scenario);
            Doubled {
                limit: question.limits[index].to_string(),
                jobs_per_day,
                more_jobs_per_day: jobs_per_day.saturating_sub(before),
                started: run.started,
                wait_p95_ms: run.wait.p95_ms,
            }
        });
        Self { seed: scenario.seed, doubled: doubled.collect(), run }
    }

    /// Says what came of it.
    pub(super) fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = &self.run;
        writeln!(
            f,
            "\nRehearsed in virtual time (--seed {}): {} jobs came in {}, {} started, {} still waited",
            self.seed,
            grouped(run.came),
            seconds(run.seconds),
            grouped(run.started),
            grouped(run.waiting),
        )?;
        if run.refused > 0 {
            writeln!(f, "  ! {} jobs were above a limit by themselves", grouped(run.refused))?;
        }
        let Wait { p50_ms, p95_ms, p99_ms, max_ms } = run.wait;
        let [p50, p95, p99, most] = [p50_ms, p95_ms, p99_ms, max_ms].map(millis);
        writeln!(f, "  waits: p50 {p50}, p95 {p95}, p99 {p99}, longest {most}")?;
        let verdict = match run.overdrawn {
            0 => "found room for every one".to_owned(),
            more => format!("had no room for {}", grouped(more)),
        };
        writeln!(f, "  an independent count of every window {verdict}")?;
        let mut table = Table::new(["", "used", "", "doubled: a day", "", "p95 wait"]);
        for (used, doubled) in run.used.iter().zip(&self.doubled) {
            table.row([
                used.limit.clone(),
                grouped(used.units),
                format!("{} %", used.percent),
                grouped(doubled.jobs_per_day),
                format!("+{}", grouped(doubled.more_jobs_per_day)),
                millis(doubled.wait_p95_ms),
            ]);
        }
        write!(f, "{table}")
    }
}

impl Wait {
    fn of(waits: &Spread) -> Self {
        let [p50_ms, p95_ms, p99_ms] = [500, 950, 990].map(|at| waits.at(at));
        Self { p50_ms, p95_ms, p99_ms, max_ms: waits.max() }
    }
}

/// The same limit, twice as high; as high as one can be, if that is less.
fn doubled(limit: &Constraint) -> Constraint {
    let more = limit.limit().saturating_mul(2).min(Constraint::MAX_LIMIT);
    let higher = Constraint::new(limit.unit(), more, limit.window(), limit.name(), limit.mode());
    // All but the number is that of a limit there is, and the number is within bounds.
    higher.unwrap_or_else(|_| limit.clone())
}

fn millis(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

fn seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Parts of a whole in hundredths, to one digit.
fn percent(part: u128, whole: u128) -> f64 {
    let doubled = (part * 2_000).checked_div(whole).unwrap_or(0);
    Decimal::new(doubled.div_ceil(2), 1).as_f64()
}

#[cfg(test)]
mod tests;
