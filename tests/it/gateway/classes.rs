//! Who goes before whom: classes, tenants and their limits, as callers see them.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidegate::simulator::Fault;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, hello, pair, refusal, roomy, send, wait_for, with};

/// One at a time, so that the order in which the upstream sees requests is the queue's.
const ONE_AT_A_TIME: &str =
    "models.\"*\".max_concurrent = 1\nupstream.api_key = \"env:ACCOUNT_KEY\"";

fn key(name: &str, rest: &str) -> String {
    let hash: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{{ name = \"{name}\", hash = \"sha256:{hash}\"{rest} }}")
}

/// An upstream that keeps the first request until it is told to go on.
async fn gated() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let kept = Arc::clone(&gate);
    let upstream = Upstream::start(move |number, mut socket| {
        let gate = Arc::clone(&kept);
        async move {
            if number == 0 {
                let _go = gate.acquire().await.ok()?;
            }
            socket.write_all(&completion()).await.ok().map(|()| socket)
        }
    })
    .await;
    (upstream, gate)
}

/// Lets requests with these headers and bodies wait behind one that runs, one after the other, then
/// lets all go; returns their marks in the order in which the upstream saw them.
async fn order_of(changes: &str, requests: &[(&str, &str, Value)]) -> Vec<String> {
    let (upstream, gate) = gated().await;
    let gateway = Gateway::start(&upstream.url(), &format!("{ONE_AT_A_TIME}\n{changes}"));
    let mut wires = Vec::new();
    for (waiting, (mark, headers, body)) in (0..).zip(requests) {
        let headers = format!("x-mark: {mark}\r\n{headers}");
        wires.push(Wire::open(gateway.api, chat(&headers, body.to_string())).await);
        match waiting {
            0 => upstream.wait_seen(1).await,
            _ => gateway.wait_queued(waiting).await,
        }
    }
    gate.add_permits(1);
    for wire in &mut wires {
        assert_eq!(wire.answer().await.status, 200);
    }
    drop(wires);
    gateway.close().await;
    let seen = upstream.seen();
    assert!(seen.iter().all(|it| it.all("x-tidegate-class").is_empty()), "it is ours");
    seen.iter().map(|it| it.all("x-mark").concat()).collect()
}

/// From the header, else from the service tier, else from the key, else the default.
#[tokio::test]
async fn a_request_is_of_the_class_that_it_its_body_or_its_key_names() {
    let keys = format!("keys = [ {}, {} ]", key("plain", ""), key("bulk", ", class = \"batch\""));
    let changes = format!("admission.default_class = \"standard\"\n{keys}");
    let (plain, bulk) = ("authorization: Bearer plain\r\n", "authorization: Bearer bulk\r\n");
    let said = |key: &str, class: &str| format!("{key}x-tidegate-class: {class}\r\n");
    let tier = |tier: &str| with(hello(), "service_tier", tier);
    let (urgent, bulk_but_standard) = (said(bulk, "interactive"), said(bulk, "standard"));
    let order = order_of(
        &changes,
        &[
            ("first", plain, hello()),
            ("batch by its key", bulk, hello()),
            ("batch by its tier", plain, tier("flex")),
            ("standard by default", plain, tier("auto")),
            ("standard by itself", &bulk_but_standard, tier("flex")),
            ("interactive by its tier", plain, tier("priority")),
            ("interactive by itself", &urgent, tier("flex")),
        ],
    )
    .await;
    let class = |mark: &String| mark.split(' ').next().unwrap_or_default().to_owned();
    let classes: Vec<_> = order.iter().map(class).collect();
    // What waits behind the interactive ones has a share, and none of theirs is larger.
    assert_eq!(classes[..2], ["first", "interactive"], "{order:?}");
    let sum = |class: &str| classes.iter().filter(|it| *it == class).count();
    assert_eq!(["interactive", "standard", "batch"].map(sum), [2, 2, 2]);
    let last = |class: &str| classes.iter().rposition(|it| it == class);
    assert!(last("interactive") < last("batch") && last("standard") < last("batch"), "{order:?}");
}

#[tokio::test]
async fn a_class_that_is_not_there_is_an_error_of_the_caller() {
    let (simulator, gateway) =
        pair(roomy(), "classes.only = { rank = 0 }\nadmission.default_class = \"only\"").await;
    for (class, status) in [("only", 200), ("batch", 400), ("", 400), ("only, only", 400)] {
        let response = send(gateway.chat(&hello()).header("x-tidegate-class", class)).await;
        if status == 200 {
            assert_eq!(response.status(), 200);
            response.bytes().await.expect("whole");
        } else {
            refusal(response, 400, "wrong_api_format").await;
        }
    }
    let flex = send(gateway.chat(&with(hello(), "service_tier", "flex"))).await;
    assert_eq!(flex.status(), 200, "a tier is the upstream's word: no error here");
    flex.bytes().await.expect("whole");
    assert_eq!(simulator.stats().started, 2);
    gateway.close().await;
}

/// One tenant's crowd does not keep another waiting, and a weight is a share.
#[tokio::test]
async fn tenants_take_turns_whoever_came_first() {
    let keys = format!("keys = [ {}, {} ]", key("crowd", ""), key("other", ", weight = 2"));
    let (crowd, other) = ("authorization: Bearer crowd\r\n", "authorization: Bearer other\r\n");
    let mut requests = vec![("first", crowd, hello())];
    requests.extend([
        ("crowd", crowd, hello()),
        ("crowd", crowd, hello()),
        ("crowd", crowd, hello()),
    ]);
    requests.extend([("other", other, hello()), ("other", other, hello())]);
    let order = order_of(&keys, &requests).await;
    let others: Vec<_> = (0..order.len()).filter(|at| order[*at] == "other").collect();
    assert!(others[1] <= 3, "two for each of the crowd's: {order:?}");
}

/// Without keys the same bearer is one tenant, and a trusted header tells more apart; its words are
/// shown nowhere.
#[tokio::test]
async fn a_trusted_header_tells_tenants_apart() {
    for (header, expected) in [("", 1), ("x-team", 3)] {
        let changes = format!("{ONE_AT_A_TIME}\nadmission.tenant_header = \"{header}\"");
        let (simulator, gateway) = pair(roomy(), &changes).await;
        simulator.script([vec![Fault::Hang]]);
        let first = Wire::open(gateway.api, chat("", hello().to_string())).await;
        wait_for(&simulator, |stats| stats.in_flight == 1).await;
        let mut waiting = Vec::new();
        for (count, team) in (1..).zip(["planted-a", "planted-b", "planted-b", "planted-c"]) {
            let headers = format!("authorization: Bearer same\r\nx-team: {team}\r\n");
            waiting.push(Wire::open(gateway.api, chat(&headers, hello().to_string())).await);
            gateway.wait_queued(count).await;
        }
        let status = gateway.status().await;
        let tenants = status["pools"][0]["tenants"].as_array().expect("a list").clone();
        assert_eq!(tenants.len(), expected, "{status:#}");
        let most = if expected == 1 { 4 } else { 2 };
        assert_eq!(
            (&tenants[0]["queued"], &tenants[0]["class"]),
            (&json!(most), &json!("standard"))
        );
        assert!(!status.to_string().contains("planted"), "{status:#}");
        let classes = &status["pools"][0]["classes"];
        assert_eq!((&classes[1]["class"], &classes[1]["queued"]), (&json!("standard"), &json!(4)));
        let depth = gateway.metric("tidegate_class_queue_depth{class=\"standard\"}").await;
        assert!((depth - 4.0).abs() < 0.1, "{depth}");
        drop(first);
        for wire in &mut waiting {
            assert_eq!(wire.answer().await.status, 200);
        }
        let waited = gateway.metric("tidegate_class_wait_seconds_count{class=\"standard\"}").await;
        assert!((waited - 5.0).abs() < 0.1, "{waited}");
        drop(waiting);
        gateway.close().await;
    }
}

/// A tenant that has its fill of waiting requests is refused; others are not.
#[tokio::test]
async fn one_tenant_cannot_fill_the_queue() {
    for limit in ["max_queued_per_tenant = 2", "max_queued_bytes_per_tenant = 150"] {
        let changes = format!("{ONE_AT_A_TIME}\nadmission.{limit}");
        let (simulator, gateway) = pair(roomy(), &changes).await;
        simulator.script([vec![Fault::Hang]]);
        let body = hello().to_string();
        assert!((60..75).contains(&body.len()), "two of them are below 150 bytes: {}", body.len());
        let first = Wire::open(gateway.api, chat("", body.clone())).await;
        wait_for(&simulator, |stats| stats.in_flight == 1).await;
        let mut waiting = Vec::new();
        for count in 1..=2 {
            let headers = "authorization: Bearer crowd\r\n";
            waiting.push(Wire::open(gateway.api, chat(headers, body.clone())).await);
            gateway.wait_queued(count).await;
        }
        let response = send(gateway.chat(&hello()).bearer_auth("crowd")).await;
        refusal(response, 429, "queue_full").await;
        let headers = "authorization: Bearer other\r\n";
        waiting.push(Wire::open(gateway.api, chat(headers, body.clone())).await);
        gateway.wait_queued(3).await;
        drop(first);
        for wire in &mut waiting {
            assert_eq!(wire.answer().await.status, 200);
        }
        drop(waiting);
        gateway.close().await;
    }
}
