//! A report for people.

use std::fmt::{self, Display, Write as _};

use super::report::{Figures, Ratios, Report, Settings, Spread, TargetReport};

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", headline(&self.settings))?;
        if self.interrupted {
            writeln!(f, "Stopped before it was done.")?;
        }
        for (target, letter) in self.targets.iter().zip(["A", "B"]) {
            let letter = if self.targets.len() > 1 { format!("{letter}  ") } else { String::new() };
            writeln!(f, "\n{letter}{}", target.url)?;
            write_target(f, target)?;
        }
        match (&self.targets[..], &self.ratios) {
            ([first, second], Some(ratios)) => {
                write_ratios(f, &first.measured, &second.measured, ratios)
            }
            _ => Ok(()),
        }
    }
}

fn headline(settings: &Settings) -> String {
    let mut line = format!("model {}", settings.model);
    let pace = match (&settings.rate, settings.concurrency) {
        (Some(rate), _) => {
            format!("{rate}, at most {} in flight", settings.max_in_flight.unwrap_or(0))
        }
        (None, concurrency) => format!("{} at once", concurrency.unwrap_or(0)),
    };
    let streamed = match settings.streamed_share {
        share if share >= 1.0 => "streamed".to_owned(),
        share if share <= 0.0 => "not streamed".to_owned(),
        share => format!("{} streamed", percent(share)),
    };
    let output = settings.output_tokens.as_deref().unwrap_or("no limit");
    let _ = write!(
        line,
        " · {pace} · {streamed} · prompt {}, output {output} · seed {}",
        settings.prompt_tokens, settings.seed
    );
    line
}

fn write_target(f: &mut fmt::Formatter<'_>, target: &TargetReport) -> fmt::Result {
    if let Some(warm_up) = &target.warm_up {
        let (requests, seconds) = (&warm_up.requests, warm_up.seconds);
        let (sent, ok) = (count(requests.sent), count(requests.ok));
        let p50 = duration(warm_up.latency.p50_ms);
        row(
            f,
            "warm-up",
            &format!("{seconds:.1} s, {sent} sent, {ok} ok, p50 {p50} (not counted below)"),
        )?;
    }
    let figures = &target.measured;
    write_requests(f, figures)?;
    let per_second = &figures.per_second;
    row(
        f,
        "throughput",
        &format!(
            "{} requests/s, {} ok/s, {} prompt and {} completion tokens/s over {:.1} s",
            number(per_second.requests),
            number(per_second.ok),
            number(per_second.prompt_tokens),
            number(per_second.completion_tokens),
            figures.seconds
        ),
    )?;
    let tokens = &figures.tokens;
    let mut text = format!("{} prompt", count(tokens.prompt));
    if tokens.cached > 0 {
        let _ = write!(text, " ({} cached)", count(tokens.cached));
    }
    let _ = write!(text, ", {} completion", count(tokens.completion));
    if tokens.answers_without_usage > 0 {
        let _ = write!(text, "; {} answers do not say", count(tokens.answers_without_usage));
    }
    row(f, "tokens", &text)?;
    write_spreads(f, figures)?;
    write_quota(f, figures)
}

fn write_requests(f: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
    let requests = &figures.requests;
    let mut text = format!("{} sent, {} ok", count(requests.sent), count(requests.ok));
    for (number, what) in [
        (requests.error_status, "with an error status"),
        (requests.errors, "failed"),
        (requests.abandoned, "abandoned at the end"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    row(f, "requests", &text)?;
    if requests.not_started > 0 {
        let text = format!(
            "{} were due and could not be sent: the times below are of those that were",
            count(requests.not_started)
        );
        row(f, "not started", &text)?;
    }
    let statuses: Vec<String> = figures
        .statuses
        .iter()
        .map(|(status, number)| format!("{status}: {}", count(*number)))
        .collect();
    let statuses = if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") };
    row(f, "statuses", &statuses)?;
    let refused = &figures.refused_429;
    let mut text = format!(
        "{} by the gateway, {} by the upstream",
        count(refused.gateway),
        count(refused.upstream)
    );
    if refused.in_stream > 0 {
        let _ = write!(text, ", {} within a stream", count(refused.in_stream));
    }
    row(f, "429s", &text)?;
    if !figures.errors.is_empty() {
        let errors: Vec<String> = figures
            .errors
            .iter()
            .map(|(kind, number)| format!("{kind}: {}", count(*number)))
            .collect();
        row(f, "errors", &errors.join(", "))?;
    }
    Ok(())
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:<13} {text}")
}

fn write_spreads(f: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
    let spreads = [
        ("latency", &figures.latency, true),
        ("of all", &figures.latency_of_all, figures.latency_of_all.count > figures.latency.count),
        ("first token", &figures.first_token, figures.first_token.count > 0),
        ("gateway wait", &figures.gateway_wait, figures.gateway_wait.max_ms > 0.0),
        // Below two milliseconds it is the timer.
        ("started late", &figures.started_late, figures.started_late.p99_ms >= 2.0),
    ];
    let names = ["p50", "p90", "p95", "p99", "p99.9", "max"];
    write!(f, "  {:<13}", "")?;
    for name in names {
        write!(f, " {name:>9}")?;
    }
    writeln!(f)?;
    for (name, spread, shown) in spreads {
        if shown {
            write!(f, "  {name:<13}")?;
            for ms in points(spread) {
                let text = if spread.count == 0 { "-".to_owned() } else { duration(ms) };
                write!(f, " {text:>9}")?;
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

fn points(spread: &Spread) -> [f64; 6] {
    [spread.p50_ms, spread.p90_ms, spread.p95_ms, spread.p99_ms, spread.p99_9_ms, spread.max_ms]
}

fn write_quota(f: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
    if figures.quota.is_empty() {
        return Ok(());
    }
    let width = figures.quota.iter().map(|it| it.name.len()).max().unwrap_or(0).max(13);
    let heads = ["limit", "left first", "left last", "lowest", "used", "of rate"];
    write!(f, "  {:<width$}", "quota")?;
    for head in heads {
        write!(f, " {head:>12}")?;
    }
    writeln!(f)?;
    for seen in &figures.quota {
        write!(f, "  {:<width$}", seen.name)?;
        let units = |units: Option<u64>| units.map_or_else(|| "-".to_owned(), count);
        for text in [
            units(seen.limit),
            units(seen.remaining_at_start),
            units(seen.remaining_at_end),
            units(seen.lowest_remaining),
            seen.used_at_end.map_or_else(|| "-".to_owned(), percent),
            seen.used_of_rate.map_or_else(|| "-".to_owned(), percent),
        ] {
            write!(f, " {text:>12}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn write_ratios(
    f: &mut fmt::Formatter<'_>,
    first: &Figures,
    second: &Figures,
    ratios: &Ratios,
) -> fmt::Result {
    writeln!(f, "\n  {:<26} {:>12} {:>12} {:>8}", "compared", "A", "B", "B / A")?;
    let rates = [
        (
            "requests/s",
            first.per_second.requests,
            second.per_second.requests,
            ratios.requests_per_second,
        ),
        ("ok/s", first.per_second.ok, second.per_second.ok, ratios.ok_per_second),
        (
            "completion tokens/s",
            first.per_second.completion_tokens,
            second.per_second.completion_tokens,
            ratios.completion_tokens_per_second,
        ),
    ];
    for (name, a, b, ratio) in rates {
        write_pair(f, name, &number(a), &number(b), ratio)?;
    }
    let times = [
        ("latency p50", first.latency.p50_ms, second.latency.p50_ms, ratios.latency_p50),
        ("latency p99", first.latency.p99_ms, second.latency.p99_ms, ratios.latency_p99),
        (
            "first token p50",
            first.first_token.p50_ms,
            second.first_token.p50_ms,
            ratios.first_token_p50,
        ),
        (
            "first token p99",
            first.first_token.p99_ms,
            second.first_token.p99_ms,
            ratios.first_token_p99,
        ),
    ];
    for (name, a, b, ratio) in times {
        if a > 0.0 || b > 0.0 {
            write_pair(f, name, &duration(a), &duration(b), ratio)?;
        }
    }
    let (a, b) = (&first.refused_429, &second.refused_429);
    let all = |it: &super::report::Refused| count(it.gateway + it.upstream + it.in_stream);
    write_pair(f, "429s", &all(a), &all(b), None)
}

fn write_pair(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    a: &str,
    b: &str,
    ratio: Option<f64>,
) -> fmt::Result {
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
    writeln!(f, "  {name:<26} {a:>12} {b:>12} {ratio:>8}")
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant figures, and all of those before the point.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(super) fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => count(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A time with three significant figures.
pub(super) fn duration(ms: f64) -> String {
    let (value, unit) = match ms {
        ms if ms >= 120_000.0 => (ms / 60_000.0, "min"),
        ms if ms >= 1_000.0 => (ms / 1_000.0, "s"),
        ms if ms >= 1.0 => (ms, "ms"),
        // Zero is what was not waited at all.
        ms if ms <= 0.0 => return "0 ms".to_owned(),
        ms => (ms * 1_000.0, "µs"),
    };
    let places = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.places$} {unit}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (ms, text) in [
            (0.0, "0 ms"),
            (0.25, "250 µs"),
            (1.0, "1.00 ms"),
            (99.96, "100 ms"),
            (12.345, "12.3 ms"),
            (1_234.0, "1.23 s"),
            (180_000.0, "3.00 min"),
        ] {
            assert_eq!(duration(ms), text);
        }
        for (value, text) in [(0.5, "0.50"), (12.34, "12.3"), (12_345.6, "12,346")] {
            assert_eq!(number(value), text);
        }
    }
}
