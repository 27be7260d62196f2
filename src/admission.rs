//! Who may go, and when: one pool per upstream account and model.
//!
//! A request asks its [`Pool`] with the most it can cost. It is admitted at once, waits its turn,
//! or is refused with a reason; [`Admitted`] is the proof, and its drop is part of the protocol:
//!
//! - dropped before [`Admitted::sent`], the hold is released as if it had never been;
//! - dropped after, the request is charged in full, because nobody knows what the upstream did;
//! - either way its concurrency permit is free again.
//!
//! # Invariants
//!
//! - A waiting request is woken by the one timer of its pool or by a settle, never by polling.
//! - A future that is dropped while waiting leaves no trace, at whatever point it is dropped.
//! - [`scheduler`] is pure: it orders, and knows neither clock nor tasks. So are [`kept`], [`aimd`]
//!   (how many may be at the upstream) and [`circuit`] (whether any may).

pub mod aimd;
pub mod circuit;
pub mod forecast;
mod keeper;
pub mod kept;
pub mod pool;
pub mod pools;
pub mod recent;
pub mod scheduler;
mod sharer;

pub use self::keeper::Keeper;
pub use self::pool::{
    Admitted, Answered, Asked, Bound, Coming, News, Pool, PoolConfig, Queue, Refused, Rejection,
    Report, Repricer, Request, Said, TenantLimits, TenantQueue, Waiting, Written,
};
pub use self::pools::{PoolKey, Pools, TooManyPools};
pub use self::recent::Recent;
pub use self::scheduler::ClassRule;
pub use self::sharer::Sharer;
