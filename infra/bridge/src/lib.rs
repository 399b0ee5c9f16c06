//! A bridge between the XML streams of a chat server's components (XEP-0114) and the HTTP of Pushlark's functions.
//!
//! The bridge posts the stanzas that the chat server sends to its components to the functions, like an HTTP module of a
//! chat server. It also serves `/rest`, like Prosody's `mod_rest`: it sends a posted stanza to the chat server, and the
//! answer to an IQ is the response to the POST.

mod component;
mod error;
mod framing;
mod functions;
mod messages;
mod pending;
mod rest;
mod settings;
mod stream;

pub use error::StartError;
pub use settings::{BridgeConfig, BridgeOptions, refuse_old_names};

use std::net::SocketAddr;
use std::time::Duration;

use pushlark_xmpp::DomainPart;
use tokio::sync::watch;
use tokio::task::JoinSet;

use component::Component;
use functions::FunctionsClient;
use messages::Messages;
use pending::PendingIqs;
use rest::RestApi;

/// The time for which tasks may still run when the bridge stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// A running bridge. Dropping it stops it at once.
#[derive(Debug)]
pub struct Bridge {
    /// The address of `/rest`; `None` if it is not served.
    pub rest: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Bridge {
    /// Starts the bridge. Returns once `/rest` is served; the connection to the chat server may follow later.
    pub async fn start(config: BridgeConfig) -> Result<Self, StartError> {
        let BridgeConfig { server, components, iq_url, messages_url, key, rest, tls, timeout, queue_bytes, retry } =
            config;
        let functions = FunctionsClient::new(iq_url, messages_url, key, &tls, timeout)?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let pending = PendingIqs::default();
        let component = |(name, secret): (DomainPart, String)| {
            let messages = Messages::new(name.clone(), functions.clone(), queue_bytes, retry, stopped.clone());
            let (server, functions, pending) = (server.clone(), functions.clone(), pending.clone());
            Component::new((name, secret), server, functions, messages, queue_bytes, pending)
        };
        let (components, queues): (Vec<_>, Vec<_>) = components.into_iter().map(component).unzip();
        let rest = match rest {
            Some(config) => {
                let api = RestApi::new(components.clone(), config.token, timeout);
                Some(api.serve(config, &mut tasks, stopped.clone()).await?)
            }
            None => {
                tracing::info!("/rest is not served: BRIDGE_REST_TOKEN is not set");
                None
            }
        };
        for (component, queue) in components.into_iter().zip(queues) {
            tasks.spawn(component.run(queue, stopped.clone()));
        }
        Ok(Self { rest, stop, tasks })
    }

    /// Finishes the requests in progress, and closes the streams.
    pub async fn stop(mut self) {
        // All tasks may have stopped already.
        let _ = self.stop.send(true);
        let all_stopped = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all_stopped).await.is_err() {
            tracing::warn!("tasks are aborted: they still ran {} s after the stop", STOP_TIMEOUT.as_secs());
        }
    }
}
