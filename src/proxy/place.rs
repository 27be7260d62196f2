//! Places kept for requests that were refused for waiting too long: who comes back is known by its
//! tenant and by its body's digest, which is taken only when it can matter.

use sha2::{Digest, Sha256};

use crate::admission::kept::Twin;
use crate::admission::pools::Named;
use crate::admission::scheduler::Place;
use crate::proxy::forward::Forward;

impl Forward {
    /// The place kept for this request in a pool, if it was refused there a moment ago.
    pub(super) fn kept_place(&self, named: &Named) -> Option<Place> {
        if !named.kept.lock().may_have(self.came.len() as u64) {
            return None;
        }
        let twin = self.twin();
        let place = named.kept.lock().take(&twin, named.pool.now())?;
        self.gateway.metrics.places_taken.inc();
        Some(place)
    }

    /// Keeps the place of this request, which is being refused there, for when it comes back.
    pub(super) fn keep_place(&self, named: &Named, place: Place) {
        let span = self.gateway.config.admission.keep_place;
        if span.is_zero() {
            return;
        }
        let (twin, now) = (self.twin(), named.pool.now());
        named.kept.lock().keep(twin, place, now.after(span), now);
        self.gateway.metrics.places_kept.inc();
    }

    /// By the caller's own bytes: what is sent may differ from one time to the next.
    fn twin(&self) -> Twin {
        let digest = Sha256::digest(&self.came);
        let mut body = [0; 16];
        body.copy_from_slice(&digest[..16]);
        let length = self.came.len() as u64;
        Twin { tenant: self.ask.subject.tenant.clone(), length, body }
    }
}
