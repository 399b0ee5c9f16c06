//! Pushlark from outside: HTTP in, notification out, through the local stack.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod enabling;
mod envelope;
mod events;
mod outcomes;
mod resilience;
