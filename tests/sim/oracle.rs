//! The upstream's account, modelled apart from the gateway's limiter and from its simulator.
//!
//! A request reserves its units in every window or in none; when it has ended, the reservation is
//! replaced by the tokens it used. Each semantics is written in the form nearest to its definition,
//! which is not the form that an efficient limiter would choose:
//!
//! - a bucket is a reflected process: what came in, less what went out, less what ran over;
//! - a fixed window is a table of periods;
//! - a sliding log is the list of its entries.
//!
//! Integers only. Time is nanoseconds since the Unix epoch and never runs back.

use std::collections::{BTreeMap, VecDeque};

/// Requests and tokens, in this order.
pub(crate) const REQUESTS: usize = 0;
pub(crate) const TOKENS: usize = 1;

/// One limit: `limit` of `unit` (an index) per `window` nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) unit: usize,
    pub(crate) limit: u64,
    pub(crate) window: u64,
}

/// How a window gives units back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Semantics {
    Bucket,
    /// Periods begin at `phase` plus multiples of the window.
    Fixed {
        phase: u64,
    },
    Sliding,
}

/// What one admitted request reserved, and where it is entered.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Entry {
    number: u64,
    at: u64,
    tokens: u64,
}

/// Every window of one quota.
#[derive(Debug)]
pub(crate) struct Oracle {
    meters: Vec<(Limit, Meter)>,
    admitted: u64,
    /// Units charged and not given back, by unit.
    charged: [i128; 2],
}

#[derive(Debug)]
enum Meter {
    /// `spent` units `since` an instant; `over` is what the full bucket could not take in, in units
    /// times nanoseconds of the window.
    Bucket {
        since: u64,
        spent: i128,
        over: i128,
    },
    Fixed {
        phase: u64,
        used: BTreeMap<u64, i128>,
    },
    /// Entry `number` stands at `number - first`.
    Sliding {
        first: u64,
        log: VecDeque<(u64, i128)>,
        sum: i128,
    },
}

impl Limit {
    /// The most that `semantics` can let in between two instants, beginning with everything free.
    pub(crate) fn capacity(&self, semantics: Semantics, from: u64, to: u64) -> u64 {
        let windows = |span: u64| span / self.window;
        match semantics {
            Semantics::Bucket => {
                let earned = u128::from(self.limit) * u128::from(to - from);
                self.limit + u64::try_from(earned / u128::from(self.window)).expect("fits")
            }
            Semantics::Fixed { phase } => {
                let period = |at| windows(at + self.window - phase % self.window);
                self.limit * (period(to) - period(from) + 1)
            }
            Semantics::Sliding => self.limit * (windows(to - from) + 1),
        }
    }
}

impl Oracle {
    /// A quota of which nothing has been used at `start`.
    pub(crate) fn new(semantics: Semantics, limits: &[Limit], start: u64) -> Self {
        let meter = |limit: &Limit| {
            let meter = match semantics {
                Semantics::Bucket => Meter::Bucket { since: start, spent: 0, over: 0 },
                Semantics::Fixed { phase } => Meter::Fixed { phase, used: BTreeMap::new() },
                Semantics::Sliding => Meter::Sliding { first: 0, log: VecDeque::new(), sum: 0 },
            };
            (*limit, meter)
        };
        let meters = limits.iter().map(meter).collect();
        Self { meters, admitted: 0, charged: [0; 2] }
    }

    /// Reserves one request and `tokens`, or names the first window without room.
    pub(crate) fn admit(&mut self, tokens: u64, now: u64) -> Result<Entry, usize> {
        let units = [1, i128::from(tokens)];
        for index in 0..self.meters.len() {
            let (limit, _) = &self.meters[index];
            let needed = units[limit.unit] * i128::from(limit.window);
            if self.remaining(index, now) < needed {
                return Err(index);
            }
        }
        let number = self.admitted;
        for (limit, meter) in &mut self.meters {
            match meter {
                Meter::Bucket { spent, .. } => *spent += units[limit.unit],
                Meter::Fixed { phase, used } => {
                    *used.entry(period(limit, *phase, now)).or_default() += units[limit.unit];
                }
                Meter::Sliding { log, sum, .. } => {
                    log.push_back((now, units[limit.unit]));
                    *sum += units[limit.unit];
                }
            }
        }
        self.admitted += 1;
        for (charged, units) in self.charged.iter_mut().zip(units) {
            *charged += units;
        }
        Ok(Entry { number, at: now, tokens })
    }

    /// Replaces the reserved tokens by those used.
    pub(crate) fn refund(&mut self, entry: Entry, used_tokens: u64, now: u64) {
        let more = i128::from(used_tokens) - i128::from(entry.tokens);
        for index in 0..self.meters.len() {
            // What has run over by now was there before the refund.
            self.remaining(index, now);
            let (limit, meter) = &mut self.meters[index];
            match meter {
                _ if limit.unit == REQUESTS => {}
                Meter::Bucket { spent, .. } => *spent += more,
                Meter::Fixed { phase, used } => {
                    if let Some(used) = used.get_mut(&period(limit, *phase, entry.at)) {
                        *used += more;
                    }
                }
                Meter::Sliding { first, log, sum } => {
                    let index = entry.number.checked_sub(*first);
                    let index = index.and_then(|index| usize::try_from(index).ok());
                    if let Some((_, units)) = index.and_then(|index| log.get_mut(index)) {
                        *units += more;
                        *sum += more;
                    }
                }
            }
            self.remaining(index, now);
        }
        self.charged[TOKENS] += more;
    }

    /// Changes every limit to so many per cent of what it is; what is left stays, as far as it may.
    pub(crate) fn relimit(&mut self, per_cent: u64, now: u64) {
        for index in 0..self.meters.len() {
            let left = self.remaining(index, now);
            let (limit, meter) = &mut self.meters[index];
            limit.limit = limit.limit * per_cent / 100;
            let most = i128::from(limit.limit) * i128::from(limit.window);
            if let Meter::Bucket { since, spent, over } = meter {
                (*since, *spent, *over) = (now, 0, most - left.min(most));
            }
        }
    }

    /// The limit of a window as it is now, and the whole units left.
    pub(crate) fn shown(&mut self, index: usize, now: u64) -> (u64, i128) {
        let left = self.remaining(index, now);
        let (limit, _) = &self.meters[index];
        (limit.limit, left.div_euclid(i128::from(limit.window)))
    }

    /// What is left of a window, in units times nanoseconds of the window; below zero in debt.
    pub(crate) fn remaining(&mut self, index: usize, now: u64) -> i128 {
        let (limit, meter) = &mut self.meters[index];
        let (most, window) = (i128::from(limit.limit), i128::from(limit.window));
        match meter {
            Meter::Bucket { since, spent, over } => {
                let net = most * i128::from(now - *since) - *spent * window;
                *over = net.max(*over);
                most * window + net - *over
            }
            Meter::Fixed { phase, used } => {
                let current = period(limit, *phase, now);
                while used.first_entry().is_some_and(|period| *period.key() < current) {
                    used.pop_first();
                }
                (most - used.get(&current).copied().unwrap_or(0)) * window
            }
            Meter::Sliding { first, log, sum } => {
                while log.front().is_some_and(|(at, _)| *at + limit.window <= now) {
                    *sum -= log.pop_front().map_or(0, |(_, units)| units);
                    *first += 1;
                }
                (most - *sum) * window
            }
        }
    }

    /// Units charged and not given back, by unit.
    pub(crate) fn charged(&self) -> [i128; 2] {
        self.charged
    }
}

fn period(limit: &Limit, phase: u64, at: u64) -> u64 {
    (at + limit.window - phase % limit.window) / limit.window
}
