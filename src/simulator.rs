//! A stand-in upstream.
pub mod quota;
