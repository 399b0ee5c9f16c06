//! One component of the chat server: its stream, what comes by it, and what waits for an answer.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{Condition, DomainPart, Element, Iq, IqType, Jid, parse_jid};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use uuid::Uuid;

use crate::framing::{BadStream, Frame, Framer};
use crate::functions::Functions;
use crate::settings::Server;

/// How many stanzas are posted to the functions at once; more are answered that there is no room.
const IN_FLIGHT: usize = 256;
/// How many stanzas wait to be sent.
const OUTGOING: usize = 256;
/// How long a connection and its handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After how long without a stanza a space is sent, which tells whether the connection lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it is waited before another connection is tried: at first, …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … and at most.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// How long the functions may take for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

const STREAMS: &str = "http://etherx.jabber.org/streams";
const COMPONENT: &str = "jabber:component:accept";

/// A component.
pub struct Component {
    /// Its name, a domain.
    pub name: DomainPart,
    secret: String,
    server: Server,
    functions: Functions,
    in_flight: Arc<Semaphore>,
    /// What is to be sent, while there is a connection.
    outgoing: Mutex<Option<mpsc::Sender<String>>>,
    waiting: Waiting,
}

/// Who waits for the answer to an IQ, by its id. All components' together: ejabberd sends what is for one of the components
/// of a listener by the stream of any of them, unless its option `global_routes` is off.
pub type Waiting = Arc<Mutex<HashMap<String, Waiter>>>;

/// Who waits for an answer.
pub struct Waiter {
    component: DomainPart,
    asked: Option<Jid>,
    answer: oneshot::Sender<Element>,
}

/// The component is not connected; it may be again in a moment.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not connected to the chat server")]
pub struct NotConnected(DomainPart);

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no connection")]
    Io(#[from] io::Error),
    #[error("no handshake within {} s", HANDSHAKE.as_secs())]
    NoHandshake,
    #[error("no TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the chat server sent no stream")]
    Stream(#[from] BadStream),
    #[error("the chat server ended the stream: {0}")]
    Told(String),
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

impl Component {
    pub fn new(name: DomainPart, secret: String, server: Server, functions: Functions, waiting: Waiting) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        Self { name, secret, server, functions, in_flight, outgoing: Mutex::default(), waiting }
    }

    /// Is connected, again and again, until it is stopped.
    pub async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut wait = FIRST_WAIT;
        loop {
            let connected = tokio::select! {
                connected = timeout(HANDSHAKE, self.connect()) => connected.unwrap_or(Err(Ended::NoHandshake)),
                _ = until(&mut stopped) => return,
            };
            let ended = match connected {
                Ok((connection, framer)) => {
                    tracing::info!(component = %self.name, server = %self.server, "connected");
                    wait = FIRST_WAIT;
                    self.serve(connection, framer, &mut stopped).await
                }
                Err(ended) => Err(ended),
            };
            match ended {
                Ok(()) => return,
                Err(error) => tracing::warn!(component = %self.name, server = %self.server, error = %Causes(&error),
                    "not connected"),
            }
            // Of several bridges, not all come at once.
            let jittered = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                _ = sleep(jittered) => {}
                _ = until(&mut stopped) => return,
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// Sends a stanza that has no answer.
    pub async fn send(&self, stanza: &Element) -> Result<(), NotConnected> {
        let not_connected = || NotConnected(self.name.clone());
        let outgoing = self.outgoing().ok_or_else(not_connected)?;
        outgoing.send(stanza.to_string()).await.map_err(|_| not_connected())
    }

    /// Sends an IQ, and gives the answer, unless none comes in time.
    pub async fn ask(&self, iq: &Iq, patience: Duration) -> Result<Option<Element>, NotConnected> {
        let id = Uuid::new_v4().simple().to_string();
        let asked = iq.to().and_then(|to| parse_jid(to).ok());
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(id.clone(), Waiter { component: self.name.clone(), asked, answer });
        let sent = self.send(&iq.element().clone().with_attribute("id", &id)).await;
        let answer = match sent {
            Ok(()) => Ok(timeout(patience, answered).await.ok().and_then(Result::ok)),
            Err(not_connected) => Err(not_connected),
        };
        self.waiting().remove(&id);
        answer
    }

    async fn connect(&self) -> Result<(Box<dyn Connection>, Framer), Ended> {
        let mut connection: Box<dyn Connection> = match &self.server {
            Server::Loopback(address) => Box::new(TcpStream::connect(address).await?),
            Server::Tls(host, port) => {
                let config = ClientConfig::with_platform_verifier().map_err(|error| Ended::Tls(error.into()))?;
                let name = ServerName::try_from(host.clone()).map_err(|error| Ended::Tls(error.into()))?;
                let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
            }
        };
        let name = &self.name;
        let header =
            format!("<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}' to='{name}'>");
        connection.write_all(header.as_bytes()).await?;
        let mut framer = Framer::default();
        loop {
            match read(&mut connection, &mut framer).await? {
                Frame::Start(id) => {
                    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{}", self.secret).as_bytes());
                    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                    connection.write_all(format!("<handshake>{digest}</handshake>").as_bytes()).await?;
                }
                Frame::Stanza(stanza) if stanza.is("handshake", COMPONENT) => return Ok((connection, framer)),
                Frame::Stanza(other) => return Err(Ended::Told(describe(&other))),
                Frame::End => return Err(Ended::Told("the end of the stream".into())),
            }
        }
    }

    /// Takes and sends stanzas; ends well only when it is stopped.
    async fn serve(
        self: &Arc<Self>,
        connection: Box<dyn Connection>,
        mut framer: Framer,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let (mut reader, mut writer) = tokio::io::split(connection);
        let (outgoing, mut to_send) = mpsc::channel(OUTGOING);
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = Some(outgoing.clone());
        let mut answers = JoinSet::new();
        let receiving = async {
            loop {
                match read(&mut reader, &mut framer).await? {
                    Frame::Stanza(stanza) if stanza.is("error", STREAMS) => return Err(Ended::Told(describe(&stanza))),
                    Frame::Stanza(stanza) => self.take(stanza, &outgoing, &mut answers),
                    Frame::Start(_) | Frame::End => return Err(Ended::Told("the end of the stream".into())),
                }
                while answers.try_join_next().is_some() {}
            }
        };
        let sending = async {
            loop {
                match timeout(KEEPALIVE, to_send.recv()).await {
                    Ok(Some(stanza)) => writer.write_all(stanza.as_bytes()).await?,
                    // The sender is held here.
                    Ok(None) => return Ok(()),
                    Err(_) => writer.write_all(b" ").await?,
                }
            }
        };
        let ended = {
            let (mut receiving, mut sending) = (pin!(receiving), pin!(sending));
            tokio::select! {
                ended = &mut receiving => ended,
                ended = &mut sending => ended,
                () = until(stopped) => Ok(()),
            }
        };
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Whoever waits for an answer of this connection waits in vain.
        self.waiting().retain(|_, waiter| waiter.component != self.name);
        if ended.is_ok() {
            let last = async {
                while answers.join_next().await.is_some() {}
                while let Ok(stanza) = to_send.try_recv() {
                    writer.write_all(stanza.as_bytes()).await?;
                }
                writer.write_all(b"</stream:stream>").await?;
                writer.shutdown().await
            };
            // The chat server may be gone.
            let _ = timeout(LAST_ANSWERS, last).await;
        }
        ended
    }

    fn take(self: &Arc<Self>, stanza: Element, outgoing: &mpsc::Sender<String>, answers: &mut JoinSet<()>) {
        let is_message = stanza.name() == "message";
        let iq = match Iq::from_element(stanza.clone()) {
            Ok(iq) if matches!(iq.kind(), IqType::Result | IqType::Error) => return self.resolve(&iq),
            Ok(iq) => Some(iq),
            Err(_) if is_message => None,
            Err(_) => return,
        };
        let permit = Arc::clone(&self.in_flight).try_acquire_owned();
        let (this, outgoing) = (Arc::clone(self), outgoing.clone());
        answers.spawn(async move {
            let answer = match (iq, permit) {
                (Some(iq), Ok(_permit)) => this.functions.answer(&iq).await,
                (Some(iq), Err(_)) => iq.error(Condition::ResourceConstraint, "there is no room, try again"),
                (None, Ok(_permit)) => return this.functions.tell(&stanza).await,
                (None, Err(_)) => return tracing::warn!(component = %this.name, "a message is lost: there is no room"),
            };
            // Without the connection there is nobody to be answered.
            let _ = outgoing.send(answer.to_string()).await;
        });
    }

    /// Gives an answer to who waits for it, if it is from whom was asked.
    fn resolve(&self, answer: &Iq) {
        let from = answer.from().and_then(|from| parse_jid(from).ok());
        let mut waiting = self.waiting();
        if waiting.get(answer.id()).is_some_and(|waiter| waiter.asked == from)
            && let Some(waiter) = waiting.remove(answer.id())
        {
            // Whoever asked may have given up.
            let _ = waiter.answer.send(answer.element().clone());
        }
    }

    fn outgoing(&self) -> Option<mpsc::Sender<String>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiter>> {
        // Each change is complete in itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(connection: &mut (impl AsyncRead + Unpin), framer: &mut Framer) -> Result<Frame, Ended> {
    let mut bytes = [0; 8192];
    loop {
        if let Some(frame) = framer.next()? {
            return Ok(frame);
        }
        match connection.read(&mut bytes).await? {
            0 => return Err(Ended::Told("the connection is closed".into())),
            length => framer.push(&bytes[..length]),
        }
    }
}

/// The condition and the text of a stream error.
fn describe(error: &Element) -> String {
    let parts = error.children().map(|child| match child.name() {
        "text" => child.text().into_owned(),
        condition => condition.to_owned(),
    });
    let described = parts.collect::<Vec<_>>().join(", ");
    if described.is_empty() { format!("<{}/>", error.name()) } else { described }
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // An error means that the bridge was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
