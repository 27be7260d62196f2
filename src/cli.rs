//! The command line: arguments in, an exit code out.
//!
//! Exit codes: 0 done, 1 failed at run time, 2 bad usage or configuration; `check` has one more.

mod access;
mod batch;
mod check;
mod demo;
mod flags;
mod healthcheck;
mod keys;
mod load;
mod plan;
mod serve;
mod simulate;
mod tokens;
mod top;

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// A gateway that makes an LLM quota behave like a queue instead of a cliff.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Args),
    /// Run the gateway in front of a simulated upstream: nothing to configure, no key needed.
    Demo(demo::Args),
    /// Work off files of requests.
    Batch(batch::Args),
    /// Check a configuration; print the effective one, every problem, or what it would change.
    Check(check::Args),
    /// Make, list, replace and revoke callers' keys.
    Keys(keys::Args),
    /// Count the tokens of a text on standard input, as a model's configured tokenizer does.
    Tokens(tokens::Args),
    /// Work out what a quota is good for: jobs, workers, pace, time and cost.
    Plan(Box<plan::Args>),
    /// Run only the simulated upstream.
    Simulate(Box<simulate::Args>),
    /// Put an endpoint under load and report throughput, times, errors and use of its quota.
    Load(Box<load::Args>),
    /// Watch a running gateway: quota, queue and batches, live in the terminal.
    Top(top::Args),
    /// Ask a running gateway whether it is ready; for container health checks.
    Healthcheck(healthcheck::Args),
}

/// Threads for files, names of hosts and the counting of tokens. They take turns, so that each comes to have
/// all the memory that the work needs; Tokio's own bound is 512.
const MOST_BLOCKING: usize = 4;

/// Runs the program.
pub fn main() -> ExitCode {
    refuse_huge_pages();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are not errors; clap knows which stream each belongs to.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match args.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Batch(args) => batch::run(args),
        Command::Check(args) => check::run(&args),
        Command::Keys(args) => keys::run(args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Simulate(args) => simulate::run(*args),
        Command::Load(args) => load::run(*args),
        Command::Top(args) => top::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    }
}

/// Prints a line for whoever reads standard output; a reader that has gone is no reason to stop.
fn say(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Says why the program ends.
fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "tidegate: {text}");
}

fn failed(error: impl Display) -> ExitCode {
    complain(error);
    ExitCode::from(1)
}

fn misused(error: impl Display) -> ExitCode {
    complain(error);
    ExitCode::from(2)
}

/// Runs a command that needs tasks and timers.
fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    run_on(Builder::new_multi_thread(), work)
}

/// The same for one whose tasks have little to do.
fn block_on_one_thread(work: impl Future<Output = ExitCode>) -> ExitCode {
    run_on(Builder::new_current_thread(), work)
}

fn run_on(mut runtime: Builder, work: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime.max_blocking_threads(MOST_BLOCKING).enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => failed(error),
    }
}

/// The first SIGTERM or SIGINT asks to stop, the second to stop at once.
fn on_signals() -> io::Result<(CancellationToken, CancellationToken)> {
    use tokio::signal::unix::{SignalKind, signal};
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stopping, aborting) = (stop.clone(), abort.clone());
    tokio::spawn(async move {
        for token in [stopping, aborting] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok((stop, abort))
}

/// Memory in use is what was touched, and not the 2 MB around it: the kernel would make huge pages of the
/// heap after a while, four fifths of them never used (docs/PERFORMANCE.md).
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    // A kernel that knows none makes none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Descriptors are connections here: asks for as many as the system allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::warn!(?limit.current, "the limit of open files could not be raised");
    }
}
