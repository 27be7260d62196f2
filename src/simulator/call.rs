//! One metered request from its arrival to its one outcome.
//!
//! Dropping a call that has not ended means that its client went away: it counts as aborted, and
//! its reservation is kept, or settled with what was produced where the options say so.

use std::sync::Arc;

use super::pool::Pool;
use super::quota::{Admission, Level, Rejection};
use super::state::State;
use super::stats::Outcome;

#[derive(Debug)]
pub(super) struct Call {
    state: Arc<State>,
    held: Option<(Arc<Pool>, Admission)>,
    /// Tokens the request would have cost had it ended here.
    pub(super) used: u64,
    ended: bool,
}

impl Call {
    pub(super) fn begin(state: &Arc<State>) -> Self {
        state.board.begin();
        Self { state: Arc::clone(state), held: None, used: 0, ended: false }
    }

    /// Asks the pool; the levels are those just after the decision.
    pub(super) fn admit(
        &mut self,
        pool: Arc<Pool>,
        tokens: u64,
    ) -> (Result<(), Rejection>, Vec<Level>) {
        let (decision, levels) = pool.admit(self.state.now_ns(), tokens);
        let decision = decision.map(|admission| self.held = Some((pool, admission)));
        (decision, levels)
    }

    /// Ends as answered in full: the reservation gives way to `used`, at once or after the delay.
    pub(super) fn complete(&mut self) {
        let delay = self.state.options.scaled(self.state.options.refund_delay);
        match self.held.take() {
            Some((pool, admission)) if delay.is_zero() => {
                pool.settle(self.state.now_ns(), admission, self.used);
            }
            Some((pool, admission)) => {
                let (state, used) = (Arc::clone(&self.state), self.used);
                state.board.update(|stats| stats.settling += 1);
                let tasks = state.tasks.clone();
                tasks.spawn(async move {
                    // A simulator that stops takes its quotas along: nobody sees the refund.
                    if state.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_some() {
                        pool.settle(state.now_ns(), admission, used);
                        state.board.update(|stats| stats.settling -= 1);
                    }
                });
            }
            None => {}
        }
        self.finish(Outcome::Complete);
    }

    /// Ends without a full answer.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if let Some((pool, admission)) = self.held.take() {
            if self.state.options.refund_on_abort {
                pool.settle(self.state.now_ns(), admission, self.used);
            } else {
                pool.keep(admission);
            }
        }
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.ended, true) {
            self.state.board.end(outcome);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Abort);
        }
    }
}
