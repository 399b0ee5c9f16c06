//! Tests of Pushlark from outside: HTTP in, notifications out, with the local stack.
//!
//! - Requests: [`access`], [`client_tokens`], [`devices`], [`enable_disable`], [`events`], [`explain`], [`http`], [`max_nodes`],
//!   [`push_node`], [`rate_limit`], [`refused_requests`], [`webhook_formats`].
//! - Decisions: [`alert_interval`], [`badges`], [`calls`], [`clear_when_read`], [`contact_requests`], [`custom_plugins`],
//!   [`message_kinds`], [`notification_content`], [`preferences_applied`], [`read_marks`], [`rule_decisions`],
//!   [`rules_examples`], [`rules_source`], [`senders`], [`sessions`], [`unread_counts`].
//! - Push services: [`apns`], [`credentials`], [`delivery`], [`encryption`], [`fcm`], [`mongoosepush`],
//!   [`presentation`], [`providers`], [`real_pubsub`], [`reference`](mod@reference), [`web_push`], [`webhook_gateway`].
//! - Queue and table: [`claims`], [`deduplication`], [`dynamodb_calls`], [`fair_queues`], [`order`], [`removal`],
//!   [`resilience`], [`retries`], [`roles`], [`scale`], [`screening`], [`throughput`], [`tls`], [`upgrade`].
//! - The whole: [`documentation`], [`event_lines`], [`mongooseim`], [`secrecy`], [`settings`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod alert_interval;
mod apns;
mod badges;
mod calls;
mod claims;
mod clear_when_read;
mod client_tokens;
mod contact_requests;
mod credentials;
mod custom_plugins;
mod deduplication;
mod delivery;
mod devices;
mod documentation;
mod dynamodb_calls;
mod enable_disable;
mod enable_extensions;
mod encryption;
mod event_lines;
mod events;
mod explain;
mod fair_queues;
mod fcm;
mod http;
mod max_nodes;
mod message_kinds;
mod mongooseim;
mod mongoosepush;
mod notification_content;
mod order;
mod preferences_applied;
mod presentation;
mod providers;
mod push_node;
mod rate_limit;
mod read_marks;
mod real_pubsub;
mod reference;
mod refused_requests;
mod rehearsals;
mod removal;
mod resilience;
mod retries;
mod roles;
mod rule_decisions;
mod rules_examples;
mod rules_source;
mod scale;
mod screening;
mod secrecy;
mod senders;
mod sessions;
mod settings;
mod throughput;
mod tls;
mod unread_counts;
mod upgrade;
mod web_push;
mod webhook_formats;
mod webhook_gateway;
