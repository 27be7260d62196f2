//! Tidegate.

pub mod limit;
pub mod time;
