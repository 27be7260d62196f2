//! `/history`: the last hour, sampled every few seconds: throughput, waits and how far the limits are
//! used.
//!
//! # Invariants
//!
//! - Bounded: [`POINTS`] points of all pools together and of [`MOST_POOLS`] one by one, some 100 bytes
//!   each: 2 MB with six limits in each of twenty pools.
//! - Costs a request no more than being counted, which it is anyway.

mod series;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::series::{Columns, Limit, Point, Track};
use crate::admission::PoolKey;
use crate::admission::pools::Named;
use crate::admission::recent::Interval;
use crate::proxy::Current;
use crate::time::Timestamp;

/// Time between two points: a second is noise, a minute hides a burst.
const EVERY: Duration = Duration::from_secs(5);

/// Points kept: an hour.
const POINTS: usize = 720;

/// Pools told apart. More are not told from each other in a plot; all count in the total.
const MOST_POOLS: usize = 20;

/// The last hour of a gateway.
#[derive(Debug)]
pub(super) struct LastHour {
    current: Current,
    samples: Mutex<Samples>,
}

#[derive(Debug)]
struct Samples {
    last: Instant,
    times: VecDeque<Timestamp>,
    total: VecDeque<Point>,
    tracks: HashMap<PoolKey, Track>,
}

/// What part of the hour is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Points after this, in seconds since the Unix epoch.
    #[serde(default)]
    since: f64,
}

/// The part that a query names, or what is wrong with it.
pub(super) type Wanted = Result<Query<Part>, QueryRejection>;

/// The answer.
#[derive(Debug, Serialize)]
struct Told {
    /// Seconds between two points, if nothing held the sampler up.
    every_seconds: f64,
    /// Seconds for which points are kept.
    kept_seconds: f64,
    /// When each point was taken, in seconds since the Unix epoch.
    times: Vec<f64>,
    total: Columns,
    pools: Vec<PoolHistory>,
}

#[derive(Debug, Serialize)]
struct PoolHistory {
    pool: String,
    model: Arc<str>,
    profile: Arc<str>,
    #[serde(flatten)]
    columns: Columns,
    constraints: Vec<Limit>,
}

impl LastHour {
    /// Samples from now on, until `closed`.
    pub(super) fn start(
        current: Current,
        closed: CancellationToken,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let samples = Samples {
            last: Instant::now(),
            times: VecDeque::new(),
            total: VecDeque::new(),
            tracks: HashMap::new(),
        };
        let hour = Arc::new(Self { current, samples: Mutex::new(samples) });
        let sampled = Arc::clone(&hour);
        let mut every = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        // After a pause there is one point and not all that were missed.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    _ = every.tick() => sampled.sample(),
                    () = closed.cancelled() => return,
                }
            }
        });
        hour
    }

    /// Adds a point.
    fn sample(&self) {
        let gateway = self.current.get();
        let pools = gateway.pools();
        let (all, now, at) = (pools.all(), Instant::now(), pools.epoch().now());
        let mut guard = self.samples.lock();
        let samples = &mut *guard;
        let span = now - samples.last;
        samples.last = now;
        samples.tracks.retain(|key, _| all.iter().any(|(other, _)| other == key));
        let (mut total, mut waiting) = (Interval::default(), 0);
        for (key, named) in &all {
            let (interval, queued) = (named.pool.recent().take(), named.pool.queued());
            total.add(&interval);
            waiting += queued;
            let busy = interval.requests > 0 || queued > 0;
            if let Some(track) = samples.track(*key, named, busy, at) {
                let mut used = Vec::with_capacity(track.limits());
                named.pool.levels(|level| used.push(series::used(&level)));
                track.add(Point::of(&interval, queued, span, used), busy.then_some(at));
            }
        }
        samples.times.push_back(at);
        samples.total.push_back(Point::of(&total, waiting, span, Vec::new()));
        if samples.times.len() > POINTS {
            samples.times.pop_front();
            samples.total.pop_front();
        }
    }

    /// Tells the hour, or the part of it that is wanted.
    pub(super) fn tell(&self, wanted: Wanted) -> Response {
        match wanted {
            Ok(Query(Part { since })) => Json(self.told(since)).into_response(),
            Err(problem) => problem.into_response(),
        }
    }

    fn told(&self, since: f64) -> Told {
        let samples = self.samples.lock();
        let times: Vec<_> = samples.times.iter().map(|at| seconds(*at)).collect();
        let first = times.partition_point(|at| *at <= since);
        let count = times.len() - first;
        let pools = samples.tracks.iter().map(|(key, track)| PoolHistory {
            pool: key.to_string(),
            model: Arc::clone(&track.model),
            profile: Arc::clone(&track.profile),
            columns: Columns::of(&track.points, count),
            constraints: track.told(count),
        });
        let mut pools: Vec<_> = pools.collect();
        pools.sort_by(|a, b| (&a.model, &a.pool).cmp(&(&b.model, &b.pool)));
        Told {
            every_seconds: EVERY.as_secs_f64(),
            kept_seconds: EVERY.as_secs_f64() * POINTS as f64,
            total: Columns::of(&samples.total, count),
            times: times[first..].to_vec(),
            pools,
        }
    }
}

impl Samples {
    /// Where a pool's points go; one that is busy takes the room of the one that was idle longest.
    fn track(
        &mut self,
        key: PoolKey,
        named: &Named,
        busy: bool,
        now: Timestamp,
    ) -> Option<&mut Track> {
        if !self.tracks.contains_key(&key) {
            if self.tracks.len() >= MOST_POOLS {
                if !busy {
                    return None;
                }
                let idle = self.tracks.iter().min_by_key(|(_, track)| track.busy_at);
                let idle = idle.filter(|(_, track)| track.busy_at < self.before(now));
                let idle = idle.map(|(key, _)| *key)?;
                self.tracks.remove(&idle);
            }
            self.tracks.insert(key, Track::new(named));
        }
        self.tracks.get_mut(&key)
    }

    /// The last point's time: who was busy then or since keeps its room.
    fn before(&self, now: Timestamp) -> Timestamp {
        self.times.back().copied().unwrap_or(now)
    }
}

/// Seconds since the Unix epoch, to the millisecond.
fn seconds(at: Timestamp) -> f64 {
    (at.as_nanos() / 1_000_000) as f64 / 1_000.0
}
