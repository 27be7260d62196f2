//! Many faults at once, and what is left when they are over.

use std::time::Duration;

use futures_util::future::join_all;
use tidegate::simulator::{Fault, HeaderStyle, Options};

use super::relay::{End, Fault as Relayed, Play, Relay};
use super::run::{Case, simulator};
use super::table::{Expect, GOOD};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, hello, pair, roomy, with};

/// Requests of a storm, and how many of them are open at once.
const STORM: usize = 160;
const OPEN: usize = 16;

/// Sends them all, every second one streamed; what comes back is the caller's business.
async fn storm(gateway: &Gateway) {
    let client = |first: usize| async move {
        for number in (first..STORM).step_by(OPEN) {
            let body = if number % 2 == 0 { with(hello(), "stream", true) } else { hello() };
            let mut wire = Wire::open(gateway.api, chat("", body.to_string())).await;
            let head = wire.head().await.expect("every request is answered");
            assert!(matches!(head.status, 200 | 429 | 500 | 502 | 503 | 529), "{head:?}");
            let length = head.all("content-length").first().and_then(|it| it.parse().ok());
            match length {
                Some(length) => drop(wire.up_to(length).await),
                None => while wire.chunk().await.is_ok_and(|data| !data.is_empty()) {},
            }
        }
    };
    join_all((0..OPEN).map(client)).await;
}

#[tokio::test]
async fn what_a_brown_out_leaves_behind() {
    for (what, rates) in [
        ("429s", "queue=0.8"),
        ("5xx", "status:500=0.2,status:502=0.1,queue:503=0.2,status:529=0.2"),
        ("broken", "reset=0.2,close=0.2,cut:1=0.2"),
        (
            "all",
            "queue=0.1,status:500=0.1,reset=0.1,close=0.05,cut:1=0.1,cut:0=0.05,error-event:1=0.1,\
             gzip=0.1,tiny-frames=0.1,no-usage=0.1,slow-head:5=0.05,late:5=0.05",
        ),
    ] {
        let fault_rates = rates
            .split(',')
            .map(|it| {
                let (fault, rate) = it.split_once('=').expect("a rate");
                (fault.parse::<Fault>().expect("a fault"), rate.parse().expect("a share"))
            })
            .collect();
        let options = Options { fault_rates, chunk_tokens: 3, seed: 7, ..roomy() };
        // Nothing in headers, so that the ledger is on its own.
        let options = Options { headers: HeaderStyle::Omit, ..options };
        let changes = "retry.max_attempts = 3\nmodels.\"*\".max_concurrent = 4";
        let (simulator, gateway) = pair(options, changes).await;
        storm(&gateway).await;
        let spent = gateway.spent().await;
        let count = STORM as f64;
        for total in ["tidegate_requests_total", "tidegate_tenant_requests_total"] {
            let sum = gateway.metric(total).await;
            assert!((sum - count).abs() < 0.1, "{what}: {total} {sum}");
        }
        for none in ["internal", "client_gone", "invalid"] {
            assert!(gateway.outcome(none).await.abs() < 0.1, "{what}: {none}");
        }
        let counters = simulator.reports()[0].counters;
        let charged = counters.tokens_used + counters.tokens_held;
        let (requests, tokens) = (counters.admitted.cast_signed(), charged.cast_signed());
        assert!(spent.0 >= requests && spent.1 >= tokens, "{what}: {spent:?} {counters:?}");
        assert_eq!(simulator.stats().rejected, 0, "{what}");
        simulator.set_fault_rates(Vec::new()).expect("none");
        let next = gateway.chat(&hello()).send().await.expect("an answer");
        assert_eq!(next.status(), 200, "{what}: it is over");
        drop(next);
        gateway.close().await;
    }
}

/// Where the upstream shows what is left, one good answer corrects what was charged in doubt.
#[tokio::test]
async fn what_was_charged_in_doubt_comes_back_with_the_next_answer() {
    let lost = Relayed::Before(|_| Play::of("", End::Reset));
    let relay = Relay::start(simulator(HeaderStyle::Matrix).await, false).await;
    let url = format!("http://{}", relay.addr);
    let mut case = Case::start("in doubt".to_owned(), &url, "");
    relay.plan(lost, 1);
    let expect = Expect { failure: Some("broken"), retry: Some("broken"), ..GOOD };
    let held = case.meet(false, expect, || relay.body()).await;
    assert!(held > 100, "{held}");
    case.at_rest().await;
    // The ledger takes answers for simultaneous that are less than 5 ms apart: then a level may be from
    // before the last one was charged, and proves nothing. Nothing can be awaited here but the time itself.
    tokio::time::sleep(Duration::from_millis(10)).await;
    case.good(true).await;
    // The lost one was never processed, so it is not in what the upstream shows. What the two good ones
    // did not use of their reservations is not given back twice: some 10 tokens each.
    let tokens = case.spent().await.1;
    assert!((200..=230).contains(&tokens), "{tokens}");
    case.use_up(relay.simulator()).await;
    case.close().await;
}
