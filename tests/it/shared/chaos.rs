//! What becomes of gateways when the server that they share a quota by, or one of them, fails.
//!
//! Three gateways are kept busy for as long as it takes. After the disturbance nothing is restarted:
//! what has to come back has to come back by itself.

use std::time::Duration;

use rustix::process::Signal;
use tidegate::simulator::{Report, Simulator};
use tidegate::store::shared::Shared;
use tokio::time::{sleep, timeout};

use super::clock::stepped;
use super::fleet::{Gateway, Load, report, section, upstream};
use super::server::{PATIENCE, Proxy, Redis};
use crate::overload::{MINUTE_MS, TOKENS_BIND, Tally};
use crate::support::steady::steady;

const TENANTS: usize = 6;
/// Requests that each keeps open: 120 in all, of 75 a minute.
const OPEN: usize = 20;
/// Longer than anybody has to wait if there is quota for all but a minute or two.
const LONGEST: Duration = Duration::from_secs(20);

/// Three gateways that share a quota, and clients that want more than there is.
struct Fleet {
    upstream: Simulator,
    gateways: Vec<Gateway>,
    load: Load,
}

impl Fleet {
    async fn start(url: &str, more: &str) -> Self {
        Self::scripted(url, more, Shared::script()).await
    }

    async fn scripted(url: &str, more: &str, script: &str) -> Self {
        let upstream = upstream(TOKENS_BIND).await;
        let shared = section(url, more);
        let start = |_| Gateway::scripted(&upstream.base_url(), &shared, TENANTS, script);
        let gateways: Vec<_> = (0..3).map(start).collect();
        let mut load = Load::new(TENANTS);
        for tenant in 0..TENANTS {
            load.add(gateways[tenant % 3].address, tenant, OPEN);
        }
        let fleet = Self { upstream, gateways, load };
        // Until the full quota of the beginning is spent, and all know one another.
        fleet.minutes(2).await;
        for gateway in &fleet.gateways {
            let replicas = gateway.metric("tidegate_shared_replicas").await;
            assert!((replicas - 3.0).abs() < 0.5, "{replicas} replicas");
        }
        fleet
    }

    /// Lets so many minutes of the upstream pass.
    async fn minutes(&self, count: u64) {
        sleep(Duration::from_millis(count * MINUTE_MS)).await;
    }

    fn report(&self) -> Report {
        report(&self.upstream)
    }

    /// Waits until each gateway asks the others again, for every request.
    async fn recovered(&self) {
        let all = async {
            for gateway in &self.gateways {
                while gateway.metric("tidegate_shared_degraded").await > 0.0 {
                    sleep(Duration::from_millis(20)).await;
                }
                let asked = "tidegate_shared_holds_total{how=\"asked\"}";
                let before = gateway.metric(asked).await;
                while gateway.metric(asked).await < before + 1.0 {
                    sleep(Duration::from_millis(20)).await;
                }
            }
        };
        timeout(PATIENCE, all).await.expect("they share again");
    }

    /// The part of what there was to use since an earlier report that was used.
    fn used_since(&self, before: &Report) -> f64 {
        let now = self.report();
        let spent = |report: &Report| report.counters.tokens_used + report.counters.tokens_held;
        let minutes = (now.now_ns - before.now_ns) as f64 / (MINUTE_MS as f64 * 1e6);
        (spent(&now) - spent(before)) as f64 / (minutes * 1_500_000.0)
    }

    /// Ends it all; nothing may have been rejected, nobody may have waited for too long.
    #[expect(clippy::print_stdout, reason = "the figures are half of the test")]
    async fn end(self, what: &str, figures: &[f64]) {
        let Self { upstream, gateways, load } = self;
        let tallies = load.end().await;
        let stats = upstream.stats();
        let longest = tallies.iter().map(|it| it.longest).max().unwrap_or_default();
        println!("{what}: used {figures:.3?}, {} rejected, longest {longest:?}", stats.rejected);
        check(&tallies);
        assert_eq!(stats.rejected, 0, "{stats:?}");
        for gateway in gateways {
            gateway.stop().await;
        }
        upstream.shutdown().await;
    }
}

fn check(tallies: &[Tally]) {
    for (tenant, tally) in tallies.iter().enumerate() {
        assert_eq!(tally.failed, None, "tenant {tenant}");
        assert!(tally.longest < LONGEST, "tenant {tenant} waited {:?}", tally.longest);
    }
}

/// What is used of the quota when all is well again; what was saved up meanwhile comes on top.
fn assert_well(used: f64) {
    assert!(used > 0.95, "{used:.3} of the quota");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_empty() {
    steady("a_server_that_is_killed_and_comes_back_empty", async || {
        let mut redis = Redis::start().await;
        let fleet = Fleet::start(&redis.url(), "").await;
        let before = fleet.report();
        redis.kill();
        // Each goes on with nine tenths of a third.
        fleet.minutes(1).await;
        let alone = fleet.used_since(&before);
        redis.restart().await;
        fleet.recovered().await;
        let before = fleet.report();
        fleet.minutes(2).await;
        let after = fleet.used_since(&before);
        fleet.end("killed, empty", &[alone, after]).await;
        assert!(alone > 0.5, "they go on: {alone}");
        assert_well(after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_five_seconds() {
    steady("a_server_that_stands_still_for_five_seconds", async || {
        let redis = Redis::start().await;
        let fleet = Fleet::start(&redis.url(), "").await;
        let before = fleet.report();
        redis.signal(Signal::STOP);
        sleep(Duration::from_secs(5)).await;
        let alone = fleet.used_since(&before);
        redis.signal(Signal::CONT);
        fleet.recovered().await;
        let before = fleet.report();
        fleet.minutes(2).await;
        let after = fleet.used_since(&before);
        fleet.end("stopped for 5 s", &[alone, after]).await;
        assert!(alone > 0.5, "they go on: {alone}");
        assert_well(after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_copy() {
    steady("a_failover_to_a_copy", async || {
        let master = Redis::start().await;
        let copy = Redis::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        let proxy = Proxy::to(master.port).await;
        let fleet = Fleet::start(&proxy.url(), "").await;
        let before = fleet.report();
        copy.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        // What is appended from here on the copy does not have.
        sleep(Duration::from_millis(200)).await;
        drop(master);
        proxy.way.lock().port = copy.port;
        fleet.recovered().await;
        let during = fleet.used_since(&before);
        let before = fleet.report();
        fleet.minutes(2).await;
        let after = fleet.used_since(&before);
        fleet.end("failover", &[during, after]).await;
        assert_well(after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_while_it_holds() {
    steady("a_gateway_that_is_killed_while_it_holds", async || {
        let redis = Redis::start().await;
        let mut fleet = Fleet::start(&redis.url(), "").await;
        // One that has no clients to lose: its requests are cut, and nobody knows what became of them.
        let url = fleet.upstream.base_url();
        let doomed = Gateway::start(&url, &section(&redis.url(), ""), TENANTS);
        let mut cut = Load::new(TENANTS);
        cut.add(doomed.address, 0, OPEN);
        let holds = async {
            while doomed.metric("tidegate_shared_holds_total{how=\"asked\"}").await < 5.0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, holds).await.expect("it takes part");
        doomed.kill();
        let tallies = cut.end().await;
        assert!(tallies[0].failed.is_some(), "its clients notice");
        // The others notice, too: four replicas, then three again.
        let gone = async {
            while fleet.gateways[0].metric("tidegate_shared_replicas").await > 3.5 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it is missed");
        let before = fleet.report();
        fleet.minutes(2).await;
        let after = fleet.used_since(&before);
        // Somebody in its place knows all about it.
        fleet.gateways.push(Gateway::start(&url, &section(&redis.url(), ""), TENANTS));
        let address = fleet.gateways[3].address;
        fleet.load.add(address, 0, OPEN);
        fleet.minutes(1).await;
        fleet.recovered().await;
        fleet.end("a gateway killed", &[after]).await;
        assert_well(after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_set() {
    steady("a_server_whose_clock_is_set", async || {
        let redis = Redis::start().await;
        let fleet = Fleet::scripted(&redis.url(), "", &stepped()).await;
        let before = fleet.report();
        for offset in ["3600000000", "-3600000000", "0"] {
            redis.ask::<()>(&["SET", "step", offset]);
            fleet.minutes(1).await;
        }
        let used = fleet.used_since(&before);
        fleet.recovered().await;
        fleet.end("clock set", &[used]).await;
        assert_well(used);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_the_script() {
    steady("a_server_that_forgets_the_script", async || {
        let redis = Redis::start().await;
        let fleet = Fleet::start(&redis.url(), "").await;
        let before = fleet.report();
        for _ in 0..10 {
            redis.ask::<()>(&["SCRIPT", "FLUSH"]);
            sleep(Duration::from_millis(MINUTE_MS / 5)).await;
        }
        let used = fleet.used_since(&before);
        fleet.recovered().await;
        fleet.end("script forgotten", &[used]).await;
        assert_well(used);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_200_ms() {
    steady("a_server_that_takes_200_ms", async || {
        let redis = Redis::start().await;
        let proxy = Proxy::to(redis.port).await;
        let fleet = Fleet::start(&proxy.url(), "").await;
        let before = fleet.report();
        proxy.way.lock().delay = Duration::from_millis(200);
        fleet.minutes(2).await;
        let slow = fleet.used_since(&before);
        proxy.way.lock().delay = Duration::ZERO;
        fleet.recovered().await;
        let before = fleet.report();
        fleet.minutes(2).await;
        let after = fleet.used_since(&before);
        fleet.end("200 ms away", &[slow, after]).await;
        assert!(slow > 0.5, "they go on: {slow}");
        assert_well(after);
    })
    .await;
}
