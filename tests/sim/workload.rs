//! What callers send, and how long everything takes.

use std::ops::RangeInclusive;

use fastrand::Rng;

use crate::oracle::{Limit, REQUESTS, TOKENS};

pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLI;
pub(crate) const MINUTE: u64 = 60 * SECOND;

/// A kind of traffic. Shares are in thousandths of all requests, times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) limits: Vec<Limit>,
    /// The time of day at which callers begin.
    pub(crate) starts: RangeInclusive<u64>,
    /// How long callers keep asking.
    pub(crate) lasts: u64,
    /// Tokens that a request really uses.
    pub(crate) used: RangeInclusive<u64>,
    /// The share of requests that use more, and how much.
    pub(crate) huge: (u16, RangeInclusive<u64>),
    /// Tokens that the upstream reserves beyond those used.
    pub(crate) reserved: RangeInclusive<u64>,
    /// Tokens that the ledger holds beyond those that the upstream reserves.
    pub(crate) slack: RangeInclusive<u64>,
    /// From sending to the upstream's admission, and back again.
    pub(crate) network: RangeInclusive<u64>,
    /// From the admission to the first token.
    pub(crate) first_token: RangeInclusive<u64>,
    /// From the first token to the last.
    pub(crate) stream: RangeInclusive<u64>,
    /// From an answer's end to its settlement; the upstream's own refund comes within it.
    pub(crate) settle_delay: u64,
    /// The share of requests after which nobody asks for a while, and for how long.
    pub(crate) pauses: (u16, RangeInclusive<u64>),
    pub(crate) cut: u16,
    pub(crate) refused: u16,
    pub(crate) released: u16,
    /// The share of requests that use up to half more than was held.
    pub(crate) in_debt: u16,
    /// What the heads of answers show.
    pub(crate) shown: Shown,
    /// The share of the tightest limit of tokens that others use, and the tokens of one such request.
    pub(crate) foreign: (u16, RangeInclusive<u64>),
    /// Whether a cut request is refunded what it had not used, at the time of the cut.
    pub(crate) cut_refunded: bool,
    /// At which part of the run (in thousandths) all limits are multiplied by so many per cent.
    pub(crate) relimits: Vec<(u64, u64)>,
    /// How far the sender's clock may go back between two readings.
    pub(crate) clock_lag: u64,
    /// The share of every limit that is used up when callers begin; the ledger begins with a probe if
    /// there is any.
    pub(crate) used_before: u16,
    /// Whether what is seen after every event is kept.
    pub(crate) traced: bool,
}

/// What the heads of answers show of the limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    /// The indices of the windows shown, as bits.
    pub(crate) windows: u8,
    /// The share of heads that show nothing all the same.
    pub(crate) missing: u16,
    /// To which multiple numbers are rounded, to the nearest.
    pub(crate) rounded: u64,
    /// The share of heads that are seen late, and by up to how much: answers overtake each other.
    pub(crate) late: (u16, u64),
    /// Whether the limits named stay what they were, whatever the upstream has: then there may be more
    /// left than the limit.
    pub(crate) old_limits: bool,
}

impl Shown {
    /// Every window, exactly and always.
    pub(crate) const ALL: Self =
        Self { windows: u8::MAX, missing: 0, rounded: 1, late: (0, 0), old_limits: false };
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It is answered in full.
    Answered,
    /// The caller goes away; the upstream keeps the reservation.
    Cut {
        /// Whether the first token has been seen.
        seen: bool,
    },
    /// The upstream refuses it for what it is, and charges nothing.
    Refused,
    /// It is given up before it is sent.
    Released,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Tokens held by the ledger, reserved by the upstream, and used in the end.
    pub(crate) hold: u64,
    pub(crate) reserve: u64,
    pub(crate) used: u64,
    pub(crate) fate: Fate,
    pub(crate) there: u64,
    pub(crate) back: u64,
    pub(crate) first_token: u64,
    pub(crate) stream: u64,
    /// From the answer's end at the upstream to its refund there.
    pub(crate) refund: u64,
}

impl Workload {
    /// Requests of 5,000 to 30,000 tokens, estimated within a few thousand, at a minute's limits
    /// under which tokens bind.
    pub(crate) fn steady() -> Self {
        Self {
            name: "steady",
            limits: vec![per(REQUESTS, 600, MINUTE), per(TOKENS, 1_500_000, MINUTE)],
            starts: 0..=1_440 * MINUTE,
            lasts: hours(2),
            used: 5_000..=30_000,
            huge: (0, 0..=0),
            reserved: 0..=4_000,
            slack: 0..=1_000,
            network: 5 * MILLI..=150 * MILLI,
            first_token: 50 * MILLI..=400 * MILLI,
            stream: 0..=3 * SECOND,
            settle_delay: 500 * MILLI,
            pauses: (0, 0..=0),
            cut: 0,
            refused: 0,
            released: 0,
            in_debt: 0,
            shown: Shown::default(),
            foreign: (0, 0..=0),
            cut_refunded: false,
            relimits: Vec::new(),
            clock_lag: 5 * MILLI,
            used_before: 0,
            traced: false,
        }
    }

    /// Exact estimates and no time between anything: the ledger has nothing to be careful about.
    pub(crate) fn instant() -> Self {
        let nothing = 0..=0;
        Self {
            name: "instant",
            reserved: nothing.clone(),
            slack: nothing.clone(),
            network: nothing.clone(),
            first_token: nothing.clone(),
            stream: nothing,
            settle_delay: 0,
            ..Self::steady()
        }
    }

    /// Requests that all use the same, hold `tenths` of ten times as much, and are settled `takes`
    /// nanoseconds after they were sent; otherwise there is nothing to lose quota by.
    pub(crate) fn uniform(tenths: u64, takes: u64) -> Self {
        // 750 of them in a window, so that one more or less at its end is hardly seen.
        let used = 2_000;
        let (spare, settle) = (used * tenths / 10 - used, takes.min(500 * MILLI));
        Self {
            name: "uniform",
            limits: vec![per(TOKENS, 1_500_000, MINUTE)],
            // Thirty periods of the calendar, none of them cut short by more than a second or two.
            starts: SECOND..=SECOND,
            lasts: 30 * MINUTE - 2 * SECOND,
            used: used..=used,
            reserved: spare..=spare,
            stream: takes - settle..=takes - settle,
            settle_delay: settle,
            ..Self::instant()
        }
    }

    /// Where there are others: generators of what is asked for, and of what others ask for. Whoever
    /// begins with the same `rng` meets with the same, whatever else it is used for.
    pub(crate) fn sources(&self, rng: &mut Rng) -> Option<(Rng, Rng)> {
        (self.foreign.0 > 0).then(|| (rng.fork(), rng.fork()))
    }

    /// How long it takes others until they send their next request, and its tokens.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
    pub(crate) fn draw_others(&self, rng: &mut Rng) -> Option<(u64, u64)> {
        let (share, tokens) = self.foreign.clone();
        let tightest = self.limits.iter().filter(|limit| limit.unit == TOKENS);
        let rate = tightest.map(|it| it.limit as f64 / it.window as f64).fold(f64::MAX, f64::min);
        let mean = (tokens.start() + tokens.end()) as f64 / 2.0;
        let gap = mean / (rate * f64::from(share) / 1_000.0);
        let gap = -gap * (1.0 - rng.f64()).ln();
        (share > 0).then(|| (gap as u64, rng.u64(tokens)))
    }

    /// The next request.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Job {
        let (share, huge) = &self.huge;
        let used = if drawn(rng, *share) { huge } else { &self.used };
        let used = rng.u64(used.clone());
        let reserve = used + rng.u64(self.reserved.clone());
        let hold = reserve + rng.u64(self.slack.clone());
        let used = if drawn(rng, self.in_debt) { hold + rng.u64(1..=hold / 2) } else { used };
        let fate = if drawn(rng, self.cut) {
            Fate::Cut { seen: rng.bool() }
        } else if drawn(rng, self.refused) {
            Fate::Refused
        } else if drawn(rng, self.released) {
            Fate::Released
        } else {
            Fate::Answered
        };
        let late = if drawn(rng, self.shown.late.0) { rng.u64(0..=self.shown.late.1) } else { 0 };
        Job {
            hold,
            reserve,
            used,
            fate,
            there: rng.u64(self.network.clone()),
            back: rng.u64(self.network.clone()) + late,
            first_token: rng.u64(self.first_token.clone()),
            stream: rng.u64(self.stream.clone()),
            refund: rng.u64(0..=self.settle_delay),
        }
    }
}

/// So many hours, and never a beginning of the next: what a sliding window that begins anew lets in
/// then is not in time.
pub(crate) const fn hours(hours: u64) -> u64 {
    60 * hours * MINUTE - SECOND
}

pub(crate) fn per(unit: usize, limit: u64, window: u64) -> Limit {
    Limit { unit, limit, window }
}

pub(crate) fn drawn(rng: &mut Rng, thousandths: u16) -> bool {
    rng.u16(..1_000) < thousandths
}
