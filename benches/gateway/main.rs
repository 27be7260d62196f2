//! What the gateway costs: time and CPU per request, and memory per waiting request.
//!
//! `cargo bench --bench gateway` runs one orchestrator that starts everything else as processes of
//! their own, so that the kernel accounts the CPU of each one separately:
//!
//! - `mock`, an upstream that answers at once with a fixed completion,
//! - `bare`, the smallest good proxy the same libraries can make: the yardstick, and
//!   `bare-per-core`, the same without threads that share anything,
//! - `tidegate`, the real binary with limits that never bind,
//! - `load`, a client that measures latency, and `hold`, one that only waits.
//!
//! `bench/peers` starts the roles by itself, with other proxies between them.
//!
//! The runs are interleaved and the ratios are taken inside one round, so that a machine that
//! becomes slower half-way slows all sides alike. CPU per request is the number to compare between
//! machines: throughput and latency also contain the load generator and the upstream, which share
//! the same cores.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark's report goes there")]

mod bare;
mod hold;
mod http;
mod load;
mod memory;
mod mock;
mod options;
mod pace;
mod process;
mod report;
mod role;
mod sse;
mod throughput;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Command, Options};

/// The proxies differ in what they do, not in how they allocate: all roles use the gateway's allocator.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Any failure ends the benchmark; nothing here recovers.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Failure>;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result {
    match options.role {
        Some(Command::Mock(ref mock)) => role::run(|stop| mock::serve(mock.spend, stop)),
        Some(Command::Bare(ref bare)) => bare::run(bare),
        Some(Command::Load(ref load)) => load::run(load),
        Some(Command::Hold(ref hold)) => role::run(|stop| hold::run(hold.clone(), stop)),
        None if options.bench => orchestrate(options),
        None => {
            println!("nothing measured: run it as `cargo bench --bench gateway`");
            Ok(())
        }
    }
}

fn orchestrate(options: &Options) -> Result {
    let files = process::raise_file_limit(options.files_needed())?;
    let cores = std::thread::available_parallelism()?;
    println!(
        "gateway benchmark: {cores} cores shared by client, proxy and upstream; at most {files} open files a process"
    );
    if !options.skip_throughput {
        throughput::run(options)?;
    }
    if !options.skip_memory && !options.without_tidegate {
        memory::run(options, files)?;
    }
    Ok(())
}
