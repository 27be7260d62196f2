//! Integration tests.

mod gateway;
mod layers;
mod overload;
mod simulator;
mod support;
