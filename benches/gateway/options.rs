//! The command line: what to measure, and the role a child process plays.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures what Tidegate costs next to a bare proxy and to no proxy at all.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Passed by `cargo bench`; without it nothing is measured, so that `cargo test --benches` stays quick.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Fewer and shorter runs: to see that it works, not to compare numbers.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; each runs every scenario once against every target [default: 5, quick: 3].
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds measured in each run [default: 1, quick: 0.3].
    #[arg(long)]
    seconds: Option<f64>,
    /// Size of the ordinary request body.
    #[arg(long, default_value_t = 1_024)]
    pub(crate) body_bytes: usize,
    /// Requests that wait at once in the memory part [default: 20000, quick: 2000].
    #[arg(long)]
    waiting: Option<usize>,
    /// Measure only the direct connection and the bare proxy.
    #[arg(long)]
    pub(crate) without_tidegate: bool,
    /// Leave the throughput and latency part out.
    #[arg(long)]
    pub(crate) skip_throughput: bool,
    /// Leave the memory part out.
    #[arg(long)]
    pub(crate) skip_memory: bool,
    #[command(subcommand)]
    pub(crate) role: Option<Command>,
}

impl Options {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 0.3 } else { 1.0 })
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.unwrap_or(if self.quick { 2_000 } else { 20_000 }).max(1)
    }

    /// One file per waiting connection, and room for the rest of a process.
    pub(crate) fn files_needed(&self) -> u64 {
        self.waiting() as u64 + crate::process::SPARE_FILES
    }
}

/// What a child process does; the orchestrator starts these.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The upstream.
    Mock(MockOptions),
    /// The yardstick proxy.
    Bare(BareOptions),
    /// The measuring client.
    Load(LoadOptions),
    /// The client whose requests wait.
    Hold(HoldOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MockOptions {
    /// Report this many completion tokens as used, and send no rate limit headers.
    #[arg(long)]
    pub(crate) spend: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BareOptions {
    #[arg(long)]
    pub(crate) upstream: SocketAddr,
    #[arg(long, value_enum, default_value_t = Flavour::WorkStealing)]
    pub(crate) runtime: Flavour,
}

/// What the yardstick proxy runs on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Flavour {
    /// One runtime of all cores, which move tasks among each other.
    WorkStealing,
    /// A runtime, a listener and a client on each core, which share nothing.
    PerCore,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    #[arg(long)]
    pub(crate) target: SocketAddr,
    #[arg(long)]
    pub(crate) connections: usize,
    #[arg(long)]
    pub(crate) body_bytes: usize,
    #[arg(long)]
    pub(crate) stream: bool,
    /// Ask for streams of this many events, with `stream` [default: the upstream's own number].
    #[arg(long)]
    pub(crate) chunks: Option<usize>,
    /// Ask for this time between the events of a stream, in microseconds [default: none].
    #[arg(long)]
    pub(crate) pause: Option<u64>,
    /// Begin with the first connection so many seconds before the last one [default: those that one of the
    /// paced streams takes].
    #[arg(long)]
    pub(crate) spread: Option<f64>,
    /// Send this many requests a second, whatever becomes of them, instead of one after the other.
    #[arg(long, conflicts_with = "stream")]
    pub(crate) rate: Option<f64>,
    /// A header for every request, as `name: value`.
    #[arg(long)]
    pub(crate) header: Vec<String>,
    #[arg(long)]
    pub(crate) seconds: f64,
    #[arg(long)]
    pub(crate) warmup: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct HoldOptions {
    #[arg(long)]
    pub(crate) target: SocketAddr,
    #[arg(long)]
    pub(crate) requests: usize,
    /// Requests on each connection; more than one means HTTP/2 with prior knowledge.
    #[arg(long)]
    pub(crate) streams: usize,
    #[arg(long)]
    pub(crate) body_bytes: usize,
}
