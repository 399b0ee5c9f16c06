//! The chat server's end of a component's stream.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::TEST_TIMEOUT;

/// SHA-1 of the stream's id and "test" (XEP-0114, section 3).
pub const DIGEST: &str = "aaee83c26aeeafcbabeabfcbcd50df997e0a2a1e";

/// The stream of a component after its handshake.
pub struct ServerStream(pub BufReader<TcpStream>);

impl ServerStream {
    /// Accepts the component `name`. Returns after the handshake.
    pub async fn accept(listener: &TcpListener, name: &str, digest: &str) -> Self {
        let (accepted, stream) = Self::accept_any(listener, digest).await;
        assert_eq!(accepted, name);
        stream
    }

    pub async fn accept_any(listener: &TcpListener, digest: &str) -> (String, Self) {
        let (stream, _) = timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap();
        let mut stream = Self(BufReader::new(stream));
        let header = stream.read_to("'>").await;
        assert!(header.contains("jabber:component:accept"), "{header}");
        let name = header.split("to='").nth(1).unwrap().trim_end_matches("'>").to_owned();
        stream.write("<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' id='3BF96D32'>").await;
        assert_eq!(stream.read_to("</handshake>").await, format!("<handshake>{digest}</handshake>"));
        stream.write("<handshake/>").await;
        (name, stream)
    }

    pub async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until the text ends with `end`.
    pub async fn read_to(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let read = self.0.read_until(b'>', &mut text);
            assert!(timeout(TEST_TIMEOUT, read).await.unwrap().unwrap() > 0, "{}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).unwrap()
    }
}
