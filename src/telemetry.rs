//! Logs: lines for people or for machines, to standard error, off the request path.
//!
//! # Invariants
//!
//! - Writing a line never waits for whoever reads it: a full buffer drops lines and counts them.
//! - Fields hold names, numbers and codes; never a key, a prompt or a body.

use std::io::{self, BufWriter};

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat};

/// Writes what is still buffered when it is dropped.
#[must_use = "lines that are still buffered are lost without it"]
#[derive(Debug)]
pub struct Flush(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts logging as configured.
///
/// # Errors
///
/// If something in the process already logs.
pub fn start(config: &Log) -> Result<Flush, TryInitError> {
    let (writer, guard) = NonBlocking::new(BufWriter::new(io::stderr()));
    // The level was parsed when the configuration was read.
    let filter: Targets = config.level.parse().unwrap_or_default();
    let layer = match config.format {
        LogFormat::Text => fmt::layer().with_writer(writer).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer().with_writer(writer).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(Flush(guard))
}
