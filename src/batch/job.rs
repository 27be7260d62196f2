//! A batch that has not ended, from one state to the next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::input::{Line, Lines};
use super::line::{Held, Sending};
use super::object::Progress;
use super::validate::validate;
use super::{Batches, MEMORY_KIB};
use crate::admission::{PoolKey, Pools};
use crate::identity::{Owner, VirtualKey};
use crate::proxy::{BatchLine, TENANT};
use crate::store::archive::{Batch, LineProblem, Record, State, Trouble};
use crate::telemetry::traces::Parent;
use crate::time::Timestamp;

/// Lines of one batch that stand in line at once. The queue needs one to have something to choose, and
/// when one goes the next is there within a fraction of a millisecond; a few more are for bursts.
const AHEAD: usize = 32;

/// Between two tries of what failed for the gateway's own reasons, such as a full disk.
const AGAIN: Duration = Duration::from_secs(1);

/// A batch that has not ended.
#[derive(Debug)]
pub(super) struct Job {
    number: i64,
    id: Arc<str>,
    made_in: Option<Parent>,
    owner: Owner,
    cancelled: CancellationToken,
    active: AtomicU32,
    to_retry: AtomicU32,
    ahead: Arc<Semaphore>,
    trouble: Mutex<Option<String>>,
}

/// Counts something for as long as it is there.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Job {
    pub(super) fn new(batch: Batch, made_in: Option<Parent>) -> Self {
        let Batch { number, id, owner, .. } = batch;
        Self {
            number,
            id: id.into(),
            made_in,
            owner,
            cancelled: CancellationToken::new(),
            active: AtomicU32::new(0),
            to_retry: AtomicU32::new(0),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            trouble: Mutex::default(),
        }
    }

    /// The batch's number: later ones have higher numbers.
    pub(super) const fn number(&self) -> i64 {
        self.number
    }

    /// The batch's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// A line of it, counted from 0, as traces name it.
    pub(super) fn line(&self, number: u32) -> BatchLine {
        BatchLine { batch: Arc::clone(&self.id), line: number + 1, made_in: self.made_in }
    }

    /// Whose it is.
    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// No more lines are to be sent.
    pub(super) fn cancel(&self) {
        self.cancelled.cancel();
    }

    pub(super) fn count_active(&self) -> Counted<'_> {
        Counted::new(&self.active)
    }

    pub(super) fn count_retry(&self) -> Counted<'_> {
        Counted::new(&self.to_retry)
    }

    pub(super) fn note_trouble(&self, what: String) {
        *self.trouble.lock() = Some(what);
    }
}

/// How a step of a batch ended.
enum Step {
    /// It is in another state now.
    Next,
    /// It has ended.
    Ended,
    /// The gateway ends.
    Stopped,
}

/// Why a step was not made; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    #[error(transparent)]
    Archive(#[from] Trouble),
    #[error("the input file: {0}")]
    File(#[from] io::Error),
    #[error("some of its lines have no result yet")]
    Incomplete,
}

impl Batches {
    /// Sees a batch through.
    pub(super) async fn run(self: Arc<Self>, job: Arc<Job>) {
        loop {
            let problem = match self.step(&job).await {
                Ok(Step::Next) => continue,
                Ok(Step::Ended | Step::Stopped) => break,
                Err(problem) => problem,
            };
            tracing::error!(batch.id = job.id(), %problem, "a batch does not get on");
            job.note_trouble(problem.to_string());
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.stop.cancelled() => break,
            }
        }
        let account = job.owner().account;
        let mut jobs = self.jobs.lock();
        jobs.remove(job.id());
        if !jobs.values().any(|other| other.owner().account == account) {
            self.keys.forget(account);
        }
        drop(jobs);
        self.gateway().metrics().batch.running.dec();
        self.show_stored();
    }

    async fn step(self: &Arc<Self>, job: &Arc<Job>) -> Result<Step, NotNow> {
        let Some(batch) = self.archive.batch(job.owner().id, job.id()).await? else {
            return Ok(Step::Ended);
        };
        if self.stop.is_cancelled() {
            return Ok(Step::Stopped);
        }
        match batch.record.state {
            State::Validating => self.validate(job, batch).await,
            State::InProgress => self.work(job, batch).await,
            State::Finalizing | State::Cancelling => self.finalize(batch).await,
            ended => {
                self.gateway().metrics().batch.count(ended.as_str());
                Ok(Step::Ended)
            }
        }
    }

    async fn validate(&self, job: &Job, batch: Batch) -> Result<Step, NotNow> {
        let path = self.archive.path(&batch.input);
        let (config, endpoint) = (Arc::clone(self.gateway().config()), batch.record.endpoint);
        let caller = self.gateway().caller_again(job.owner());
        let look = move || {
            let longest = usize::try_from(config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
            validate(Lines::open(&path, longest)?, &endpoint, &config, caller.as_ref())
        };
        let found = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        let now = self.now();
        let change = move |record: &mut Record| {
            // It may have been cancelled meanwhile.
            if record.state != State::Validating {
                return;
            }
            record.total = found.total;
            record.model = found.model;
            record.problems = found.problems;
            if record.problems.is_empty() {
                (record.state, record.in_progress) = (State::InProgress, Some(now));
            } else {
                (record.state, record.failed) = (State::Failed, Some(now));
            }
        };
        self.archive.change(job.owner().id, job.id(), change).await?;
        Ok(Step::Next)
    }

    /// Sends every line that has no result yet.
    async fn work(self: &Arc<Self>, job: &Arc<Job>, batch: Batch) -> Result<Step, NotNow> {
        let Some(caller) = self.gateway().caller_again(job.owner()) else {
            return self
                .fail(job, "key_revoked", "its owner's key is not configured any more")
                .await;
        };
        let expires = Timestamp::from_nanos(batch.record.expires.saturating_mul(1_000_000_000));
        let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
        let time = tokio::time::sleep_until(self.gateway().pools().epoch().instant(expires));
        let working = async {
            // The operator has no key but the gateway's own, if that has one.
            let own = caller.account.is_callers() && !job.owner().is_operator();
            let key = if own { self.keys.of(caller.account).await } else { None };
            let sending = Sending {
                here: Arc::clone(self),
                job: Arc::clone(job),
                key,
                endpoint: batch.record.endpoint.as_str().into(),
                expires,
                ahead: Arc::clone(&job.ahead),
                over: over.clone(),
            };
            self.send_all(&batch, sending, &tasks).await?;
            tasks.close();
            tasks.wait().await;
            Ok::<_, NotNow>(())
        };
        let worked = tokio::select! {
            worked = working => worked,
            () = job.cancelled.cancelled() => Ok(()),
            () = time => Ok(()),
            () = self.stop.cancelled() => Ok(()),
        };
        if !self.stop.is_cancelled() {
            // Whoever stands in line leaves it; who is at the upstream may finish.
            over.cancel();
        }
        tasks.close();
        tasks.wait().await;
        worked?;
        if self.stop.is_cancelled() {
            return Ok(Step::Stopped);
        }
        let now = self.now();
        // Lines that were left because the gateway ends wait for the next start.
        let meant = job.cancelled.is_cancelled() || now >= batch.record.expires;
        if !meant && !self.is_complete(job).await? {
            let draining = self.gateway().is_draining();
            return if draining { Ok(Step::Stopped) } else { Err(NotNow::Incomplete) };
        }
        let change = move |record: &mut Record| {
            record.finalizing.get_or_insert(now);
            if record.state == State::InProgress {
                record.state = State::Finalizing;
            }
        };
        self.archive.change(job.owner().id, job.id(), change).await?;
        Ok(Step::Next)
    }

    /// Whether every line has its result.
    async fn is_complete(&self, job: &Job) -> Result<bool, NotNow> {
        let batch = self.archive.batch(job.owner().id, job.id()).await?;
        let results = |batch: &Batch| batch.counts.completed + batch.counts.failed;
        Ok(batch.is_none_or(|batch| results(&batch) >= u64::from(batch.record.total)))
    }

    async fn send_all(
        &self,
        batch: &Batch,
        sending: Sending,
        tasks: &TaskTracker,
    ) -> Result<(), NotNow> {
        let finished = Finished::new(self.archive.finished_lines(batch.number).await?);
        let longest = self.gateway().config().server.max_body_bytes.get();
        let longest = usize::try_from(longest).unwrap_or(usize::MAX);
        let mut lines = Lines::open(&self.archive.path(&batch.input), longest)?;
        loop {
            let (piece, rest) = lines.next_piece().await?;
            lines = rest;
            if piece.is_empty() {
                return Ok(());
            }
            for line in piece.into_iter().filter(|line| !finished.has(line.number)) {
                let Some(held) = self.room_for(&line, &sending.ahead).await else { return Ok(()) };
                tasks.spawn(sending.clone().see_through(line, held));
            }
        }
    }

    /// Waits until there is room for one more line.
    async fn room_for(&self, line: &Line, ahead: &Arc<Semaphore>) -> Option<Held> {
        let kib = line.text.as_ref().map_or(0, |text| text.len() / 1_024) + 1;
        let kib = u32::try_from(kib.min(MEMORY_KIB)).unwrap_or(u32::MAX);
        let place = take(ahead, 1).await?;
        let memory = take(&self.memory, kib).await?;
        let in_flight = take(&self.in_flight, 1).await?;
        Some(Held { _memory: memory, _in_flight: in_flight, place })
    }

    async fn fail(&self, job: &Job, code: &str, message: &str) -> Result<Step, NotNow> {
        let now = self.now();
        let (code, message) = (code.to_owned(), message.to_owned());
        let change = move |record: &mut Record| {
            (record.state, record.failed) = (State::Failed, Some(now));
            record.problems.push(LineProblem { code, message, param: None, line: None });
        };
        self.archive.change(job.owner().id, job.id(), change).await?;
        Ok(Step::Next)
    }

    async fn finalize(&self, batch: Batch) -> Result<Step, NotNow> {
        self.write_results(batch).await?;
        Ok(Step::Next)
    }

    /// How a batch that runs gets on.
    pub(super) fn progress(&self, job: &Job, record: &Record) -> Progress {
        let count = |count: &AtomicU32| count.load(Ordering::Relaxed);
        let waiting = AHEAD.saturating_sub(job.ahead.available_permits());
        let (active, to_retry) = (count(&job.active), count(&job.to_retry));
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).min(active);
        let own = PoolKey(VirtualKey::quota(&job.owner().tenant));
        let own = binding(self.gateway().tenants(), own).map(|bound| format!("{TENANT}{bound}"));
        let limited_by = own.or_else(|| {
            let key = PoolKey(job.owner().account.quota(record.model.as_ref()?));
            binding(self.gateway().pools(), key)
        });
        Progress {
            waiting,
            at_upstream: active.saturating_sub(waiting + to_retry),
            to_retry,
            limited_by,
            last_trouble: job.trouble.lock().clone(),
        }
    }
}

/// What the first in line of a pool waits for.
fn binding(pools: &Pools, key: PoolKey) -> Option<String> {
    let all = pools.all();
    let (_, named) = all.iter().find(|(other, _)| *other == key)?;
    named.pool.snapshot().bound.map(|bound| named.pool.name_of(bound))
}

async fn take(from: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
    // They are never closed.
    Arc::clone(from).acquire_many_owned(permits).await.ok()
}

/// The lines that have a result.
#[derive(Debug)]
pub(super) struct Finished(Vec<u64>);

impl Finished {
    pub(super) fn new(lines: Vec<u32>) -> Self {
        let mut bits = Vec::new();
        for line in lines {
            let word = usize::try_from(line / 64).unwrap_or(usize::MAX);
            if bits.len() <= word {
                bits.resize(word + 1, 0);
            }
            bits[word] |= 1 << (line % 64);
        }
        Self(bits)
    }

    pub(super) fn has(&self, line: u32) -> bool {
        let word = usize::try_from(line / 64).unwrap_or(usize::MAX);
        self.0.get(word).is_some_and(|bits| bits >> (line % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_lines_are_known() {
        let finished = Finished::new(vec![0, 63, 64, 1_000]);
        let known: Vec<_> = (0..2_000).filter(|line| finished.has(*line)).collect();
        assert_eq!(known, [0, 63, 64, 1_000]);
        assert!(!Finished::new(Vec::new()).has(0));
    }
}
