//! One component of the chat server: its stream, what comes by it, and what waits for an answer.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{Condition, DomainPart, Element, Iq, IqType, Jid, ParseError, parse_jid};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use uuid::Uuid;

use crate::framing::{BadStream, Frame, Framer};
use crate::functions::Functions;
use crate::messages::{Messages, Room};
use crate::settings::Server;

/// How many stanzas wait to be sent to the chat server.
const OUTGOING: usize = 256;
/// How long the stream is not read because the chat server does not read an answer.
const UNREAD: Duration = Duration::from_secs(10);
/// How long stanzas that have arrived are still taken when nothing can be sent any more.
const REMAINDER: Duration = Duration::from_secs(10);
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
    messages: Arc<Messages>,
    /// IQs have room of their own, so that no IQ waits behind messages.
    iqs: Room,
    connected: AtomicBool,
    outgoing: mpsc::Sender<Outgoing>,
    waiting: Waiting,
}

/// What a component sends.
enum Outgoing {
    /// An IQ that asks; it is not sent when nobody waits for the answer any more.
    Question { id: String, iq: String },
    /// Any other stanza.
    Stanza(String),
    /// The end of the stream.
    End,
}

/// What waits to be sent; it outlasts a stream.
pub struct Queue {
    outgoing: mpsc::Receiver<Outgoing>,
    /// What is not sent completely.
    unsent: Option<Outgoing>,
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

/// Why a stanza is not sent; another try may succeed in a moment.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// There is no stream.
    #[error("{0} is not connected to the chat server")]
    NotConnected(DomainPart),
    /// There is no place in the queue.
    #[error("the chat server does not read what {0} sends")]
    NotRead(DomainPart),
}

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
    /// A component, and what [`Component::run`] sends. Of messages, and again of IQs, `queue_bytes` wait for the functions.
    pub fn new(
        (name, secret): (DomainPart, String),
        server: Server,
        functions: Functions,
        messages: Messages,
        queue_bytes: u32,
        waiting: Waiting,
    ) -> (Arc<Self>, Queue) {
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        let component = Self {
            name,
            secret,
            server,
            functions,
            messages: Arc::new(messages),
            iqs: Room::new(queue_bytes),
            connected: AtomicBool::new(false),
            outgoing: sender,
            waiting,
        };
        (Arc::new(component), Queue { outgoing, unsent: None })
    }

    /// Is connected, again and again, until it is stopped.
    pub async fn run(self: Arc<Self>, queue: Queue, stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.stay_connected(queue, stopped) => {}
            () = self.messages.report() => {}
        }
        self.messages.close();
    }

    async fn stay_connected(self: &Arc<Self>, mut queue: Queue, mut stopped: watch::Receiver<bool>) {
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
                    self.serve(connection, framer, &mut queue, &mut tasks, &mut stopped).await
                }
                Err(ended) => Err(ended),
            };
            match ended {
                Ok(()) => return tasks.shutdown().await,
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
        tasks.shutdown().await;
    }

    /// Sends a stanza that has no answer.
    pub async fn send(&self, stanza: &Element, patience: Duration) -> Result<(), NotSent> {
        let sent = timeout(patience, self.enqueue(Outgoing::Stanza(stanza.to_string()))).await;
        sent.unwrap_or_else(|_| Err(NotSent::NotRead(self.name.clone())))
    }

    /// Sends an IQ, and gives the answer, unless none comes in time.
    pub async fn ask(&self, iq: &Iq, patience: Duration) -> Result<Option<Element>, NotSent> {
        let id = Uuid::new_v4().simple().to_string();
        let asked = iq.to().and_then(|to| parse_jid(to).ok());
        let (answer, answered) = oneshot::channel();
        let iq = iq.element().clone().with_attribute("id", &id).to_string();
        self.waiting().insert(id.clone(), Waiter { component: self.name.clone(), asked, answer });
        let _asking = Asking { component: self, id: id.clone() };
        let asking = async {
            self.enqueue(Outgoing::Question { id, iq }).await?;
            Ok(answered.await.ok())
        };
        timeout(patience, asking).await.unwrap_or(Ok(None))
    }

    async fn enqueue(&self, outgoing: Outgoing) -> Result<(), NotSent> {
        let not_connected = || NotSent::NotConnected(self.name.clone());
        if !self.connected.load(Ordering::Relaxed) {
            return Err(not_connected());
        }
        self.outgoing.send(outgoing).await.map_err(|_| not_connected())
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
        framer: Framer,
        queue: &mut Queue,
        tasks: &mut JoinSet<()>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let (reader, writer) = tokio::io::split(connection);
        self.connected.store(true, Ordering::Relaxed);
        let mut sending = pin!(self.send_all(writer, queue));
        let ended = {
            let mut receiving = pin!(self.receive(reader, framer, tasks));
            tokio::select! {
                ended = &mut receiving => ended,
                ended = &mut sending => {
                    self.connected.store(false, Ordering::Relaxed);
                    // What the chat server sent before is still there.
                    let _ = timeout(REMAINDER, receiving).await;
                    ended.map_err(Ended::from)
                }
                () = until(stopped) => Ok(()),
            }
        };
        self.connected.store(false, Ordering::Relaxed);
        // Whoever waits for an answer of this connection waits in vain.
        self.waiting().retain(|_, waiter| waiter.component != self.name);
        if ended.is_ok() {
            let answered = async {
                all(tasks).await;
                // The queue is not closed before the component is dropped.
                let _ = self.outgoing.send(Outgoing::End).await;
            };
            // The chat server may be gone.
            let _ = timeout(LAST_ANSWERS, async { tokio::join!(answered, sending) }).await;
        }
        ended
    }

    /// Takes stanzas, no faster than there is room for them.
    async fn receive(
        self: &Arc<Self>,
        mut reader: impl AsyncRead + Unpin,
        mut framer: Framer,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), Ended> {
        let mut patience = UNREAD;
        loop {
            let refused = match read(&mut reader, &mut framer).await? {
                Frame::Stanza(stanza) if stanza.is("error", STREAMS) => return Err(Ended::Told(describe(&stanza))),
                Frame::Stanza(stanza) if stanza.name() == "message" => {
                    self.messages.take(stanza, tasks).await;
                    None
                }
                Frame::Stanza(stanza) => self.take_iq(stanza, tasks),
                Frame::Refused(reason, stanza) => self.refuse(&reason, stanza),
                Frame::Start(_) | Frame::End => return Err(Ended::Told("the end of the stream".into())),
            };
            if let Some(answer) = refused {
                let sent = timeout(patience, self.outgoing.send(Outgoing::Stanza(answer.to_string()))).await;
                if sent.is_err() {
                    tracing::warn!(component = %self.name, "an IQ is not answered: the chat server does not read");
                }
                patience = if sent.is_ok() { UNREAD } else { Duration::ZERO };
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Takes an IQ, and gives the answer to one that finds no room.
    fn take_iq(self: &Arc<Self>, stanza: Element, tasks: &mut JoinSet<()>) -> Option<Element> {
        let iq = Iq::from_element(stanza).ok()?;
        if matches!(iq.kind(), IqType::Result | IqType::Error) {
            self.resolve(&iq);
            return None;
        }
        let text = iq.element().to_string();
        // While the IQ waits, its content is kept as text alone, which is much smaller.
        let iq = Iq::from_element(iq.element().clone().without_children(|_| true)).ok()?;
        let Some(room) = self.iqs.try_take(&text) else {
            return Some(iq.error(Condition::ResourceConstraint, "too many requests wait, try again"));
        };
        let this = Arc::clone(self);
        tasks.spawn(async move {
            let answer = this.functions.answer(&iq, &text).await;
            // By the next stream if this one has ended. The queue is not closed before the component is dropped.
            let _ = this.outgoing.send(Outgoing::Stanza(answer.to_string())).await;
            drop(room);
        });
        None
    }

    /// Passes over a stanza, of which there is the start tag at most, and gives the answer to an IQ.
    fn refuse(&self, reason: &ParseError, stanza: Option<Element>) -> Option<Element> {
        let reason = match reason {
            // What it says in detail may be of the stanza's content.
            ParseError::Malformed(_) => "malformed XML",
            limit => &limit.to_string(),
        };
        tracing::warn!(component = %self.name, reason, "a stanza is passed over");
        let iq = stanza.and_then(|stanza| Iq::from_element(stanza).ok());
        let iq = iq.filter(|iq| matches!(iq.kind(), IqType::Get | IqType::Set))?;
        Some(iq.error(Condition::ResourceConstraint, reason))
    }

    /// Sends stanzas until there is an end, and then ends the stream.
    async fn send_all(&self, mut writer: impl AsyncWrite + Unpin, queue: &mut Queue) -> io::Result<()> {
        loop {
            if queue.unsent.is_none() {
                match timeout(KEEPALIVE, queue.outgoing.recv()).await {
                    Ok(next) => queue.unsent = next,
                    Err(_) => {
                        write(&mut writer, " ").await?;
                        continue;
                    }
                }
            }
            match &queue.unsent {
                Some(Outgoing::Question { id, .. }) if !self.waiting().contains_key(id) => {}
                Some(Outgoing::Question { iq: stanza, .. } | Outgoing::Stanza(stanza)) => {
                    write(&mut writer, stanza).await?;
                }
                Some(Outgoing::End) | None => break,
            }
            queue.unsent = None;
        }
        write(&mut writer, "</stream:stream>").await?;
        writer.shutdown().await
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

    /// A component that is connected, with room for one IQ.
    fn connected() -> (Arc<Component>, Queue) {
        let server = Server::Loopback("127.0.0.1:5347".parse().unwrap());
        let functions = Functions::new(None, None, None, PATIENCE).unwrap();
        let name = DomainPart::new("push.example.com").unwrap().into_owned();
        let (_, stopped) = watch::channel(false);
        let messages = Messages::new(name.clone(), functions.clone(), 1, PATIENCE, stopped);
        let (component, queue) =
            Component::new((name, "test".into()), server, functions, messages, 1, Waiting::default());
        component.connected.store(true, Ordering::Relaxed);
        (component, queue)
    }

    fn iq() -> Iq {
        Iq::from_element(Element::parse("<iq type='get' id='1' from='a.b' to='push.example.com'/>").unwrap()).unwrap()
    }

    async fn fill(component: &Component) {
        for _ in 0..OUTGOING {
            component.outgoing.send(Outgoing::Stanza("<full/>".into())).await.unwrap();
        }
    }

    fn text(outgoing: Option<Outgoing>) -> String {
        match outgoing {
            Some(Outgoing::Question { iq: text, .. } | Outgoing::Stanza(text)) => text,
            Some(Outgoing::End) | None => String::new(),
        }
    }

    #[tokio::test]
    async fn who_asks_and_goes_is_forgotten_and_not_asked_for() {
        let (component, mut queue) = connected();
        let iq = iq();
        {
            let mut asking = pin!(component.ask(&iq, PATIENCE));
            let asked = async {
                while component.outgoing.capacity() == OUTGOING {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                answer = &mut asking => unreachable!("{answer:?}"),
                () = asked => {}
            }
            assert_eq!(component.waiting().len(), 1);
        }
        assert!(component.waiting().is_empty());
        component.outgoing.send(Outgoing::End).await.unwrap();
        let mut sent = Vec::new();
        component.send_all(&mut sent, &mut queue).await.unwrap();
        assert_eq!(String::from_utf8(sent).unwrap(), "</stream:stream>");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_sent_in_time_is_told_so() {
        let (component, _queue) = connected();
        fill(&component).await;
        assert!(component.ask(&iq(), PATIENCE).await.unwrap().is_none());
        assert!(component.waiting().is_empty());
        let unsent = component.send(iq().element(), PATIENCE).await.unwrap_err();
        assert!(matches!(unsent, NotSent::NotRead(_)), "{unsent}");
        component.connected.store(false, Ordering::Relaxed);
        let unsent = component.send(iq().element(), PATIENCE).await.unwrap_err();
        assert!(matches!(unsent, NotSent::NotConnected(_)), "{unsent}");
    }

    #[tokio::test]
    async fn an_iq_without_room_is_answered_all_the_same() {
        let (component, mut queue) = connected();
        fill(&component).await;
        let mut tasks = JoinSet::new();
        assert_eq!(component.take_iq(iq().element().clone(), &mut tasks), None);
        // The room is held until the answer has a place in the queue.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let refused = component.take_iq(iq().element().clone(), &mut tasks).unwrap().to_string();
        assert!(
            refused.contains("<error type=\"wait\"><resource-constraint") && refused.contains("id=\"1\""),
            "{refused}"
        );
        queue.outgoing.recv().await.unwrap();
        tasks.join_next().await.unwrap().unwrap();
        assert!(tasks.is_empty());
        assert_eq!(component.take_iq(iq().element().clone(), &mut tasks), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chat_server_that_does_not_read_holds_up_the_stream_only_once() {
        let (component, _queue) = connected();
        fill(&component).await;
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let refused = format!("<iq type='get' id='1' from='a.b'>{}</iq>", "<a>".repeat(100) + &"</a>".repeat(100));
        let stream = format!("<stream:stream xmlns:stream='{STREAMS}'>");
        let mut framer = Framer::default();
        framer.push(stream.as_bytes());
        framer.next().unwrap();
        theirs.write_all(refused.repeat(3).as_bytes()).await.unwrap();
        drop(theirs);
        let began = Instant::now();
        component.receive(ours, framer, &mut JoinSet::new()).await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), UNREAD.as_secs());
    }

    #[tokio::test]
    async fn what_is_not_sent_completely_is_sent_by_the_next_stream() {
        let (component, mut queue) = connected();
        component.outgoing.send(Outgoing::Stanza("<first/>".into())).await.unwrap();
        component.outgoing.send(Outgoing::End).await.unwrap();
        let (broken, _) = tokio::io::duplex(1);
        component.send_all(broken, &mut queue).await.unwrap_err();
        let mut sent = Vec::new();
        component.send_all(&mut sent, &mut queue).await.unwrap();
        assert_eq!(String::from_utf8(sent).unwrap(), "<first/></stream:stream>");
        assert_eq!(text(queue.unsent), "");
    }
}
