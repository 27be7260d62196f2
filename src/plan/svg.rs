//! The answer as a picture: what each limit allows a day, and when jobs would be done.
//!
//! Written by hand: a picture of two panels needs no library, and this one follows the reader's
//! colours, light or dark, by a style sheet of its own.

use std::fmt::{self, Write};
use std::time::Duration;

use super::answer::Answer;
use super::capacity::{Bound, DAY};
use super::table::grouped;
use super::text::span;

const WIDTH: u32 = 860;
const LEFT: u32 = 170;
const RIGHT: u32 = 150;
const BAR: u32 = 26;
const TOP: u32 = 78;
/// Room for the second panel: its heading, its curves, its axis.
const PANEL: u32 = 300;

/// Points of a curve: as many as there are pixels to tell apart.
const POINTS: u32 = 240;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2430}\
.h{font-size:15px;font-weight:600}.s{fill:#5b6472}.n{text-anchor:end}.m{text-anchor:middle}\
.bar{fill:#7ea6e0}.part{fill:#3b73c4}.bind{fill:#f0a36b}.bind.part{fill:#d0621b}\
.t{fill:#b4500f;font-weight:600}.grid{stroke:#d8dce3}.axis{stroke:#8a93a3}\
.whole{stroke:#3b73c4}.pace{stroke:#d0621b;stroke-dasharray:6 4}path{fill:none;stroke-width:2}\
.k1{fill:#3b73c4}.k2{fill:#d0621b}.page{fill:#fff}\
@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.s{fill:#a3acba}.bar{fill:#4b72a8}\
.part{fill:#8ab4f0}.bind{fill:#9c5a2a}.bind.part{fill:#f39a58}.t{fill:#f6b07c}.grid{stroke:#343b47}\
.axis{stroke:#7c8696}.whole{stroke:#8ab4f0}.pace{stroke:#f39a58}.k1{fill:#8ab4f0}.k2{fill:#f39a58}\
.page{fill:#14171c}}";

/// Text that is added to; writing to it cannot fail.
struct Page(String);

impl Page {
    fn put(&mut self, piece: fmt::Arguments<'_>) {
        // A string takes whatever is written to it.
        let _ = self.0.write_fmt(piece);
    }

    fn text(&mut self, (x, y): (u32, u32), class: &str, text: &str) {
        self.put(format_args!(
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>\n",
            escaped(text)
        ));
    }

    fn line(&mut self, class: &str, (x1, y1): (u32, u32), (x2, y2): (u32, u32)) {
        let ends = format_args!("x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"").to_string();
        self.put(format_args!("<line class=\"{class}\" {ends}/>\n"));
    }
}

impl Answer {
    /// The answer as an SVG document.
    pub fn svg(&self) -> String {
        let bars = u32::try_from(self.plan.limits.len()).unwrap_or(u32::MAX).min(64);
        let second = TOP + bars * (BAR + 8) + 70;
        let height = second + PANEL;
        let mut page = Page(String::new());
        page.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>What the quota allows</title>\n\
             <style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n"
        ));
        self.bars(&mut page);
        self.curves(&mut page, second);
        page.0.push_str("</svg>\n");
        page.0
    }

    /// Jobs a day by each limit alone, on a scale of powers of ten.
    fn bars(&self, page: &mut Page) {
        let most = |index: usize| self.plan.limits.get(index).map_or(0, |it| it.rate.within(DAY));
        let all: Vec<u64> = (0..self.plan.limits.len().min(64)).map(most).collect();
        let last = power_above(all.iter().copied().max().unwrap_or(1));
        let first = power_below(all.iter().copied().filter(|it| *it > 0).min().unwrap_or(1));
        let first = first.min(last.saturating_sub(1));
        let wide = WIDTH - LEFT - RIGHT;
        let place = |jobs: u64| scaled(log(jobs) - f64::from(first), f64::from(last - first), wide);
        page.text((20, 30), "h", "Jobs a day that each limit allows by itself");
        let margin = self.question.margin;
        let margin = format!("in powers of ten; inner bar: at {margin}; orange: what binds");
        page.text((20, 50), "s", &margin);
        let bottom = TOP + u32::try_from(all.len()).unwrap_or(0) * (BAR + 8);
        for power in first..=last {
            let x = LEFT + scaled(f64::from(power - first), f64::from(last - first), wide);
            page.line("grid", (x, TOP - 8), (x, bottom));
            page.text((x, bottom + 18), "s m", &grouped(10_u128.pow(power)));
        }
        for (index, (it, jobs)) in self.plan.limits.iter().zip(all).enumerate() {
            let y = TOP + u32::try_from(index).unwrap_or(0) * (BAR + 8);
            let binds = self.plan.sustained.bounds.contains(&Bound::Limit(index));
            let class = if binds { "bind" } else { "bar" };
            let practical = self.question.margin.of_rate(it.rate).within(DAY);
            page.text((LEFT - 10, y + 18), "n", &it.limit.to_string());
            for (class, jobs) in [(class.to_owned(), jobs), (format!("{class} part"), practical)] {
                page.put(format_args!(
                    "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"{BAR}\"/>\n",
                    place(jobs)
                ));
            }
            let mark = if binds { "t" } else { "" };
            page.text((LEFT + place(jobs) + 8, y + 18), mark, &grouped(jobs));
        }
    }

    /// Jobs started over time, as early as limits allow and evenly paced.
    fn curves(&self, page: &mut Page, top: u32) {
        let longest = self.plan.windows.last().map_or(DAY, |it| it.window);
        let sustained = &self.plan.sustained;
        let finish = self.plan.finish.as_ref();
        let lasts = finish.and_then(|it| it.paced).unwrap_or(longest * 2).max(longest / 1_000);
        let jobs = finish.map_or(u64::MAX, |it| it.jobs);
        let early = |at: Duration| self.question.started_by(at).0.min(jobs);
        let paced = |at: Duration| sustained.practical.within(at).saturating_add(1).min(jobs);
        let chart = Chart { top, lasts, most: early(lasts).max(paced(lasts)).max(1) };
        let names = self.names(&sustained.bounds);
        page.text((20, top), "h", &format!("Jobs started; in the long run {names} binds"));
        let margin = self.question.margin;
        page.text(
            (20, top + 20),
            "k1",
            "— as early as all limits together allow, each full at first",
        );
        page.text((440, top + 20), "k2", &format!("— evenly paced, at {margin}"));
        chart.grid(page);
        chart.curve(page, "whole", early);
        chart.curve(page, "pace", paced);
        self.marks(page, &chart, jobs);
    }

    /// Marks where something else begins to bind, and says what binds in which order.
    fn marks(&self, page: &mut Page, chart: &Chart, jobs: u64) {
        let mut names: Vec<String> = Vec::new();
        let mut before = None;
        for step in 0..=POINTS {
            let (done, bound) = self.question.started_by(chart.at(step));
            if done >= jobs {
                break;
            }
            if before.replace(bound) == Some(bound) {
                continue;
            }
            let name = self.plan.name_of(bound);
            if step > 0 {
                let (x, y) = (chart.x(step), chart.y(done));
                let circle = format_args!("cx=\"{x}\" cy=\"{y}\" r=\"3.5\"").to_string();
                page.put(format_args!("<circle class=\"k1\" {circle}/>\n"));
                let (x, y) = (tenths(x + 10.0), tenths(y + 14.0));
                let text = escaped(&name);
                page.put(format_args!("<text x=\"{x}\" y=\"{y}\" class=\"k1\">{text}</text>\n"));
            }
            names.push(name);
        }
        if !names.is_empty() {
            let order = format!("early: bound by {}", names.join(", then "));
            page.text((20, chart.top + 40), "s", &order);
        }
    }
}

/// Where things stand in the second panel.
struct Chart {
    top: u32,
    lasts: Duration,
    most: u64,
}

impl Chart {
    const WIDE: u32 = WIDTH - LEFT - RIGHT;
    const HIGH: u32 = PANEL - 110;

    const fn bottom(&self) -> u32 {
        self.top + PANEL - 50
    }

    fn at(&self, step: u32) -> Duration {
        self.lasts * step / POINTS
    }

    fn x(&self, step: u32) -> f64 {
        tenths(f64::from(LEFT) + f64::from(Self::WIDE * step) / f64::from(POINTS))
    }

    fn y(&self, jobs: u64) -> f64 {
        let share = (float(jobs) / float(self.most)).min(1.0);
        tenths(f64::from(self.bottom()) - share * f64::from(Self::HIGH))
    }

    fn grid(&self, page: &mut Page) {
        let bottom = self.bottom();
        for quarter in 0..=4 {
            let y = bottom - Self::HIGH * quarter / 4;
            page.line("grid", (LEFT, y), (LEFT + Self::WIDE, y));
            let jobs = u128::from(self.most) * u128::from(quarter) / 4;
            page.text((LEFT - 10, y + 4), "s n", &grouped(jobs));
            let x = LEFT + Self::WIDE * quarter / 4;
            page.line("grid", (x, bottom - Self::HIGH), (x, bottom));
            page.text((x, bottom + 18), "s m", &span(self.lasts * quarter / 4));
        }
        page.line("axis", (LEFT, bottom), (LEFT + Self::WIDE, bottom));
    }

    fn curve(&self, page: &mut Page, class: &str, jobs: impl Fn(Duration) -> u64) {
        let mut path = String::new();
        for step in 0..=POINTS {
            let letter = if step == 0 { "M" } else { "L" };
            // A string takes whatever is written to it.
            let _ = write!(path, "{letter}{} {}", self.x(step), self.y(jobs(self.at(step))));
        }
        page.put(format_args!("<path class=\"{class}\" d=\"{path}\"/>\n"));
    }
}

/// To a tenth of a pixel.
fn tenths(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// Text that stands for itself between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[expect(clippy::cast_precision_loss, reason = "a picture has far fewer pixels")]
fn float(jobs: u64) -> f64 {
    jobs as f64
}

fn log(jobs: u64) -> f64 {
    float(jobs.max(1)).log10()
}

/// The least power of ten that is not below `jobs`.
fn power_above(jobs: u64) -> u32 {
    jobs.saturating_sub(1).checked_ilog10().map_or(1, |power| power + 1)
}

/// The greatest power of ten that is below `jobs`, so that its bar can be seen.
fn power_below(jobs: u64) -> u32 {
    jobs.saturating_sub(1).checked_ilog10().unwrap_or(0)
}

/// The part of so many pixels.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn scaled(part: f64, of: f64, pixels: u32) -> u32 {
    let share = if of > 0.0 { (part / of).clamp(0.0, 1.0) } else { 0.0 };
    (share * f64::from(pixels)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_what_is_drawn_on_them() {
        for (jobs, below, above) in [
            (0, 0, 1),
            (1, 0, 1),
            (9, 0, 1),
            (10, 0, 1),
            (11, 1, 2),
            (48_000, 4, 5),
            (u64::MAX, 19, 20),
        ] {
            assert_eq!((power_below(jobs), power_above(jobs)), (below, above), "{jobs}");
        }
        assert_eq!(
            (scaled(1.0, 2.0, 100), scaled(3.0, 2.0, 100), scaled(1.0, 0.0, 9)),
            (50, 100, 0)
        );
        assert_eq!(escaped("<a&b>"), "&lt;a&amp;b&gt;");
    }
}
