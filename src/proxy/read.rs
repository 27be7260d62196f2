//! Reads request bodies, bounded in size, time and memory.
//!
//! All bodies that are kept, being read or waiting, count against one budget: a queue of large
//! requests runs into a refusal, not into the kernel's memory killer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use prometheus::IntGauge;
use tokio::time::Instant;

use crate::proxy::error::ProxyError;

/// Memory for bodies, shared by all requests.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    used: Arc<AtomicU64>,
    limit: u64,
    gauge: IntGauge,
}

/// Bytes taken from a [`Budget`]; given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// `limit` bytes, of which `gauge` shows how many are used.
    pub(super) fn new(limit: u64, gauge: IntGauge) -> Self {
        Self { used: Arc::default(), limit, gauge }
    }

    /// The same memory, with another limit for those who ask for more.
    pub(super) fn limited_to(&self, limit: u64) -> Self {
        Self { limit, ..self.clone() }
    }

    const fn share(self) -> Share {
        Share { budget: self, bytes: 0 }
    }
}

impl Share {
    /// Takes more of it.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), ProxyError> {
        let Budget { used, limit, gauge } = &self.budget;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > *limit {
            used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ProxyError::Overloaded { what: "memory for request bodies" });
        }
        self.bytes += bytes;
        gauge.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.gauge.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

/// Bytes per second that a body must come at in the long run. A byte now and then keeps any limit
/// between two pieces content for ever, and with it a connection and the memory for the body.
const SLOWEST: u64 = 1_024;

/// Reads a body whole: at most `limit` bytes, with at most `idle` between two pieces, and `idle` more
/// in all than it takes at [`SLOWEST`].
///
/// # Errors
///
/// If it is larger, slower or broken, or if there is no memory for it.
pub(super) async fn whole(
    body: Body,
    limit: u64,
    idle: Duration,
    budget: &Budget,
) -> Result<(Bytes, Share), ProxyError> {
    let mut share = budget.clone().share();
    let announced = body.size_hint().lower();
    if announced > limit {
        return Err(ProxyError::BodyTooLarge { limit });
    }
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let (began, mut size) = (Instant::now(), 0);
    loop {
        let due = began + idle + Duration::from_secs(size / SLOWEST);
        let due = due.min(Instant::now() + idle);
        let frame = match tokio::time::timeout_at(due, body.frame()).await {
            Err(_) => return Err(ProxyError::BodyTimeout),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(ProxyError::BodyBroken),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers are of no use to an upstream that gets the length up front.
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        if size > limit {
            return Err(ProxyError::BodyTooLarge { limit });
        }
        share.grow(data.len() as u64)?;
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(before) => {
                let both = before.len() + data.len();
                // The announced length is the caller's word: it saves growth steps, and whoever wants
                // memory for it has sent a quarter of that.
                let expected = usize::try_from(announced).unwrap_or(0).min(4 * both);
                rest.reserve(expected.max(both));
                rest.extend_from_slice(&before);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok((first.unwrap_or_else(|| rest.freeze()), share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: u64) -> Budget {
        Budget::new(limit, IntGauge::new("bytes", "help").unwrap())
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<Result<_, std::io::Error>> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_or_refused_and_its_memory_comes_back() {
        let (idle, budget) = (Duration::from_secs(1), budget(8));
        for (sent, expected) in
            [(vec![], ""), (vec!["ab"], "ab"), (vec!["ab", "c", "def"], "abcdef")]
        {
            let (body, share) = whole(pieces(&sent), 6, idle, &budget).await.unwrap();
            assert_eq!(body, expected);
            assert_eq!(budget.used.load(Ordering::Relaxed), expected.len() as u64);
            drop(share);
        }
        let long = whole(pieces(&["abcd", "efg"]), 6, idle, &budget).await;
        assert!(matches!(long, Err(ProxyError::BodyTooLarge { limit: 6 })));
        let kept = whole(pieces(&["abcd"]), 6, idle, &budget).await.unwrap();
        let second = whole(pieces(&["abcde"]), 6, idle, &budget).await;
        assert!(matches!(second, Err(ProxyError::Overloaded { .. })));
        drop(kept);
        let stuck =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert!(matches!(whole(stuck, 6, idle, &budget).await, Err(ProxyError::BodyTimeout)));
        assert_eq!((budget.used.load(Ordering::Relaxed), budget.gauge.get()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_in_is_given_up_and_one_that_comes_is_not() {
        let idle = Duration::from_secs(10);
        let every = |pause: Duration, piece: usize| {
            Body::from_stream(futures_util::stream::unfold(0, move |sent| async move {
                tokio::time::sleep(pause).await;
                let piece = Bytes::from(vec![b'x'; piece]);
                (sent < 100).then(|| (Ok::<_, std::io::Error>(piece), sent + 1))
            }))
        };
        let began = Instant::now();
        let trickle = whole(every(idle / 2, 1), 1 << 20, idle, &budget(1 << 20)).await;
        assert!(matches!(trickle, Err(ProxyError::BodyTimeout)));
        assert_eq!(began.elapsed(), idle);
        let slow = every(Duration::from_secs(2), 4 << 10);
        let (body, _) = whole(slow, 1 << 20, idle, &budget(1 << 20)).await.unwrap();
        assert_eq!(body.len(), 100 * (4 << 10), "over 200 s, and never for long");
    }
}
