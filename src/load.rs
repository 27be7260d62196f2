//! A load generator for OpenAI-compatible chat endpoints: what `tidegate load` runs.
//!
//! The life of a run: a `Workload` says what request number N asks, `drive` sends requests at a
//! `Pace` through a `Backend`, `tally` counts what is seen of each, `report` makes
//! figures of the counts, for people and for programs. Two targets take turns (`slices`).
//!
//! # Invariants
//!
//! - **Pure inside.** Workload, rate, slices, counts and report know no clock and no socket; only `drive`,
//!   `client` and `progress` do.
//! - **Nothing is tried again.** What a target does with the first try is what there is to see.
//! - **Bounded.** Memory does not grow with the length of a run.
//! - **Secrets stay out.** The key comes from the environment, and no report has a header in it.

mod client;
mod drive;
mod observation;
mod progress;
mod prompts;
mod quota;
mod rate;
mod report;
mod size;
mod slices;
mod tally;
mod target;
mod text;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio_util::sync::CancellationToken;

pub(crate) use client::CLASS;
use client::HttpBackend;
use drive::Lane;
pub(crate) use drive::{Pace, Stretch};
pub(crate) use prompts::{read_prompts, read_sizes};
pub(crate) use rate::Rate;
pub(crate) use report::Report;
use report::{Ratios, Settings, TargetReport};
pub(crate) use size::{BadSize, Size};
pub(crate) use target::{BadTarget, Target};
pub(crate) use workload::{Prompts, Workload};

/// A run as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) target: Target,
    /// To be compared with the target.
    pub(crate) other: Option<Target>,
    /// Sent with every request, the key among them.
    pub(crate) headers: HeaderMap,
    pub(crate) workload: Workload,
    pub(crate) pace: Pace,
    /// For each target.
    pub(crate) stretch: Stretch,
    /// The longest turn of a target in a comparison.
    pub(crate) slice: Duration,
    /// How long a request may take.
    pub(crate) timeout: Duration,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// Targets of which no request was answered.
    pub(crate) unreached: Vec<String>,
}

/// Loads the targets. After `stop` no request is sent any more, after `abort` none is waited for.
pub(crate) async fn run(
    options: &Options,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> Outcome {
    let targets: Vec<&Target> = std::iter::once(&options.target).chain(&options.other).collect();
    let lanes: Vec<_> = targets
        .iter()
        .map(|target| {
            let backend = HttpBackend::new(target, &options.headers, options.timeout);
            Lane::new(backend, options.workload.clone(), options.pace)
        })
        .collect();
    let turns = match &options.other {
        Some(_) => slices::turns(options.stretch, options.slice),
        None => vec![(0, options.stretch)],
    };
    let load = async {
        for (target, stretch) in turns {
            let lane: &Arc<_> = &lanes[target];
            lane.run(stretch, stop, abort).await;
            if stop.is_cancelled() || !lane.was_reached() {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        () = load => {}
        () = progress::show(&lanes) => {}
    }
    let reports: Vec<_> = targets
        .iter()
        .zip(&lanes)
        .map(|(target, lane)| TargetReport::new(&target.name, &lane.tally().lock()))
        .collect();
    let ratios = match &reports[..] {
        [first, second] => Some(Ratios::new(&first.measured, &second.measured)),
        _ => None,
    };
    let asked = |lane: &Lane<_>| lane.tally().lock().any_sent();
    let unreached =
        targets.iter().zip(&lanes).filter(|(_, lane)| asked(lane) && !lane.was_reached());
    let unreached = unreached.map(|(target, _)| target.name.clone()).collect();
    let interrupted = stop.is_cancelled();
    let settings = settings(options);
    Outcome { report: Report { settings, interrupted, targets: reports, ratios }, unreached }
}

fn settings(options: &Options) -> Settings {
    let workload = &options.workload;
    let (concurrency, rate, max_in_flight) = match options.pace {
        Pace::Closed { concurrency } => (Some(concurrency), None, None),
        Pace::Open { rate, max_in_flight } => (None, Some(rate.to_string()), Some(max_in_flight)),
    };
    Settings {
        model: workload.model.clone(),
        concurrency,
        rate,
        max_in_flight,
        warm_up_seconds: options.stretch.warm_up.as_secs_f64(),
        duration_seconds: options.stretch.length.map(|length| length.as_secs_f64()),
        requests: options.stretch.requests,
        prompt_tokens: match &workload.prompts {
            Prompts::Made(size) => size.to_string(),
            Prompts::Given(all) => format!("{} from a file", all.len()),
        },
        output_tokens: workload.output.as_ref().map(ToString::to_string),
        streamed_share: workload.streamed,
        seed: workload.seed,
        timeout_seconds: options.timeout.as_secs_f64(),
    }
}
