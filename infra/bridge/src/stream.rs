//! The XML stream of a component (XEP-0114): connection, handshake, reading and writing.

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use pushlark_xmpp::{DomainPart, Element};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::framing::{Frame, Framer, FramingError};
use crate::settings::ServerAddress;

/// The timeout for the connection and its handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that the chat server's machine has to acknowledge sent data. The system's default is about 15 minutes.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(45);

/// The namespace of stream elements (RFC 6120, section 4.8.1).
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
const COMPONENT: &str = "jabber:component:accept";

/// The reason for which a stream could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("no connection")]
    Io(#[from] io::Error),
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    NoHandshake,
    #[error("no TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the chat server did not send an XMPP stream")]
    Framing(#[from] FramingError),
    /// The condition and text of a stream error (RFC 6120, section 4.9), or how else it ended.
    #[error("the chat server ended the stream: {0}")]
    Ended(String),
}

pub trait StreamConnection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<C: AsyncRead + AsyncWrite + Send + Unpin> StreamConnection for C {}

/// Connects, and authenticates as the component `name`. The framer holds the data that came after the handshake.
pub async fn open(
    server: &ServerAddress,
    name: &DomainPart,
    secret: &str,
) -> Result<(Box<dyn StreamConnection>, Framer), StreamError> {
    timeout(HANDSHAKE_TIMEOUT, handshake(server, name, secret)).await.unwrap_or(Err(StreamError::NoHandshake))
}

async fn handshake(
    server: &ServerAddress,
    name: &DomainPart,
    secret: &str,
) -> Result<(Box<dyn StreamConnection>, Framer), StreamError> {
    let mut connection: Box<dyn StreamConnection> = match server {
        ServerAddress::Loopback(address) => Box::new(tcp(address).await?),
        ServerAddress::Tls(host, port, tls) => {
            let name = ServerName::try_from(host.clone()).map_err(|error| StreamError::Tls(error.into()))?;
            let tcp = tcp((host.as_str(), *port)).await?;
            Box::new(TlsConnector::from(tls.config()).connect(name, tcp).await?)
        }
    };
    let header =
        format!("<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}' to='{name}'>");
    write(&mut connection, &header).await?;
    let mut framer = Framer::default();
    loop {
        match read(&mut connection, &mut framer).await? {
            Frame::Start(id) => {
                let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{secret}").as_bytes());
                let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                write(&mut connection, &format!("<handshake>{digest}</handshake>")).await?;
            }
            Frame::Stanza(stanza) if stanza.is("handshake", COMPONENT) => return Ok((connection, framer)),
            Frame::Stanza(other) => return Err(StreamError::Ended(describe(&other))),
            Frame::Refused(..) => return Err(StreamError::Ended("an invalid element instead of a handshake".into())),
            Frame::End => return Err(StreamError::Ended("end of the stream".into())),
        }
    }
}

async fn tcp(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(stream)
}

pub async fn write(connection: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    connection.write_all(text.as_bytes()).await?;
    // TLS may buffer written data.
    connection.flush().await
}

/// Returns the next frame. The end of the connection is an error.
pub async fn read(connection: &mut (impl AsyncRead + Unpin), framer: &mut Framer) -> Result<Frame, StreamError> {
    let mut bytes = [0; 8192];
    loop {
        if let Some(frame) = framer.next()? {
            return Ok(frame);
        }
        match connection.read(&mut bytes).await? {
            0 => return Err(StreamError::Ended("the connection is closed".into())),
            length => framer.push(&bytes[..length]),
        }
    }
}

/// The condition and the text of a stream error.
pub fn describe(error: &Element) -> String {
    let parts = error.children().map(|child| match child.name() {
        "text" => child.text().into_owned(),
        condition => condition.to_owned(),
    });
    let described = parts.collect::<Vec<_>>().join(", ");
    if described.is_empty() { format!("<{}/>", error.name()) } else { described }
}
