//! Several gateways on one account of the simulated upstream, sharing its quota by a real server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::server::{Ended, Server};
use tidegate::simulator::quota::Semantics;
use tidegate::simulator::{Latency, Options, OutputModel, Report, Simulator};
use tidegate::store::shared::Shared;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::server::PATIENCE;
use crate::overload::{Client, SCALE, TOKENS_BIND, Tally, Traffic, config, key};

/// A gateway in a runtime of its own, so that it can be ended without a chance to say anything.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<Ended>,
    runtime: Option<Runtime>,
}

impl Gateway {
    pub(super) fn start(upstream: &str, shared: &str, tenants: usize) -> Self {
        Self::scripted(upstream, shared, tenants, Shared::script())
    }

    pub(super) fn scripted(upstream: &str, shared: &str, tenants: usize, script: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let config = Arc::new(config("bucket", upstream, tenants, shared));
        let server = runtime
            .block_on_within(async { Server::bind_scripted(config, script).expect("free ports") });
        let address = server.api_addr().expect("an address");
        let admin = server.admin_addr().expect("an address");
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (tell, ended) = tokio::sync::oneshot::channel();
        let stopped = stop.clone();
        runtime.spawn(async move {
            // Nobody listens if the test has failed.
            let _ = tell.send(server.run(stopped, abort).await);
        });
        Self { address, admin, stop, ended, runtime: Some(runtime) }
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let ended = timeout(PATIENCE, &mut self.ended).await.expect("an end").expect("no panic");
        assert_eq!(ended, Ended::Drained);
    }

    /// Ends it at once: nothing it holds is given back, and nobody is told.
    pub(super) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// A metric of its scrape.
    pub(super) async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let text = reqwest::get(url).await.expect("a scrape").text().await.expect("text");
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let value = line.rsplit(' ').next().and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| unreachable!("{name} is not in the scrape"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs something on a runtime from within another one.
trait Within {
    fn block_on_within<T: Send>(&self, run: impl Future<Output = T> + Send) -> T;
}

impl Within for Runtime {
    fn block_on_within<T: Send>(&self, run: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(run)).join().expect("no panic"))
    }
}

/// The upstream, with a day that lasts for 72 seconds.
pub(super) async fn upstream(traffic: Traffic) -> Simulator {
    let options = Options {
        semantics: Semantics::TokenBucket,
        time_scale: SCALE,
        seed: 7,
        output: OutputModel::Uniform(traffic.output.0, traffic.output.1),
        latency: Latency { tokens_per_second: 3_000, ..Latency::default() },
        chunk_tokens: 500,
        refund_delay: Duration::ZERO,
        ..Options::default()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Simulator::start(options, any).await.expect("a free port")
}

/// The section that makes gateways share.
pub(super) fn section(url: &str, more: &str) -> String {
    format!("[shared]\nurl = \"{url}\"\n{more}\n")
}

/// Clients that keep asking, each at one gateway.
pub(super) struct Load {
    done: CancellationToken,
    clients: JoinSet<(usize, Tally)>,
    tenants: usize,
}

impl Load {
    pub(super) fn new(tenants: usize) -> Self {
        Self { done: CancellationToken::new(), clients: JoinSet::new(), tenants }
    }

    /// A tenant keeps `open` requests open at a gateway.
    pub(super) fn add(&mut self, gateway: SocketAddr, tenant: usize, open: usize) {
        let client = Client::new(gateway, &key(tenant), tenant as u64 + 100);
        self.clients.spawn(client.load(tenant, open, TOKENS_BIND, self.done.clone()));
    }

    /// No more requests; waits for those that are open. What each tenant had.
    pub(super) async fn end(mut self) -> Vec<Tally> {
        self.done.cancel();
        let mut tallies = vec![Tally::default(); self.tenants];
        let all = async {
            while let Some(client) = self.clients.join_next().await {
                let (tenant, tally) = client.expect("a client");
                let sum = &mut tallies[tenant];
                sum.answered += tally.answered;
                sum.longest = sum.longest.max(tally.longest);
                sum.failed = sum.failed.take().or(tally.failed);
            }
        };
        timeout(2 * PATIENCE, all).await.expect("every open request to be answered");
        tallies
    }
}

/// What the simulator counted.
pub(super) fn report(upstream: &Simulator) -> Report {
    upstream.report(Some("upstream-key"), "any").expect("a pool that was used")
}

/// How even shares are: 1 if all are the same, 1/n if one has everything.
pub(super) fn jain(shares: impl Iterator<Item = f64> + Clone) -> f64 {
    let (count, sum) = (shares.clone().count() as f64, shares.clone().sum::<f64>());
    sum * sum / (count * shares.map(|share| share * share).sum::<f64>())
}
