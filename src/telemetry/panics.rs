//! What is said of a panic: where it was, and not what it was about.
//!
//! The standard library quotes what a formatted message was made of, such as the text that was cut in
//! the middle of a letter, and that may be a caller's prompt or key. Messages that were written as
//! they stand are ours and say nothing of anybody.

use std::any::Any;
use std::panic::{self, Location};

/// Takes the place of a message that may quote.
const WITHHELD: &str = "its message is withheld: it may quote a request";

/// Has panics logged by [`describe`] from now on, instead of printed in full.
pub(super) fn log() {
    panic::set_hook(Box::new(|info| {
        let (message, place) = describe(info.payload(), info.location());
        tracing::error!(message = message, place = place.as_deref(), "a panic: a defect");
    }));
}

/// What may be said of a panic: its message, if it is a text in the program, and its place.
fn describe(payload: &dyn Any, location: Option<&Location<'_>>) -> (&'static str, Option<String>) {
    let message = payload.downcast_ref::<&'static str>().copied().unwrap_or(WITHHELD);
    (message, location.map(|it| format!("{}:{}", it.file(), it.line())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the panic of `fails`.
    fn said(fails: impl FnOnce() + panic::UnwindSafe) -> &'static str {
        let payload = panic::catch_unwind(fails).expect_err("it panics");
        let (message, place) = describe(&*payload, Some(Location::caller()));
        assert!(place.is_some_and(|place| place.contains("panics.rs:")));
        message
    }

    #[test]
    fn only_messages_that_were_written_as_they_stand_are_told() {
        assert_eq!(said(|| panic!("the ledger is never empty")), "the ledger is never empty");
        let prompt = "tell me a sécret".to_owned();
        let (cut, parsed) = (prompt.clone(), prompt.clone());
        for message in [
            said(move || assert_eq!(&cut[..12], "tell me")),
            said(move || assert_eq!(parsed.parse::<u64>(), Ok(5))),
            said(move || panic!("{prompt}")),
        ] {
            assert_eq!(message, WITHHELD);
        }
    }
}
