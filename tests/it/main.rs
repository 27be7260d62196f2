//! Integration tests.

mod batch;
mod docs;
mod drain;
mod estimates;
mod faults;
mod gateway;
mod handover;
mod hostile;
mod image;
mod layers;
mod load;
mod overload;
mod plan;
mod restart;
mod secrets;
mod shared;
mod simulator;
mod store;
mod support;
mod traces;
