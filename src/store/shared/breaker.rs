//! Stops calling a server that does not answer. Pure.

/// Failed calls in a row after which no more are made. One may be a dropped connection, two a slow
/// fork of the server's; a third would make the next request wait for nothing, too.
const FAILURES: u32 = 3;

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
}

impl Breaker {
    /// Whether calls are to be refused.
    pub(super) const fn is_open(&self) -> bool {
        self.failures >= FAILURES
    }

    /// A call has failed. True if that opened it.
    pub(super) const fn fail(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures == FAILURES
    }

    /// A call (or a probe) has succeeded. True if that closed it.
    pub(super) const fn succeed(&mut self) -> bool {
        let closed = self.is_open();
        self.failures = 0;
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_success_closes_it() {
        let mut breaker = Breaker::default();
        assert!(!breaker.fail() && !breaker.fail() && !breaker.succeed());
        assert!(!breaker.fail() && !breaker.fail() && !breaker.is_open());
        assert!(breaker.fail() && breaker.is_open());
        assert!(!breaker.fail(), "it is open already");
        assert!(breaker.succeed() && !breaker.is_open());
    }
}
