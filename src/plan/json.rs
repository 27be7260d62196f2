//! The answer for programs. Counts are integers; what is not is rounded to three digits.

use std::time::Duration;

use serde::Serialize;

use super::answer::{Answer, milli, seconds};
use super::capacity::{Alone, DAY, Together};
use super::decimal::Decimal;
use super::exact::Rate;
use super::finish::{Finish, Times};
use super::measure::Measured;
use super::profile::Spread;
use super::rehearsal::Rehearsal;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Digits behind the point.
const DIGITS: u32 = 3;

#[derive(Serialize)]
struct Page<'a> {
    job: JobView,
    profile: Option<ProfileView<'a>>,
    margin: f64,
    limits: Vec<LimitView>,
    windows: Vec<WindowView>,
    sustained: SustainedView,
    finish: Option<FinishView>,
    cost: Option<CostView>,
    simulation: Option<&'a Rehearsal>,
}

#[derive(Serialize)]
struct JobView {
    requests: u64,
    input_tokens: f64,
    output_tokens: f64,
    tokens: f64,
    latency_seconds: Option<f64>,
}

#[derive(Serialize)]
struct ProfileView<'a> {
    jobs: u64,
    request_lines: u64,
    log_lines: u64,
    log_lines_without_usage: u64,
    other_log_lines: u64,
    bad_lines: u64,
    bad: Vec<BadView<'a>>,
    input_tokens: SpreadView,
    output_tokens: SpreadView,
    tokens: SpreadView,
    held_tokens: SpreadView,
    latency_ms: Option<SpreadView>,
}

#[derive(Serialize)]
struct BadView<'a> {
    line: u64,
    reason: &'a str,
}

#[derive(Serialize)]
struct SpreadView {
    mean: f64,
    p50: u64,
    p95: u64,
    max: u64,
}

#[derive(Serialize)]
struct LimitView {
    name: String,
    unit: &'static str,
    limit: u64,
    window_seconds: f64,
    mode: &'static str,
    per_second: f64,
    keep_below: u64,
    per_job: f64,
    max_jobs: u64,
    practical_jobs: u64,
    max_jobs_per_day: u64,
    tokens_per_request: Option<u64>,
}

#[derive(Serialize)]
struct WindowView {
    name: String,
    window_seconds: f64,
    max_jobs: u64,
    practical_jobs: u64,
    bound_by: Vec<String>,
    per_second: f64,
    gap_seconds: Option<f64>,
    workers: Option<u64>,
}

#[derive(Serialize)]
struct SustainedView {
    bound_by: Vec<String>,
    at_full_speed_seconds: Option<f64>,
    max: RateView,
    practical: RateView,
}

#[derive(Serialize)]
struct RateView {
    jobs_per_day: u64,
    jobs_per_hour: f64,
    jobs_per_minute: f64,
    jobs_per_second: f64,
    gap_seconds: Option<f64>,
    in_flight: Option<f64>,
    workers: Option<u64>,
    cost_per_day: Option<f64>,
}

#[derive(Serialize)]
struct FinishView {
    jobs: u64,
    max: TimesView,
    practical: TimesView,
    practical_paced_seconds: Option<f64>,
}

#[derive(Serialize)]
struct TimesView {
    bucket_seconds: Option<f64>,
    fixed_seconds: Option<f64>,
}

#[derive(Serialize)]
struct CostView {
    per_job: f64,
    per_1000_jobs: f64,
    jobs: Option<f64>,
}

impl Answer {
    /// The answer as one JSON document.
    ///
    /// # Errors
    ///
    /// None that is known: everything in it can be written.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        let (plan, job) = (&self.plan, &self.question.job);
        let page = Page {
            job: JobView {
                requests: 1,
                input_tokens: milli(job.input_milli()).as_f64(),
                output_tokens: milli(job.output_milli()).as_f64(),
                tokens: milli(job.input_milli() + job.output_milli()).as_f64(),
                latency_seconds: job.latency.map(|it| seconds(it).as_f64()),
            },
            profile: self.measured.as_ref().map(ProfileView::of),
            margin: self.question.margin.as_f64(),
            limits: plan.limits.iter().map(LimitView::of).collect(),
            windows: plan.windows.iter().map(|it| self.window(it)).collect(),
            sustained: SustainedView {
                bound_by: self.list(&plan.sustained.bounds),
                at_full_speed_seconds: plan.at_full_speed().map(|it| seconds(it).as_f64()),
                max: self.rate(plan.sustained.most),
                practical: self.rate(plan.sustained.practical),
            },
            finish: plan.finish.as_ref().map(FinishView::of),
            cost: plan.cost.map(|cost| CostView {
                per_job: cost.of_jobs(1).as_f64(),
                per_1000_jobs: cost.of_jobs(1_000).as_f64(),
                jobs: self.question.jobs.map(|jobs| cost.of_jobs(jobs).as_f64()),
            }),
            simulation: self.rehearsal.as_ref(),
        };
        serde_json::to_string_pretty(&page)
    }

    fn list(&self, bounds: &[super::Bound]) -> Vec<String> {
        bounds.iter().map(|it| self.plan.name_of(*it)).collect()
    }

    fn window(&self, it: &Together) -> WindowView {
        WindowView {
            name: it.name.clone(),
            window_seconds: seconds(it.window).as_f64(),
            max_jobs: it.max_jobs,
            practical_jobs: it.practical_jobs,
            bound_by: self.list(&it.bounds),
            per_second: it.rate.per(SECOND, DIGITS).as_f64(),
            gap_seconds: gap(it.rate),
            workers: self.workers(it.rate),
        }
    }

    fn rate(&self, rate: Rate) -> RateView {
        let per = |span| rate.per(span, DIGITS).as_f64();
        let in_flight = |latency| rate.under_way(latency, DIGITS).as_f64();
        RateView {
            jobs_per_day: rate.within(DAY),
            jobs_per_hour: per(HOUR),
            jobs_per_minute: per(MINUTE),
            jobs_per_second: per(SECOND),
            gap_seconds: gap(rate),
            in_flight: self.question.job.latency.map(in_flight),
            workers: self.workers(rate),
            cost_per_day: self.cost_of(rate.within(DAY)).map(Decimal::as_f64),
        }
    }
}

fn gap(rate: Rate) -> Option<f64> {
    rate.gap().map(|gap| seconds(gap).as_f64())
}

impl LimitView {
    fn of(it: &Alone) -> Self {
        let limit = &it.limit;
        let units = Rate::new(u128::from(limit.limit()), limit.window().as_nanos());
        Self {
            name: limit.to_string(),
            unit: limit.unit().as_str(),
            limit: limit.limit(),
            window_seconds: seconds(limit.window()).as_f64(),
            mode: limit.mode().as_str(),
            per_second: units.per(SECOND, DIGITS).as_f64(),
            keep_below: it.keep_below,
            per_job: milli(it.cost_milli).as_f64(),
            max_jobs: it.max_jobs,
            practical_jobs: it.practical_jobs,
            max_jobs_per_day: it.rate.within(DAY),
            tokens_per_request: it.per_request,
        }
    }
}

impl<'a> ProfileView<'a> {
    fn of(it: &'a Measured) -> Self {
        let profile = &it.profile;
        let view = |spread: &Spread| SpreadView {
            mean: milli(spread.mean_milli()).as_f64(),
            p50: spread.at(500),
            p95: spread.at(950),
            max: spread.max(),
        };
        Self {
            jobs: profile.jobs(),
            request_lines: it.bodies,
            log_lines: it.logged,
            log_lines_without_usage: it.unanswered,
            other_log_lines: it.others,
            bad_lines: it.bad_lines,
            bad: it.bad.iter().map(|(line, reason)| BadView { line: *line, reason }).collect(),
            input_tokens: view(&profile.input),
            output_tokens: view(&profile.output),
            tokens: view(&profile.total),
            held_tokens: view(&profile.held),
            latency_ms: (profile.latency_ms.count() > 0).then(|| view(&profile.latency_ms)),
        }
    }
}

impl FinishView {
    fn of(it: &Finish) -> Self {
        let span = |it: Option<Duration>| it.map(|it| seconds(it).as_f64());
        let times = |it: Times| TimesView {
            bucket_seconds: span(it.bucket),
            fixed_seconds: span(it.fixed),
        };
        Self {
            jobs: it.jobs,
            max: times(it.whole),
            practical: times(it.practical),
            practical_paced_seconds: span(it.paced),
        }
    }
}
