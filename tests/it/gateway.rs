//! The gateway from outside, over real loopback connections.

mod cancel;
mod passing;
mod paths;
mod refused;
mod streams;
