//! A component's stream cut into its stanzas (RFC 6120, section 4), however the bytes come.

use pushlark_xmpp::{Element, MAX_STANZA_BYTES};

/// The namespaces of a component's stream (XEP-0114), which its stanzas do not declare again.
const CONTEXT: &str = "<s xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'>";
/// The longest start tag or stanza that is waited for; a little more than one that can be parsed.
const MAX_FRAME_BYTES: usize = MAX_STANZA_BYTES + 1024;

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The stream's own start tag: its `id`.
    Start(String),
    /// A first-level element.
    Stanza(Element),
    /// The stream's own end tag.
    End,
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// A piece is longer than any stanza may be.
    #[error("a stanza has more than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// Not XML, or not as a stream has it.
    #[error("{0}")]
    Malformed(String),
}

/// Takes bytes and gives pieces.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// How many bytes of the buffer have been looked at.
    seen: usize,
    /// Where the first-level element begins that is being read.
    begin: usize,
    /// How many elements are open, the stream's included.
    depth: usize,
    state: State,
}

/// Where the byte that comes next is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// In a tag or declaration, since its `<` at this place.
    Tag(usize),
    /// In a quoted value of such a tag.
    Quoted(usize, u8),
    CData,
}

impl Framer {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, once all of it was received.
    pub fn next(&mut self) -> Result<Option<Frame>, BadStream> {
        while let Some(byte) = self.buffer.get(self.seen).copied() {
            self.seen += 1;
            match (self.state, byte) {
                (State::Text, b'<') => {
                    self.state = State::Tag(self.seen - 1);
                    if self.depth == 1 {
                        self.begin = self.seen - 1;
                    }
                }
                (State::Tag(start), b'[') if self.buffer[start..self.seen].ends_with(b"<![CDATA[") => {
                    self.state = State::CData;
                }
                (State::CData, b'>') if self.buffer[..self.seen].ends_with(b"]]>") => self.state = State::Text,
                (State::Tag(start), quote @ (b'"' | b'\'')) => self.state = State::Quoted(start, quote),
                (State::Quoted(start, quote), byte) if byte == quote => self.state = State::Tag(start),
                (State::Tag(start), b'>') => {
                    self.state = State::Text;
                    if let Some(frame) = self.tag(start)? {
                        return Ok(Some(frame));
                    }
                }
                _ => {}
            }
        }
        if self.depth == 1 && self.state == State::Text {
            // Between stanzas there is white space at most, which keeps a connection alive.
            self.discard();
        }
        if self.buffer.len() > MAX_FRAME_BYTES {
            return Err(BadStream::TooLarge);
        }
        Ok(None)
    }

    /// Looks at the tag that has just ended.
    fn tag(&mut self, start: usize) -> Result<Option<Frame>, BadStream> {
        let tag = &self.buffer[start..self.seen];
        if tag.starts_with(b"<?") || tag.starts_with(b"<!") {
            if self.depth > 0 {
                return Err(BadStream::Malformed("a declaration within the stream".into()));
            }
            self.discard();
            return Ok(None);
        }
        if tag.starts_with(b"</") {
            self.depth =
                self.depth.checked_sub(1).ok_or_else(|| BadStream::Malformed("an end without start".into()))?;
        } else if !tag.ends_with(b"/>") {
            self.depth += 1;
            if self.depth == 1 {
                let text = format!("{}</stream:stream>", text(tag)?);
                let stream = Element::parse(&text).map_err(malformed)?;
                self.discard();
                return Ok(Some(Frame::Start(stream.attribute("id").unwrap_or_default().into())));
            }
        }
        match self.depth {
            0 => {
                self.discard();
                Ok(Some(Frame::End))
            }
            1 => {
                let wrapped = format!("{CONTEXT}{}</s>", text(&self.buffer[self.begin..self.seen])?);
                self.discard();
                let stanza = Element::parse(&wrapped).map_err(malformed)?.children().next().cloned();
                stanza.map(|stanza| Some(Frame::Stanza(stanza))).ok_or_else(|| malformed("no element"))
            }
            _ => Ok(None),
        }
    }

    /// Forgets what was seen.
    fn discard(&mut self) {
        self.buffer.drain(..self.seen);
        self.seen = 0;
    }
}

fn text(bytes: &[u8]) -> Result<&str, BadStream> {
    std::str::from_utf8(bytes).map_err(malformed)
}

fn malformed(reason: impl ToString) -> BadStream {
    BadStream::Malformed(reason.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
        xmlns:stream='http://etherx.jabber.org/streams' id='1>8' from=\"push.localhost\"> <handshake/>\n\
        <iq type='set' id='a>\"b' from='x'><a b='/>'><![CDATA[<]]]>ü</a><c/></iq>\
        <stream:error><conflict xmlns='urn:x'/></stream:error></stream:stream>";

    fn read(chunks: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<Vec<Frame>, BadStream> {
        let (mut framer, mut frames) = (Framer::default(), Vec::new());
        for chunk in chunks {
            framer.push(chunk.as_ref());
            while let Some(frame) = framer.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn a_stream_is_cut_into_its_stanzas_wherever_its_bytes_are_cut() {
        let whole = read([STREAM].iter()).unwrap();
        let [Frame::Start(id), Frame::Stanza(handshake), Frame::Stanza(iq), Frame::Stanza(error), Frame::End] =
            whole.as_slice()
        else {
            unreachable!("{whole:?}")
        };
        assert_eq!(id, "1>8");
        assert!(handshake.is("handshake", "jabber:component:accept"));
        assert_eq!(iq.attribute("id"), Some("a>\"b"));
        assert_eq!(iq.children().next().unwrap().text(), "<]ü");
        assert!(error.is("error", "http://etherx.jabber.org/streams"));
        for at in 0..STREAM.len() {
            let (before, after) = STREAM.as_bytes().split_at(at);
            assert_eq!(read([before, after].iter()).unwrap(), whole, "{at}");
        }
        assert_eq!(read(STREAM.as_bytes().chunks(1)).unwrap(), whole);
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let start = "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'>";
        for bad in ["</a>", "<stream:stream>", &format!("{start}<!-- x -->"), &format!("{start}<a></b>")] {
            assert!(matches!(read([bad].iter()), Err(BadStream::Malformed(_))), "{bad}");
        }
        let large = format!("{start}<message><body>{}", "x".repeat(MAX_FRAME_BYTES));
        assert_eq!(read([large].iter()), Err(BadStream::TooLarge));
        let blank = format!("{start}{}<a/>", " ".repeat(2 * MAX_FRAME_BYTES));
        assert_eq!(read([blank].iter()).unwrap().len(), 2);
    }
}
