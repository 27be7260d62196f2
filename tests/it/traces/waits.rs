//! Waits that end otherwise than by being sent, or whose callers are told of them.

use super::collector::Collector;
use super::{CHAT, gateway, simulated, streaming};
use crate::support::wire::{Wire, chat};
use crate::support::{hello, send, wait_for, with};

#[tokio::test]
async fn a_caller_that_is_told_that_it_waits_has_one_wait() {
    let collector = Collector::start().await;
    let upstream = streaming().await;
    let changes = "models.\"*\".min_gap = \"1s\"\n\
                   admission.heartbeat_after = \"50ms\"\nadmission.heartbeat_every = \"50ms\"";
    let gateway = gateway(&upstream.url(), &collector, changes);
    let body = with(hello(), "stream", true);
    send(gateway.chat(&body)).await.bytes().await.expect("whole");
    let text = send(gateway.chat(&body)).await.text().await.expect("whole");
    assert!(text.starts_with(": queued, ") && text.ends_with("data: [DONE]\n\n"), "{text}");
    gateway.close().await;
    let (wait, requests) = (collector.only("queue"), collector.named(CHAT));
    // Long enough to be told.
    assert!(wait.millis() >= 50, "{wait:#?}");
    assert_eq!((wait.parent(), wait.get("tidegate.admitted").as_str()), (requests[1].id(), "true"));
    assert!(requests[1].millis() >= wait.millis());
    assert_eq!(requests[1].get("tidegate.outcome"), "completed");
    assert_eq!((collector.named("chat m").len(), collector.named("body").len()), (2, 2));
}

#[tokio::test]
async fn one_that_hangs_up_in_line_waited_until_then() {
    let collector = Collector::start().await;
    let (simulator, gateway) = simulated(&collector, "models.\"*\".max_concurrent = 1").await;
    let hanging = chat("x-sim-fault: hang\r\n", hello().to_string());
    let hanging = Wire::open(gateway.api, hanging).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let waiting = Wire::open(gateway.api, chat("", hello().to_string())).await;
    gateway.wait_queued(1).await;
    drop(waiting);
    gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    drop(hanging);
    gateway.close().await;
    let wait = collector.only("queue");
    assert_eq!(wait.get("tidegate.admitted"), "false");
    let request = collector.named(CHAT).into_iter().find(|span| span.id() == wait.parent());
    let request = request.expect("it is there");
    assert_eq!(request.0.end_time_unix_nano, wait.0.end_time_unix_nano);
    assert_eq!(request.get("tidegate.attempts"), "", "it was never sent");
    assert_eq!(collector.named("chat m").len(), 1);
}
