//! The task between one pool and its log.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::admission::{Answered, Pool, Written};
use crate::limit::BadJournal;
use crate::metrics::SharedMetrics;
use crate::store::shared::{
    Entry, EntryKind, Event, Events, Log, Outcome, Position, State, Step, Unavailable,
};

/// How often this replica says that it is alive; the others wait for five times that.
const BEAT: Duration = Duration::from_secs(1);
/// How long after the last request it goes on saying so.
const QUIET_AFTER: Duration = Duration::from_secs(60);
/// After a loss of the log: the time in which others that lost it find it again, and tell what they did
/// meanwhile, before anything is asked: probes are a quarter of a second apart.
const FOUND: Duration = Duration::from_millis(600);
/// A log that can be reached and says nothing (it is being settled) is waited for so many times longer.
const SETTLING: u32 = 10;
/// The pause after a call that failed: the breaker opens after three.
const PAUSE: Duration = Duration::from_millis(20);
/// How long what nobody waits for may wait for company: what one answer tells in three places then
/// takes one call, and the next request need not wait for it to end.
const COMPANY: Duration = Duration::from_millis(10);
/// Entries after which there is a new snapshot; by chance up to twice as many, so that not all
/// replicas save one.
const SNAPSHOT_AFTER: u64 = 1_000;
const ZERO: Duration = Duration::ZERO;

/// What goes between one pool and its log.
pub(super) struct Between {
    log: Log,
    events: Events,
    own: u64,
    name: String,
    pool: Weak<Pool>,
    position: Position,
    stage: Stage,
    /// How long the log is waited for before requests go without it: a pause of the server, or of this
    /// machine, is over by then, and the others would not know that this one goes on without them.
    patience: Duration,
    /// When to try again.
    again: Option<Instant>,
    /// When to tell what nobody waits for.
    soon: Option<Instant>,
    /// Until when nothing is asked.
    quiet_until: Option<Instant>,
    /// Whether the others know of this replica.
    known: bool,
    used_at: Instant,
    /// The entry at which the next snapshot is due.
    snapshot_at: u64,
    metrics: SharedMetrics,
}

impl Between {
    pub(super) fn new(
        log: Log,
        (own, name): (u64, String),
        pool: &Arc<Pool>,
        patience: Duration,
        metrics: SharedMetrics,
    ) -> Self {
        let position = Position::default();
        Self {
            events: log.follow(&position),
            log,
            own,
            name,
            pool: Arc::downgrade(pool),
            position,
            stage: Stage::Waiting(Instant::now() + patience),
            patience,
            again: None,
            soon: None,
            quiet_until: None,
            known: false,
            used_at: Instant::now(),
            snapshot_at: 0,
            metrics,
        }
    }

    pub(super) async fn run(mut self, work: Arc<tokio::sync::Notify>, closing: CancellationToken) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiting = match self.stage {
                // It is looked at again when that has passed.
                Stage::Waiting(until) => Some(until.max(Instant::now() + PAUSE)),
                _ => None,
            };
            let next =
                [self.again, self.soon, self.quiet_until, waiting].into_iter().flatten().min();
            let wake = next.unwrap_or_else(|| Instant::now() + BEAT);
            let mut first = None;
            let mut beats = false;
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => first = Some(event),
                    None => return,
                },
                () = work.notified() => self.used_at = Instant::now(),
                () = sleep_until(wake), if next.is_some() => {}
                _ = beat.tick(), if self.known => beats = true,
                () = closing.cancelled() => return self.end().await,
            }
            let Some(pool) = self.pool.upgrade() else { return self.end().await };
            while let Some(event) = first {
                self.happened(&pool, event).await;
                first = self.events.next().now_or_never().flatten();
            }
            if self.again.is_some_and(|again| again <= Instant::now()) {
                self.again = None;
            }
            if let Stage::Waiting(until) = self.stage {
                let until = until + if self.log.is_up() { self.patience * SETTLING } else { ZERO };
                if until <= Instant::now() {
                    self.leave(&pool);
                }
            }
            if self.quiet_until.is_some_and(|until| until <= Instant::now()) {
                self.quiet_until = None;
                pool.resume();
            }
            if beats {
                self.beat(&pool).await;
            }
            if self.again.is_none() {
                self.soon_or_now(&pool).await;
            }
        }
    }

    async fn happened(&mut self, pool: &Arc<Pool>, event: Event) {
        match event {
            Event::Entry(entry) => {
                if self.position.accept(&entry) == Step::Next {
                    self.heard(pool, &[entry], Answered::Nothing);
                }
            }
            Event::State(state) => self.load(pool, state),
            Event::Reassert => {
                // What was done without the log has to be in it before anybody goes on.
                let log = &self.log;
                pool.tell_all(|bytes| log.tell(bytes.into()).ok());
                let state = || {
                    let saved = pool.save_common().unwrap_or_default();
                    (self.position.clone(), Bytes::from(saved))
                };
                // If it fails, the server asks again.
                if let Err(error) = self.log.reassert(state).await {
                    tracing::debug!(pool = self.name, %error, "not re-asserted");
                }
            }
            Event::Lost => {
                if matches!(self.stage, Stage::Following | Stage::Back | Stage::Stale) {
                    self.stage = Stage::Waiting(Instant::now() + self.patience);
                }
            }
            Event::Back => {
                if matches!(self.stage, Stage::Waiting(_) | Stage::Lost) {
                    let unread = self.position.epoch.id.is_empty();
                    match (unread, self.stage) {
                        // The first state may take its time: not for ever.
                        (true, Stage::Waiting(_)) => {}
                        (true, _) => self.stage = Stage::Stale,
                        (false, _) => self.stage = Stage::Back,
                    }
                    (self.again, self.known) = (None, false);
                }
            }
        }
    }

    /// Goes on without the log.
    fn leave(&mut self, pool: &Arc<Pool>) {
        if self.stage != Stage::Foreign {
            self.stage = Stage::Lost;
        }
        pool.leave_log();
    }

    fn load(&mut self, pool: &Arc<Pool>, state: State) {
        let State { snapshot, entries, position, at } = state;
        let own = position.versions.iter().find(|(replica, _)| replica.0 == self.own);
        let version = own.map_or(0, |(_, number)| *number);
        let clock = (self.log.now(), at);
        let loaded = pool.loaded(clock, snapshot.as_deref(), version, entries.iter().map(written));
        self.position = position;
        self.snapshot_at = self.later_snapshot();
        self.known = false;
        match loaded {
            Ok(()) => {
                self.stage = Stage::Following;
                self.again = None;
                self.found(pool);
            }
            Err(error) => self.foreign(pool, &error),
        }
    }

    /// The log is there again, and was read to its end.
    fn found(&mut self, pool: &Arc<Pool>) {
        pool.heard_of_log(self.log.now());
        if pool.is_alone() {
            self.quiet_until = Some(Instant::now() + FOUND);
            pool.return_to_log(self.log.now());
        }
    }

    /// What is in the log was written by a version that this one does not understand.
    fn foreign(&mut self, pool: &Arc<Pool>, error: &BadJournal) {
        if self.stage != Stage::Foreign {
            tracing::error!(pool = self.name, %error, "the shared quota cannot be read");
        }
        self.stage = Stage::Foreign;
        self.leave(pool);
    }

    fn heard(&mut self, pool: &Arc<Pool>, entries: &[Entry], answered: Answered) {
        let heard = pool.heard(self.log.now(), entries.iter().map(written), answered);
        if let Err(error) = heard {
            self.foreign(pool, &error);
        }
    }

    /// Makes a call now if somebody waits for it, or soon.
    async fn soon_or_now(&mut self, pool: &Arc<Pool>) {
        let now = Instant::now();
        if self.stage == Stage::Following && self.known && !pool.is_urgent() {
            let due = pool.has_news() || self.log.pending() > 0;
            self.soon = due.then(|| self.soon.unwrap_or(now + COMPANY));
            if self.soon.is_none_or(|soon| soon > now) {
                return;
            }
        }
        self.soon = None;
        self.call(pool).await;
    }

    /// Asks and tells what there is to ask and to tell.
    async fn call(&mut self, pool: &Arc<Pool>) {
        match self.stage {
            Stage::Following => {}
            Stage::Back => return self.read_on(pool).await,
            Stage::Waiting(_) | Stage::Lost | Stage::Stale | Stage::Foreign => return,
        }
        if !self.known {
            self.beat(pool).await;
            if !self.known {
                return;
            }
        }
        if self.position.seq >= self.snapshot_at {
            self.save(pool).await;
        }
        let log = &self.log;
        let tell = |bytes: Vec<u8>| log.tell(bytes.into()).ok();
        let question = pool.prepare(log.now(), tell).map(Bytes::from);
        let (free, asked) = pool.take_counts();
        self.metrics.held(free, asked);
        let is_asked = question.is_some();
        let result = match question {
            Some(bytes) => self.log.append_if_current(&self.position, bytes).await,
            None if self.log.pending() > 0 => self.log.flush(&self.position).await,
            None => return,
        };
        let refused = if is_asked { Answered::Refused } else { Answered::Nothing };
        let soon = |pause: Duration| Some(Instant::now() + pause);
        let (entries, answered) = match result {
            Ok(Outcome::Appended(entries)) => {
                (entries, if is_asked { Answered::Taken } else { Answered::Nothing })
            }
            Ok(Outcome::Behind(entries)) => {
                if is_asked {
                    self.metrics.contended.inc();
                }
                (entries, refused)
            }
            Ok(Outcome::Wait(left)) => {
                self.again = soon(left.max(PAUSE));
                (Vec::new(), refused)
            }
            Ok(Outcome::Stale) => {
                self.stage = Stage::Stale;
                (Vec::new(), refused)
            }
            Err(error) => {
                self.again = soon(PAUSE);
                if error == Unavailable::Full {
                    self.snapshot_at = 0;
                }
                (Vec::new(), refused)
            }
        };
        let entries: Vec<_> =
            entries.into_iter().filter(|it| self.position.accept(it) == Step::Next).collect();
        if !entries.is_empty() {
            pool.heard_of_log(self.log.now());
        }
        self.heard(pool, &entries, answered);
        if self.log.pending() > 0 && self.again.is_none() {
            pool.work().notify_one();
        }
    }

    /// Reads what was missed while the log could not be reached; only then is it asked again.
    async fn read_on(&mut self, pool: &Arc<Pool>) {
        match self.log.flush(&self.position).await {
            Ok(Outcome::Appended(entries)) => {
                self.take(pool, entries);
                self.stage = Stage::Following;
                self.found(pool);
            }
            Ok(Outcome::Behind(entries)) => {
                self.take(pool, entries);
                self.again = Some(Instant::now());
            }
            Ok(Outcome::Stale) => self.stage = Stage::Stale,
            Ok(Outcome::Wait(left)) => self.again = Some(Instant::now() + left.max(PAUSE)),
            Err(_) => self.again = Some(Instant::now() + PAUSE),
        }
    }

    fn take(&mut self, pool: &Arc<Pool>, entries: Vec<Entry>) {
        let entries: Vec<_> =
            entries.into_iter().filter(|it| self.position.accept(it) == Step::Next).collect();
        self.heard(pool, &entries, Answered::Nothing);
    }

    /// Says that this replica is alive, or, if it has had nothing to do for long, good-bye.
    async fn beat(&mut self, pool: &Arc<Pool>) {
        if self.stage != Stage::Following {
            return;
        }
        if self.known && self.used_at.elapsed() > QUIET_AFTER && pool.is_idle() {
            self.known = self.log.leave().await.is_err();
            return;
        }
        match self.log.beat(&self.position, Bytes::new()).await {
            Ok(peers) => {
                self.known = true;
                pool.heard_of_log(self.log.now());
                pool.saw_replicas(u32::try_from(peers.len() + 1).unwrap_or(u32::MAX));
            }
            // While an epoch is settled, too: what follows the log hears of its end.
            Err(_) => self.again = Some(Instant::now() + PAUSE),
        }
    }

    /// Keeps a snapshot, so that the log stays short.
    async fn save(&mut self, pool: &Arc<Pool>) {
        let Some(bytes) = pool.save_common() else { return };
        if self.log.snapshot(&self.position, bytes.into()).await.is_ok() {
            self.snapshot_at = self.later_snapshot();
        }
    }

    fn later_snapshot(&self) -> u64 {
        self.position.seq + SNAPSHOT_AFTER + fastrand::u64(..SNAPSHOT_AFTER)
    }

    /// The last words.
    async fn end(mut self) {
        if let Some(pool) = self.pool.upgrade()
            && self.stage == Stage::Following
        {
            // What does not get through is taken as spent.
            for _ in 0..4 {
                self.again = None;
                self.call(&pool).await;
                if self.log.pending() == 0 && pool.is_idle() {
                    break;
                }
            }
        }
        if self.known {
            // If it is not heard, the others notice in a few seconds.
            let _ = self.log.leave().await;
        }
    }
}

fn written(entry: &Entry) -> Written<'_> {
    let bytes = match entry.kind {
        EntryKind::Own => Some(entry.bytes.as_ref()),
        EntryKind::Gone => None,
    };
    Written { owner: entry.replica.0, number: entry.number, at: entry.at, bytes }
}
