//! The gateway from outside, over real loopback connections.

mod admin;
mod breaker;
mod cancel;
mod classes;
mod estimate;
mod explain;
mod health;
mod identity;
mod keys;
mod limits;
mod observer;
mod passing;
mod paths;
mod places;
mod polite;
mod polite_ends;
mod process;
mod refused;
mod reload;
mod reload_process;
mod retries;
mod slow;
mod storm;
mod streams;
mod tenants;
