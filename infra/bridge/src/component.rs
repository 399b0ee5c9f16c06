//! One component of the chat server: its stream, what comes by it, and what waits for an answer.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{Condition, DomainPart, Element, Iq, IqType, Jid, ParseError, parse_jid};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
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
/// After how long without a stanza a space is sent, which tells whether the connection lives, …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and how long the chat server's machine may take to acknowledge what was sent: the system's own patience is a quarter of
/// an hour.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(45);
/// How long a stream lasts at least that another follows at once: ejabberd drops registrations while a component is away.
const LASTING: Duration = Duration::from_secs(10);
/// How long it is waited before another connection is tried: at first, …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … and at most: the chat server is near, and gives up registrations until it is there.
const LAST_WAIT: Duration = Duration::from_secs(5);
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
        // They outlast the stream: what came by it is still posted when the chat server has gone.
        let mut tasks = JoinSet::new();
        let mut wait = FIRST_WAIT;
        loop {
            let connected = tokio::select! {
                connected = timeout(HANDSHAKE, self.connect()) => connected.unwrap_or(Err(Ended::NoHandshake)),
                () = until(&mut stopped) => break,
            };
            let began = connected.is_ok().then(Instant::now);
            let ended = match connected {
                Ok((connection, framer)) => {
                    tracing::info!(component = %self.name, server = %self.server, "connected");
                    self.serve(connection, framer, &mut tasks, &mut stopped).await
                }
                Err(ended) => Err(ended),
            };
            match ended {
                Ok(()) => break,
                Err(error) => tracing::warn!(component = %self.name, server = %self.server, error = %Causes(&error),
                    "not connected"),
            }
            if began.is_some_and(|began| began.elapsed() >= LASTING) {
                wait = FIRST_WAIT;
                continue;
            }
            // Of several bridges, not all come at once.
            let jittered = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(jittered) => {}
                () = until(&mut stopped) => break,
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
        // After the time for the last answers they are given up.
        let _ = timeout(LAST_ANSWERS, all(&mut tasks)).await;
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
        let iq = iq.element().clone().with_attribute("id", &id);
        self.waiting().insert(id.clone(), Waiter { component: self.name.clone(), asked, answer });
        let _asking = Asking { component: self, id };
        let asking = async {
            self.send(&iq).await?;
            Ok(answered.await.ok())
        };
        timeout(patience, asking).await.unwrap_or(Ok(None))
    }

    async fn connect(&self) -> Result<(Box<dyn Connection>, Framer), Ended> {
        let mut connection: Box<dyn Connection> = match &self.server {
            Server::Loopback(address) => Box::new(tcp(address).await?),
            Server::Tls(host, port) => {
                let config = ClientConfig::with_platform_verifier().map_err(|error| Ended::Tls(error.into()))?;
                let name = ServerName::try_from(host.clone()).map_err(|error| Ended::Tls(error.into()))?;
                let tcp = tcp((host.as_str(), *port)).await?;
                Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
            }
        };
        let name = &self.name;
        let header =
            format!("<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}' to='{name}'>");
        write(&mut connection, &header).await?;
        let mut framer = Framer::default();
        loop {
            match read(&mut connection, &mut framer).await? {
                Frame::Start(id) => {
                    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{}", self.secret).as_bytes());
                    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                    write(&mut connection, &format!("<handshake>{digest}</handshake>")).await?;
                }
                Frame::Stanza(stanza) if stanza.is("handshake", COMPONENT) => return Ok((connection, framer)),
                Frame::Stanza(other) => return Err(Ended::Told(describe(&other))),
                Frame::Refused(..) => return Err(Ended::Told("what cannot be taken".into())),
                Frame::End => return Err(Ended::Told("the end of the stream".into())),
            }
        }
    }

    /// Takes and sends stanzas; ends well only when it is stopped.
    async fn serve(
        self: &Arc<Self>,
        connection: Box<dyn Connection>,
        mut framer: Framer,
        tasks: &mut JoinSet<()>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let (mut reader, writer) = tokio::io::split(connection);
        let (outgoing, to_send) = mpsc::channel(OUTGOING);
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = Some(outgoing.clone());
        let mut sending = pin!(send_all(writer, to_send));
        let receiving = async {
            loop {
                match read(&mut reader, &mut framer).await? {
                    Frame::Stanza(stanza) if stanza.is("error", STREAMS) => return Err(Ended::Told(describe(&stanza))),
                    Frame::Stanza(stanza) => self.take(stanza, &outgoing, tasks),
                    Frame::Refused(reason, stanza) => self.refuse(&reason, stanza, &outgoing),
                    Frame::Start(_) | Frame::End => return Err(Ended::Told("the end of the stream".into())),
                }
                while tasks.try_join_next().is_some() {}
            }
        };
        let ended = tokio::select! {
            ended = receiving => ended,
            ended = &mut sending => ended.map_err(Ended::from),
            () = until(stopped) => Ok(()),
        };
        *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Whoever waits for an answer of this connection waits in vain.
        self.waiting().retain(|_, waiter| waiter.component != self.name);
        if ended.is_ok() {
            let answered = async {
                all(tasks).await;
                // The last sender: with it gone, the stream is ended.
                drop(outgoing);
            };
            // The chat server may be gone.
            let _ = timeout(LAST_ANSWERS, async { tokio::join!(answered, sending) }).await;
        }
        ended
    }

    fn take(self: &Arc<Self>, stanza: Element, outgoing: &mpsc::Sender<String>, tasks: &mut JoinSet<()>) {
        let is_message = stanza.name() == "message";
        let iq = match Iq::from_element(stanza.clone()) {
            Ok(iq) if matches!(iq.kind(), IqType::Result | IqType::Error) => return self.resolve(&iq),
            Ok(iq) => Some(iq),
            Err(_) if is_message => None,
            Err(_) => return,
        };
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            return match iq {
                Some(iq) => self.try_later(&iq, "there is no room, try again", outgoing),
                None => tracing::warn!(component = %self.name, "a message is lost: there is no room"),
            };
        };
        let (this, outgoing) = (Arc::clone(self), outgoing.clone());
        tasks.spawn(async move {
            // Held until the answer is sent, which takes its time when the chat server does not read.
            let _permit = permit;
            match iq {
                Some(iq) => {
                    let answer = this.functions.answer(&iq).await;
                    // Without the connection there is nobody to be answered.
                    let _ = outgoing.send(answer.to_string()).await;
                }
                None => this.functions.tell(&stanza).await,
            }
        });
    }

    /// Passes over a stanza, of which there is the start tag at most.
    fn refuse(&self, reason: &ParseError, stanza: Option<Element>, outgoing: &mpsc::Sender<String>) {
        let reason = match reason {
            // What it says in detail may be of the stanza's content.
            ParseError::Malformed(_) => "malformed XML",
            limit => &limit.to_string(),
        };
        tracing::warn!(component = %self.name, reason, "a stanza is passed over");
        let iq = stanza.and_then(|stanza| Iq::from_element(stanza).ok());
        if let Some(iq) = iq.filter(|iq| matches!(iq.kind(), IqType::Get | IqType::Set)) {
            self.try_later(&iq, reason, outgoing);
        }
    }

    /// Answers an IQ without a wait, so that the answers' number is bounded.
    fn try_later(&self, iq: &Iq, text: &str, outgoing: &mpsc::Sender<String>) {
        if outgoing.try_send(iq.error(Condition::ResourceConstraint, text).to_string()).is_err() {
            tracing::warn!(component = %self.name, "an IQ is not answered: there is no room");
        }
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

/// Whoever asks; forgotten when dropped, since a caller of `/rest` may go before it is answered.
struct Asking<'a> {
    component: &'a Component,
    id: String,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.component.waiting().remove(&self.id);
    }
}

async fn tcp(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

async fn write(connection: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    connection.write_all(text.as_bytes()).await?;
    // TLS may keep what is written.
    connection.flush().await
}

/// Sends stanzas until there are no more senders, and then ends the stream.
async fn send_all(mut writer: impl AsyncWrite + Unpin, mut to_send: mpsc::Receiver<String>) -> io::Result<()> {
    loop {
        match timeout(KEEPALIVE, to_send.recv()).await {
            Ok(Some(stanza)) => write(&mut writer, &stanza).await?,
            Ok(None) => break,
            Err(_) => write(&mut writer, " ").await?,
        }
    }
    write(&mut writer, "</stream:stream>").await?;
    writer.shutdown().await
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

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // An error means that the bridge was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A component whose connection takes one stanza before the first is sent.
    fn connected() -> (Arc<Component>, mpsc::Sender<String>, mpsc::Receiver<String>) {
        let server = Server::Loopback("127.0.0.1:5347".parse().unwrap());
        let functions = Functions::new(None, None, None, PATIENCE).unwrap();
        let name = DomainPart::new("push.example.com").unwrap().into_owned();
        let component = Component::new(name, "test".into(), server, functions, Waiting::default());
        let (outgoing, sent) = mpsc::channel(1);
        *component.outgoing.lock().unwrap() = Some(outgoing.clone());
        (Arc::new(component), outgoing, sent)
    }

    fn iq() -> Iq {
        Iq::from_element(Element::parse("<iq type='get' id='1' from='a.b' to='push.example.com'/>").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn who_asks_and_goes_is_forgotten() {
        let (component, _outgoing, mut sent) = connected();
        let iq = iq();
        {
            let mut asking = pin!(component.ask(&iq, PATIENCE));
            tokio::select! {
                answer = &mut asking => unreachable!("{answer:?}"),
                _ = sent.recv() => {}
            }
            assert_eq!(component.waiting().len(), 1);
        }
        assert!(component.waiting().is_empty());
    }

    #[tokio::test]
    async fn who_cannot_be_sent_in_time_has_no_answer() {
        let (component, outgoing, _sent) = connected();
        outgoing.try_send("full".into()).unwrap();
        assert_eq!(component.ask(&iq(), Duration::from_millis(1)).await.unwrap(), None);
        assert!(component.waiting().is_empty());
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_makes_no_task() {
        let (component, outgoing, mut sent) = connected();
        let mut tasks = JoinSet::new();
        component.in_flight.close();
        for _ in 0..2 {
            component.take(iq().element().clone(), &outgoing, &mut tasks);
        }
        component.take(Element::parse("<message/>").unwrap(), &outgoing, &mut tasks);
        let answer = sent.try_recv().unwrap();
        assert!(answer.contains("<error type=\"wait\"><resource-constraint"), "{answer}");
        assert!(sent.is_empty() && tasks.is_empty());
    }

    #[tokio::test]
    async fn the_permit_is_held_until_the_answer_is_sent() {
        let (component, outgoing, mut sent) = connected();
        let mut tasks = JoinSet::new();
        outgoing.try_send("full".into()).unwrap();
        component.take(iq().element().clone(), &outgoing, &mut tasks);
        // Here it comes as far as it can.
        tokio::task::yield_now().await;
        assert!(tasks.try_join_next().is_none());
        assert_eq!(component.in_flight.available_permits(), IN_FLIGHT - 1);
        sent.recv().await.unwrap();
        tasks.join_next().await.unwrap().unwrap();
        assert_eq!(component.in_flight.available_permits(), IN_FLIGHT);
    }
}
