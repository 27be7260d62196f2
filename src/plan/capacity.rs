//! What limits allow: each alone, and all of them together.

use std::num::NonZeroU32;
use std::time::Duration;

use super::exact::{Margin, Rate, mul_div};
use super::finish::{Finish, finish};
use super::job::Job;
use super::money::{Cost, Prices};
use crate::limit::{Constraint, Unit};
use crate::time::nanos;

/// What is asked of a plan.
#[derive(Clone, Debug)]
pub struct Question {
    /// The limits, of which there is at least one.
    pub limits: Vec<Constraint>,
    /// What is to be done, again and again.
    pub job: Job,
    /// The part of each limit that is to be used in practice.
    pub margin: Margin,
    /// Jobs at the upstream at once, if that is bounded.
    pub max_concurrent: Option<NonZeroU32>,
    /// The least time between two jobs.
    pub min_gap: Duration,
    /// How many jobs there are to be done, if that is known.
    pub jobs: Option<u64>,
    /// What tokens cost, if that is known.
    pub prices: Option<Prices>,
}

/// What there is to know before the first job is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each limit as if it were the only one, in the order given.
    pub limits: Vec<Alone>,
    /// All limits together within one window of each length, shortest first.
    pub windows: Vec<Together>,
    /// All limits together, day after day.
    pub sustained: Sustained,
    /// When so many jobs would be done.
    pub finish: Option<Finish>,
    /// What that costs.
    pub cost: Option<Cost>,
}

/// What one limit allows by itself.
#[derive(Clone, Debug)]
pub struct Alone {
    /// The limit.
    pub limit: Constraint,
    /// What a job takes of it, in thousandths of a unit.
    pub cost_milli: u64,
    /// Jobs in one window.
    pub max_jobs: u64,
    /// Jobs in one window within the margin.
    pub practical_jobs: u64,
    /// Units in one window within the margin: where an alert belongs.
    pub keep_below: u64,
    /// Jobs in the long run.
    pub rate: Rate,
    /// For a limit of tokens: how many each request may use if there are as many requests as limits
    /// of requests allow.
    pub per_request: Option<u64>,
}

/// What all limits allow within one window, none of which has been used at its beginning.
#[derive(Clone, Debug)]
pub struct Together {
    /// The window's length.
    pub window: Duration,
    /// Its name.
    pub name: String,
    /// Jobs.
    pub max_jobs: u64,
    /// Jobs within the margin.
    pub practical_jobs: u64,
    /// Why not more: everything that allows no more than that.
    pub bounds: Vec<Bound>,
    /// Jobs in this window per time.
    pub rate: Rate,
}

/// What all limits allow in the long run.
#[derive(Clone, Debug)]
pub struct Sustained {
    /// At most.
    pub most: Rate,
    /// Within the margin.
    pub practical: Rate,
    /// Why not more: everything that allows no more than that.
    pub bounds: Vec<Bound>,
}

/// What keeps jobs from going.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// The limit with this index.
    Limit(usize),
    /// The number of jobs at the upstream at once.
    Concurrency,
    /// The least time between two jobs.
    Gap,
}

/// A day: the longest time for which people ask how many.
pub const DAY: Duration = Duration::from_secs(86_400);

impl Question {
    /// Works it out.
    pub fn plan(&self) -> Plan {
        let requests = self.request_rate();
        let limits: Vec<_> = self.limits.iter().map(|it| self.alone(it, requests)).collect();
        let gates = self.gates();
        let sustained = self.sustained(&limits, &gates);
        let paced = sustained.practical;
        let finish = self.jobs.map(|jobs| finish(self, (&limits, &gates), paced, jobs));
        let cost = self.prices.map(|prices| Cost::of(&self.job, prices));
        let windows = self.windows(&limits, &gates);
        Plan { limits, windows, sustained, finish, cost }
    }

    /// Jobs that can have started `after` so long, if every limit is a bucket that was full; and what
    /// allows no more.
    pub fn started_by(&self, after: Duration) -> (u64, Bound) {
        let of_limits = self.limits.iter().enumerate().map(|(index, limit)| {
            let cost = u128::from(self.job.cost_milli(limit.unit()).max(1));
            let (units, window) = (u128::from(limit.limit()) * 1_000, limit.window().as_nanos());
            let fits = cost <= units;
            let jobs = mul_div(units, window + after.as_nanos(), cost * window).filter(|_| fits);
            let jobs = jobs.map_or(0, |jobs| u64::try_from(jobs).unwrap_or(u64::MAX));
            (jobs, Bound::Limit(index))
        });
        let gates = self.gates();
        let of_gates =
            gates.iter().map(|(bound, rate)| (rate.within(after).saturating_add(1), *bound));
        let least = of_limits.chain(of_gates).min_by_key(|(jobs, _)| *jobs);
        least.unwrap_or((0, Bound::Limit(0)))
    }

    fn alone(&self, limit: &Constraint, requests: Option<Rate>) -> Alone {
        let (cost_milli, units) = (self.job.cost_milli(limit.unit()), u128::from(limit.limit()));
        let (part, of) = self.margin.of(units * 1_000).unwrap_or((0, 1));
        let window = u128::from(nanos(limit.window()));
        let whole = |jobs: u128| u64::try_from(jobs).unwrap_or(u64::MAX);
        let max_jobs = whole(units * 1_000 / u128::from(cost_milli.max(1)));
        let rate = Rate::new(units * 1_000, window * u128::from(cost_milli.max(1)));
        let per_request = requests.filter(|_| limit.unit() != Unit::Requests);
        Alone {
            limit: limit.clone(),
            cost_milli,
            max_jobs,
            practical_jobs: whole(part / (of * u128::from(cost_milli.max(1)))),
            keep_below: self.margin.whole_of(limit.limit()),
            // A job that is above the limit never goes, however rarely it comes.
            rate: if max_jobs == 0 { Rate::ZERO } else { rate },
            per_request: per_request.and_then(|it| it.share_of(limit.limit(), limit.window())),
        }
    }

    /// Requests in the long run, as far as limits of requests say.
    fn request_rate(&self) -> Option<Rate> {
        let of_requests = self.limits.iter().filter(|it| it.unit() == Unit::Requests);
        let rates =
            of_requests.map(|it| Rate::new(u128::from(it.limit()), u128::from(nanos(it.window()))));
        rates.min()
    }

    /// What holds jobs back beside limits.
    fn gates(&self) -> Vec<(Bound, Rate)> {
        let concurrency = self.max_concurrent.zip(self.job.latency).map(|(most, latency)| {
            (Bound::Concurrency, Rate::new(u128::from(most.get()), u128::from(nanos(latency))))
        });
        let gap = nanos(self.min_gap);
        let gap = (gap > 0).then(|| (Bound::Gap, Rate::new(1, u128::from(gap))));
        concurrency.into_iter().chain(gap).collect()
    }

    fn sustained(&self, limits: &[Alone], gates: &[(Bound, Rate)]) -> Sustained {
        let rates = |margin: Margin| {
            let of_limits = limits.iter().enumerate();
            let of_limits =
                of_limits.map(move |(index, it)| (Bound::Limit(index), margin.of_rate(it.rate)));
            of_limits.chain(gates.iter().copied())
        };
        let least = |margin| rates(margin).map(|(_, rate)| rate).min().unwrap_or(Rate::ZERO);
        let most = least(Margin::WHOLE);
        let bounds = rates(Margin::WHOLE).filter(|(_, rate)| *rate == most).map(|(it, _)| it);
        Sustained { most, practical: least(self.margin), bounds: bounds.collect() }
    }

    fn windows(&self, limits: &[Alone], gates: &[(Bound, Rate)]) -> Vec<Together> {
        let mut lengths: Vec<_> = self.limits.iter().map(Constraint::window).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths.into_iter().map(|window| self.together(window, limits, gates)).collect()
    }

    fn together(&self, window: Duration, limits: &[Alone], gates: &[(Bound, Rate)]) -> Together {
        let most = |jobs: fn(&Alone) -> u64| {
            let of_limits = limits.iter().enumerate();
            let of_limits = of_limits.map(move |(index, it)| {
                let periods = window.as_nanos().div_ceil(it.limit.window().as_nanos().max(1));
                let periods = u64::try_from(periods).unwrap_or(u64::MAX);
                (Bound::Limit(index), jobs(it).saturating_mul(periods))
            });
            // The first goes at once: what takes time is only those after it.
            let of_gates = gates.iter();
            let of_gates = of_gates.map(move |(it, rate)| (*it, rate.within(window).max(1)));
            of_limits.chain(of_gates).collect::<Vec<_>>()
        };
        let least = |jobs| most(jobs).into_iter().map(|(_, jobs)| jobs).min().unwrap_or(0);
        let max_jobs = least(|it| it.max_jobs);
        let bounds = most(|it| it.max_jobs).into_iter().filter(|(_, jobs)| *jobs == max_jobs);
        let name = self.limits.iter().find(|it| it.window() == window);
        Together {
            window,
            name: name.map_or_else(String::new, |it| it.name().to_owned()),
            max_jobs,
            practical_jobs: least(|it| it.practical_jobs),
            bounds: bounds.map(|(bound, _)| bound).collect(),
            rate: Rate::new(u128::from(max_jobs), window.as_nanos()),
        }
    }
}

impl Plan {
    /// How long a whole window of each length lasts at the pace of the shortest: the longest of them
    /// is used up after so long. `None` if it never is.
    pub fn at_full_speed(&self) -> Option<Duration> {
        let (first, last) = (self.windows.first()?, self.windows.last()?);
        if first.rate <= last.rate {
            return None;
        }
        first.rate.time_for(last.max_jobs)
    }

    /// What a bound is called: "tokens/day".
    pub fn name_of(&self, bound: Bound) -> String {
        match bound {
            Bound::Limit(index) => {
                self.limits.get(index).map_or_else(String::new, |it| it.limit.to_string())
            }
            Bound::Concurrency => "max_concurrent".to_owned(),
            Bound::Gap => "min_gap".to_owned(),
        }
    }

    /// The limits that a single job is above, so that none can ever go.
    pub fn walls(&self) -> impl Iterator<Item = &Alone> {
        self.limits.iter().filter(|it| it.max_jobs == 0)
    }
}
