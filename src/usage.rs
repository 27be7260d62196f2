//! What a call will cost at most, and what it did cost.
//!
//! The life of a cost is *demand → estimate → usage*: the request body is read into a [`Demand`]
//! (model, output limit, weight of the prompt), an [`EstimateRule`] turns it into the upper bound
//! that admission holds, and a [`Meter`] on the response finds what was really used.
//!
//! # Invariants
//!
//! - **Pure.** No I/O, no clock, no async: bytes in, values out.
//! - **Bounded.** A body is read in one pass over borrowed bytes, and no document tree is built; a
//!   meter keeps a few kilobytes however long the response is.
//! - **Discreet.** No prompt and no completion is kept, and no error quotes one.
//! - **Read-only.** Neither side changes, delays or drops a byte of what passes.

mod demand;
mod encoding;
mod error;
mod estimate;
mod message;
mod meter;
mod reader;
mod report;
mod scalar;
mod scan;
mod sse;
mod weigh;

pub use demand::{Demand, OutputLimit, PromptWeight, ServiceTier};
pub use encoding::{BodyKind, Coding, Format, Unsupported};
pub use error::BodyError;
pub use estimate::{Estimate, EstimateRule};
pub use meter::{Meter, Seen};
pub use report::{StreamError, Usage};
