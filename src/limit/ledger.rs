//! The ledger: every window of one pool, charged all or nothing.

mod heir;
mod observe;
mod reconfigure;
mod terms;

pub use self::observe::Blame;
pub use self::terms::{ColdStart, Denied, Level, Spent};
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
    /// By window: its bit in what requests know of windows, if that is not its index; and the first that
    /// none of them ever was.
    #[serde(default)]
    labels: Vec<u8>,
    #[serde(default)]
    unused: u8,
    #[serde(skip)]
    pub(super) journal: Option<Journal>,
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
    pub(super) announced: bool,
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

    /// The same hold in a copy of its ledger.
    pub(super) const fn twin(&self) -> Self {
        Self { ..*self }
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
        let (placed, unheard, open, heard, labels, unused) = Default::default();
        let journal = None;
        Self { windows, sent: 0, probe, placed, unheard, open, heard, labels, unused, journal }
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
        let cost = cost.bounded();
        let mut full = 0;
        for index in 0..self.windows.len() {
            let own = self.bit(index);
            let window = &mut self.windows[index];
            let unit = window.quota().unit();
            let alone = self.open[unit.index()] == 0 && window.is_untouched(now);
            full |= if alone { own } else { 0 };
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
        let used = spent.of(sent.cost).bounded();
        self.record(due, Event::Settled { id: sent.id, used });
        sent.announced = true;
    }

    /// Ends a hold whose request the upstream refused without charging it.
    pub fn reject(&mut self, sent: Sent, now: Timestamp) {
        self.end(sent, Cost::default(), now);
    }

    #[expect(clippy::needless_pass_by_value, reason = "a hold is ended once: it is used up")]
    fn end(&mut self, sent: Sent, used: Cost, now: Timestamp) {
        // The upstream's word, and it may say anything.
        let used = used.bounded();
        if !sent.announced {
            self.record(now, Event::Settled { id: sent.id, used });
        }
        for index in 0..self.windows.len() {
            let own = self.bit(index);
            let window = &mut self.windows[index];
            let unit = window.quota().unit();
            let is = |bits: u32| bits & own != 0;
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

    /// The bit that stands for a window; there is none for those beyond the 32nd.
    fn bit(&self, index: usize) -> u32 {
        1_u32.checked_shl(self.label(index).into()).unwrap_or(0)
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

#[cfg(test)]
mod tests;
