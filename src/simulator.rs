//! A stand-in for the upstream, served on a real socket: for `demo`, `simulate` and tests.
//!
//! A request is read, checked as the vendor checks it, admitted by its pool's [`quota`], answered
//! in reproducible words at a configured pace, and settled with what it used. On top of that come
//! faults: by script, by rate, or asked for by a request in its `x-sim-fault` header.
//!
//! # Invariants
//!
//! - **Independent.** It models the limits by its own code and imports none of the gateway's but
//!   the clock: the gateway is checked against it.
//! - **Reproducible.** Lengths, texts and jitter follow from the seed and the request's bytes,
//!   drawn faults from the seed and the request's number.
//! - **Accounted.** Every metered request ends in exactly one count of [`Stats`].
//! - **No residue.** Dropping the [`Simulator`] ends its listener and its connections.

mod answer;
mod api;
mod args;
mod call;
mod control;
mod encode;
mod error;
mod failure;
mod fault;
mod headers;
mod options;
mod output;
mod pool;
pub mod quota;
mod request;
mod serve;
mod state;
mod stats;
mod stream;
mod tokens;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

pub use args::SimulateArgs;
pub use fault::Fault;
pub use options::{
    AcceptedKey, HeaderStyle, Latency, Options, OutputModel, Reservation, UsagePlacement,
};
pub use pool::Report;
pub use stats::Stats;

pub use tokens::count_messages;

use quota::Rejection;
use state::State;

/// A running simulated upstream; dropping it stops it.
#[derive(Debug)]
pub struct Simulator {
    state: Arc<State>,
    addr: SocketAddr,
}

impl Simulator {
    /// Binds `listen` (port 0 takes a free one) and serves from then on.
    ///
    /// # Errors
    ///
    /// When the options make no sense ([`Options::check`]) or the address cannot be bound.
    pub async fn start(options: Options, listen: SocketAddr) -> io::Result<Self> {
        options.check().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State::new(options));
        let router = api::router(Arc::clone(&state));
        state.tasks.spawn(serve::run(listener, Arc::clone(&state), router));
        Ok(Self { state, addr })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as a URL without a path or a closing slash: `http://127.0.0.1:1234`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it was started with.
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// Its clock: nanoseconds since the Unix epoch, as every quota and report counts them.
    pub fn now_ns(&self) -> u64 {
        self.state.now_ns()
    }

    /// The counts as they are.
    pub fn stats(&self) -> Stats {
        self.state.board.snapshot()
    }

    /// Waits until the counts are as wanted, and returns them. Waits for ever if they never are:
    /// put a timeout around it.
    pub async fn wait_for(&self, wanted: impl FnMut(&Stats) -> bool) -> Stats {
        self.state.board.wait_for(wanted).await
    }

    /// Appends to the script: the next valid metered requests that name no faults themselves
    /// each take one entry. An empty entry lets its request alone.
    pub fn script(&self, entries: impl IntoIterator<Item = Vec<Fault>>) {
        self.state.faults.script(entries);
    }

    /// Replaces the rates at which faults are drawn.
    ///
    /// # Errors
    ///
    /// When a rate or their sum is not within 0 and 1; nothing changes then.
    pub fn set_fault_rates(&self, rates: Vec<(Fault, f64)>) -> Result<(), String> {
        Options { fault_rates: rates.clone(), ..Options::default() }.check()?;
        self.state.faults.set_rates(rates);
        Ok(())
    }

    /// Forgets script and rates: no more faults but those requests ask for.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// Every pool's report, by account and model.
    pub fn reports(&self) -> Vec<Report> {
        self.state.reports()
    }

    /// The report of the pool that `key` (`None` for callers without one) and `model` draw on;
    /// `None` if the key is not accepted or nothing has been asked of the pool.
    pub fn report(&self, key: Option<&str>, model: &str) -> Option<Report> {
        self.state.report(self.state.account_of(key)?, model.to_owned())
    }

    /// Uses a pool's quota as another of its users would: one request of `tokens` tokens.
    ///
    /// # Errors
    ///
    /// The limit that refused it. A key that is not accepted uses nothing and is no error.
    pub fn spend(&self, key: Option<&str>, model: &str, tokens: u64) -> Result<(), Rejection> {
        control::spend(&self.state, key, model, tokens).unwrap_or(Ok(()))
    }

    /// Stops listening, drops every connection and waits until nothing runs any more.
    pub async fn shutdown(self) {
        self.state.stop.cancel();
        self.state.tasks.close();
        self.state.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.state.stop.cancel();
    }
}
