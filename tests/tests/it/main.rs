//! Pushlark from outside: HTTP in, notification out, through the local stack.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod answers;
mod calls;
mod claims;
mod clients;
mod counts;
mod custom_plugins;
mod direct;
mod enabling;
mod envelope;
mod events;
mod explaining;
mod extensions;
mod formats;
mod judged;
mod mongooseim;
mod nodes;
mod outcomes;
mod pages;
mod providers;
mod push_node;
mod real_pubsub;
mod refusals;
mod removal;
mod resilience;
mod retries;
mod roles;
mod scale;
mod secrecy;
mod sessions;
mod settings;
mod throughput;
mod upgrade;
mod web_push;
