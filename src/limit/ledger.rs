//! The ledger: every window of one pool, charged all or nothing.

mod observe;

pub use self::observe::Blame;
use serde::{Deserialize, Serialize};

use crate::limit::history::History;
use crate::limit::journal::{Event, Journal, Seen};
use crate::limit::window::{Acting, Counted, Room, Window};
use crate::limit::{Constraint, Cost, Mode, Unit};
use crate::time::Timestamp;

/// A twin of the upstream's own account of one quota: a vector of windows.
///
/// A hold must be ended by exactly one of [`Ledger::release`], [`Ledger::settle`] or
/// [`Ledger::reject`]; the types see to it that it is ended once, the owner that it is ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ledger {
    windows: Vec<Window>,
    sent: u64,
    /// Whether one request may go before anything is known, and which did.
    probe: Probe,
    /// By unit: what was ever held; what is held by requests whose answer's head has not been seen;
    /// by those that are not settled; and what became of the others, by the time of their head.
    placed: [u64; Unit::ALL.len()],
    unheard: [i128; Unit::ALL.len()],
    open: [i128; Unit::ALL.len()],
    heard: [History; Unit::ALL.len()],
    #[serde(skip)]
    pub(super) journal: Option<Journal>,
}

/// What a ledger assumes of quotas of which it knows nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ColdStart {
    /// All unspent. A refusal sets it right.
    #[default]
    Full,
    /// All spent: they refill from now on.
    Empty,
    /// Like `Empty`, but the first request may go; the head of its answer shows what is left. What
    /// it does not show is taken to be unspent.
    Probe,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Probe {
    Wanted,
    Sent,
    Done,
}

/// Units set aside in every window; nothing has been handed to the upstream yet.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a hold that is not ended keeps its units for ever"]
pub struct Hold {
    /// Its number, by which the journal knows it.
    id: u64,
    cost: Cost,
    at: Timestamp,
    /// What was ever held when it was placed.
    placed: [u64; Unit::ALL.len()],
    /// The windows of which nothing was used before, as bits.
    full: u32,
    probe: bool,
}

/// A hold whose request is at the upstream, or may be.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[must_use = "a hold that is not ended keeps its units for ever"]
pub struct Sent {
    pub(super) id: u64,
    cost: Cost,
    sent_at: Timestamp,
    placed: [u64; Unit::ALL.len()],
    full: u32,
    charged_at: Option<Timestamp>,
    probe: bool,
    /// The windows whose level counts this request as reserved, by the upstream's own word.
    counted: Counted<u32>,
    /// Whether the journal has its end already.
    announced: bool,
}

/// What a sent request turned out to have used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spent {
    /// The upstream reported it.
    Exact(Cost),
    /// Nobody knows: the answer was cut, or carried no usage. Charged as held.
    Unknown,
}

/// Why nothing was held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denied {
    /// The cost is above a limit: no wait helps.
    Wall {
        /// Index of the constraint.
        constraint: usize,
    },
    /// There is not enough left for now.
    Wait {
        /// Index of the constraint that will have room last.
        constraint: usize,
        /// The first instant at which the cost fits if nothing else is spent; `None` if that
        /// depends on something that is held being settled.
        until: Option<Timestamp>,
    },
}

/// The state of one constraint, for headers, metrics and people.
#[derive(Clone, Debug)]
pub struct Level<'a> {
    /// The constraint.
    pub quota: &'a Constraint,
    /// How it is taken to refill now: not `Auto`, and `Sliding` where that has become doubtful.
    pub mode: Mode,
    /// Whole units that may be spent now; below zero in debt.
    pub available: i64,
    /// Units held by requests that are not settled.
    pub held: u64,
    /// When the whole limit is there again if nothing more is spent, or the calendar window ends.
    pub resets_at: Timestamp,
    /// Units by which the last answer showed the ledger to have been ahead of the upstream; behind
    /// it, if negative. Zero where the two agree.
    pub drift: i64,
    /// Units per window that others with the same quota are taken to use.
    pub foreign: u64,
    /// When nothing will be left if it is used on as of late; `None` if that is not in sight.
    pub exhausted_at: Option<Timestamp>,
}

impl Hold {
    /// What is held.
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// Marks the request as handed to the upstream; called before its first byte is.
    pub const fn sent(self) -> Sent {
        let Self { id, cost, at, placed, full, probe } = self;
        let counted = Counted { bucket: 0, log: 0 };
        Sent {
            id,
            cost,
            sent_at: at,
            placed,
            full,
            charged_at: None,
            probe,
            counted,
            announced: false,
        }
    }
}

impl Sent {
    /// What is held.
    pub const fn cost(&self) -> Cost {
        self.cost
    }
}

impl Spent {
    /// What was used of a cost that was held.
    const fn of(self, held: Cost) -> Cost {
        match self {
            Self::Exact(cost) => cost,
            Self::Unknown => held,
        }
    }
}

impl Ledger {
    /// A ledger whose quotas are all unspent at `now`.
    pub fn new(constraints: Vec<Constraint>, now: Timestamp) -> Self {
        Self::cold(constraints, ColdStart::Full, now)
    }

    /// A ledger that begins at `now` and knows nothing of what was spent before.
    pub fn cold(constraints: Vec<Constraint>, start: ColdStart, now: Timestamp) -> Self {
        let empty = start != ColdStart::Full;
        let probe = if start == ColdStart::Probe { Probe::Wanted } else { Probe::Done };
        let windows = constraints.into_iter().map(|quota| Window::new(quota, empty, now)).collect();
        let (placed, unheard, open, heard) = Default::default();
        Self { windows, sent: 0, probe, placed, unheard, open, heard, journal: None }
    }

    /// Holds `cost` in every window.
    ///
    /// # Errors
    ///
    /// [`Denied`] if any window has no room for it; then none has changed.
    pub fn hold(&mut self, cost: Cost, now: Timestamp) -> Result<Hold, Denied> {
        self.hold_as(cost, false, now)
    }

    /// Like [`Self::hold`]; a `paced` request also keeps to the spread of each window.
    ///
    /// # Errors
    ///
    /// [`Denied`], as [`Self::hold`].
    pub fn hold_as(&mut self, cost: Cost, paced: bool, now: Timestamp) -> Result<Hold, Denied> {
        self.check_as(cost, paced, now)?;
        Ok(self.put(cost, now))
    }

    /// Holds `cost` in every window, whether there is room for it or not.
    pub(super) fn place(&mut self, cost: Cost, now: Timestamp) -> Hold {
        self.windows.iter_mut().for_each(|window| window.advance(now));
        self.put(cost, now)
    }

    fn put(&mut self, cost: Cost, now: Timestamp) -> Hold {
        let mut full = 0;
        for (index, window) in self.windows.iter_mut().enumerate() {
            let unit = window.quota().unit();
            let alone = self.open[unit.index()] == 0 && window.is_untouched(now);
            full |= if alone { bit(index) } else { 0 };
            window.hold(cost.of(unit), now);
        }
        self.sent += 1;
        self.count(cost, |ledger, unit, units| {
            ledger.unheard[unit] += units;
            ledger.open[unit] += units;
            let units = u64::try_from(units).unwrap_or(0);
            ledger.placed[unit] = ledger.placed[unit].wrapping_add(units);
        });
        let probe = self.probe == Probe::Wanted;
        if probe {
            self.probe = Probe::Sent;
        }
        let id = self.sent;
        self.record(now, Event::Held { id, cost });
        if let Some(journal) = &mut self.journal {
            journal.let_go(cost);
        }
        Hold { id, cost, at: now, placed: self.placed, full, probe }
    }

    pub(super) fn record(&mut self, at: Timestamp, event: Event<&[Seen]>) {
        if let Some(journal) = &mut self.journal {
            journal.write(at, event);
        }
    }

    /// The most that can be let go by `now`, in each unit.
    pub(super) fn most(&mut self, now: Timestamp) -> Cost {
        let mut most = [u64::MAX; Unit::ALL.len()];
        for window in &mut self.windows {
            window.advance(now);
            let left = u64::try_from(window.available(now)).unwrap_or(0);
            let most = &mut most[window.quota().unit().index()];
            *most = left.min(*most);
        }
        // What is not limited is not counted.
        let [requests, tokens, uncached] = most.map(|most| if most == u64::MAX { 0 } else { most });
        Cost { requests, tokens, uncached }
    }

    /// Goes on with these constraints. What a window was used for stays used, if there is one of the
    /// same unit and length; one that is new begins as `start` says.
    pub(super) fn reconfigure(
        &mut self,
        configured: Vec<Constraint>,
        start: ColdStart,
        now: Timestamp,
    ) {
        let mut before = std::mem::take(&mut self.windows);
        before.iter_mut().for_each(|window| window.advance(now));
        for quota in configured {
            let same = before.iter().position(|it| it.is_about(&quota));
            self.windows.push(match same {
                Some(index) => before.swap_remove(index).reconfigured(quota, now),
                None => Window::new(quota, start != ColdStart::Full, now),
            });
        }
        let unknown = start == ColdStart::Probe && self.windows.iter().all(|it| it.is_new());
        self.probe = if unknown { Probe::Wanted } else { Probe::Done };
    }

    fn count(&mut self, cost: Cost, mut add: impl FnMut(&mut Self, usize, i128)) {
        for unit in Unit::ALL {
            add(self, unit.index(), i128::from(cost.of(unit)));
        }
    }

    /// Whether `cost` could be held now, without holding it.
    ///
    /// # Errors
    ///
    /// [`Denied`] names the window that has room for it last, and when.
    pub fn check(&mut self, cost: Cost, now: Timestamp) -> Result<(), Denied> {
        self.check_as(cost, false, now)
    }

    /// Like [`Self::check`], for a request that is `paced` or not.
    ///
    /// # Errors
    ///
    /// [`Denied`], as [`Self::check`].
    pub fn check_as(&mut self, cost: Cost, paced: bool, now: Timestamp) -> Result<(), Denied> {
        let mut denied: Option<(usize, Option<Timestamp>)> = None;
        for (index, window) in self.windows.iter_mut().enumerate() {
            window.advance(now);
            let until = match window.room(cost.of(window.quota().unit()), paced, now) {
                Room::Now => continue,
                Room::At(at) => Some(at),
                Room::AfterSettle => None,
                Room::Never => return Err(Denied::Wall { constraint: index }),
            };
            if self.probe == Probe::Wanted {
                continue;
            }
            let later = |other: Option<Timestamp>| {
                until.unwrap_or(Timestamp::MAX) > other.unwrap_or(Timestamp::MAX)
            };
            if denied.is_none_or(|(_, other)| later(other)) {
                denied = Some((index, until));
            }
        }
        denied.map_or(Ok(()), |(constraint, until)| Err(Denied::Wait { constraint, until }))
    }

    /// When so many units of a kind could have been spent from now on, one request after the other,
    /// as far as what is held does not come back: what a forecast goes by.
    pub fn fits_at(&mut self, unit: Unit, units: u64, now: Timestamp) -> Timestamp {
        let of_unit = self.windows.iter_mut().filter(|it| it.quota().unit() == unit);
        let all = of_unit.map(|window| {
            window.advance(now);
            window.fits_at(units, now)
        });
        all.max().unwrap_or(now)
    }

    /// Units held for requests that have not been settled.
    pub fn open(&self, unit: Unit) -> u64 {
        u64::try_from(self.open[unit.index()]).unwrap_or(0)
    }

    /// The first constraint that `cost` is above, whatever is spent.
    pub fn wall(&self, cost: Cost) -> Option<usize> {
        self.windows.iter().position(|it| cost.of(it.quota().unit()) > it.quota().limit())
    }

    /// Ends a hold that was never sent: as if it had not been.
    pub fn release(&mut self, hold: Hold, now: Timestamp) {
        self.reject(hold.sent(), now);
    }

    /// The head of the answer was seen at `now`: the upstream has charged the request by then.
    pub fn charged(&mut self, sent: &mut Sent, now: Timestamp) {
        if sent.charged_at.is_some() {
            return;
        }
        self.record(now, Event::Charged { id: sent.id });
        sent.charged_at = Some(now);
        for window in &mut self.windows {
            window.advance(now);
            window.charged(sent.cost.of(window.quota().unit()), now);
        }
        self.count(sent.cost, |ledger, unit, units| {
            ledger.unheard[unit] -= units;
            ledger.heard[unit].add(now, units);
        });
        if sent.probe {
            sent.probe = false;
            self.probe = Probe::Done;
            self.windows.iter_mut().for_each(|window| window.fill(now));
        }
    }

    /// Ends a hold with what the request used: the difference comes back, or becomes debt.
    ///
    /// To be called only after the upstream's own refund, or the two accounts part.
    pub fn settle(&mut self, sent: Sent, spent: Spent, now: Timestamp) {
        let used = spent.of(sent.cost);
        self.end(sent, used, now);
    }

    /// Says that [`Self::settle`] will be called at `due` with what is known now: it is written down at
    /// once, since much can happen until then.
    pub fn announce(&mut self, sent: &mut Sent, spent: Spent, due: Timestamp) {
        let used = spent.of(sent.cost);
        self.record(due, Event::Settled { id: sent.id, used });
        sent.announced = true;
    }

    /// Ends a hold whose request the upstream refused without charging it.
    pub fn reject(&mut self, sent: Sent, now: Timestamp) {
        self.end(sent, Cost::default(), now);
    }

    #[expect(clippy::needless_pass_by_value, reason = "a hold is ended once: it is used up")]
    fn end(&mut self, sent: Sent, used: Cost, now: Timestamp) {
        if !sent.announced {
            self.record(now, Event::Settled { id: sent.id, used });
        }
        for (index, window) in self.windows.iter_mut().enumerate() {
            let unit = window.quota().unit();
            let is = |bits: u32| bits & bit(index) != 0;
            let counted = Counted { bucket: is(sent.counted.bucket), log: is(sent.counted.log) };
            window.advance(now);
            window.settle(sent.cost.of(unit), used.of(unit), sent.charged_at, counted, now);
        }
        for unit in Unit::ALL {
            let [held, used] = [sent.cost, used].map(|cost| i128::from(cost.of(unit)));
            let unit = unit.index();
            self.open[unit] -= held;
            match sent.charged_at {
                Some(at) => {
                    self.heard[unit].change(at, used.min(held) - held);
                    // When the upstream charged what came on top is not known.
                    self.heard[unit].add(now, (used - held).max(0));
                }
                None => {
                    self.unheard[unit] -= held;
                    self.heard[unit].add(now, used);
                }
            }
        }
        if sent.probe {
            // It was not to be: the next one tells.
            self.probe = Probe::Wanted;
        }
    }

    /// The constraints, in the order of their index.
    pub(super) fn constraints(&self) -> impl Iterator<Item = &Constraint> {
        self.windows.iter().map(Window::quota)
    }

    /// The constraint with this index, as counted by [`Denied`].
    pub fn constraint(&self, index: usize) -> Option<&Constraint> {
        self.windows.get(index).map(Window::quota)
    }

    /// The state of every constraint, in configuration order.
    pub fn levels(&mut self, now: Timestamp) -> impl Iterator<Item = Level<'_>> {
        self.windows.iter_mut().map(move |window| {
            window.advance(now);
            Level {
                available: i64::try_from(window.available(now)).unwrap_or(i64::MIN),
                mode: match window.acting(now) {
                    Acting::Bucket => Mode::Bucket,
                    Acting::Fixed(periods) => Mode::Fixed { skew: periods.skew },
                    Acting::Sliding => Mode::Sliding,
                },
                drift: i64::try_from(window.drift()).unwrap_or(i64::MAX),
                foreign: window.foreign(now),
                exhausted_at: window.exhausted_at(now),
                held: u64::try_from(window.held()).unwrap_or(0),
                resets_at: window.resets_at(now),
                quota: window.quota(),
            }
        })
    }

    /// Holds placed since the ledger was made.
    pub const fn placed(&self) -> u64 {
        self.sent
    }

    /// Whether a new ledger in its place would decide alike from now on.
    pub fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.windows.iter_mut().all(|window| {
            window.advance(now);
            window.is_untouched(now)
        })
    }
}

/// The bit that stands for a window; there is none for those beyond the 32nd.
fn bit(index: usize) -> u32 {
    u32::try_from(index).ok().and_then(|index| 1_u32.checked_shl(index)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
