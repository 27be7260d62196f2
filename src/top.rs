//! `tidegate top`: what a running gateway says of itself, as a picture in a terminal.
//!
//! `feed` asks, `view` keeps what was said and which part is looked at, `screen` draws that and
//! nothing else, `terminal` runs them. Read-only: no key changes anything in the gateway.

mod feed;
mod screen;
mod snapshot;
mod terminal;
mod view;

pub use self::feed::Feed;
pub use self::screen::{Theme, print};
pub use self::snapshot::Snapshot;
pub use self::terminal::run;
pub use self::view::View;

#[cfg(test)]
mod tests;
