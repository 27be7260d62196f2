//! What a forecast remembers of the recent past, in few numbers.

use crate::time::Timestamp;

/// A new observation counts for one part in this many of what is remembered: the last few dozen
/// requests decide.
pub(super) const MEMORY: u64 = 16;

/// Over how long arrivals are counted: about as long as a forecast looks ahead, so that the chance of
/// who came is not taken for a habit, nor an old habit for today's.
pub(super) const SPANS: [u64; 2] = [60_000_000_000, 600_000_000_000];

/// The shorter of them: what came within it is "lately".
pub(super) const SPAN: u64 = SPANS[0];

/// A mean that forgets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean(pub(super) Option<u64>);

impl Mean {
    pub(super) fn add(&mut self, value: u64) {
        let old = self.0.unwrap_or(value);
        self.0 = Some(old - old / MEMORY + value / MEMORY);
    }

    pub(super) fn get(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

/// Units per span, of this span and the one before; for each of [`SPANS`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate([Counter; SPANS.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    span: u64,
    now: u64,
    before: u64,
}

impl Counter {
    fn turn(&mut self, length: u64, now: Timestamp) {
        let span = now.as_nanos() / length;
        if span != self.span {
            self.before = if span == self.span + 1 { self.now } else { 0 };
            (self.span, self.now) = (span, 0);
        }
    }
}

impl Rate {
    /// Which of the shorter spans it last counted in.
    pub(super) const fn span(&self) -> u64 {
        self.0[0].span
    }

    pub(super) fn add(&mut self, units: u64, now: Timestamp) {
        for (counter, length) in self.0.iter_mut().zip(SPANS) {
            counter.turn(length, now);
            counter.now = counter.now.saturating_add(units);
        }
    }

    /// Units that come in `nanos` if it goes on like this.
    pub(super) fn within(&self, nanos: u64, now: Timestamp) -> u64 {
        let [short, long] = SPANS;
        let (mut counter, length) =
            if nanos <= short { (self.0[0], short) } else { (self.0[1], long) };
        counter.turn(length, now);
        // Of the span before, what is not more than a span ago.
        let rest = length - now.as_nanos() % length;
        part(counter.now.saturating_add(part(counter.before, rest, length)), nanos, length)
    }
}

/// `value * times / of`, without overflow; all of it if `of` is zero.
pub(super) fn part(value: u64, times: u64, of: u64) -> u64 {
    if of == 0 {
        return value;
    }
    let whole = u128::from(value) * u128::from(times) / u128::from(of);
    u64::try_from(whole).unwrap_or(u64::MAX)
}
