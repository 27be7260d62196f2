//! What every connection of one simulator shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, header};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::fault::Faults;
use super::options::Options;
use super::output;
use super::pool::{Pool, Report, fingerprint};
use super::stats::Board;
use crate::time::{Epoch, Timestamp};

/// The account of a caller without a key.
const ANONYMOUS: &str = "anonymous";

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: Options,
    pub(super) board: Board,
    pub(super) faults: Faults,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    epoch: Epoch,
    ordinal: AtomicU64,
    answers: AtomicU64,
    /// By account and model; ordered, so that reports are.
    pools: Mutex<BTreeMap<(String, String), Arc<Pool>>>,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let epoch = match options.start_unix_ns {
            Some(nanos) => Epoch::at(Timestamp::from_nanos(nanos)),
            None => Epoch::start(),
        };
        Self {
            board: Board::new(),
            faults: Faults::new(options.seed, options.fault_rates.clone()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            epoch,
            ordinal: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            pools: Mutex::default(),
            options,
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.epoch.now().as_nanos()
    }

    /// The number of the next metered request, from 0.
    pub(super) fn next_ordinal(&self) -> u64 {
        self.ordinal.fetch_add(1, Ordering::Relaxed)
    }

    /// A new `x-request-id`.
    pub(super) fn request_id(&self) -> String {
        self.unique_id(self.answers.fetch_add(1, Ordering::Relaxed))
    }

    /// Thirty-two hexadecimal digits that stand for `number`, and for no other.
    pub(super) fn unique_id(&self, number: u64) -> String {
        format!("{:016x}{number:016x}", output::rng(self.options.seed, number).u64(..))
    }

    /// The account a request draws on.
    pub(super) fn account(&self, headers: &HeaderMap) -> Result<String, ApiError> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        self.account_of(key).ok_or_else(ApiError::wrong_key)
    }

    /// The account of a key; `None` if the key is not accepted.
    pub(super) fn account_of(&self, key: Option<&str>) -> Option<String> {
        if self.options.keys.is_empty() {
            return Some(key.map_or_else(|| ANONYMOUS.to_owned(), fingerprint));
        }
        let accepted = self.options.keys.iter().find(|accepted| Some(&*accepted.key) == key)?;
        Some(accepted.account.clone())
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.options.models.is_empty() || self.options.models.iter().any(|name| name == model)
    }

    /// The models to list: those configured, else those asked for so far.
    pub(super) fn models(&self) -> Vec<String> {
        if !self.options.models.is_empty() {
            return self.options.models.clone();
        }
        let mut seen: Vec<_> = self.pools.lock().keys().map(|(_, model)| model.clone()).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    pub(super) fn pool(&self, account: String, model: String) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        let pool = pools.entry((account, model)).or_insert_with_key(|(account, model)| {
            Arc::new(Pool::new(account.clone(), model.clone(), &self.options, self.now_ns()))
        });
        Arc::clone(pool)
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        let pools: Vec<_> = self.pools.lock().values().cloned().collect();
        pools.iter().map(|pool| pool.report(self.now_ns())).collect()
    }

    pub(super) fn report(&self, account: String, model: String) -> Option<Report> {
        let pool = self.pools.lock().get(&(account, model)).cloned()?;
        Some(pool.report(self.now_ns()))
    }
}
