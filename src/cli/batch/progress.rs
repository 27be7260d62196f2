//! How a run gets on: a bar on a terminal, else a line from time to time; on standard error.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// In a log, a line is enough so often.
const IN_LOG: Duration = Duration::from_secs(10);

/// The rate is told from what happened within this time: several of the windows of a minute would make
/// it lag, less would make it jump.
const RATE_OVER: Duration = Duration::from_secs(60);

/// How far a batch is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) prompt: u64,
    pub(super) completion: u64,
    pub(super) at_upstream: u64,
    pub(super) to_retry: u64,
    pub(super) limited_by: Option<String>,
    pub(super) trouble: Option<String>,
}

impl View {
    /// Requests that have their result.
    pub(super) const fn done(&self) -> u64 {
        self.completed + self.failed
    }

    const fn tokens(&self) -> u64 {
        self.prompt + self.completion
    }
}

/// Shows how it gets on.
pub(super) struct Shown {
    bar: Option<ProgressBar>,
    seen: VecDeque<(Instant, u64, u64)>,
    said: Option<Instant>,
}

impl Shown {
    pub(super) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            // The template is constant; the default style would do as well.
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}%  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, seen: VecDeque::new(), said: None }
    }

    /// Shows how far it is now.
    pub(super) fn show(&mut self, view: &View) {
        let now = Instant::now();
        self.seen.push_back((now, view.done(), view.tokens()));
        while self.seen.front().is_some_and(|(at, ..)| now - *at > RATE_OVER) {
            self.seen.pop_front();
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(view.total);
                bar.set_position(view.done());
                bar.set_message(self.describe(view));
            }
            None if self.said.is_none_or(|at| now - at >= IN_LOG) => {
                self.said = Some(now);
                // Nobody to tell is no reason to stop.
                let _ = writeln!(stderr(), "{}", self.describe(view));
            }
            None => {}
        }
    }

    fn describe(&self, view: &View) -> String {
        let mut text = format!("{} of {}", view.done(), view.total);
        if view.failed > 0 {
            text += &format!(", {} failed", view.failed);
        }
        if let (Some((begin, first, spent)), Some((end, last, used))) =
            (self.seen.front(), self.seen.back())
        {
            let seconds = (*end - *begin).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds.max(1e-3);
            let requests = rate(*first, *last);
            if seconds >= 0.5 && requests > 0.0 {
                text += &format!("  {requests:.1} requests/s  {:.0} tokens/s", rate(*spent, *used));
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                let left = (view.total.saturating_sub(*last)) as f64 / requests;
                let left = Duration::try_from_secs_f64(left.ceil()).unwrap_or_default();
                text += &format!("  {} left", humantime::format_duration(left));
            }
        }
        text += &format!("  {} tokens used", view.tokens());
        if let Some(limit) = &view.limited_by {
            text += &format!("  limited by {limit}");
        }
        if view.to_retry > 0
            && let Some(trouble) = &view.trouble
        {
            text += &format!("  {} to try again ({trouble})", view.to_retry);
        }
        text
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_and_the_rest_are_told_from_the_last_minute() {
        let mut shown = Shown { bar: None, seen: VecDeque::new(), said: None };
        let mut view = View { total: 1_000, ..View::default() };
        for second in 0..200_u64 {
            (view.completed, view.prompt) = (second * 2, second * 100);
            shown.show(&view);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        view.failed = 2;
        view.limited_by = Some("tokens/day".to_owned());
        let text = shown.describe(&view);
        assert_eq!(
            text,
            "400 of 1000, 2 failed  2.0 requests/s  100 tokens/s  5m 1s left  19900 tokens used  \
             limited by tokens/day"
        );
        assert!(shown.seen.len() <= 61, "bounded");
    }
}
