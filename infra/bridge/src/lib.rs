//! A bridge between a chat server that speaks to components by XML streams (XEP-0114) and Pushlark's functions, which speak
//! HTTP.
//!
//! Towards the functions it is what a chat server's own HTTP module would be: it posts what the chat server sends to its
//! components. Towards the worker it is Prosody's `mod_rest`: stanzas that are posted to `/rest` go to the chat server, and
//! the answer to an IQ is the answer to the POST.

mod component;
mod framing;
mod functions;
mod messages;
mod rest;
mod settings;

pub use settings::{Given, Settings};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pushlark_xmpp::DomainPart;
use tokio::sync::watch;
use tokio::task::JoinSet;

use component::{Component, Waiting};
use functions::Functions;
use messages::Messages;
use rest::Rest;

/// How long what was begun may take when the bridge is stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(6);

/// A running bridge. Dropping it stops it at once.
#[derive(Debug)]
pub struct Bridge {
    /// Where `/rest` is served, if it is.
    pub rest: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Why the bridge does not start; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program listens where `/rest` is to be, or the certificate cannot be used.
    #[error("/rest cannot be served at {0}")]
    Rest(SocketAddr, #[source] io::Error),
    /// No HTTP client or no root certificates.
    #[error("no client can be made")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Bridge {
    /// Starts, and returns once `/rest` is served; the chat server may come later.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let Settings { server, components, iq_url, messages_url, key, rest, timeout, queue_bytes, retry } = settings;
        let functions = Functions::new(iq_url, messages_url, key, timeout)?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let waiting = Waiting::default();
        let component = |named: (DomainPart, String)| {
            let messages = Messages::new(named.0.clone(), functions.clone(), queue_bytes, retry, stopped.clone());
            let (server, functions, waiting) = (server.clone(), functions.clone(), Arc::clone(&waiting));
            Component::new(named, server, functions, messages, queue_bytes, waiting)
        };
        let (components, queues): (Vec<_>, Vec<_>) = components.into_iter().map(component).unzip();
        let rest = match rest {
            Some(settings) => Some(
                Rest::new(components.clone(), settings.token, timeout)
                    .serve(settings, &mut tasks, stopped.clone())
                    .await?,
            ),
            None => {
                tracing::info!("REST_TOKEN is not set: /rest is not served");
                None
            }
        };
        for (component, queue) in components.into_iter().zip(queues) {
            tasks.spawn(component.run(queue, stopped.clone()));
        }
        Ok(Self { rest, stop, tasks })
    }

    /// Answers what was begun, and ends the streams.
    pub async fn stop(mut self) {
        // All tasks may have stopped already.
        let _ = self.stop.send(true);
        let all_stopped = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, all_stopped).await.is_err() {
            tracing::warn!("something still ran after {} seconds", LAST_ANSWERS.as_secs());
        }
    }
}
