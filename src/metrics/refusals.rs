//! The last requests that were turned away, for whoever looks why.
//!
//! # Invariants
//!
//! - Bounded: the last [`KEPT`], with names that are cut.
//! - Names, numbers and codes; never a key, a prompt or a body.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Outcome;

/// Refusals remembered: a page that is read at a glance, and a little to scroll.
const KEPT: usize = 50;

/// A name or code is cut to so many bytes: callers choose models, and the upstream its codes.
const LONGEST: usize = 128;

/// A request that was turned away.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When.
    pub at: Instant,
    /// Whose it was, by the name in logs.
    pub tenant: Option<Arc<str>>,
    /// The model asked for.
    pub model: Option<Arc<str>>,
    /// How it is counted: this tells the gateway's refusals from the upstream's.
    pub outcome: Outcome,
    /// The status of the answer.
    pub status: Option<u16>,
    /// The upstream's error code.
    pub code: Option<Box<str>>,
    /// What it waited for.
    pub limited_by: Option<Arc<str>>,
    /// When its caller was told to come back.
    pub retry_after: Option<Duration>,
}

/// The last requests that were turned away.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<Refusal>>);

impl Refusals {
    /// Remembers one, and forgets the oldest if there are too many.
    pub fn note(&self, mut refusal: Refusal) {
        shorten(&mut refusal.tenant);
        shorten(&mut refusal.model);
        refusal.code = refusal.code.map(|code| cut(&code).into());
        let mut ring = self.0.lock();
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(refusal);
    }

    /// All that are remembered, the latest first.
    pub fn latest(&self) -> Vec<Refusal> {
        self.0.lock().iter().rev().cloned().collect()
    }
}

/// Replaces a name that is too long.
fn shorten(name: &mut Option<Arc<str>>) {
    if let Some(long) = name.take_if(|name| name.len() > LONGEST) {
        *name = Some(cut(&long).into());
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_are_kept_and_their_names_are_cut() {
        let refusals = Refusals::default();
        for number in 0..KEPT + 7 {
            refusals.note(Refusal {
                at: Instant::now(),
                tenant: Some(number.to_string().into()),
                model: Some("é".repeat(1_000).into()),
                outcome: Outcome::WaitExceeded,
                status: Some(429),
                code: Some("x".repeat(1_000).into()),
                limited_by: None,
                retry_after: None,
            });
        }
        let latest = refusals.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].tenant.as_deref(), Some("56"));
        assert_eq!(latest[KEPT - 1].tenant.as_deref(), Some("7"));
        assert_eq!(latest[0].model.as_deref(), Some("é".repeat(64).as_str()));
        assert_eq!(latest[0].code.as_deref().map(str::len), Some(LONGEST));
    }
}
