//! What a quota is good for, worked out before the first job is sent.
//!
//! A [`Question`] is limits, a job and what is to be done with it; a [`Plan`] is what each limit
//! allows by itself, what all of them allow together, and what follows: workers, pace, times, cost.
//! The job is given, or measured from a file of requests or a log of them ([`measure()`]); a
//! [`Rehearsal`] shows how long jobs like those would wait.
//!
//! # Invariants
//!
//! - **Exact.** Counts are integers, rates are fractions; what is shown is rounded once, at the end.
//! - **Pure.** Nothing here knows a clock; only [`measure()`] reads, and only what it is handed.
//! - **Bounded.** A file is read once, in memory that does not depend on its size.

mod answer;
mod capacity;
mod decimal;
mod exact;
mod finish;
mod job;
mod json;
mod measure;
mod money;
mod profile;
mod rehearsal;
mod svg;
mod table;
mod text;

pub use self::answer::Answer;
pub use self::capacity::{Alone, Bound, DAY, Plan, Question, Sustained, Together};
pub use self::decimal::Decimal;
pub use self::exact::{Margin, NoMargin, Rate};
pub use self::finish::{Finish, Times};
pub use self::job::{BadJob, Job};
pub use self::measure::{Measured, measure};
pub use self::money::{Cost, Prices};
pub use self::profile::{Example, Profile, Spread};
pub use self::rehearsal::{Arrivals, Doubled, MOST_JOBS, Rehearsal, Run, Scenario, Used, Wait};

#[cfg(test)]
mod tests;
