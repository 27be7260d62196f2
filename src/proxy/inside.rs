//! Requests of the gateway's own: those of a batch, sent for a caller who has gone.
//!
//! They take the same way as all others. What a connection says of a caller is said here, and it
//! travels with the request as an extension, which nobody can send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::identity::Owner;
use crate::proxy::trace::BatchLine;

/// What is known of a request of the gateway's own. Its clones are one.
#[derive(Clone, Debug)]
pub struct Inside(Arc<Known>);

#[derive(Debug)]
struct Known {
    owner: Owner,
    class: usize,
    patience: Duration,
    line: BatchLine,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    admitted: AtomicBool,
}

impl Inside {
    /// A request of a batch's line for `owner` in a class (its index), which may wait so long. The
    /// permit is given back when it is admitted for the first time, or has ended: one more may stand in
    /// line then.
    pub fn new(
        owner: Owner,
        class: usize,
        patience: Duration,
        line: BatchLine,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (place, admitted) = (Mutex::new(Some(place)), AtomicBool::new(false));
        Self(Arc::new(Known { owner, class, patience, line, place, admitted }))
    }

    /// Whether it has been admitted: it may have been charged since.
    pub fn is_admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Acquire)
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> &Owner {
        &self.0.owner
    }

    pub(super) fn class(&self) -> usize {
        self.0.class
    }

    /// The line.
    pub(super) fn line(&self) -> &BatchLine {
        &self.0.line
    }

    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// It is admitted now.
    pub(super) fn admit(&self) {
        self.0.admitted.store(true, Ordering::Release);
        self.0.place.lock().take();
    }
}
