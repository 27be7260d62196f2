//! Decides whether a request may spend, and accounts for what it spent.
//!
//! The life of a spend is *hold → sent → settle*, or *release*: the estimate is held in every
//! window at once, handed upstream, and replaced by the true usage when the answer has ended.
//!
//! ```
//! use std::time::Duration;
//! use tidegate::limit::{Constraint, Cost, Ledger, Mode, Spent, Unit};
//! use tidegate::time::Timestamp;
//!
//! let minute = Constraint::new(Unit::Tokens, 60_000, Duration::from_secs(60), "minute", Mode::Bucket)?;
//! let now = Timestamp::from_nanos(0);
//! let mut ledger = Ledger::new(vec![minute], now);
//! let hold = ledger.hold(Cost::new(1, 50_000), now).expect("a full bucket");
//! let sent = hold.sent();
//! ledger.settle(sent, Spent::Exact(Cost::new(1, 10_000)), now);
//! assert_eq!(ledger.levels(now).next().map(|level| level.available), Some(50_000));
//! # Ok::<(), tidegate::limit::BadConstraint>(())
//! ```
//!
//! # Invariants
//!
//! - **Pure.** No I/O and no clock: every method that needs the time takes `now`.
//! - **All or nothing.** A request that one window refuses is charged to none.
//! - **Exact.** Integers only, nothing is rounded: a bucket counts in units x nanoseconds.
//! - **Debt is kept.** A request that used more than it held leaves a level below zero.
//! - **A lost answer is a spent answer.** What was sent and not settled exactly is charged in full.

mod bucket;
mod constraint;
mod evidence;
mod foreign;
mod history;
mod journal;
mod ledger;
mod log;
mod pace;
mod reading;
mod replica;
mod window;

pub use self::constraint::{BadConstraint, Constraint, Cost, Learn, Mode, Unit};
pub use self::journal::{BadJournal, Call, Heritage, Left, Told, Twin, UNWRITTEN};
pub use self::ledger::{Blame, ColdStart, Denied, Hold, Ledger, Level, Sent, Spent};
pub use self::pace::Spread;
pub use self::reading::Reading;
pub use self::replica::{Clock, Head, Heard, Line, Replica, Sharing, Taken, Turn};
