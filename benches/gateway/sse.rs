//! What a client sees of streams: the first event, the time between events, and their end.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Result;
use crate::load::quantiles;

/// What ends every stream.
const END: &[u8] = b"data: [DONE]\n\n";

/// Events beside those with text: the last one with the usage, the end, and what a proxy that
/// writes streams anew may split off.
const MOST_OTHERS: usize = 5;

/// Streams as one run saw them. Times are in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Streamed {
    /// Events, the last ones of each stream included.
    pub(crate) events: u64,
    /// From sending the request to the first bytes of the body.
    pub(crate) first_p50: f64,
    pub(crate) first_p99: f64,
    /// Between two events; none when they arrive together.
    pub(crate) gap_p50: f64,
    pub(crate) gap_p99: f64,
    pub(crate) gap_max: f64,
}

/// The same while it is gathered.
#[derive(Default)]
pub(crate) struct Events {
    count: u64,
    first: Vec<Duration>,
    gaps: Vec<Duration>,
}

impl Events {
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.gaps.extend(other.gaps);
    }

    pub(crate) fn measured(mut self) -> Streamed {
        let [first_p50, first_p99, _] = quantiles(&mut self.first);
        let [gap_p50, gap_p99, gap_max] = quantiles(&mut self.gaps);
        Streamed { events: self.count, first_p50, first_p99, gap_p50, gap_p99, gap_max }
    }

    /// Reads one stream to its end; it must have `chunks` events with text, and say its end.
    pub(crate) async fn read(
        &mut self,
        body: &mut Incoming,
        start: Instant,
        chunks: usize,
    ) -> Result {
        let (mut count, mut line_ended, mut tail) = (0, false, Vec::new());
        let mut last = None;
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
            let now = Instant::now();
            if last.is_none() {
                self.first.push(now - start);
            }
            // An event ends with an empty line, which two frames may share.
            let before = count;
            for byte in data {
                count += usize::from(*byte == b'\n' && line_ended);
                line_ended = *byte == b'\n' && !line_ended;
            }
            for event in before..count {
                let since = if event == before { last } else { Some(now) };
                self.gaps.extend(since.map(|last| now - last));
            }
            if count > before {
                last = Some(now);
            }
            tail.extend_from_slice(&data[data.len().saturating_sub(END.len())..]);
            tail.drain(..tail.len().saturating_sub(END.len()));
        }
        self.count += count as u64;
        if tail != END || !(chunks + 1..=chunks + MOST_OTHERS).contains(&count) {
            return Err(format!("{count} events instead of a whole stream").into());
        }
        Ok(())
    }
}
