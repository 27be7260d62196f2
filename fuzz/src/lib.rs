//! What must be true of the readers of everything that comes from outside, whatever comes.
//!
//! Each target has a module in [`checks`] that takes bytes and panics where a law is broken. Next to
//! them stand those modules of the gateway that read: its own files, by links, and nothing of what
//! surrounds them, so that it takes a minute to build them with the fuzzer's instruments. Nothing of
//! the gateway is changed or made public for it.
//!
//! There is no `unsafe` in the gateway, so that there is nothing that a memory sanitizer could find
//! in it: a panic, an overflow, a hang and a broken law are what is looked for.

#![expect(dead_code, reason = "the gateway's own files are judged there")]

pub mod admission;
pub mod checks;
pub mod config;
pub mod identity;
pub mod limit;
pub mod time;
pub mod usage;

pub mod batch {
    mod input;

    use std::io::BufReader;

    use bytes::Bytes;

    /// The lines that are not empty, each with its number; of one that is too long, only that.
    pub fn lines(data: &[u8], longest: usize, buffer: usize) -> Vec<(u32, Option<Bytes>)> {
        let mut lines = input::Lines::new(BufReader::with_capacity(buffer, data), longest);
        let mut found = Vec::new();
        loop {
            let piece = lines.piece().expect("a slice can be read");
            if piece.is_empty() {
                return found;
            }
            found.extend(piece.into_iter().map(|line| (line.number, line.text)));
        }
    }

    /// A request's `custom_id`, `method` and `url` where they are text, and its body as it stands.
    pub fn parts(text: &[u8]) -> Option<([Option<String>; 3], Option<String>)> {
        let request = input::Request::parse(text).ok()?;
        let texts = [request.custom_id, request.method, request.url];
        let texts = texts.map(|part| input::Request::text(part).map(|text| text.into_owned()));
        Some((texts, request.body.map(|raw| raw.get().to_owned())))
    }
}

pub mod metrics {
    mod outcome;

    pub use self::outcome::{Rejection, RetryReason};
}

pub mod proxy {
    mod readings;
    mod verdict;

    use std::time::Duration;

    use http::{HeaderMap, StatusCode};

    use crate::limit::Reading;

    /// What the rate-limit headers of an answer show.
    pub fn readings(headers: &HeaderMap) -> Vec<Reading<'_>> {
        readings::Readings::of(headers).iter().collect()
    }

    /// How long an error of the upstream says to wait, and the code that it gives.
    pub fn judge(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> (Option<Duration>, Option<String>) {
        let verdict = verdict::judge(status, headers, body);
        (verdict.retry_after, verdict.code)
    }
}

pub mod telemetry {
    pub mod traces {
        pub mod context;
    }
}
