//! The calls on a log: what they send, and what is made of the replies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::bounds::Bounds;
use super::follow::Inbox;
use super::log::{Outcome, Peer, State};
use super::outbox::Outbox;
use super::position::{Entry, EntryKind, Epoch, Position, ReplicaId, Step};
use super::wire::{self, Malformed, Phase, Reply};
use super::{Inner as Store, Unavailable};

/// A replica that was not heard of for so long is gone: five heartbeats, and longer than a server
/// needs that was stopped for a moment.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(5);

/// The largest number that the script can count with.
const MOST: u64 = 1 << 53;

/// What a log consists of, in this process.
pub(super) struct Inner {
    pub(super) store: Arc<Store>,
    pub(super) name: String,
    keys: [String; 6],
    /// One call at a time appends, so that numbers arrive in their order.
    order: tokio::sync::Mutex<()>,
    pub(super) outbox: Mutex<Outbox>,
    pub(super) bounds: Mutex<Bounds>,
    /// The last entry that a call has said is appended.
    granted: Mutex<(Epoch, u64)>,
    /// Who was alive at the last heartbeat.
    peers: Mutex<Vec<ReplicaId>>,
    pub(super) inbox: Mutex<Inbox>,
    /// Tells the follower to look.
    pub(super) signal: Notify,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut logs = self.store.logs.lock();
        // A second log of the same pool may have taken the place.
        if logs.get(self.channel()).is_some_and(|log| log.strong_count() == 0) {
            logs.remove(self.channel());
        }
        drop(logs);
        self.store.metrics.forget(&self.name);
        self.store.wake.notify_one();
    }
}

impl Inner {
    pub(super) fn new(store: Arc<Store>, name: String, keys: [String; 6]) -> Self {
        // A later log of the same pool goes on with later numbers.
        let outbox = Outbox::nth(store.made.fetch_add(1, Ordering::Relaxed));
        Self {
            store,
            name,
            keys,
            order: tokio::sync::Mutex::default(),
            outbox: Mutex::new(outbox),
            bounds: Mutex::default(),
            granted: Mutex::default(),
            peers: Mutex::default(),
            inbox: Mutex::default(),
            signal: Notify::new(),
        }
    }

    pub(super) fn channel(&self) -> &str {
        &self.keys[5]
    }

    /// Runs the script. Every reply says something about the time, and how far the log is.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        position: &Position,
        deadline: Instant,
        rest: &[Bytes],
    ) -> Result<Reply, Unavailable> {
        let store = &self.store;
        let slack = u64::try_from(store.config.timeout.as_micros()).unwrap_or(MOST);
        let arguments = |sent| {
            let (least, most) = {
                let (bounds, local) = (self.bounds.lock(), store.local(sent));
                (bounds.least(local), bounds.most(local).saturating_add(slack).min(MOST))
            };
            let text = [
                if operation == "flush" { "append".to_owned() } else { operation.to_owned() },
                store.replica.to_string(),
                position.epoch.id.to_string(),
                position.seq.to_string(),
                least.to_string(),
                most.to_string(),
                format!("{:032x}", fastrand::u128(..)),
                store.config.grace.as_micros().to_string(),
            ];
            text.into_iter()
                .map(String::into_bytes)
                .chain(rest.iter().map(|it| it.to_vec()))
                .collect()
        };
        let (reply, sent) = store.call(operation, deadline, &self.keys, arguments).await?;
        let received = store.local(Instant::now());
        self.bounds.lock().replied(reply.micros, store.local(sent), received, slack);
        store.metrics.set_entries(&self.name, reply.seq.saturating_sub(reply.snapshot));
        if self.inbox.lock().expect(&reply.epoch, reply.seq) {
            // It will be pushed; if it is not, the follower asks.
            self.signal.notify_one();
        }
        Ok(reply)
    }

    pub(super) async fn append(
        &self,
        operation: &'static str,
        position: &Position,
        conditional: Option<Bytes>,
    ) -> Result<Outcome, Unavailable> {
        let deadline = self.store.deadline();
        let _in_order =
            timeout_at(deadline, self.order.lock()).await.map_err(|_| Unavailable::Timeout)?;
        let (mut batch, whole) = self.outbox.lock().batch();
        let told = batch.last().map(|(number, _)| *number);
        // What does not fit goes first; the caller comes again with the condition.
        let conditional = conditional.map(|bytes| whole.then_some(bytes));
        let postponed = matches!(conditional, Some(None));
        let is_conditional = matches!(conditional, Some(Some(_)));
        if let Some(Some(bytes)) = conditional {
            batch.push((self.outbox.lock().number(), bytes));
        }
        let flag = Bytes::from_static(if is_conditional { b"1" } else { b"0" });
        let mut rest = vec![flag];
        rest.extend(
            batch.iter().flat_map(|(number, bytes)| [number.to_string().into(), bytes.clone()]),
        );
        let mut reply = self.call(operation, position, deadline, &rest).await?;
        let status = std::mem::take(&mut reply.status);
        match status.as_str() {
            "appended" | "behind" => {
                if let Some(number) = told {
                    self.outbox.lock().acknowledge(number);
                }
                if status == "behind" {
                    batch.pop();
                }
                let entries =
                    self.appended(&mut reply, batch).map_err(|_| Unavailable::Malformed)?;
                let appended = status == "appended" && !postponed;
                Ok(if appended { Outcome::Appended(entries) } else { Outcome::Behind(entries) })
            }
            "more" => {
                let entries = wire::entries(reply.take()).map_err(|_| Unavailable::Malformed)?;
                Ok(Outcome::Behind(entries))
            }
            "full" => Err(Unavailable::Full),
            "reassert" | "wait" => {
                if status == "reassert" {
                    self.missed();
                }
                let left = wire::int(reply.take()).map_err(|_| Unavailable::Malformed)?;
                Ok(Outcome::Wait(Duration::from_micros(left)))
            }
            "epoch" | "trimmed" => {
                self.missed();
                Ok(Outcome::Stale)
            }
            _ => Err(Unavailable::Malformed),
        }
    }

    /// The entries that a call found, and those of its own that it appended.
    fn appended(
        &self,
        reply: &mut Reply,
        batch: Vec<(u64, Bytes)>,
    ) -> Result<Vec<Entry>, Malformed> {
        let mut entries = wire::entries(reply.take())?;
        let fresh = wire::int(reply.take())?;
        let own = batch.into_iter().filter(|(number, _)| fresh > 0 && *number >= fresh);
        let at = wire::timestamp(reply.micros);
        let own = own.zip(reply.before + 1..).map(|((number, bytes), seq)| Entry {
            seq,
            at,
            replica: self.store.replica,
            number,
            kind: EntryKind::Own,
            bytes,
        });
        entries.extend(own);
        let last = entries.last().map_or(reply.seq, |entry| entry.seq);
        if fresh > 0 {
            *self.granted.lock() = (reply.epoch.clone(), last);
        }
        if last == reply.seq { Ok(entries) } else { Err(Malformed) }
    }

    pub(super) async fn load(&self) -> Result<Result<State, Duration>, Unavailable> {
        let none = Position::default();
        let mut reply = self.call("load", &none, self.store.deadline(), &[]).await?;
        if reply.status != "state" {
            let left = wire::int(reply.take()).map_err(|_| Unavailable::Malformed)?;
            return Ok(Err(Duration::from_micros(left)));
        }
        let read = |reply: &mut Reply| {
            let versions = wire::versions(&wire::string(reply.take())?)?;
            let snapshot = wire::bytes(reply.take())?;
            let entries = wire::entries(reply.take())?;
            Ok((versions, snapshot, entries, wire::int(reply.take())? == 1))
        };
        let (versions, snapshot, mut entries, whole) =
            read(&mut reply).map_err(|_: Malformed| Unavailable::Malformed)?;
        let mut position = Position {
            epoch: reply.epoch.clone(),
            seq: reply.snapshot,
            versions: versions.into_iter().collect(),
        };
        for entry in &entries {
            if position.accept(entry) != Step::Next {
                return Err(Unavailable::Malformed);
            }
        }
        // A long log comes in pages.
        let mut behind = !whole;
        while behind {
            let (more, is_behind) = match self.read(&position).await? {
                Outcome::Behind(more) => (more, true),
                Outcome::Appended(more) => (more, false),
                // It changed meanwhile: from the beginning, soon.
                Outcome::Wait(_) | Outcome::Stale => return Ok(Err(Duration::from_millis(10))),
            };
            if more.iter().any(|entry| position.accept(entry) != Step::Next) {
                return Err(Unavailable::Malformed);
            }
            entries.extend(more);
            behind = is_behind;
        }
        let snapshot = (reply.snapshot > 0).then_some(snapshot);
        Ok(Ok(State { snapshot, entries, position, at: wire::timestamp(reply.micros) }))
    }

    /// What follows `position`; appends nothing.
    pub(super) async fn read(&self, position: &Position) -> Result<Outcome, Unavailable> {
        let nothing = Bytes::from_static(b"0");
        let mut reply = self.call("append", position, self.store.deadline(), &[nothing]).await?;
        let malformed = |_| Unavailable::Malformed;
        match reply.status.as_str() {
            "appended" => Ok(Outcome::Appended(wire::entries(reply.take()).map_err(malformed)?)),
            "more" => Ok(Outcome::Behind(wire::entries(reply.take()).map_err(malformed)?)),
            "wait" | "reassert" => {
                let asked = reply.status == "reassert";
                self.inbox.lock().asked(asked);
                let left = wire::int(reply.take()).map_err(malformed)?;
                Ok(Outcome::Wait(Duration::from_micros(left)))
            }
            "epoch" | "trimmed" => Ok(Outcome::Stale),
            _ => Err(Unavailable::Malformed),
        }
    }

    pub(super) async fn reassert(
        &self,
        state: impl Fn() -> (Position, Bytes),
    ) -> Result<Duration, Unavailable> {
        let deadline = self.store.deadline();
        let _in_order =
            timeout_at(deadline, self.order.lock()).await.map_err(|_| Unavailable::Timeout)?;
        let (position, snapshot) = loop {
            let (position, snapshot) = state();
            let (epoch, seq) = self.granted.lock().clone();
            if epoch != position.epoch || seq <= position.seq {
                break (position, snapshot);
            }
            if Instant::now() >= deadline {
                return Err(Unavailable::Timeout);
            }
            // Whoever made the call is about to apply what it was told.
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let own = self.store.replica;
        let peers: Vec<_> =
            self.peers.lock().iter().chain([&own]).map(ToString::to_string).collect();
        let versions: Vec<_> = position
            .versions
            .iter()
            .map(|(replica, number)| format!("{replica}:{number}"))
            .collect();
        let mut rest = vec![
            Bytes::from(peers.join(" ")),
            snapshot,
            versions.join(" ").into(),
            position.epoch.number.to_string().into(),
        ];
        let (batch, _) = self.outbox.lock().batch();
        rest.extend(
            batch.into_iter().flat_map(|(number, bytes)| [number.to_string().into(), bytes]),
        );
        let mut reply = self.call("reassert", &position, deadline, &rest).await?;
        match reply.status.as_str() {
            "wait" => {
                let left = wire::int(reply.take()).map_err(|_| Unavailable::Malformed)?;
                Ok(Duration::from_micros(left))
            }
            "open" | "epoch" => {
                self.missed();
                Ok(Duration::ZERO)
            }
            _ => Err(Unavailable::Malformed),
        }
    }

    pub(super) async fn beat(
        &self,
        position: &Position,
        payload: Bytes,
    ) -> Result<Vec<Peer>, Unavailable> {
        let gone_after = Bytes::from(GONE_AFTER.as_micros().to_string());
        let rest = [payload, gone_after];
        let mut reply = self.call("beat", position, self.store.deadline(), &rest).await?;
        if reply.status != "live" {
            self.missed();
            return Err(Unavailable::Refused("an epoch is being settled".to_owned()));
        }
        let peers = peers(&mut reply).map_err(|_| Unavailable::Malformed)?;
        *self.peers.lock() = peers.iter().map(|peer| peer.replica).collect();
        self.store.metrics.set_replicas(&self.name, peers.len() + 1);
        Ok(peers)
    }

    /// Something was published.
    pub(super) fn published(&self, payload: &Bytes) {
        let Ok(publication) = wire::publication(payload) else { return self.missed() };
        if let Some(entry) = publication.entries.last() {
            let local = self.store.local(Instant::now());
            self.bounds.lock().saw(entry.at.as_nanos() / 1_000, local);
        }
        if publication.phase == Phase::Gather {
            self.missed();
        }
        self.inbox.lock().push(publication);
        self.signal.notify_one();
    }

    /// The follower has to ask for what it may have missed.
    pub(super) fn missed(&self) {
        self.inbox.lock().miss();
        self.signal.notify_one();
    }

    /// The follower has to look whether calls are made.
    pub(super) fn poke(&self) {
        self.signal.notify_one();
    }

    /// Bounds from another epoch say nothing about this one's time.
    pub(super) fn began(&self, epoch: &Epoch) {
        self.store.metrics.epochs.inc();
        tracing::info!(pool = %self.name, epoch = epoch.number, "a shared log has a new epoch");
    }
}

fn peers(reply: &mut Reply) -> Result<Vec<Peer>, Malformed> {
    let mut peers = Vec::new();
    for row in wire::list(reply.take())? {
        let mut row = wire::list(Some(row))?.into_iter();
        let replica = wire::string(row.next())?.parse().map_err(|_| Malformed)?;
        let ago = Duration::from_micros(wire::int(row.next())?);
        peers.push(Peer { replica, ago, payload: wire::bytes(row.next())? });
    }
    Ok(peers)
}
