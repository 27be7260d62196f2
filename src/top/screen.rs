//! Draws a view: lines of text, the same for a terminal and for a pipe.
//!
//! Nothing is told by colour alone, so that it reads as well without.

use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::View;
use super::snapshot::{Batch, Constraint, Pool, Queue, Refusal, Snapshot, Tenant};

/// Bars of an eighth to eight eighths.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const WIDTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// Rows of a table that is not the point: the rest is on the page.
const MOST_ROWS: usize = 6;
/// A bar wider than this says no more.
const WIDEST_BAR: usize = 40;
/// What a line of a limit needs beside its bar: its name, its share and the rest.
const BESIDE_BAR: usize = 88;
const KEYS: &str = "q quit · Tab next pool · p pause · ? help";
const HELP: &[&str] = &[
    "Each limit's bar is what is used of it, requests under way and not settled (\"held\") included.",
    "▶ marks the limit that the first request in line waits for.",
    "A forecast is the wait of a request that comes now, of a tenant with nothing in line.",
    "A pool is an upstream account and a model; at first the busiest is shown.",
    "",
    "Tab, → ↓ l j    the next pool",
    "⇧Tab, ← ↑ h k   the one before",
    "p, space        stop and go on",
    "q, Esc, ^C      quit",
    "",
    "The same and the last hour as a page: open the address above in a browser.",
];

/// With colours or without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Theme {
    /// The terminal's own sixteen.
    Colours,
    /// Bold and dim only, as <https://no-color.org> asks.
    Plain,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Draws `view` on the whole of `frame`.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, theme: Theme) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let mut lines = lines(view, width, theme);
    // The last line is for the keys.
    let room = height.saturating_sub(1);
    if lines.len() > room {
        let hidden = lines.len() + 1 - room;
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::styled(
            format!("… {hidden} more lines: a taller terminal shows them"),
            DIM,
        ));
    }
    lines.resize(room, Line::default());
    lines.push(Line::styled(KEYS, DIM));
    frame.render_widget(Paragraph::new(lines), area);
}

/// The same as text, for what is no terminal.
#[must_use]
pub fn print(view: &View, width: usize) -> String {
    let lines = lines(view, width, Theme::Plain);
    let text: Vec<_> = lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect();
    text.join("\n") + "\n"
}

fn lines(view: &View, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![title(view, theme)];
    lines.extend(trouble(view, theme));
    if view.help {
        lines.push(Line::default());
        lines.extend(HELP.iter().map(|line| Line::from(*line)));
        return lines;
    }
    let Some(snapshot) = &view.snapshot else { return lines };
    if let Some((pool, at, count)) = view.pool() {
        lines.push(heading(pool, at, count, theme));
        lines.extend(pool.constraints.iter().map(|it| limit(it, pool, width, theme)));
        lines.extend(health(pool, theme));
        queue(&mut lines, pool, view, width);
    } else {
        lines.push(Line::default());
        lines.push("No request has come yet.".into());
    }
    batches(&mut lines, &snapshot.batches, width, theme);
    today(&mut lines, &snapshot.today.tenants);
    refusals(&mut lines, &snapshot.refusals, width);
    lines
}

/// What gateway it is, and how much it has to do.
fn title(view: &View, theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled("Tidegate", BOLD)];
    let mut add = |text: String, style| spans.push(Span::styled(text, style));
    if let Some(Snapshot { version, .. }) = &view.snapshot {
        add(format!(" {}", safe(version)), Style::new());
    }
    add(format!(" · {}", view.url), Style::new());
    if let Some(it) = &view.snapshot {
        let waiting: u64 = it.pools.iter().map(|pool| pool.queued).sum();
        let counts = format!(
            " · {} requests, {} of them waiting · {} connections",
            grouped(it.in_flight.unsigned_abs()),
            grouped(waiting),
            grouped(it.connections.unsigned_abs()),
        );
        add(counts, Style::new());
        if it.draining {
            add(" · DRAINING".to_owned(), theme.colour(Color::Yellow).patch(BOLD));
        }
    }
    if view.snapshot.is_none() && view.trouble.is_none() {
        add(" · asking …".to_owned(), DIM);
    }
    if view.paused {
        add(" · PAUSED".to_owned(), theme.colour(Color::Yellow).patch(BOLD));
    }
    Line::from(spans)
}

/// Why this is not now.
fn trouble(view: &View, theme: Theme) -> Option<Line<'static>> {
    let (why, since) = view.trouble.as_ref()?;
    let text = match view.snapshot {
        Some(_) => format!("NOT LIVE for {}: {}", span(since.as_secs_f64()), safe(why)),
        None => safe(why),
    };
    Some(Line::styled(text, theme.colour(Color::Red).patch(BOLD)))
}

/// Which pool it is, and what holds it up.
fn heading(pool: &Pool, at: usize, count: usize, theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("\u{2500}\u{2500} {} ", safe(&pool.model)), BOLD)];
    let more = if count > 1 { format!(", {} of {count}", at + 1) } else { String::new() };
    let about = format!("(profile {}, pool {}{more})", safe(&pool.profile), safe(&pool.pool));
    spans.push(Span::styled(about, DIM));
    spans.push(format!(" · {} at the upstream", grouped(pool.in_flight)).into());
    if let Some(limit) = &pool.limited_by {
        spans.push(Span::styled(
            format!(" · waits for {}", safe(limit)),
            theme.colour(Color::Yellow),
        ));
    }
    if pool.stalled {
        spans.push(Span::styled(" · STALLED", theme.colour(Color::Red).patch(BOLD)));
    }
    Line::from(spans)
}

fn limit(it: &Constraint, pool: &Pool, width: usize, theme: Theme) -> Line<'static> {
    let name = it.name();
    let binds = pool.limited_by.as_ref() == Some(&name);
    let colour = match it.share() {
        share if share >= 0.95 => Color::Red,
        share if share >= 0.8 => Color::Yellow,
        _ => Color::Green,
    };
    let room = width.saturating_sub(BESIDE_BAR).clamp(8, WIDEST_BAR);
    let left = match it.available {
        0.. => format!("{} of {} left", grouped(it.available.unsigned_abs()), grouped(it.limit)),
        debt => format!("{} over {}", grouped(debt.unsigned_abs()), grouped(it.limit)),
    };
    let mut rest = left;
    if it.held > 0 {
        rest += &format!(", {} held", grouped(it.held));
    }
    // Less is none: tenths are shown.
    if it.resets_in_seconds >= 0.05 {
        rest += &format!(", full in {}", span(it.resets_in_seconds));
    }
    if let Some(at) = it.exhausted_at.as_deref().filter(|_| it.available > 0) {
        // Of 2031-02-03T04:05:06Z hours and minutes are what matters; what is none stays as it is.
        rest += &format!(", NOTHING LEFT at {} UTC", safe(at.get(11..16).unwrap_or(at)));
    }
    let learned = if it.learned { ", learned" } else { "" };
    let marker = if binds { "▶ " } else { "  " };
    Line::from(vec![
        Span::styled(marker, theme.colour(Color::Yellow).patch(BOLD)),
        Span::styled(format!("{name:<16}"), if binds { BOLD } else { Style::new() }),
        Span::styled(bar(it.share(), room), theme.colour(colour)),
        format!(" {:>4} ", percent(it.share())).into(),
        rest.into(),
        Span::styled(format!("  {}{learned}", safe(&it.mode)), DIM),
    ])
}

/// How the upstream has done of late.
fn health(pool: &Pool, theme: Theme) -> Option<Line<'static>> {
    let it = &pool.upstream;
    if it.window_seconds == 0 {
        return None;
    }
    let within = span(it.window_seconds as f64);
    let mut spans =
        vec!["  upstream        ".into(), format!("{} answered", grouped(it.successes)).into()];
    for (count, what) in [(it.failures, "failed"), (it.refusals, "refused")] {
        let style = if count > 0 { theme.colour(Color::Red).patch(BOLD) } else { Style::new() };
        spans.push(Span::styled(format!(", {} {what}", grouped(count)), style));
    }
    spans.push(Span::styled(format!(" in the last {within}"), DIM));
    if let Some(why) = it.last_failure.as_deref().filter(|_| it.failures > 0) {
        spans.push(format!(", last by {}", safe(why)).into());
    }
    Some(Line::from(spans))
}

fn queue(lines: &mut Vec<Line<'static>>, pool: &Pool, view: &View, width: usize) {
    lines.push(Line::default());
    let head = format!("{:<34}{:>8}{:>10}{:>10}", "Waiting", "requests", "oldest", "forecast");
    lines.push(Line::styled(head, BOLD));
    let row = |name: String, it: &Queue| {
        let forecast = it.forecast_seconds.map_or_else(String::new, span);
        let oldest = if it.queued > 0 { span(it.oldest_wait_seconds) } else { "-".to_owned() };
        Line::from(format!(
            "{:<34}{:>8}{oldest:>10}{forecast:>10}",
            short(&name, 33),
            grouped(it.queued)
        ))
    };
    for class in &pool.classes {
        lines.push(row(format!("  {}", safe(&class.class)), class));
        let tenants = pool.tenants.iter().filter(|tenant| tenant.class == class.class);
        lines.extend(tenants.map(|tenant| {
            let name = tenant.tenant.as_deref().unwrap_or("");
            row(format!("    {}", safe(name)), tenant)
        }));
    }
    let room = width.saturating_sub(28);
    let newest: Vec<u64> = view.waiting.iter().rev().take(room).rev().copied().collect();
    let most = newest.iter().copied().max().unwrap_or(0);
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled("All pools ", BOLD),
        newest.iter().map(|it| column(*it, most)).collect::<String>().into(),
        Span::styled(format!(" {} at most", grouped(most)), DIM),
    ]));
}

fn batches(lines: &mut Vec<Line<'static>>, batches: &[Batch], width: usize, theme: Theme) {
    if batches.is_empty() {
        return;
    }
    lines.push(Line::default());
    lines.push(Line::styled("Batches", BOLD));
    let room = width.saturating_sub(BESIDE_BAR).clamp(8, WIDEST_BAR);
    for it in batches {
        let done = it.completed.saturating_add(it.failed);
        let share = if it.total == 0 { 0.0 } else { done as f64 / it.total as f64 };
        let mut text = format!(" {:>4} {} of {}", percent(share), grouped(done), grouped(it.total));
        if it.failed > 0 {
            text += &format!(", {} failed", grouped(it.failed));
        }
        lines.push(Line::from(vec![
            format!("  {:<16}", short(&safe(&it.batch), 15)).into(),
            Span::styled(bar(share, room), theme.colour(Color::Cyan)),
            text.into(),
            Span::styled(format!("  {} of {}", safe(&it.status), safe(&it.tenant)), DIM),
        ]));
    }
}

/// Who has used most since midnight.
fn today(lines: &mut Vec<Line<'static>>, tenants: &[Tenant]) {
    if tenants.is_empty() {
        return;
    }
    lines.push(Line::default());
    let head = format!("{:<34}{:>14}{:>10}{:>9}", "Today", "tokens", "requests", "refused");
    lines.push(Line::styled(head, BOLD));
    for it in tenants.iter().take(MOST_ROWS) {
        let name = short(&safe(&it.tenant), 31);
        let [tokens, requests, refused] = [it.tokens, it.requests, it.refused].map(grouped);
        lines.push(format!("  {name:<32}{tokens:>14}{requests:>10}{refused:>9}").into());
    }
}

/// Who was turned away last, and why.
fn refusals(lines: &mut Vec<Line<'static>>, refusals: &[Refusal], width: usize) {
    if refusals.is_empty() {
        return;
    }
    lines.push(Line::default());
    lines.push(Line::styled("Turned away (UTC)", BOLD));
    for it in refusals.iter().take(MOST_ROWS) {
        // Hours, minutes and seconds of 2031-02-03T04:05:06Z.
        let mut text = format!(
            "  {}  {} by the {}",
            it.at.get(11..19).unwrap_or(&it.at),
            it.reason,
            it.source
        );
        if let Some(limit) = &it.limited_by {
            text += &format!(" for {limit}");
        }
        for (what, name) in [("tenant", &it.tenant), ("model", &it.model)] {
            if let Some(name) = name {
                text += &format!(", {what} {name}");
            }
        }
        lines.push(short(&safe(&text), width).into());
    }
}

/// A bar of `width` columns, filled to `share`.
fn bar(share: f64, width: usize) -> String {
    // Shares are from 0 to 1, so this is at most eight times the width.
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * width as f64).round();
    let filled = (0..width).map(|at| {
        let part = eighths - 8.0 * at as f64;
        WIDTHS.iter().rev().zip((1..=8).rev()).find(|(_, size)| part >= f64::from(*size))
    });
    filled.map(|part| part.map_or('·', |(symbol, _)| *symbol)).collect()
}

/// A column as high as `value` is of `most`.
fn column(value: u64, most: u64) -> char {
    if value == 0 {
        return ' ';
    }
    let eighth = (u128::from(value) * 8).div_ceil(u128::from(most.max(1))).saturating_sub(1);
    usize::try_from(eighth).ok().and_then(|at| HEIGHTS.get(at)).copied().unwrap_or('█')
}

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.01 {
        return "<1 %".to_owned();
    }
    // Never "100 %" while something is left.
    let whole = if share < 1.0 { (share * 100.0).floor() } else { 100.0 };
    format!("{whole:.0} %")
}

/// Seconds as people say them.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 7_170.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What came from somewhere else, without what a terminal would obey.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
