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
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::buffer::Flush;
use self::line::Line;
use crate::config::{Log, LogFormat};
use crate::time::Epoch;

/// What logs; what is still buffered is written when it is dropped.
#[derive(Debug)]
pub struct Logging {
    levels: Levels,
    _flush: Flush,
}

/// Sets what is logged from now on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Levels(reload::Handle<Targets, Registry>);

impl Logging {
    /// What sets the levels.
    pub const fn levels(&self) -> &Levels {
        &self.levels
    }
}

impl Levels {
    /// Logs by this directive from now on.
    pub fn set(&self, level: &str) {
        // It fails only when nothing logs any more.
        let _ = self.0.reload(targets(level));
    }
}

/// A directive, which was parsed when the configuration was read.
fn targets(level: &str) -> Targets {
    level.parse().unwrap_or_default()
}

/// Starts logging as configured.
///
/// # Errors
///
/// If something in the process already logs.
pub fn start(config: &Log) -> Result<Logging, TryInitError> {
    let (writer, flush) = buffer::start(io::stderr());
    let (filter, levels) = reload::Layer::new(targets(&config.level));
    let layer = match config.format {
        LogFormat::Text => {
            fmt::layer().with_writer(writer).event_format(Line(Epoch::start())).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(writer).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    panics::log();
    Ok(Logging { levels: Levels(levels), _flush: flush })
}
