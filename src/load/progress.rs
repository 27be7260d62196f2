//! How the load goes while it goes: one line that changes on a terminal, else one every few seconds.
//! On standard error, so that standard output has the report and nothing else.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::drive::{Backend, Lane};
use super::tally::Tally;
use super::text::{count, duration, number};

/// On a terminal: often enough to look alive, seldom enough that the numbers can be read.
const ON_TERMINAL: Duration = Duration::from_millis(500);
/// In a log.
const IN_LOG: Duration = Duration::from_secs(5);

/// Shows the lanes' counts until it is dropped.
pub(crate) async fn show<B: Backend>(lanes: &[Arc<Lane<B>>]) {
    let terminal = stderr().is_terminal();
    let bar = terminal.then(|| {
        let bar = ProgressBar::new_spinner();
        // The template is constant; the default style would do as well.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Line(bar)
    });
    let mut every = interval(if terminal { ON_TERMINAL } else { IN_LOG });
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = every.tick().await;
    let mut last: Vec<Glance> =
        lanes.iter().map(|lane| Glance::at(&lane.tally().lock(), start)).collect();
    loop {
        let now = every.tick().await;
        let mut line = format!("{:>4} s", now.duration_since(start).as_secs());
        for (number, (lane, last)) in lanes.iter().zip(&mut last).enumerate() {
            let (glance, text) = {
                let tally = lane.tally().lock();
                let glance = Glance::at(&tally, now);
                (glance, describe(&tally, &glance, last))
            };
            if lanes.len() > 1 {
                line.push_str(if number == 0 { "  A" } else { "  | B" });
            }
            line.push_str(&text);
            *last = glance;
        }
        match &bar {
            Some(bar) => bar.0.set_message(line),
            None => {
                // Nobody to tell is no reason to stop.
                let _ = writeln!(stderr(), "{line}");
            }
        }
    }
}

/// A line on a terminal, wiped when it is not needed any more.
struct Line(ProgressBar);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What rates are told from.
#[derive(Clone, Copy)]
struct Glance {
    at: Instant,
    ended: u64,
    tokens: u64,
}

impl Glance {
    fn at(tally: &Tally, at: Instant) -> Self {
        let parts = [&tally.warm_up, &tally.measured];
        Self {
            at,
            ended: parts.iter().map(|it| it.ended).sum(),
            tokens: parts.iter().map(|it| it.prompt_tokens + it.completion_tokens).sum(),
        }
    }
}

fn describe(tally: &Tally, now: &Glance, last: &Glance) -> String {
    let seconds = now.at.duration_since(last.at).as_secs_f64().max(1e-3);
    let rate = |now: u64, last: u64| number((now - last) as f64 / seconds);
    let warm = tally.measured.sent == 0 && tally.warm_up.sent > 0;
    let counts = if warm { &tally.warm_up } else { &tally.measured };
    let latency = counts.latency.histogram();
    let at = |quantile| duration(latency.value_at_quantile(quantile) as f64 / 1_000.0);
    let failed: u64 = counts.failures.iter().sum();
    format!(
        "{}  {} requests/s  {} in flight  p50 {}  p99 {}  {} tokens/s  429s {}  errors {}",
        if warm { "  warm-up" } else { "" },
        rate(now.ended, last.ended),
        count(tally.in_flight()),
        at(0.5),
        at(0.99),
        rate(now.tokens, last.tokens),
        count(counts.refused()),
        count(failed),
    )
}
