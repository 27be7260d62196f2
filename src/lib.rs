//! Tidegate: a gateway that makes an LLM quota behave like a queue instead of a cliff.
//!
//! The life of a request: [`server`] accepts it, [`identity`] says whose it is, its body is read,
//! bounded, and [`usage`] estimates what it can cost at most. It enters the queue of its pool in
//! [`admission`], which holds the cost in every window of the ledger in [`limit`] and then lets it go.
//! [`proxy`] sends it, again where that can help, and passes the answer back through a meter; what
//! the answer says it used settles the hold. It has one outcome, counted once in [`metrics`].
//!
//! Modules, lowest layer first; each imports only what stands before it:
//! [`time`], [`cores`], [`limit`], [`usage`], [`identity`], [`admission`], [`metrics`], [`config`],
//! [`store`], [`telemetry`], [`proxy`], [`batch`], [`admin`], [`server`], [`simulator`], [`plan`],
//! [`load`], [`top`], [`cli`].

pub mod admin;
pub mod admission;
pub mod batch;
pub mod cli;
pub mod config;
pub mod cores;
pub mod identity;
pub mod limit;
pub mod load;
pub mod metrics;
pub mod plan;
pub mod proxy;
pub mod server;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod top;
pub mod usage;
