//! One workload on one pair of ledger and upstream, and how it is judged.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use tidegate::limit::Mode;

use self::Pair::{
    AutoOnBucket, AutoOnFixed, AutoOnSliding, BucketOnBucket, BucketOnFixed, BucketOnSliding,
    FixedOnBucket, FixedOnFixed, FixedOnSliding, SlidingOnBucket, SlidingOnFixed, SlidingOnSliding,
};
use crate::law;
use crate::oracle::{Limit, REQUESTS, Semantics, TOKENS};
use crate::seed::{START, derived, say, seed};
use crate::workload::{MILLI, MINUTE, SECOND, Workload};
use crate::world::{Story, World};

/// The clocks of the two sides differ by up to this under `fixed`.
const SKEW: u64 = 250 * MILLI;

/// What the ledger is told, and what the upstream does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Pair {
    BucketOnBucket,
    FixedOnFixed,
    SlidingOnSliding,
    SlidingOnFixed,
    SlidingOnBucket,
    AutoOnBucket,
    AutoOnFixed,
    AutoOnSliding,
    /// Taken for a bucket, which it is not.
    BucketOnFixed,
    BucketOnSliding,
    /// Taken for fixed periods, which it has not.
    FixedOnBucket,
    FixedOnSliding,
}

pub(crate) const ALL: [Pair; 5] =
    [BucketOnBucket, FixedOnFixed, SlidingOnSliding, SlidingOnFixed, SlidingOnBucket];

/// A run that is watched lasts no longer: to look after every event costs more than the run itself.
const WATCHED: u64 = 240 * MINUTE - SECOND;

/// One run and how it is judged.
pub(crate) struct Run {
    workload: Workload,
    pub(crate) pair: Pair,
    semantics: Semantics,
    start: u64,
    pub(crate) story: Story,
}

/// Runs every pair; nothing may be rejected or promised in vain. Returns the runs for more.
pub(crate) fn simulate(workload: &Workload, pairs: &[Pair]) -> Vec<Run> {
    let rounds = pairs.iter().flat_map(|pair| (0..pair.rounds()).map(move |it| (*pair, it)));
    let judged = rounds.map(|(pair, round)| {
        let mut run = run(workload, pair, round);
        run.report(seed());
        run.is_clean(seed());
        // So that of a million requests only the sums are kept.
        (run.story.requests, run.story.tokens) = Default::default();
        run
    });
    judged.collect()
}

/// Runs every pair with others on the same quota, or with limits that change. None of the
/// rejections may be put down to the ledger itself, once it has seen anything.
pub(crate) fn foreign(workload: &Workload, pairs: &[Pair]) -> Vec<Run> {
    let rounds = pairs.iter().flat_map(|pair| (0..pair.rounds()).map(move |it| (*pair, it)));
    let judged = rounds.map(|(pair, round)| {
        let mut run = run(workload, pair, round);
        run.report(seed());
        let later = run.story.attributable_later;
        let wrong =
            matches!(pair, BucketOnFixed | BucketOnSliding | FixedOnBucket | FixedOnSliding);
        assert!(later == 0 || wrong, "{} {pair:?} SIM_SEED={}", workload.name, seed());
        (run.story.requests, run.story.tokens) = Default::default();
        run
    });
    judged.collect()
}

/// The randomness of a run, and when it begins.
pub(crate) fn begin(workload: &Workload, pair: Pair, round: u64) -> (Rng, u64) {
    let mut rng = derived(seed(), &format!("{} {pair:?} {round}", workload.name));
    let start = START + rng.u64(workload.starts.clone());
    (rng, start)
}

/// Runs a pair once, without judging it.
pub(crate) fn run(workload: &Workload, pair: Pair, round: u64) -> Run {
    let (mut rng, start) = begin(workload, pair, round);
    let (sliding, bucket) = (Mode::Sliding, Semantics::Bucket);
    let fixed = Mode::Fixed { skew: Duration::from_nanos(SKEW) };
    let (mode, semantics) = match pair {
        BucketOnBucket => (Mode::Bucket, bucket),
        SlidingOnBucket => (sliding, bucket),
        SlidingOnSliding => (sliding, Semantics::Sliding),
        SlidingOnFixed | AutoOnFixed | BucketOnFixed => {
            let mode = match pair {
                SlidingOnFixed => sliding,
                AutoOnFixed => Mode::Auto,
                _ => Mode::Bucket,
            };
            (mode, Semantics::Fixed { phase: rng.u64(..1_440 * MINUTE) })
        }
        AutoOnBucket => (Mode::Auto, bucket),
        AutoOnSliding => (Mode::Auto, Semantics::Sliding),
        BucketOnSliding => (Mode::Bucket, Semantics::Sliding),
        FixedOnBucket => (fixed, bucket),
        FixedOnSliding => (fixed, Semantics::Sliding),
        FixedOnFixed => {
            // Once early and once late, as far as can be in every other case. A day more is the same
            // phase for every window within a day.
            let off = if rng.bool() { SKEW } else { rng.u64(..=SKEW) };
            let day = 1_440 * MINUTE;
            let phase = if round.is_multiple_of(2) { day - off } else { day + off };
            (fixed, Semantics::Fixed { phase })
        }
    };
    // Every other run leaves the ledger alone between its own uses.
    let watched = round.is_multiple_of(2);
    let lasts = if watched { workload.lasts.min(WATCHED) } else { workload.lasts };
    let workload = Workload { lasts, ..workload.clone() };
    let story = World::run(&workload, mode, semantics, start, watched, &mut rng);
    Run { workload, pair, semantics, start, story }
}

impl Pair {
    /// How often it is run, every time with other randomness. Two pairs have a bucket behind them and
    /// two fixed windows, but only one a log.
    const fn rounds(self) -> u64 {
        if matches!(self, SlidingOnSliding) { 4 } else { 2 }
    }

    /// What is behind it.
    const fn upstream(self) -> &'static str {
        match self {
            BucketOnBucket | SlidingOnBucket | AutoOnBucket | FixedOnBucket => "bucket",
            FixedOnFixed | SlidingOnFixed | AutoOnFixed | BucketOnFixed => "fixed",
            SlidingOnSliding | AutoOnSliding | BucketOnSliding | FixedOnSliding => "sliding",
        }
    }
}

/// The runs of a scenario sent a million requests and more to each kind of upstream that they had.
/// Prints what became of them.
pub(crate) fn are_a_million(scenario: &str, runs: &[Run]) {
    let pairs: BTreeSet<Pair> = runs.iter().map(|run| run.pair).collect();
    for pair in pairs {
        let of_pair = || runs.iter().filter(|run| run.pair == pair);
        let sum = |of: fn(&Story) -> u64| of_pair().map(|run| of(&run.story)).sum::<u64>();
        let (sent, rejected, ours) =
            (sum(|it| it.sent), sum(|it| it.rejected), sum(|it| it.attributable));
        // Of the time rather than of the runs: some are far longer than others.
        let lasted: u64 = of_pair().map(|run| run.workload.lasts).sum();
        let used = of_pair().map(|run| run.utilisation() * run.workload.lasts as f64).sum::<f64>();
        say(format_args!(
            "| {scenario} | {pair:?} | {sent} | {rejected} rejected, {ours} attributable | {:.3} % |",
            100.0 * used / lasted as f64
        ));
    }
    for upstream in ["bucket", "fixed", "sliding"] {
        let of_kind = runs.iter().filter(|run| run.pair.upstream() == upstream);
        let sent: Vec<u64> = of_kind.map(|run| run.story.sent).collect();
        let sum: u64 = sent.iter().sum();
        assert!(sent.is_empty() || sum >= 1_000_000, "{scenario}: {sum} requests to {upstream}");
    }
}

impl Run {
    fn report(&self, seed: u64) {
        let (used, promised) = (self.utilisation(), self.promised());
        let Story { sent, rejected, rejected_in_debt, attributable, broken, ref modes, .. } =
            self.story;
        say(format_args!(
            "{:<22} {:<16} SIM_SEED={seed} {sent:>7} sent {:>4} min {:>8.3} % of the quota \
             (floor {:>7.3} %), {rejected} rejected ({rejected_in_debt} in debt, {attributable} attributable), {broken} broken, \
             modes {modes:?}",
            self.workload.name,
            format!("{:?}", self.pair),
            self.workload.lasts / MINUTE,
            100.0 * used,
            100.0 * promised,
        ));
    }

    /// No rejection, no broken promise, and no interval above any limit.
    fn is_clean(&self, seed: u64) {
        let Story { rejected, broken, ref first_fault, .. } = self.story;
        let name = (self.workload.name, self.pair);
        let fault = first_fault.as_deref().unwrap_or("none");
        assert_eq!((rejected, broken), (0, 0), "{name:?}, SIM_SEED={seed}: {fault}");
        for limit in &self.workload.limits {
            let spends =
                if limit.unit == REQUESTS { &self.story.requests } else { &self.story.tokens };
            let excess = law::excess(self.semantics, limit, spends);
            assert!(excess <= 0, "{name:?}, SIM_SEED={seed}: {excess} units above {limit:?}");
        }
    }

    /// The semantics whose capacity is the measure: a sender that is safe whatever the upstream
    /// does can have no more than the sliding log lets in.
    fn yardstick(&self) -> Semantics {
        match self.pair {
            BucketOnBucket | FixedOnFixed => self.semantics,
            _ => Semantics::Sliding,
        }
    }

    /// The limit of `unit` that could have let in least.
    fn tightest(&self, unit: usize) -> Option<(Limit, f64)> {
        let end = self.start + self.workload.lasts;
        let of_unit = self.workload.limits.iter().filter(|limit| limit.unit == unit);
        let all = of_unit.map(|limit| (*limit, limit.capacity(self.yardstick(), self.start, end)));
        all.min_by_key(|(_, most)| *most).map(|(limit, most)| (limit, most as f64))
    }

    /// What stands charged at the end (used, or reserved and not yet refunded), of the most that the
    /// upstream's limits could have let in from beginning to end, the full quota at the beginning
    /// included; of the unit of which it is more. That is how the simulator counts too.
    pub(crate) fn utilisation(&self) -> f64 {
        let share = |unit: usize| {
            let (_, most) = self.tightest(unit)?;
            Some(self.story.charged[unit] as f64 / most)
        };
        let [requests, tokens] = [REQUESTS, TOKENS].map(|unit| share(unit).unwrap_or(0.0));
        requests.max(tokens)
    }

    /// The share of the requests sent that the upstream rejected.
    pub(crate) fn rejected(&self) -> f64 {
        self.story.rejected as f64 / self.story.sent as f64
    }

    /// What the maths of the ledger promise for this run.
    ///
    /// A bucket loses nothing in the long run. The others hold a request's spare tokens for the time
    /// `T` until they are settled, all of them until the charge was seen and a slot of 1/1,024 of a
    /// window longer, and in the order of arrival a window ends with less in it than the next one
    /// needs: `1 / (1 + (T/W)(E/a - 1) + (J + slot)/W) - E[c^2] / (2 E[c] L)`.
    fn promised(&self) -> f64 {
        let sums = self.story.sums;
        if matches!(self.pair, BucketOnBucket) {
            return 0.999 * sums.charged / sums.used;
        }
        let of_unit = |unit: usize| {
            let (limit, most) = self.tightest(unit)?;
            let (window, limit) = (limit.window as f64, limit.limit as f64);
            let (mean, spare, head) = if unit == REQUESTS {
                (1.0, 0.0, 1.0 / (2.0 * limit))
            } else {
                let spare = sums.spare_area / (sums.used * window);
                (sums.used / sums.count, spare, self.head_of_line())
            };
            let late = sums.late_area / (sums.used * window) + 1.0 / 1_024.0;
            let promised = 1.0 / (1.0 + spare + late) - head;
            Some((sums.count * mean / most, promised))
        };
        let units = [REQUESTS, TOKENS].into_iter().filter_map(of_unit);
        units
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(0.0, |(_, promised)| promised * sums.charged / sums.used)
    }

    /// The share of the tokens that the first in line leaves unused at a window's end.
    fn head_of_line(&self) -> f64 {
        let (sums, tightest) = (self.story.sums, self.tightest(TOKENS));
        tightest
            .map_or(0.0, |(limit, _)| sums.held_squared / (2.0 * sums.held * limit.limit as f64))
    }

    /// Used at least as much as the maths promise, less what randomness leaves open.
    pub(crate) fn is_used(&self) {
        // The maths are about means, and where a window ends within a few hours is not the mean of
        // all the places where it could: by more, the larger single requests are.
        let exact = matches!(self.pair, BucketOnBucket);
        let tolerance = if exact { 0.0 } else { 0.01 + 0.25 * self.head_of_line() };
        let (used, promised) = (self.utilisation(), self.promised());
        let name = (self.workload.name, self.pair);
        assert!(used >= promised - tolerance, "{name:?}: {used:.5} of {promised:.5} used");
    }
}
