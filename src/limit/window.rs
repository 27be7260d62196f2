//! One constraint and its state: a level, and what is held beside it.
//!
//! A hold counts in full from the moment it is placed. In a bucket it also keeps its room free until
//! it is settled, because the upstream may charge and refund it at any instant in between (a count
//! of requests is never refunded: there the charge ends the hold).
//! In the log the charge gets its time when the head of the answer is seen; until then it counts in
//! every window, however long that takes.
//!
//! Both accounts are always kept: a window that is taken for a bucket and turns out not to be one
//! needs to know what it let in during the window before.

use std::time::Duration;

use crate::limit::bucket::Bucket;
use crate::limit::constraint::{Constraint, Mode, Unit};
use crate::limit::evidence::{Evidence, Finding, View};
use crate::limit::foreign::Foreign;
use crate::limit::history::History;
use crate::limit::log::{Log, Periods};
use crate::limit::pace::{Burn, Pace};
use crate::limit::reading::{Headers, Sighting};
use crate::time::Timestamp;

/// A window that is contradicted again and again is not trusted for up to so many of its lengths: so
/// rarely is a refusal risked to find out whether the upstream has changed.
const MOST_DOUBT: u32 = 64;

/// A constraint with its state.
#[derive(Clone, Debug)]
pub(super) struct Window {
    quota: Constraint,
    /// How the upstream is taken to refill, unless a contradiction is too recent.
    mode: Acting,
    /// When the mode was contradicted last, for how long it is not trusted, and until when.
    doubted_at: Timestamp,
    doubt: Duration,
    doubted_until: Timestamp,
    /// Units held by requests that are not settled.
    held: i128,
    /// The part of `held` whose charge has a time: it stands in the log already.
    timed: i128,
    /// Units spent in all, or held.
    spent: i128,
    bucket: Bucket,
    log: Log,
    /// What came back to the bucket other than by time: from requests, and by the upstream's word.
    refunds: History,
    raised: History,
    /// What came back to the log, and what was charged to it on behalf of others.
    returned: History,
    others: History,
    /// Who was charged before this instant stands in what the upstream said last, as reserved there:
    /// for each of the two accounts that was set by it.
    forfeit_before: Counted<Timestamp>,
    headers: Headers,
    foreign: Foreign,
    evidence: Evidence,
    pace: Option<Pace>,
    burn: Burn,
    /// Whether the upstream has ever shown it.
    seen: bool,
    drift: i128,
}

/// What a window goes by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Acting {
    Bucket,
    Fixed(Periods),
    Sliding,
}

/// Something that the bucket and the log each have of their own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counted<T = bool> {
    pub(super) bucket: T,
    pub(super) log: T,
}

/// When a window has room for a number of units.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    /// It has it.
    Now,
    /// At this instant, if nothing else is spent until then.
    At(Timestamp),
    /// Only after something that is held has been settled.
    AfterSettle,
    /// Never: it asks for more than the limit.
    Never,
}

/// What an answer's head says of the level at the time of its charge.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: i128,
    most: i128,
    /// What it most likely is: requests are charged in the order in which they are sent.
    likely: i128,
    /// Whether it is about the limit that is kept to.
    ours: bool,
    /// Whether others use the quota, so that more than what is likely is not to be counted on.
    shared: bool,
}

impl Bounds {
    /// By how much `level` is above what can have become of the most, `gained` since included; below
    /// zero, by how much it is below the least.
    fn drift(&self, level: i128, gained: i128) -> i128 {
        if level < self.least && self.ours {
            level - self.least
        } else {
            (level - self.most - gained).max(0)
        }
    }

    /// What a level with this drift is to be set to.
    fn correct(&self, level: i128, drift: i128) -> Option<i128> {
        match drift.signum() {
            -1 => Some(self.least),
            1 => Some(self.likely.min(level)),
            _ => (self.shared && level > self.likely).then_some(self.likely),
        }
    }
}

/// What surrounds the charge of the request whose answer shows a level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// When it was sent, at the earliest.
    pub(super) sent_at: Timestamp,
    /// Units of other requests that the upstream may have charged after it, in full.
    pub(super) later: i128,
    /// Units of the requests that were sent after it.
    pub(super) next: i128,
    /// Units of requests that are at the upstream and have not been settled.
    pub(super) open: i128,
    /// The part of them whose head has not been seen.
    pub(super) unheard: i128,
}

impl Window {
    pub(super) fn new(quota: Constraint, empty: bool, now: Timestamp) -> Self {
        let (mode, periods) = match quota.mode() {
            Mode::Bucket => (Acting::Bucket, None),
            Mode::Fixed { skew } => {
                let periods = Periods { phase: 0, skew };
                (Acting::Fixed(periods), Some(periods))
            }
            Mode::Sliding | Mode::Auto => (Acting::Sliding, None),
        };
        let limit = i128::from(quota.limit());
        let mut log = Log::empty(quota.window_nanos().get(), periods);
        if empty {
            log.charge(limit, now);
        }
        Self {
            mode,
            doubted_at: Timestamp::default(),
            doubt: Duration::ZERO,
            doubted_until: Timestamp::default(),
            held: 0,
            timed: 0,
            spent: 0,
            bucket: Bucket::with(&quota, if empty { 0 } else { limit }, now),
            log,
            refunds: History::default(),
            raised: History::default(),
            returned: History::default(),
            others: History::default(),
            forfeit_before: Counted::default(),
            headers: Headers::default(),
            foreign: Foreign::default(),
            evidence: Evidence::default(),
            pace: Pace::of(&quota, empty, now),
            burn: Burn::default(),
            seen: false,
            drift: 0,
            quota,
        }
    }

    pub(super) fn quota(&self) -> &Constraint {
        &self.quota
    }

    pub(super) fn held(&self) -> i128 {
        self.held
    }

    /// What the last answer showed the ledger to be ahead of the upstream; behind it, if negative.
    pub(super) fn drift(&self) -> i128 {
        self.drift
    }

    pub(super) fn foreign(&self, now: Timestamp) -> u64 {
        self.foreign.drain(now)
    }

    /// What the window goes by at `now`.
    pub(super) fn acting(&self, now: Timestamp) -> Acting {
        if now < self.doubted_until { Acting::Sliding } else { self.mode }
    }

    /// Counts what came back up to `now`.
    pub(super) fn advance(&mut self, now: Timestamp) {
        if let Some(pace) = &mut self.pace {
            pace.refill(&self.quota, now);
        }
        self.burn.note(&self.quota, self.spent, now);
        let drain = self.drain_at(now);
        self.bucket.refill(&self.quota, self.held, drain, now);
        let returned = self.log.expire(now, self.is_fixed(now));
        self.returned.add(now, returned);
        if self.doubted_at < self.doubted_until && self.acting(now) == Acting::Sliding {
            // Trust begins again with what is safe, not with all that has come up meanwhile.
            let safe = self.logged(false).max(0);
            if self.bucket.available(&self.quota) > safe {
                self.bucket.set(&self.quota, safe);
            }
        }
    }

    /// Whole units that may be spent, as of the last [`Self::advance`]; below zero in debt.
    pub(super) fn available(&self, now: Timestamp) -> i128 {
        match self.acting(now) {
            Acting::Bucket => self.bucket.available(&self.quota),
            Acting::Fixed(_) => self.logged(true),
            // Without debt the bucket is never the lower one; a log forgets a debt too soon.
            Acting::Sliding => self.logged(false).min(self.bucket.available(&self.quota)),
        }
    }

    fn logged(&self, fixed: bool) -> i128 {
        self.limit() - (self.held - self.timed) - self.log.used(fixed)
    }

    /// What others take of the refill, where it refills.
    fn drain_at(&self, now: Timestamp) -> u64 {
        if self.acting(now) == Acting::Bucket { self.foreign.drain(now) } else { 0 }
    }

    fn limit(&self) -> i128 {
        i128::from(self.quota.limit())
    }

    fn is_fixed(&self, now: Timestamp) -> bool {
        matches!(self.acting(now), Acting::Fixed(_))
    }

    /// When there is room for `units`; for a request that can wait, also when it is in pace.
    pub(super) fn room(&self, units: u64, paced: bool, now: Timestamp) -> Room {
        let units = i128::from(units);
        if units > self.limit() {
            return Room::Never;
        }
        let Some(pace) = self.pace.as_ref().filter(|_| paced) else {
            return self.level_room(units, now);
        };
        // Nothing could ever leave more than the limit.
        let room = self.level_room(units + pace.reserve().min(self.limit() - units), now);
        match (room, pace.allows(&self.quota, units, now)) {
            (Room::Now, Some(at)) => Room::At(at),
            (Room::At(room), Some(at)) => Room::At(at.max(room)),
            (room, _) => room,
        }
    }

    fn level_room(&self, units: i128, now: Timestamp) -> Room {
        // Others may take it before it arrives; but the whole limit is enough for anything.
        let kept = self.foreign.floor(now).min(self.limit() - self.held - units).max(0);
        let units = units + kept;
        if self.available(now) >= units {
            return Room::Now;
        }
        let bucket = || {
            let fits = units <= self.limit() - self.held;
            let drain = self.drain_at(now);
            fits.then(|| self.bucket.reaches(&self.quota, units, drain))
        };
        let log = |fixed: bool| {
            let missing = units - self.logged(fixed);
            if missing <= 0 { Some(now) } else { self.log.frees(missing, now, fixed) }
        };
        let at = match self.acting(now) {
            Acting::Bucket => bucket(),
            Acting::Fixed(_) => log(true),
            Acting::Sliding => bucket().and_then(|at| log(false).map(|other| at.max(other))),
        };
        at.map_or(Room::AfterSettle, Room::At)
    }

    /// Holds `units`, which must have been found to have room.
    pub(super) fn hold(&mut self, units: u64) {
        let units = i128::from(units);
        self.held += units;
        self.spend(units);
        self.bucket.add(&self.quota, -units, self.held);
    }

    /// The upstream has charged the held `units`, at `now` at the latest.
    pub(super) fn charged(&mut self, units: u64, now: Timestamp) {
        let units = i128::from(units);
        self.log.charge(units, now);
        if self.is_final() {
            self.held -= units;
        } else {
            self.timed += units;
        }
    }

    /// Replaces a hold of `units` by the `used` ones. `counted`: the upstream has said what it had
    /// left with this request among what it counted; a refund will show in what it says next.
    pub(super) fn settle(
        &mut self,
        units: u64,
        used: u64,
        charged_at: Option<Timestamp>,
        counted: Counted,
        now: Timestamp,
    ) {
        let (units, used) = (i128::from(units), i128::from(used));
        let is_final = charged_at.is_some() && self.is_final();
        if !is_final {
            self.held -= units;
        }
        self.spend(used - units);
        // A debt is one whatever the upstream has said.
        let back = |counted: bool, before: Timestamp| {
            let counted = counted || charged_at.is_some_and(|at| at < before);
            if counted { (units - used).min(0) } else { units - used }
        };
        let refund = back(counted.bucket, self.forfeit_before.bucket);
        self.bucket.add(&self.quota, refund, self.held);
        self.refunds.add(now, refund.max(0));
        let Some(at) = charged_at else {
            if used > 0 {
                self.log.charge(used, now);
            }
            return;
        };
        if !is_final {
            self.timed -= units;
        }
        // A refund of a charge that has run out is worth nothing, a debt still is.
        let refund = back(counted.log, self.forfeit_before.log);
        if refund != 0 && !self.log.amend(-refund, at) && refund < 0 {
            self.log.charge(-refund, now);
        }
        self.returned.add(now, refund.max(0));
    }

    fn spend(&mut self, units: i128) {
        self.spent += units;
        if let Some(pace) = &mut self.pace {
            pace.spend(&self.quota, units);
        }
    }

    /// Whether a charge is final when it is made, so that a hold ends there.
    fn is_final(&self) -> bool {
        self.quota.unit() == Unit::Requests
    }

    /// Learns from what an answer's head showed of this window; tells which accounts went by it.
    pub(super) fn observe(&mut self, seen: Sighting, around: Around, now: Timestamp) -> Counted {
        if let Some(limit) = self.headers.limit(seen.limit, &self.quota) {
            self.quota.relimit(limit);
            self.advance(now);
        }
        let Some(remaining) = seen.remaining else { return Counted::default() };
        let grain = i128::from(self.headers.grain(remaining, self.quota.limit()));
        let shown = i128::from(remaining.min(seen.limit.unwrap_or(u64::MAX)));
        // A larger quota than the one kept to says nothing of how much of this one is left.
        let ours = seen.limit.is_none_or(|limit| limit <= self.quota.limit());
        let least = (shown - grain - around.later).min(self.limit() - self.held);
        let acting = self.acting(now);
        // A charge on behalf of others stays in the log for a window: there only what is certain.
        let shared = acting == Acting::Bucket && self.foreign.is_active(now);
        let likely = (shown - grain - around.next).min(self.limit() - self.held);
        let bounds = Bounds { least, most: shown + grain, likely, ours, shared };
        let (bucket, from_bucket) = self.observe_bucket(bounds, around.sent_at, now);
        let (log, from_log) = match acting {
            Acting::Bucket => (false, 0),
            Acting::Fixed(_) | Acting::Sliding => self.observe_log(bounds, around, now),
        };
        self.drift = if acting == Acting::Bucket { from_bucket } else { from_log };
        let view = View { shown, spent: self.spent, unsure: around.later + around.unheard };
        // What was used before this ledger began is nobody's surprise.
        let gap = if std::mem::replace(&mut self.seen, true) { self.drift.max(0) } else { 0 };
        self.foreign.note(&self.quota, gap, view, now);
        if acting == Acting::Bucket && self.foreign.drain(now) > self.quota.limit() / 2 {
            // Others who take most of it look the same as no refill at all.
            self.distrust(now);
        }
        let unsure = around.later + around.open;
        self.weigh(View { unsure, ..view }, around.sent_at, now);
        Counted { bucket, log }
    }

    /// Sets the bucket to the least that there is where it is below it, and to what is likely where
    /// it is above the most.
    fn observe_bucket(&mut self, bounds: Bounds, since: Timestamp, now: Timestamp) -> (bool, i128) {
        let level = self.bucket.available(&self.quota);
        let gained = self.refunds.since(since) + self.raised.since(since);
        let drift = bounds.drift(level, gained + self.earned_since(since, now));
        let correct = bounds.correct(level, drift);
        if let Some(units) = correct {
            self.bucket.set(&self.quota, units);
            self.raised.add(now, (units - level).max(0));
            self.forfeit_before.bucket = self.forfeit_before.bucket.max(since);
        }
        (correct.is_some(), drift)
    }

    /// The same for the log: what is too much comes off the oldest charges, what is missing was
    /// charged by others, now at the latest.
    fn observe_log(&mut self, bounds: Bounds, around: Around, now: Timestamp) -> (bool, i128) {
        let fixed = self.is_fixed(now);
        let (level, since) = (self.logged(fixed), around.sent_at);
        let drift = bounds.drift(level, self.returned.since(since));
        match drift.signum() {
            0 => return (false, 0),
            // Where nothing refills by itself, a refund that is forfeited is only seen again in
            // another answer, and there may be none: not for less than the refunds may be.
            -1 if -drift <= around.open - around.unheard => return (false, 0),
            -1 => {
                self.log.forgive(-drift, fixed);
                self.returned.add(now, -drift);
            }
            _ => {
                self.log.charge(drift, now);
                self.others.add(now, drift);
            }
        }
        self.forfeit_before.log = self.forfeit_before.log.max(since);
        (true, drift)
    }

    /// What continuous refill adds at most between two instants, in whole units.
    fn earned_since(&self, from: Timestamp, now: Timestamp) -> i128 {
        let elapsed = i128::from(now.as_nanos().saturating_sub(from.as_nanos()));
        (elapsed * self.limit() + i128::from(self.quota.window_nanos().get()) - 1)
            / i128::from(self.quota.window_nanos().get())
    }

    /// Lets what was seen speak for or against each way to refill.
    fn weigh(&mut self, view: View, sent_at: Timestamp, now: Timestamp) {
        let found = self.evidence.weigh(&self.quota, view, sent_at, now);
        let acting = self.acting(now);
        match found {
            Some(Finding::NoRefill) if acting == Acting::Bucket => self.distrust(now),
            Some(Finding::Adopt(mode)) if self.quota.mode() == Mode::Auto && mode != self.mode => {
                if let Acting::Fixed(periods) = mode {
                    self.log.set_periods(periods);
                    self.log.expire(now, false);
                }
                self.mode = mode;
            }
            _ => {}
        }
    }

    /// The mode was contradicted: from now on what is safe, for two windows, and for twice as long
    /// each time it happens again.
    fn distrust(&mut self, now: Timestamp) {
        let (shortest, longest) = (self.quota.window() * 2, self.quota.window() * MOST_DOUBT);
        let again = now < self.doubted_until.after(self.doubt.max(shortest));
        self.doubt = if again { (self.doubt * 2).clamp(shortest, longest) } else { shortest };
        (self.doubted_at, self.doubted_until) = (now, now.after(self.doubt));
        self.evidence = Evidence::default();
        if self.quota.mode() == Mode::Auto {
            self.mode = Acting::Sliding;
        }
    }

    /// The upstream refused a request of `units` because of this window. Tells whether that is due to
    /// others: if what this pool itself let in cannot be too much however the upstream counts, or if
    /// its answers have shown that the way to refill is the right one.
    pub(super) fn refused(&mut self, units: u64, sent_at: Timestamp, now: Timestamp) -> bool {
        let known = match self.acting(now) {
            Acting::Bucket => self.evidence.shows_refill(),
            Acting::Fixed(_) => false,
            // What is safe whatever the upstream does was not enough; unless it was sent before.
            Acting::Sliding if sent_at <= self.doubted_at && self.doubt > Duration::ZERO => {
                return false;
            }
            Acting::Sliding => true,
        };
        let window = self.quota.window_nanos().get();
        let window_ago = Timestamp::from_nanos(now.as_nanos().saturating_sub(window));
        let foreign = known || self.logged(false) + self.others.since(window_ago) >= 0;
        if foreign {
            self.foreign.refused(&self.quota, i128::from(units), now);
            return true;
        }
        self.distrust(now);
        false
    }

    /// Takes the upstream's word that nothing is left now.
    pub(super) fn drain(&mut self) {
        self.bucket.drain();
    }

    /// Takes everything as unspent but for what is held: nothing is known to the contrary.
    pub(super) fn fill(&mut self, now: Timestamp) {
        self.bucket.set(&self.quota, self.limit() - self.held);
        self.log = Log::empty(self.quota.window_nanos().get(), self.periods());
        self.log.charge(self.timed, now);
        self.pace = Pace::of(&self.quota, false, now);
    }

    fn periods(&self) -> Option<Periods> {
        match self.mode {
            Acting::Fixed(periods) => Some(periods),
            Acting::Bucket | Acting::Sliding => None,
        }
    }

    /// When the whole limit may be spent again, or the period ends; what is held now is taken as
    /// settled.
    pub(super) fn resets_at(&self, now: Timestamp) -> Timestamp {
        let drain = self.drain_at(now);
        match self.acting(now) {
            Acting::Fixed(periods) => periods.next(self.quota.window_nanos().get(), now),
            Acting::Sliding => self.log.clear_at(now),
            Acting::Bucket => self.bucket.reaches(&self.quota, self.limit(), drain),
        }
    }

    /// When nothing will be left if it is used on as of late; `None` if that is not in sight.
    pub(super) fn exhausted_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (left, window) = (self.available(now), i128::from(self.quota.window_nanos().get()));
        if left <= 0 {
            return Some(now);
        }
        let refill = match self.acting(now) {
            Acting::Bucket => self.limit() - i128::from(self.drain_at(now)),
            Acting::Fixed(_) | Acting::Sliding => 0,
        };
        let net = self.burn.rate() - refill;
        if net <= 0 {
            return None;
        }
        let nanos = u64::try_from(left.checked_mul(window)? / net).unwrap_or(u64::MAX);
        let at = Timestamp::from_nanos(now.as_nanos().saturating_add(nanos));
        let horizon = match self.acting(now) {
            Acting::Bucket => now.after(self.quota.window()),
            Acting::Fixed(_) | Acting::Sliding => self.resets_at(now),
        };
        (at < horizon).then_some(at)
    }

    /// Whether a new window in its place would behave the same.
    pub(super) fn is_untouched(&self, now: Timestamp) -> bool {
        self.held == 0 && self.available(now) == self.limit()
    }
}
