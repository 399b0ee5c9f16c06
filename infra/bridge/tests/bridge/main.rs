//! The bridge between a chat server and a function.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chat_server;
mod connected_bridge;
mod function;
mod iqs;
mod log;
mod messages;
mod reconnecting;
mod rest;
mod settings;

use std::time::Duration;

/// How long a test waits for a condition.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
