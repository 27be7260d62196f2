//! A request that waits its turn, as something that can be handed around.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::state::{Decision, Receiver};
use super::{Admitted, Pool, Refused, Rejection, Request};
use crate::admission::scheduler::Ticket;
use crate::limit::Cost;
use crate::time::Timestamp;

/// What becomes of a request for admission at once.
#[expect(clippy::large_enum_variant, reason = "a box would cost every request an allocation")]
#[derive(Debug)]
pub enum Asked {
    /// It may go.
    Go(Admitted),
    /// It has to wait.
    Wait(Waiting),
}

/// A request in line: ready when it is admitted or refused; dropping it gives the place up.
#[must_use = "dropping it gives the place up"]
pub struct Waiting {
    pool: Arc<Pool>,
    ticket: Ticket,
    answer: Receiver,
    answered: bool,
    forecast: Duration,
}

impl Asked {
    /// Waits, if it has to.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it was not admitted in time.
    pub async fn admitted(self) -> Result<Admitted, Refused> {
        match self {
            Self::Go(admitted) => Ok(admitted),
            Self::Wait(waiting) => waiting.await,
        }
    }
}

impl Waiting {
    pub(super) const fn new(
        pool: Arc<Pool>,
        ticket: Ticket,
        answer: Receiver,
        forecast: Duration,
    ) -> Self {
        Self { pool, ticket, answer, answered: false, forecast }
    }

    /// How long it was to wait when it began to, as far as could be told.
    pub const fn forecast(&self) -> Duration {
        self.forecast
    }

    /// The pool that it waits for.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Pool {
    /// [`Pool::retry`], without the wait: the request is back in line when this returns.
    ///
    /// # Errors
    ///
    /// [`Refused`], as [`Pool::readmit`].
    pub fn put_back(
        self: &Arc<Self>,
        admitted: Admitted,
        rejection: Rejection,
        request: Request,
        until: Timestamp,
    ) -> Result<Asked, Refused> {
        let (mut place, grant) = (admitted.place(), admitted.into_grant());
        let mut decided = Decision::No(Refused::Closed);
        self.change(|state, now| {
            if let Some(grant) = grant {
                place = state.reject(grant, rejection, now);
            }
            state.back_off(until);
            decided = state.decide(request, Some(place), now);
        });
        self.asked(decided)
    }
}

/// Lowers what a waiting request is held to cost, while it waits.
#[derive(Debug)]
pub struct Repricer {
    pool: Arc<Pool>,
    ticket: Ticket,
}

impl Waiting {
    /// A way to lower the cost from elsewhere.
    pub fn repricer(&self) -> Repricer {
        Repricer { pool: Arc::clone(&self.pool), ticket: self.ticket }
    }
}

impl Repricer {
    /// Lowers the most that the request can cost to `cost`, and lets it go if there is room now.
    /// Does nothing, and says so, if that is no less in every unit, or nobody waits any more.
    pub fn lower(&self, cost: Cost) -> bool {
        let mut lowered = false;
        self.pool.change(|state, _| lowered = state.lower(self.ticket, cost));
        lowered
    }
}

impl Future for Waiting {
    type Output = Result<Admitted, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        self.answered = true;
        // A pool that is gone admits nobody.
        Poll::Ready(answer.unwrap_or(Err(Refused::Closed)).map(|admitted| *admitted))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let waits = self.pool.state.lock().leave(self.ticket);
        if waits {
            // Its room may be enough for the next in line.
            self.pool.change(|_, _| ());
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
