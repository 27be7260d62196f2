//! Logs: lines for people or for machines, to standard error, off the request path. And traces, to a
//! collector.
//!
//! # Invariants
//!
//! - Writing a line never waits for whoever reads it: a full buffer drops lines and counts them.
//! - Fields hold names, numbers and codes; never a key, a prompt or a body. Of a panic, whose message
//!   may quote one, only the place is told.

mod buffer;
mod line;
mod panics;
pub mod traces;

use std::io;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

pub use self::buffer::Flush;
use self::line::Line;
use crate::config::{Log, LogFormat};
use crate::time::Epoch;

/// Starts logging as configured; what is still buffered is written when [`Flush`] is dropped.
///
/// # Errors
///
/// If something in the process already logs.
pub fn start(config: &Log) -> Result<Flush, TryInitError> {
    let (writer, flush) = buffer::start(io::stderr());
    // The level was parsed when the configuration was read.
    let filter: Targets = config.level.parse().unwrap_or_default();
    let layer = match config.format {
        LogFormat::Text => {
            fmt::layer().with_writer(writer).event_format(Line(Epoch::start())).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(writer).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    panics::log();
    Ok(flush)
}
