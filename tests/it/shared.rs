//! The log that replicas share, against real servers: what they do when everything is well, and
//! when a server or a replica is killed, stopped, replaced, slow or forgetful.

mod chaos;
mod clock;
mod differential;
mod failover;
mod fleet;
mod manifests;
mod order;
pub(crate) mod server;
mod together;
mod topology;
mod twin;
