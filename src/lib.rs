//! Tidegate.

pub mod admission;
pub mod limit;
pub mod time;
pub mod usage;
