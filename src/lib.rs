//! Tidegate.

pub mod admin;
pub mod admission;
pub mod cli;
pub mod config;
pub mod identity;
pub mod limit;
pub mod metrics;
pub mod proxy;
pub mod server;
pub mod simulator;
pub mod telemetry;
pub mod time;
pub mod usage;
