//! The keys of callers who pay for themselves, while batches of theirs run: in memory only.

use std::collections::HashMap;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::Account;

/// What callers sent as `Authorization`, by their account.
#[derive(Default)]
pub(super) struct Keys {
    known: Mutex<HashMap<Account, Option<HeaderValue>>>,
    more: Notify,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Keeps the key of an account; `None` if its caller has sent none.
    pub(super) fn keep(&self, account: Account, key: Option<HeaderValue>) {
        let key = key.map(|mut key| {
            key.set_sensitive(true);
            key
        });
        self.known.lock().insert(account, key);
        self.more.notify_waiters();
    }

    /// Forgets it.
    pub(super) fn forget(&self, account: Account) {
        self.known.lock().remove(&account);
    }

    /// Waits until the key of an account is known.
    pub(super) async fn of(&self, account: Account) -> Option<HeaderValue> {
        loop {
            // Before the look, so that none is missed between the two.
            let more = self.more.notified();
            if let Some(key) = self.known.lock().get(&account) {
                return key.clone();
            }
            more.await;
        }
    }
}
