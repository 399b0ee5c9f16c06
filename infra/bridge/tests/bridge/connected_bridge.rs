//! A bridge with a chat server and a function.

use std::sync::mpsc;
use std::time::Duration;

use bridge::{Bridge, BridgeConfig, BridgeOptions};
use clap::Parser;
use reqwest::{Client, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{pause, timeout};

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::function::FunctionDouble;

pub const WEBHOOK_SECRET: &str = "the secret of the bridge";

pub const REST_TOKEN: &str = "the token of the worker";

pub const PUBLISH: &str = "<iq type='set' id='p1' from='example.com' to='push.example.com'><pubsub xmlns='x'/></iq>";

#[derive(Parser)]
pub struct Arguments {
    #[command(flatten)]
    pub options: BridgeOptions,
}

pub fn settings(arguments: &[&str]) -> Result<BridgeConfig, String> {
    let arguments = Arguments::try_parse_from(["pushlark-bridge"].iter().chain(arguments)).unwrap();
    BridgeConfig::try_from(arguments.options).map_err(|error| error.to_string())
}

pub struct ConnectedBridge {
    pub listener: TcpListener,
    pub function: FunctionDouble,
    pub stream: ServerStream,
    pub bridge: Bridge,
    pub http: Client,
}

impl ConnectedBridge {
    pub async fn start() -> Self {
        let function = FunctionDouble::start().await;
        let (listener, bridge) = Self::bridge("push.example.com=test", &function, &function.url, &[]).await;
        Self::connected(listener, function, bridge).await
    }

    /// With a separate function for messages, which is the second of the two.
    pub async fn with_messages(arguments: &[&str]) -> (Self, FunctionDouble) {
        let (iqs, messages) = (FunctionDouble::start().await, FunctionDouble::start().await);
        let (listener, bridge) = Self::bridge("push.example.com=test", &iqs, &messages.url, arguments).await;
        (Self::connected(listener, iqs, bridge).await, messages)
    }

    pub async fn connected(listener: TcpListener, function: FunctionDouble, bridge: Bridge) -> Self {
        let stream = ServerStream::accept(&listener, "push.example.com", DIGEST).await;
        Self { listener, function, stream, bridge, http: Client::new() }
    }

    pub async fn bridge(
        components: &str,
        iqs: &FunctionDouble,
        messages_url: &str,
        more: &[&str],
    ) -> (TcpListener, Bridge) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let defaults = [
            ["--server", &server],
            ["--components", components],
            ["--iq-url", &iqs.url],
            ["--messages-url", messages_url],
            ["--webhook-secret", &format!("{WEBHOOK_SECRET},an older secret of the bridge")],
            ["--listen", "127.0.0.1:0"],
            ["--rest-token", REST_TOKEN],
            ["--timeout-ms", "10000"],
        ];
        let defaults = defaults.iter().filter(|[name, _]| !more.contains(name)).flatten().copied();
        let settings = settings(&defaults.chain(more.iter().copied()).collect::<Vec<_>>());
        (listener, Bridge::start(settings.unwrap()).await.unwrap())
    }

    /// Connects to `/rest` and sends `text`.
    pub async fn raw_rest(&self, text: &str) -> TcpStream {
        let mut caller = TcpStream::connect(self.bridge.rest.unwrap()).await.unwrap();
        caller.write_all(text.as_bytes()).await.unwrap();
        caller
    }

    pub fn rest(&self, stanza: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/rest", self.bridge.rest.unwrap());
        let request = self.http.post(url).header("content-type", "application/xmpp+xml");
        request.bearer_auth(REST_TOKEN).body(stanza.to_owned())
    }

    /// Waits until the stream has ended: `/rest` then answers 503.
    pub async fn until_away(&self) -> Response {
        let away = async {
            loop {
                let answer = self.rest("<message to='a@b'/>").send().await.unwrap();
                if answer.status() == 503 {
                    return answer;
                }
            }
        };
        timeout(TEST_TIMEOUT, away).await.unwrap()
    }
}

/// Stops tokio's clock while it exists, at most for a minute.
pub struct StoppedClock {
    _running: mpsc::Sender<()>,
}

impl StoppedClock {
    pub fn new() -> Self {
        pause();
        let (_running, ended) = mpsc::channel();
        // The clock jumps to the next timer only while there is no blocking task.
        tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(60)));
        Self { _running }
    }
}

pub fn message(body: impl std::fmt::Display) -> String {
    format!("<message from='alice@example.com/pc' to='bob@push.example.com' type='chat'><body>{body}</body></message>")
}
