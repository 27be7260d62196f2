//! The client whose requests wait: it opens all connections, sends all requests, and holds on.
//!
//! Protocol: say `connected`, wait for `go`, send; on the end of input say how many were answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Result;
use crate::load::{Ask, PATH, request_body};
use crate::options::HoldOptions;
use crate::role::{self, Orders};

/// Connections opened at a time: well below the backlog of any listener.
const OPENING: usize = 64;

/// Answers of any kind: while the limit is closed there should be none.
static ANSWERED: AtomicUsize = AtomicUsize::new(0);

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Holds `options.requests` requests until the orchestrator closes the input.
pub(crate) async fn run(options: HoldOptions, mut orders: Orders) -> Result {
    let streams = options.streams.max(1);
    let mut senders: Vec<Sender> = stream::iter(0..options.requests.div_ceil(streams))
        .map(|_| connect(&options))
        .buffer_unordered(OPENING)
        .try_collect()
        .await?;
    role::say("connected")?;
    orders.recv().await.ok_or("the orchestrator is gone")?;

    let host = options.target.to_string();
    let ask = Ask::new(host.clone(), request_body(options.body_bytes, false, ""), &[])?;
    let mut waiting = JoinSet::new();
    for sent in 0..options.requests {
        match &mut senders[sent / streams] {
            Sender::Http1(sender) => {
                let answer = sender.send_request(ask.request(PATH)?);
                waiting.spawn(count(answer));
            }
            Sender::Http2(sender) => {
                let uri = format!("http://{host}{PATH}");
                sender.ready().await?;
                let answer = sender.send_request(ask.request(&uri)?);
                waiting.spawn(count(answer));
            }
        }
    }
    role::ended(orders).await;
    role::say(&ANSWERED.load(Ordering::Relaxed).to_string())
}

async fn connect(options: &HoldOptions) -> Result<Sender> {
    let stream = TcpStream::connect(options.target).await?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    Ok(if options.streams > 1 {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(async move { drop(driver.await) });
        Sender::Http2(sender)
    } else {
        let (sender, driver) = http1::handshake(io).await?;
        tokio::spawn(async move { drop(driver.await) });
        Sender::Http1(sender)
    })
}

/// Waits for an answer, and keeps its connection until the process ends.
async fn count<T>(answer: impl Future<Output = T>) {
    let _answer = answer.await;
    ANSWERED.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::MAX).await;
}
