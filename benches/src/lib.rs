//! The input of the benchmark.

#[cfg(feature = "pure")]
pub mod input;
