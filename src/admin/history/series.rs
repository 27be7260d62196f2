//! The points of one pool, and how they are told: a column for each thing that is plotted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::POINTS;
use crate::admission::pools::Named;
use crate::admission::recent::Interval;
use crate::limit::Level;
use crate::time::Timestamp;

/// What was seen at one moment, and since the one before it.
#[derive(Debug)]
pub(super) struct Point {
    requests_per_second: f32,
    tokens_per_second: f32,
    wait_p50: Option<f32>,
    wait_p95: Option<f32>,
    queued: u32,
    /// Of each limit, the part that is used or held.
    used: Box<[f32]>,
}

/// The points of a pool, the latest last.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) model: Arc<str>,
    pub(super) profile: Arc<str>,
    pub(super) points: VecDeque<Point>,
    /// When it last had something to do.
    pub(super) busy_at: Timestamp,
    /// Unit and window of each limit.
    limits: Vec<(&'static str, String)>,
}

/// Points as columns; `null` for those that a pool did not live to see, and for waits of nobody.
#[derive(Debug, Serialize)]
pub(super) struct Columns {
    requests_per_second: Vec<Option<f32>>,
    tokens_per_second: Vec<Option<f32>>,
    wait_p50_seconds: Vec<Option<f32>>,
    wait_p95_seconds: Vec<Option<f32>>,
    queued: Vec<Option<u32>>,
}

/// A limit, and which part of it was used at each point.
#[derive(Debug, Serialize)]
pub(super) struct Limit {
    unit: &'static str,
    window: String,
    utilisation: Vec<Option<f32>>,
}

impl Point {
    pub(super) fn of(interval: &Interval, queued: usize, span: Duration, used: Vec<f32>) -> Self {
        // Two points at the same instant: there is no rate to tell.
        let rate = |count: u64| {
            if span.is_zero() { 0.0 } else { rounded(count as f64 / span.as_secs_f64()) }
        };
        Self {
            requests_per_second: rate(interval.requests),
            tokens_per_second: rate(interval.tokens),
            wait_p50: interval.waits.quantile(50).map(rounded),
            wait_p95: interval.waits.quantile(95).map(rounded),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            used: used.into(),
        }
    }
}

impl Track {
    pub(super) fn new(named: &Named) -> Self {
        let mut limits = Vec::new();
        named.pool.levels(|level| {
            limits.push((level.quota.unit().as_str(), level.quota.name().to_owned()));
        });
        Self {
            model: Arc::clone(&named.model),
            profile: named.profile(),
            points: VecDeque::new(),
            busy_at: Timestamp::default(),
            limits,
        }
    }

    /// How many limits the pool has.
    pub(super) const fn limits(&self) -> usize {
        self.limits.len()
    }

    /// Adds the latest point.
    pub(super) fn add(&mut self, point: Point, busy_at: Option<Timestamp>) {
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.busy_at = busy_at.unwrap_or(self.busy_at);
    }

    /// The limits, each with its last `count` points.
    pub(super) fn told(&self, count: usize) -> Vec<Limit> {
        let told = self.limits.iter().enumerate().map(|(index, (unit, window))| Limit {
            unit,
            window: window.clone(),
            utilisation: column(&self.points, count, |point| point.used.get(index).copied()),
        });
        told.collect()
    }
}

impl Columns {
    /// The last `count` points.
    pub(super) fn of(points: &VecDeque<Point>, count: usize) -> Self {
        Self {
            requests_per_second: column(points, count, |it| Some(it.requests_per_second)),
            tokens_per_second: column(points, count, |it| Some(it.tokens_per_second)),
            wait_p50_seconds: column(points, count, |it| it.wait_p50),
            wait_p95_seconds: column(points, count, |it| it.wait_p95),
            queued: column(points, count, |it| Some(it.queued)),
        }
    }
}

/// One thing of the last `count` points; nothing for those that are not there.
fn column<T>(
    points: &VecDeque<Point>,
    count: usize,
    of: impl Fn(&Point) -> Option<T>,
) -> Vec<Option<T>> {
    let missing = count.saturating_sub(points.len());
    let there = points.iter().skip(points.len().saturating_sub(count));
    std::iter::repeat_with(|| None).take(missing).chain(there.map(of)).collect()
}

/// The part of a limit that is used or held: 0 to 1, above it in debt.
pub(super) fn used(level: &Level<'_>) -> f32 {
    let limit = level.quota.limit();
    let left = i128::from(level.available);
    let used = (i128::from(limit) - left).max(0);
    rounded(used as f64 / limit as f64)
}

/// To four decimals, or as many digits as a plot shows.
#[expect(clippy::cast_possible_truncation, reason = "a number for a plot")]
fn rounded(value: f64) -> f32 {
    ((value * 10_000.0).round() / 10_000.0) as f32
}
