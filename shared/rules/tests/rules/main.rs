//! Tests of rules through their public interface: TOML in, decisions out.
#![allow(clippy::unwrap_used)]

mod actions;
mod conditions;
mod mongooseim;
mod parsing;
mod properties;
mod world;
