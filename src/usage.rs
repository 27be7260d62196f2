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

mod calibration;
mod demand;
mod details;
mod encoding;
mod error;
mod estimate;
mod finish;
mod lengths;
mod message;
mod meter;
mod reader;
mod regression;
mod report;
mod reserved;
mod scalar;
mod scan;
mod sizing;
mod splice;
mod sse;
mod texture;
mod tokenizer;
mod weigh;

pub use calibration::{Calibration, Lesson, Summary};
pub use demand::{Demand, OutputLimit, PromptWeight, ServiceTier};
pub use details::Details;
pub use encoding::{BodyKind, Coding, Format, Unsupported};
pub use error::BodyError;
pub use estimate::{Estimate, EstimateRule};
pub use meter::{Meter, Seen};
pub use report::{StreamError, Usage};
pub use reserved::OutputLearner;
pub use sizing::{NoOutputCap, OutputCap, OutputPolicy};
pub use splice::{limit_output, name_model};
pub use texture::Texture;
pub use tokenizer::{Tokenizer, TokenizerError, TokenizerFile};
