//! The log of one pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::calls::Inner;
use super::follow::Events;
use super::outbox::Full;
use super::position::{Entry, Position, ReplicaId};
use super::{Inner as Store, Unavailable, wire};
use crate::admission::PoolKey;
use crate::time::Timestamp;

/// What became of something appended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is in the log. These are all entries after the given position, in order, one's own
    /// included. If the state was replaced since the call was made ([`Event::State`]), what counts is
    /// whether the entry is in the new one.
    ///
    /// [`Event::State`]: super::Event::State
    Appended(Vec<Entry>),
    /// Somebody else was faster, and what was conditional was not appended. These are the next
    /// entries after the given position: apply them, decide anew, call again.
    Behind(Vec<Entry>),
    /// An epoch is being settled; it will have been by then.
    Wait(Duration),
    /// The position is of no use any more: the epoch is another, or the log is cut behind it. What
    /// follows the log gets the state anew ([`Event::State`](super::Event::State)).
    Stale,
}

/// A state to begin with, and the entries since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// The snapshot; `None` for a pool that nobody knows anything of.
    pub snapshot: Option<Bytes>,
    /// What was appended after it, in order.
    pub entries: Vec<Entry>,
    /// Where that leads to.
    pub position: Position,
    /// The log's time.
    pub at: Timestamp,
}

/// Another replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Who it is.
    pub replica: ReplicaId,
    /// What it said last.
    pub payload: Bytes,
    /// How long ago that was.
    pub ago: Duration,
}

/// The log of one pool. Cheap to clone.
#[derive(Clone)]
pub struct Log(pub(super) Arc<Inner>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.0.name).finish()
    }
}

impl Log {
    pub(super) fn new(store: Arc<Store>, pool: PoolKey) -> Self {
        let hex: String = pool.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = |name| format!("{}:{{{hex}}}:{name}", store.config.namespace);
        let keys = ["head", "log", "snapshot", "beats", "gather", "channel"].map(key);
        Self(Arc::new(Inner::new(store, pool.to_string(), keys)))
    }

    /// The log's time as far as this replica can tell: never ahead of the time at which something
    /// appended now would be stamped. The start of time until something was seen of the log.
    pub fn now(&self) -> Timestamp {
        let local = self.0.store.local(Instant::now());
        wire::timestamp(self.0.bounds.lock().least(local))
    }

    /// Has `bytes` appended, without a condition, by the next call of [`Self::flush`] or
    /// [`Self::append_if_current`]. Returns its number.
    ///
    /// # Errors
    ///
    /// If too much is waiting already, because the server has not answered for long.
    pub fn tell(&self, bytes: Bytes) -> Result<u64, Full> {
        self.0.outbox.lock().push(bytes)
    }

    /// Whether calls are made at all just now.
    pub fn is_up(&self) -> bool {
        self.0.store.is_up()
    }

    /// Entries that were told and are not known to be in the log.
    pub fn pending(&self) -> usize {
        self.0.outbox.lock().len()
    }

    /// Appends what was told, as much as one call takes; see [`Self::pending`]. With nothing to
    /// append it asks for what follows `position`.
    ///
    /// # Errors
    ///
    /// If the server could not be asked. What was told stays for the next call.
    pub async fn flush(&self, position: &Position) -> Result<Outcome, Unavailable> {
        self.0.append("flush", position, None).await
    }

    /// Appends what was told, then `bytes`, if nobody else has appended anything after `position`.
    ///
    /// If the server could not be asked, `bytes` may be in the log nevertheless. If so, it is among
    /// the entries that come later (by its replica and its bytes), or among those that came by
    /// [`Self::follow`] meanwhile: whoever gives it up has to give back what it took. Once a later
    /// entry of this replica's has come without it, it never will.
    ///
    /// # Errors
    ///
    /// If the server could not be asked.
    pub async fn append_if_current(
        &self,
        position: &Position,
        bytes: Bytes,
    ) -> Result<Outcome, Unavailable> {
        self.0.append("append", position, Some(bytes)).await
    }

    /// Keeps `bytes` as the state at `position`, if that is later than the one that is kept, and lets
    /// go of the entries before it. True if it is.
    ///
    /// # Errors
    ///
    /// If the server could not be asked.
    pub async fn snapshot(&self, position: &Position, bytes: Bytes) -> Result<bool, Unavailable> {
        let reply = self.0.call("snapshot", position, self.0.store.deadline(), &[bytes]).await?;
        Ok(reply.status == "kept")
    }

    /// Reads the state, for a beginning; `Err` of how long to wait if it is being settled.
    ///
    /// # Errors
    ///
    /// If the server could not be asked.
    pub async fn load(&self) -> Result<Result<State, Duration>, Unavailable> {
        self.0.load().await
    }

    /// Says what this replica knows, when an epoch has ended
    /// ([`Event::Reassert`](super::Event::Reassert)): a position and the state there, and what was
    /// told since. Returns how long it takes until the next one begins, zero if it has.
    ///
    /// `state` is called when no other call is under way, and again until it includes everything that
    /// calls have said is appended: what was granted must not be missing.
    ///
    /// # Errors
    ///
    /// If the server could not be asked.
    pub async fn reassert(
        &self,
        state: impl Fn() -> (Position, Bytes),
    ) -> Result<Duration, Unavailable> {
        self.0.reassert(state).await
    }

    /// Says that this replica is alive, with something for the others to know. Returns the others;
    /// for those who are gone, the log gets an entry. To be called every second.
    ///
    /// # Errors
    ///
    /// If the server could not be asked. [`Unavailable::Refused`] while an epoch is being settled.
    pub async fn beat(
        &self,
        position: &Position,
        payload: Bytes,
    ) -> Result<Vec<Peer>, Unavailable> {
        self.0.beat(position, payload).await
    }

    /// Says good-bye: nobody will wait for this replica, and what it held is settled.
    ///
    /// # Errors
    ///
    /// If the server could not be asked.
    pub async fn leave(&self) -> Result<(), Unavailable> {
        let none = Position::default();
        self.0.call("leave", &none, self.0.store.deadline(), &[]).await.map(drop)
    }

    /// Everything that is appended after `position` from now on, as it happens. A second call ends
    /// the first one's.
    pub fn follow(&self, position: &Position) -> Events {
        Events::start(self, position.clone())
    }
}
