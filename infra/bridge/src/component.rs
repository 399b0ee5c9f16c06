//! A component of the chat server: its stream, and the stanzas in both directions.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pushlark_telemetry::Causes;
use pushlark_xmpp::{Condition, DomainPart, Element, Iq, IqType, ParseError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::framing::{Frame, Framer};
use crate::functions::FunctionsClient;
use crate::messages::{ByteBudget, Messages};
use crate::pending::PendingIqs;
use crate::settings::ServerAddress;
use crate::stream::{STREAMS, StreamConnection, StreamError, describe, open, read, write};

/// The most stanzas that wait to be sent to the chat server.
const OUTGOING_STANZAS: usize = 256;
/// The time for which the stream is not read while the queue of outgoing stanzas is full.
const OUTGOING_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which received stanzas are still read after a failed send.
const REMAINDER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time without a stanza, a space is sent to detect a dead connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// After a stream that lasted this long, the component reconnects at once: ejabberd drops registrations while a
/// component is away.
const STABLE_STREAM: Duration = Duration::from_secs(10);
/// The first delay before the component reconnects; it doubles with each try.
const FIRST_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The longest delay. It is short because the chat server is near and drops registrations in the meantime.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);
/// The time that the functions have for the last answers when the bridge stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A component (XEP-0114): one domain, and its stream to the chat server.
pub struct Component {
    /// The component's domain.
    pub name: DomainPart,
    secret: String,
    server: ServerAddress,
    functions: FunctionsClient,
    messages: Arc<Messages>,
    /// IQs have a separate budget, so that no IQ waits behind messages.
    iqs: ByteBudget,
    connected: AtomicBool,
    outgoing: mpsc::Sender<Outgoing>,
    pending: PendingIqs,
}

/// An item of the queue to the chat server.
enum Outgoing {
    /// An IQ of type get or set. It is sent only while it is pending.
    Request { id: String, iq: String },
    /// Any other stanza.
    Stanza(String),
    /// The end of the stream.
    End,
}

/// The stanzas that wait to be sent to the chat server. The queue outlasts a stream.
pub struct SendQueue {
    outgoing: mpsc::Receiver<Outgoing>,
    /// The stanza that an earlier stream did not send completely.
    unsent: Option<Outgoing>,
}

/// A stanza that is not sent. A retry may succeed in a moment.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no stream.
    #[error("{0} is not connected to the chat server")]
    NotConnected(DomainPart),
    /// The queue is full.
    #[error("the chat server does not read the stream of {0}")]
    NotRead(DomainPart),
}

impl Component {
    /// Returns a component, and the queue for [`Component::run`]. At most `queue_bytes` of messages, and again of IQs,
    /// wait for the functions.
    pub fn new(
        (name, secret): (DomainPart, String),
        server: ServerAddress,
        functions: FunctionsClient,
        messages: Messages,
        queue_bytes: u32,
        pending: PendingIqs,
    ) -> (Arc<Self>, SendQueue) {
        let (sender, outgoing) = mpsc::channel(OUTGOING_STANZAS);
        let component = Self {
            name,
            secret,
            server,
            functions,
            messages: Arc::new(messages),
            iqs: ByteBudget::new(queue_bytes),
            connected: AtomicBool::new(false),
            outgoing: sender,
            pending,
        };
        (Arc::new(component), SendQueue { outgoing, unsent: None })
    }

    /// Connects, and reconnects with backoff, until the bridge stops.
    pub async fn run(self: Arc<Self>, queue: SendQueue, stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.stay_connected(queue, stopped) => {}
            () = self.messages.report() => {}
        }
        self.messages.close();
    }

    async fn stay_connected(self: &Arc<Self>, mut queue: SendQueue, mut stopped: watch::Receiver<bool>) {
        // The tasks outlast the stream: a stanza is still posted after the chat server has disconnected.
        let mut tasks = JoinSet::new();
        let mut delay = FIRST_RECONNECT_DELAY;
        loop {
            let opened = tokio::select! {
                opened = open(&self.server, &self.name, &self.secret) => opened,
                () = until(&mut stopped) => break,
            };
            let began = opened.is_ok().then(Instant::now);
            let ended = match opened {
                Ok((connection, framer)) => {
                    tracing::info!(component = %self.name, server = %self.server, "connected");
                    self.serve(connection, framer, &mut queue, &mut tasks, &mut stopped).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return tasks.shutdown().await,
                Err(error) => tracing::warn!(component = %self.name, server = %self.server, error = %Causes(&error),
                    "not connected"),
            }
            if began.is_some_and(|began| began.elapsed() >= STABLE_STREAM) {
                delay = FIRST_RECONNECT_DELAY;
                continue;
            }
            // Jitter, so that several bridges do not reconnect at the same moment.
            let jittered = delay.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(jittered) => {}
                () = until(&mut stopped) => break,
            }
            delay = (delay * 2).min(MAX_RECONNECT_DELAY);
        }
        // Tasks that take longer are aborted.
        let _ = timeout(DRAIN_TIMEOUT, join_all(&mut tasks)).await;
        tasks.shutdown().await;
    }

    /// Queues a stanza that has no answer; fails if the queue is full for `longest`.
    pub async fn send(&self, stanza: &Element, longest: Duration) -> Result<(), SendError> {
        let sent = timeout(longest, self.enqueue(Outgoing::Stanza(stanza.to_string()))).await;
        sent.unwrap_or_else(|_| Err(SendError::NotRead(self.name.clone())))
    }

    /// Sends an IQ, and returns the answer; `None` if there is none within `longest`.
    pub async fn ask(&self, iq: &Iq, longest: Duration) -> Result<Option<Element>, SendError> {
        let id = Uuid::new_v4().simple().to_string();
        let (_guard, answered) = self.pending.add(id.clone(), self.name.clone(), iq);
        let iq = iq.element().clone().with_attribute("id", &id).to_string();
        let asking = async {
            self.enqueue(Outgoing::Request { id, iq }).await?;
            Ok(answered.await.ok())
        };
        timeout(longest, asking).await.unwrap_or(Ok(None))
    }

    async fn enqueue(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let not_connected = || SendError::NotConnected(self.name.clone());
        if !self.connected.load(Ordering::Relaxed) {
            return Err(not_connected());
        }
        self.outgoing.send(outgoing).await.map_err(|_| not_connected())
    }

    /// Reads and sends stanzas. Returns `Ok` only when the bridge stops.
    async fn serve(
        self: &Arc<Self>,
        connection: Box<dyn StreamConnection>,
        framer: Framer,
        queue: &mut SendQueue,
        tasks: &mut JoinSet<()>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), StreamError> {
        let (reader, writer) = tokio::io::split(connection);
        self.connected.store(true, Ordering::Relaxed);
        let mut sending = pin!(self.send_all(writer, queue));
        let ended = {
            let mut receiving = pin!(self.receive(reader, framer, tasks));
            tokio::select! {
                ended = &mut receiving => ended,
                ended = &mut sending => {
                    self.connected.store(false, Ordering::Relaxed);
                    // Stanzas that the chat server sent before can still be read.
                    let _ = timeout(REMAINDER_TIMEOUT, receiving).await;
                    ended.map_err(StreamError::from)
                }
                () = until(stopped) => Ok(()),
            }
        };
        self.connected.store(false, Ordering::Relaxed);
        self.pending.remove_component(&self.name);
        if ended.is_ok() {
            let answered = async {
                join_all(tasks).await;
                // The queue is not closed before the component is dropped.
                let _ = self.outgoing.send(Outgoing::End).await;
            };
            // The chat server may be gone.
            let _ = timeout(DRAIN_TIMEOUT, async { tokio::join!(answered, sending) }).await;
        }
        ended
    }

    /// Reads stanzas, no faster than there is room for them.
    async fn receive(
        self: &Arc<Self>,
        mut reader: impl AsyncRead + Unpin,
        mut framer: Framer,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), StreamError> {
        let mut longest = OUTGOING_TIMEOUT;
        loop {
            let error = match read(&mut reader, &mut framer).await? {
                Frame::Stanza(stanza) if stanza.is("error", STREAMS) => {
                    return Err(StreamError::Ended(describe(&stanza)));
                }
                Frame::Stanza(stanza) if stanza.name() == "message" => {
                    self.messages.take(stanza, tasks).await;
                    None
                }
                Frame::Stanza(stanza) => self.take_iq(stanza, tasks),
                Frame::Refused(reason, stanza) => self.refuse(&reason, stanza),
                Frame::Start(_) | Frame::End => return Err(StreamError::Ended("end of the stream".into())),
            };
            if let Some(error) = error {
                let sent = timeout(longest, self.outgoing.send(Outgoing::Stanza(error.to_string()))).await;
                if sent.is_err() {
                    tracing::warn!(component = %self.name, "an IQ is not answered: the chat server does not read");
                }
                longest = if sent.is_ok() { OUTGOING_TIMEOUT } else { Duration::ZERO };
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Takes an IQ from the stream. Returns the error for an IQ that finds no room.
    fn take_iq(self: &Arc<Self>, stanza: Element, tasks: &mut JoinSet<()>) -> Option<Element> {
        let iq = Iq::from_element(stanza).ok()?;
        if matches!(iq.kind(), IqType::Result | IqType::Error) {
            self.pending.resolve(&iq);
            return None;
        }
        let text = iq.element().to_string();
        // While the IQ waits, its content is kept only as text, which is much smaller.
        let iq = Iq::from_element(iq.element().clone().without_children(|_| true)).ok()?;
        let Some(room) = self.iqs.try_take(&text) else {
            return Some(iq.error(Condition::ResourceConstraint, "too many requests are waiting, try again later"));
        };
        let this = Arc::clone(self);
        tasks.spawn(async move {
            let answer = this.functions.answer(&iq, &text).await;
            // If this stream has ended, the next one sends it. The queue is not closed before the component is dropped.
            let _ = this.outgoing.send(Outgoing::Stanza(answer.to_string())).await;
            drop(room);
        });
        None
    }

    /// Skips a stanza of which at most the start tag was read. Returns the error if it is an IQ of type get or set.
    fn refuse(&self, reason: &ParseError, stanza: Option<Element>) -> Option<Element> {
        let reason = match reason {
            // The parser's text may quote the stanza's content.
            ParseError::Malformed(_) => "malformed XML",
            limit => &limit.to_string(),
        };
        tracing::warn!(component = %self.name, reason, "a stanza is skipped");
        let iq = stanza.and_then(|stanza| Iq::from_element(stanza).ok());
        let iq = iq.filter(|iq| matches!(iq.kind(), IqType::Get | IqType::Set))?;
        Some(iq.error(Condition::ResourceConstraint, reason))
    }

    /// Sends stanzas until [`Outgoing::End`], and then ends the stream.
    async fn send_all(&self, mut writer: impl AsyncWrite + Unpin, queue: &mut SendQueue) -> io::Result<()> {
        loop {
            if queue.unsent.is_none() {
                match timeout(KEEPALIVE_INTERVAL, queue.outgoing.recv()).await {
                    Ok(next) => queue.unsent = next,
                    Err(_) => {
                        write(&mut writer, " ").await?;
                        continue;
                    }
                }
            }
            match &queue.unsent {
                Some(Outgoing::Request { id, .. }) if !self.pending.contains(id) => {}
                Some(Outgoing::Request { iq: stanza, .. } | Outgoing::Stanza(stanza)) => {
                    write(&mut writer, stanza).await?;
                }
                Some(Outgoing::End) | None => break,
            }
            queue.unsent = None;
        }
        write(&mut writer, "</stream:stream>").await?;
        writer.shutdown().await
    }
}

async fn join_all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // An error means that the bridge was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_http_client::Tls;

    use super::*;

    const IQ_TIMEOUT: Duration = Duration::from_secs(20);

    /// A connected component with room for one IQ.
    fn connected() -> (Arc<Component>, SendQueue) {
        let server = ServerAddress::Loopback("127.0.0.1:5347".parse().unwrap());
        let functions = FunctionsClient::new(None, None, None, &Tls::default(), IQ_TIMEOUT).unwrap();
        let name = DomainPart::new("push.example.com").unwrap().into_owned();
        let (_, stopped) = watch::channel(false);
        let messages = Messages::new(name.clone(), functions.clone(), 1, IQ_TIMEOUT, stopped);
        let (component, queue) =
            Component::new((name, "test".into()), server, functions, messages, 1, PendingIqs::default());
        component.connected.store(true, Ordering::Relaxed);
        (component, queue)
    }

    fn iq() -> Iq {
        Iq::from_element(Element::parse("<iq type='get' id='1' from='a.b' to='push.example.com'/>").unwrap()).unwrap()
    }

    async fn fill(component: &Component) {
        for _ in 0..OUTGOING_STANZAS {
            component.outgoing.send(Outgoing::Stanza("<full/>".into())).await.unwrap();
        }
    }

    fn text(outgoing: Option<Outgoing>) -> String {
        match outgoing {
            Some(Outgoing::Request { iq: text, .. } | Outgoing::Stanza(text)) => text,
            Some(Outgoing::End) | None => String::new(),
        }
    }

    #[tokio::test]
    async fn an_iq_whose_caller_has_left_is_not_sent() {
        let (component, mut queue) = connected();
        let iq = iq();
        {
            let mut asking = pin!(component.ask(&iq, IQ_TIMEOUT));
            let asked = async {
                while component.outgoing.capacity() == OUTGOING_STANZAS {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                answer = &mut asking => unreachable!("{answer:?}"),
                () = asked => {}
            }
            assert_eq!(component.pending.len(), 1);
        }
        assert_eq!(component.pending.len(), 0);
        component.outgoing.send(Outgoing::End).await.unwrap();
        let mut sent = Vec::new();
        component.send_all(&mut sent, &mut queue).await.unwrap();
        assert_eq!(String::from_utf8(sent).unwrap(), "</stream:stream>");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stanza_that_cannot_be_sent_in_time_is_an_error() {
        let (component, _queue) = connected();
        fill(&component).await;
        assert!(component.ask(&iq(), IQ_TIMEOUT).await.unwrap().is_none());
        assert_eq!(component.pending.len(), 0);
        let unsent = component.send(iq().element(), IQ_TIMEOUT).await.unwrap_err();
        assert!(matches!(unsent, SendError::NotRead(_)), "{unsent}");
        component.connected.store(false, Ordering::Relaxed);
        let unsent = component.send(iq().element(), IQ_TIMEOUT).await.unwrap_err();
        assert!(matches!(unsent, SendError::NotConnected(_)), "{unsent}");
    }

    #[tokio::test]
    async fn an_iq_without_room_is_answered_with_an_error() {
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
    async fn a_chat_server_that_does_not_read_delays_the_stream_only_once() {
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
        assert_eq!(began.elapsed().as_secs(), OUTGOING_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn a_stanza_that_is_not_sent_completely_is_sent_by_the_next_stream() {
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
