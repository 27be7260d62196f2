//! Integration tests.

mod docs;
mod gateway;
mod layers;
mod overload;
mod simulator;
mod support;
