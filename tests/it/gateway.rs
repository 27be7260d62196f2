//! The gateway from outside, over real loopback connections.

mod admin;
mod cancel;
mod estimate;
mod identity;
mod limits;
mod passing;
mod paths;
mod process;
mod refused;
mod retries;
mod slow;
mod storm;
mod streams;
