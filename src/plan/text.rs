//! The answer for people.

use std::fmt::{self, Display};
use std::time::Duration;

use super::answer::{Answer, milli, tenths};
use super::capacity::{DAY, Together};
use super::exact::{Margin, Rate};
use super::finish::{Finish, Times};
use super::measure::Measured;
use super::profile::Spread;
use super::table::{Table, grouped};
use crate::limit::Mode;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.job(f)?;
        self.alone(f)?;
        self.together(f)?;
        self.sustained(f)?;
        if let Some(finish) = &self.plan.finish {
            self.finish(f, finish)?;
        }
        self.cost(f)?;
        if let Some(rehearsal) = &self.rehearsal {
            rehearsal.tell(f)?;
        }
        Ok(())
    }
}

impl Answer {
    fn job(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = &self.question.job;
        let [input, output] = [job.input_milli(), job.output_milli()];
        let tokens = |thousandths| grouped(tenths(thousandths));
        write!(f, "A job: 1 request, {} + {}", tokens(input), tokens(output))?;
        write!(f, " = {} tokens (prompt + answer)", tokens(input + output))?;
        match job.latency {
            Some(latency) => writeln!(f, ", {} at the upstream", span(latency))?,
            None => writeln!(f)?,
        }
        if let Some(measured) = &self.measured {
            measured_from(f, measured)?;
        }
        writeln!(f)
    }

    fn alone(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Each limit by itself")?;
        let margin = self.question.margin;
        let (practical, below) = (format!("at {margin}"), format!("{margin} of it"));
        let headings = ["", "limit", &below, "per job", "jobs", &practical, "tokens per request"];
        let mut table = Table::new(headings);
        for it in &self.plan.limits {
            table.row([
                it.limit.to_string(),
                grouped(it.limit.limit()),
                grouped(it.keep_below),
                grouped(milli(it.cost_milli)),
                grouped(it.max_jobs),
                grouped(it.practical_jobs),
                it.per_request.map_or_else(String::new, grouped),
            ]);
        }
        write!(f, "{table}")?;
        if self.plan.limits.iter().any(|it| it.per_request.is_some()) {
            writeln!(
                f,
                "  tokens per request: what each may use if requests use up their limits."
            )?;
        }
        for wall in self.plan.walls() {
            let limit = &wall.limit;
            writeln!(
                f,
                "  ! a job is above {limit} ({}): none can ever be sent",
                grouped(limit.limit())
            )?;
        }
        writeln!(f)
    }

    fn together(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "All limits together, in one window that begins unused")?;
        let margin = format!("at {}", self.question.margin);
        let headings = ["", "jobs", &margin, "per second", "one every", "workers", "bound by"];
        let mut table = Table::new(headings).saying();
        for it in &self.plan.windows {
            let Together { name, rate, .. } = it;
            table.row([
                name.clone(),
                grouped(it.max_jobs),
                grouped(it.practical_jobs),
                rate.per(SECOND, 3).to_string(),
                gap(*rate),
                self.crew(*rate),
                self.names(&it.bounds),
            ]);
        }
        write!(f, "{table}")?;
        let windows = (self.plan.windows.first(), self.plan.windows.last());
        if let (Some(lasts), (Some(first), Some(last))) = (self.plan.at_full_speed(), windows) {
            let (rate, name) = (first.rate.per(SECOND, 3), &last.name);
            writeln!(f, "  At {rate} a second, one {name} is used up after {}.", span(lasts))?;
        }
        writeln!(f)
    }

    fn sustained(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sustained = &self.plan.sustained;
        writeln!(f, "Day after day (bound by {})", self.names(&sustained.bounds))?;
        let headings =
            ["", "per day", "per hour", "per minute", "per second", "one every", "workers"];
        let mut table = Table::new(headings);
        let rates = [(Margin::WHOLE, sustained.most), (self.question.margin, sustained.practical)];
        for (margin, rate) in rates {
            table.row([
                format!("at {margin}"),
                grouped(rate.within(DAY)),
                grouped(rate.per(HOUR, 1)),
                grouped(rate.per(MINUTE, 2)),
                grouped(rate.per(SECOND, 3)),
                gap(rate),
                self.crew(rate),
            ]);
        }
        write!(f, "{table}")?;
        match self.question.job.latency {
            Some(latency) => {
                let rate = sustained.practical;
                writeln!(
                    f,
                    "  Workers by Little's law: {} jobs a second x {} = {} under way, so {}.",
                    rate.per(SECOND, 3),
                    span(latency),
                    rate.under_way(latency, 2),
                    grouped(rate.workers(latency)),
                )
            }
            None => writeln!(f, "  Workers: give the time that a job takes, with --latency."),
        }
    }

    fn finish(&self, f: &mut fmt::Formatter<'_>, finish: &Finish) -> fmt::Result {
        let margin = self.question.margin;
        writeln!(f, "\n{} jobs: when the last one starts", grouped(finish.jobs))?;
        let (whole, part) = (format!("at {}", Margin::WHOLE), format!("at {margin}"));
        let mut table = Table::new(["if limits come back", &whole, &part]);
        let Times { bucket, fixed } = finish.whole;
        let practical = finish.practical;
        table.row(["bit by bit (bucket)".to_owned(), when(bucket), when(practical.bucket)]);
        table.row(["window by window (fixed)".to_owned(), when(fixed), when(practical.fixed)]);
        table.row(["either way, evenly paced".to_owned(), String::new(), when(finish.paced)]);
        write!(f, "{table}")?;
        let modes = self.question.limits.iter().map(|limit| match limit.mode() {
            Mode::Bucket => "bucket",
            Mode::Fixed { .. } => "fixed",
            Mode::Sliding | Mode::Auto => "sliding, which is no later than fixed",
        });
        let mut modes: Vec<_> = modes.collect();
        modes.sort_unstable();
        modes.dedup();
        writeln!(f, "  All limits begin unused. Configured: {}.", modes.join("; "))
    }

    fn cost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(cost) = self.plan.cost else { return Ok(()) };
        writeln!(f, "\nCost, in the currency of the prices")?;
        let mut table = Table::new(["", "jobs", "cost"]);
        let sustained = &self.plan.sustained;
        let margin = self.question.margin;
        let mut row = |what: String, jobs: u64| {
            table.row([what, grouped(jobs), grouped(cost.of_jobs(jobs))]);
        };
        row("one job".to_owned(), 1);
        row(format!("a day at {margin}"), sustained.practical.within(DAY));
        row(format!("a day at {}", Margin::WHOLE), sustained.most.within(DAY));
        if let Some(jobs) = self.question.jobs {
            row("all of them".to_owned(), jobs);
        }
        write!(f, "{table}")
    }

    fn crew(&self, rate: Rate) -> String {
        self.workers(rate).map_or_else(|| "?".to_owned(), grouped)
    }
}

/// What was found in a file.
fn measured_from(f: &mut fmt::Formatter<'_>, measured: &Measured) -> fmt::Result {
    let list = |counts: &[(u64, &str)]| {
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let some: Vec<_> = some.map(|(count, what)| format!("{} {what}", grouped(count))).collect();
        some.join(", ")
    };
    let from = list(&[(measured.bodies, "to be made"), (measured.logged, "in a log")]);
    let left_out = list(&[
        (measured.unanswered, "without usage"),
        (measured.others, "about other things"),
        (measured.bad_lines, "bad"),
    ]);
    write!(f, "Requests measured: {from}")?;
    let left_out = if left_out.is_empty() { left_out } else { format!("; left out: {left_out}") };
    writeln!(f, "{left_out}")?;
    let profile = &measured.profile;
    let mut table = Table::new(["", "mean", "p50", "p95", "most"]);
    let mut row = |what: &str, it: &Spread| {
        table.row([
            what.to_owned(),
            grouped(tenths(it.mean_milli())),
            grouped(it.at(500)),
            grouped(it.at(950)),
            grouped(it.max()),
        ]);
    };
    row("prompt, tokens", &profile.input);
    let answers = if measured.bodies > 0 { "answer, tokens at most" } else { "answer, tokens" };
    row(answers, &profile.output);
    row("both", &profile.total);
    row("held until the end", &profile.held);
    if profile.latency_ms.count() > 0 {
        row("at the upstream, ms", &profile.latency_ms);
    }
    write!(f, "{table}")
}

/// A time to be waited for.
fn when(span_of: Option<Duration>) -> String {
    span_of.map_or_else(|| "never".to_owned(), span)
}

fn gap(rate: Rate) -> String {
    rate.gap().map_or_else(|| "never".to_owned(), span)
}

/// A duration without digits that nobody reads: to the millisecond below a minute, to the second
/// below a day, to the minute above.
pub(super) fn span(span: Duration) -> String {
    let step = match span.as_secs() {
        0 if span < Duration::from_millis(1) => 1,
        0..60 => 1_000_000,
        60..86_400 => 1_000_000_000,
        _ => 60_000_000_000,
    };
    let nanos = span.as_nanos().div_ceil(step) * step;
    let rounded = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_as_many_digits_as_are_read() {
        for (nanos, expected) in [
            (0, "0s"),
            (500, "500ns"),
            (500_000_000, "500ms"),
            (2_250_000_000, "2s 250ms"),
            (59_999_900_000, "1m"),
            (24_000_000_000_001, "6h 40m 1s"),
            (86_400_000_000_001, "1day 1m"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), expected);
        }
    }
}
