//! When so many jobs would be done, if they are sent as early as limits let them.
//!
//! The answer depends on how a window gives its units back, so there are two of them: continuously
//! (a bucket that is full at the beginning), and all at once (calendar windows that all begin with
//! the first job; a sliding window that is used up at once comes to the same).

use std::time::Duration;

use super::capacity::{Alone, Bound, Question};
use super::exact::{Margin, Rate, mul_div, mul_div_up};
use crate::time::nanos;

/// When the last of so many jobs starts, counted from the first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finish {
    /// Jobs.
    pub jobs: u64,
    /// With all of every limit.
    pub whole: Times,
    /// Within the margin.
    pub practical: Times,
    /// Evenly, at the rate that can be kept up for ever within the margin.
    pub paced: Option<Duration>,
}

/// When the last job starts; `None` if that is never, or not within the centuries that fit a clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times {
    /// Where limits refill continuously.
    pub bucket: Option<Duration>,
    /// Where limits come back all at once.
    pub fixed: Option<Duration>,
}

/// Steps from one window to the next after which it is not worked out any further: less than a
/// second of work, and more windows than there are minutes in three years.
const MOST_STEPS: u64 = 2_000_000;

pub(super) fn finish(
    question: &Question,
    (limits, gates): (&[Alone], &[(Bound, Rate)]),
    paced: Rate,
    jobs: u64,
) -> Finish {
    let times = |margin: Margin, per_window: fn(&Alone) -> u64| {
        // What comes between jobs is not there before the first one.
        let mut after_first = gates.iter().map(|(_, rate)| rate.time_for(jobs.saturating_sub(1)));
        let gated = after_first.try_fold(Duration::ZERO, |most, it| Some(most.max(it?)));
        let windows: Vec<_> =
            limits.iter().map(|it| (per_window(it), nanos(it.limit.window()))).collect();
        let later = |it: Option<Duration>| Some(it?.max(gated?));
        Times {
            bucket: later(bucket(limits, margin, jobs)),
            fixed: later(fixed(&windows, jobs).map(Duration::from_nanos)),
        }
    };
    Finish {
        jobs,
        whole: times(Margin::WHOLE, |it| it.max_jobs),
        practical: times(question.margin, |it| it.practical_jobs),
        paced: paced.time_for(jobs.saturating_sub(1)),
    }
}

/// The last start where everything refills continuously: for each limit, when as much has been
/// there as all jobs need.
fn bucket(limits: &[Alone], margin: Margin, jobs: u64) -> Option<Duration> {
    let mut last = 0;
    for it in limits {
        let (part, of) = margin.of(u128::from(it.limit.limit()) * 1_000)?;
        let one = u128::from(it.cost_milli) * of;
        if jobs > 0 && one > part {
            return None;
        }
        let needed = mul_div(one, u128::from(jobs), 1)?;
        let missing = needed.saturating_sub(part);
        last = last.max(mul_div_up(missing, it.limit.window().as_nanos(), part)?);
    }
    Some(Duration::from_nanos(u64::try_from(last).ok()?))
}

/// The last start, in nanoseconds, where `windows` of so many jobs and nanoseconds come back all at
/// once, beginning at zero.
fn fixed(windows: &[(u64, u64)], jobs: u64) -> Option<u64> {
    if jobs == 0 {
        return Some(0);
    }
    if windows.iter().any(|(most, _)| *most == 0) {
        return None;
    }
    let longest = windows.iter().map(|(_, window)| *window).max()?;
    if windows.iter().any(|(_, window)| !longest.is_multiple_of(*window)) {
        return Walk::new(windows).until(jobs, u64::MAX).ok();
    }
    // Every window begins anew with the longest: what happens in one of those happens in all.
    match Walk::new(windows).until(jobs, longest) {
        Ok(last) => Some(last),
        Err(0) => None,
        Err(each) => {
            let rounds = (jobs - 1) / each;
            let last = Walk::new(windows).until(jobs - rounds * each, longest).ok()?;
            rounds.checked_mul(longest)?.checked_add(last)
        }
    }
}

/// Goes from one beginning of a window to the next, and sends what it can at each.
struct Walk<'a> {
    windows: &'a [(u64, u64)],
    /// By window: its number, and the jobs sent in it.
    sent: Vec<(u64, u64)>,
}

impl<'a> Walk<'a> {
    fn new(windows: &'a [(u64, u64)]) -> Self {
        Self { windows, sent: vec![(0, 0); windows.len()] }
    }

    /// When the last of `jobs` goes, if that is before `end`; otherwise how many have gone by then.
    /// No jobs at all stand for a way that is too long.
    fn until(mut self, jobs: u64, end: u64) -> Result<u64, u64> {
        let (mut now, mut done) = (0_u64, 0_u64);
        for _ in 0..MOST_STEPS {
            let mut room = jobs - done;
            for ((most, window), (number, sent)) in self.windows.iter().zip(&mut self.sent) {
                let current = now / window;
                if current != *number {
                    (*number, *sent) = (current, 0);
                }
                room = room.min(most - *sent);
            }
            done += room;
            if done == jobs {
                return Ok(now);
            }
            let mut next = now;
            for ((most, window), (number, sent)) in self.windows.iter().zip(&mut self.sent) {
                *sent += room;
                if sent == most {
                    let begins = number.checked_add(1).and_then(|it| it.checked_mul(*window));
                    next = next.max(begins.ok_or(0_u64)?);
                }
            }
            if next >= end {
                return Err(done);
            }
            now = next;
        }
        Err(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3_600;
    const DAY: u64 = 86_400;

    #[test]
    fn windows_that_come_back_at_once_let_the_last_job_go() {
        let nested = [(120, MINUTE), (7_200, HOUR), (48_000, DAY)];
        for (windows, jobs, last, why) in [
            (&nested[..], 0, Some(0), "nothing is done at once"),
            (&nested, 120, Some(0), "a whole minute goes at once"),
            (&nested, 121, Some(60), "the next one in the next minute"),
            (&nested, 7_200, Some(59 * 60), "the hour's last in its last minute"),
            (&nested, 48_000, Some(399 * 60), "the day's last after 400 minutes"),
            (&nested, 48_001, Some(DAY), "then the day is used up"),
            (&nested, 96_000, Some(DAY + 399 * 60), "and the next is like it"),
            (&nested, 48_000_000, Some(999 * DAY + 399 * 60), "and every other"),
            (&[(2, 3), (3, 5)], 3, Some(3), "windows that do not begin together"),
            (&[(2, 3), (3, 5)], 4, Some(5), "and are waited for one by one"),
            (&[(0, 3)], 1, None, "what never fits never goes"),
            (&[(1, 1), (1, u64::MAX)], 2, Some(u64::MAX), "the end of time"),
            (&[(1, 1), (1, u64::MAX)], 3, None, "what is after it"),
        ] {
            assert_eq!(fixed(windows, jobs), last, "{why}");
        }
    }

    #[test]
    fn whole_rounds_are_skipped_and_change_nothing() {
        let windows = [(3, 2), (7, 6), (11, 12)];
        for jobs in 1..200 {
            let walked = Walk::new(&windows).until(jobs, u64::MAX).ok();
            assert_eq!(fixed(&windows, jobs), walked, "{jobs}");
        }
    }
}
