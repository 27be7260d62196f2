//! Integration tests.

mod gateway;
mod layers;
mod simulator;
mod support;
