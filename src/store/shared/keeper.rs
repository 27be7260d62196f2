//! Keeps the connection: makes it, subscribes, probes a server that did not answer, and starts
//! again when it broke.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::SendError;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::time::{sleep, timeout};

use super::Inner;
use super::link::{CONNECT, Link};

/// The first pause between two attempts to connect; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest. All replicas have to find a new server well within the grace (1 s by default): who
/// comes later has no say in what was granted.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Time between two probes of a server that did not answer.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Probes without an answer after which the connection is taken to be dead: 3 seconds.
const MOST_PROBES: u32 = 12;

/// Runs until the store is closed.
pub(super) async fn run(inner: Arc<Inner>) {
    tokio::select! {
        () = keep(&inner) => {}
        () = inner.stop.cancelled() => inner.link.send_replace(None).map_or((), drop),
    }
}

async fn keep(inner: &Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        let pushed = Arc::downgrade(inner);
        let push = move |info: PushInfo| {
            let Some(inner) = pushed.upgrade() else { return Err(SendError) };
            received(&inner, number, info);
            Ok(())
        };
        let connected = timeout(CONNECT, Link::connect(&inner.config.servers, push)).await;
        match connected {
            Ok(Ok(link)) => {
                pause = FIRST_PAUSE;
                inner.metrics.connections.inc();
                inner.link.send_replace(Some((number, link.clone())));
                let why = serve(inner, number, link).await;
                tracing::debug!(why, "the connection to the shared store ended");
                inner.link.send_replace(None);
                inner.changed();
            }
            Ok(Err(error)) => {
                // Its text may quote what was sent.
                let (code, category) = (error.code().unwrap_or("-"), error.category());
                tracing::warn!(code, category, "cannot connect to the shared store");
            }
            Err(_) => tracing::warn!("the shared store does not accept connections in time"),
        }
        inner.metrics.degraded.set(1);
        // Apart, so that not all replicas come back at the same moment.
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks after one connection until it is of no use any more; says why.
async fn serve(inner: &Inner, number: u64, mut link: Link) -> &'static str {
    let mut subscribed = BTreeSet::new();
    let mut unanswered = 0;
    // One that answers closes the breaker; one that is slow leaves it as it is.
    if probe(inner, &mut link).await.is_err() {
        return "the first probe failed";
    }
    inner.changed();
    loop {
        if inner.broken.load(Ordering::SeqCst) >= number {
            return "it broke";
        }
        if subscribe(inner, &mut link, &mut subscribed).await.is_err() {
            return "subscribing failed";
        }
        let is_open = inner.breaker.lock().is_open();
        tokio::select! {
            () = inner.wake.notified() => {}
            () = sleep(PROBE_EVERY), if is_open => match probe(inner, &mut link).await {
                Ok(true) => unanswered = 0,
                Ok(false) if unanswered + 1 < MOST_PROBES => unanswered += 1,
                Ok(false) => return "no probe was answered",
                Err(_) => return "a probe failed",
            },
        }
    }
}

/// Asks the server for a sign of life; whether it came in time.
async fn probe(inner: &Inner, link: &mut Link) -> Result<bool, RedisError> {
    match timeout(inner.config.timeout, link.call(&redis::cmd("PING"))).await {
        Ok(Ok(_)) => {
            inner.succeeded();
            Ok(true)
        }
        Ok(Err(error)) if error.is_io_error() => Err(error),
        // Such as LOADING: it is there, but no good.
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

/// Brings the subscriptions up to date with the logs that want to be told.
async fn subscribe(
    inner: &Inner,
    link: &mut Link,
    subscribed: &mut BTreeSet<String>,
) -> Result<(), RedisError> {
    let wanted: BTreeSet<String> = inner.logs.lock().keys().cloned().collect();
    let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    for channel in subscribed.difference(&wanted) {
        timeout(CONNECT, link.unsubscribe(channel)).await.map_err(|_| late())??;
    }
    subscribed.retain(|channel| wanted.contains(channel));
    for channel in wanted {
        if subscribed.contains(&channel) {
            continue;
        }
        timeout(CONNECT, link.subscribe(&channel)).await.map_err(|_| late())??;
        // What was appended before has to be asked for.
        let log = inner.logs.lock().get(&channel).and_then(std::sync::Weak::upgrade);
        if let Some(log) = log {
            log.missed();
        }
        subscribed.insert(channel);
    }
    Ok(())
}

/// Something that the server pushed, or the end of a connection.
fn received(inner: &Inner, number: u64, info: PushInfo) {
    match info.kind {
        PushKind::Message => {
            let mut data = info.data.into_iter();
            let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                (data.next(), data.next())
            else {
                return;
            };
            let Ok(channel) = std::str::from_utf8(&channel) else { return };
            let log = inner.logs.lock().get(channel).and_then(std::sync::Weak::upgrade);
            if let Some(log) = log {
                log.published(&payload.into());
            }
        }
        // One node of a cluster is not the connection; what it did not push has to be asked for.
        PushKind::Disconnection if matches!(&*inner.link.borrow(), Some((_, Link::Cluster(_)))) => {
            inner.all().iter().for_each(|log| log.missed());
        }
        PushKind::Disconnection => inner.give_up(number),
        _ => {}
    }
}
