//! What the benchmark feeds to Pushlark.

#[cfg(feature = "pure")]
pub mod input;
