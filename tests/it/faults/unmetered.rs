//! Faults of what costs nothing: the same answers, and never a hold.

use tokio::io::AsyncWriteExt;

use crate::support::upstream::{Upstream, answer};
use crate::support::wire::{Wire, request};
use crate::support::{Gateway, flat};

const LIST: &str = r#"{"object":"list","data":[]}"#;

#[tokio::test]
async fn what_changes_nothing_is_sent_twice_and_breaks_off_as_the_upstream_does() {
    let upstream = Upstream::start(|number, mut socket| async move {
        let good = answer("200 OK", "content-type: application/json\r\n", LIST);
        match number {
            // A kept connection that turns out to be closed, and a new one that breaks.
            1 | 3 => return None,
            4 => socket.write_all(&good[..good.len() - 5]).await.ok()?,
            5 => {
                socket
                    .write_all(b"HTTP/1.1 502 Bad\r\ncontent-length: 9\r\n\r\nhalf")
                    .await
                    .ok()?;
            }
            _ => socket.write_all(&good).await.ok()?,
        }
        (number < 4).then_some(socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let get = async || Wire::open(gateway.api, request("GET /v1/models", "", "")).await;
    for sent in [1, 3] {
        let answer = get().await.answer().await;
        assert_eq!((answer.status, answer.text()), (200, LIST));
        assert_eq!(upstream.seen().len(), sent, "a kept connection that breaks is replaced");
    }
    let failed = get().await.answer().await;
    assert_eq!(failed.status, 502);
    flat(failed.text(), "upstream_broken");
    for (status, part) in [(200, LIST.len() - 5), (502, 4)] {
        let mut wire = get().await;
        assert_eq!(wire.head().await.expect("a head").status, status);
        assert_eq!(wire.end().await.len(), part, "as far as it came");
    }
    for (outcome, count) in
        [("completed", 2.0), ("upstream_unavailable", 1.0), ("upstream_cut", 2.0)]
    {
        gateway
            .wait_metric(&format!("tidegate_requests_total{{outcome=\"{outcome}\"}}"), count)
            .await;
    }
    let status = gateway.settled().await;
    assert_eq!(status["pools"].as_array().map(Vec::len), Some(0), "no ledger knows of it");
    gateway.close().await;
}
