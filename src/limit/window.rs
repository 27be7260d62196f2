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

mod conduct;
mod observe;
mod reconfigure;
mod room;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::conduct::Conduct;
pub(super) use self::observe::Around;
pub(super) use self::reconfigure::Joining;
pub(super) use self::room::Room;
use crate::limit::bucket::Bucket;
use crate::limit::constraint::{Constraint, Mode, Unit};
use crate::limit::evidence::Evidence;
use crate::limit::foreign::Foreign;
use crate::limit::history::History;
use crate::limit::log::{Log, Periods};
use crate::limit::pace::{Burn, Pace};
use crate::limit::reading::Headers;
use crate::time::Timestamp;

/// A constraint with its state.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    /// When one request may go even if there seems to be no room for it.
    ask_at: Option<Timestamp>,
    pace: Option<Pace>,
    burn: Burn,
    /// The limit that was configured: the quota's own may have been learned.
    configured: u64,
    /// Whether the upstream has ever shown it, and when it did last.
    seen: bool,
    seen_at: Timestamp,
    drift: i128,
    /// Not in what earlier versions kept.
    #[serde(default)]
    conduct: Conduct,
}

/// What a window goes by now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Acting {
    Bucket,
    Fixed(Periods),
    Sliding,
}

/// Something that the bucket and the log each have of their own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Counted<T = bool> {
    pub(super) bucket: T,
    pub(super) log: T,
}

/// What a mode goes by at first, and the periods of that.
const fn acting(mode: Mode) -> (Acting, Option<Periods>) {
    match mode {
        Mode::Bucket => (Acting::Bucket, None),
        Mode::Fixed { skew } => {
            let periods = Periods { phase: 0, skew };
            (Acting::Fixed(periods), Some(periods))
        }
        Mode::Sliding | Mode::Auto => (Acting::Sliding, None),
    }
}

impl Window {
    pub(super) fn new(quota: Constraint, empty: bool, now: Timestamp) -> Self {
        let (mode, periods) = acting(quota.mode());
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
            ask_at: None,
            pace: Pace::of(&quota, empty, now),
            burn: Burn::default(),
            configured: quota.limit(),
            seen: false,
            seen_at: now,
            drift: 0,
            conduct: Conduct::default(),
            quota,
        }
    }

    pub(super) fn quota(&self) -> &Constraint {
        &self.quota
    }

    /// Whether it is about the same thing as `quota`, however much that allows.
    pub(super) fn is_about(&self, quota: &Constraint) -> bool {
        self.quota.unit() == quota.unit() && self.quota.window() == quota.window()
    }

    /// Whether nothing has ever been done to it.
    pub(super) fn is_new(&self) -> bool {
        self.spent == 0 && !self.seen
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

    /// Counts what came back up to `now`. In however many steps that is done, the outcome is the same:
    /// who replays what was done to a window need not know when it was looked at.
    pub(super) fn advance(&mut self, now: Timestamp) {
        let (doubted, shared) = (self.doubted_until, self.foreign.active_until());
        for change in [doubted.min(shared), doubted.max(shared)] {
            if self.bucket.at() < change && change < now {
                self.step(change);
            }
        }
        self.step(now);
    }

    /// [`Self::advance`], as long as neither trust nor the reckoning with others ends on the way.
    fn step(&mut self, now: Timestamp) {
        if let Some(pace) = &mut self.pace {
            pace.refill(&self.quota, now);
        }
        self.burn.note(&self.quota, self.spent, now);
        let before = self.bucket.at();
        let drain = self.drain_at(before);
        self.bucket.refill(&self.quota, self.held, drain, now);
        let (fixed, returned) = (self.is_fixed(before), &mut self.returned);
        self.log.expire(now, fixed, |at, units| returned.add(at, units));
        if before < self.doubted_until && self.doubted_until <= now {
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

    /// Holds `units`, which must have been found to have room.
    pub(super) fn hold(&mut self, units: u64, now: Timestamp) {
        let units = i128::from(units);
        self.ask_at = self.ask_at.filter(|at| now < *at);
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
        if counted.log && refund == 0 {
            self.conduct.refunded(units - used);
        }
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

    /// Takes the upstream's word that nothing is left now; and that it is worth asking again at an
    /// instant, whatever is known of the level then.
    pub(super) fn drain(&mut self, ask_at: Option<Timestamp>) {
        self.bucket.drain();
        self.ask_at = ask_at;
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

    /// Whether a new window in its place would behave the same.
    pub(super) fn is_untouched(&self, now: Timestamp) -> bool {
        self.held == 0 && self.available(now) == self.limit()
    }
}
