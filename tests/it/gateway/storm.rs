//! Everything at once: faults, hang-ups and more callers than permits.

use std::time::Duration;

use tidegate::simulator::{Fault, HeaderStyle, Latency, Options};

use crate::support::wire::{Wire, chat};
use crate::support::{hello, pair, roomy, wait_for, with};

const CALLERS: u32 = 60;
const CALLS: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_leaves_nothing_behind_and_the_ledger_never_promises_too_much() {
    let latency = Latency {
        first_token: Duration::from_millis(2),
        tokens_per_second: 10_000,
        ..Latency::ZERO
    };
    let fault_rates = [
        Fault::Reset,
        Fault::Close,
        Fault::Status(500),
        Fault::Queue(503),
        Fault::Cut(1),
        Fault::ErrorEvent(1),
        Fault::SlowHead(Duration::from_millis(15)),
        Fault::IdleClose,
        Fault::NoUsage,
        Fault::TinyFrames,
    ]
    .map(|fault| (fault, 0.05));
    // What refills meanwhile is not to be seen: all that was spent is to be counted.
    let headers = HeaderStyle::Omit;
    let fault_rates = fault_rates.into();
    let options = Options { latency, headers, fault_rates, chunk_tokens: 1, ..roomy() };
    let changes = "models.\"*\".max_concurrent = 8\nmodels.\"*\".limits = [ \
        { unit = \"requests\", limit = 1_000_000, per = \"1d\", mode = \"sliding\" }, \
        { unit = \"tokens\", limit = 100_000_000, per = \"1d\", mode = \"sliding\" } ]";
    let (simulator, gateway) = pair(options, changes).await;
    let api = gateway.api;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            tokio::spawn(async move {
                for call in 0..CALLS {
                    let body = with(hello(), "stream", (caller + call) % 2 == 0).to_string();
                    let mut wire = Wire::open(api, chat("", body)).await;
                    match (caller + 3 * call) % 5 {
                        // Gone at once, gone a little later, gone after the head; or patient.
                        0 => {}
                        1 => tokio::time::sleep(Duration::from_millis(u64::from(caller))).await,
                        2 => drop(wire.head().await),
                        _ => drop(wire.try_answer().await),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    // One that hung up at once may not have been seen yet.
    gateway.wait_metric("tidegate_connections_total", f64::from(CALLERS * CALLS)).await;
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    let (requests, tokens) = gateway.spent().await;
    let ended = gateway.metric("tidegate_requests_total").await;
    assert!(ended <= f64::from(CALLERS * CALLS), "{ended}: none is counted twice");
    assert!(gateway.outcome("completed").await > 50.0, "most of the patient are served");
    assert!(gateway.outcome("client_gone").await > 50.0, "and many went");
    assert!(gateway.outcome("internal").await < 0.5, "no handler panics");
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0 && stats.settling == 0).await;
    let theirs = simulator.report(None, "m").expect("it was asked").counters;
    let (admitted, used) = (theirs.admitted, theirs.tokens_used);
    let ours = (u64::try_from(requests).expect("spent"), u64::try_from(tokens).expect("spent"));
    assert!(ours.0 >= admitted && ours.1 >= used, "{ours:?} of {admitted}, {used}: {stats:?}");
    gateway.close().await;
}
