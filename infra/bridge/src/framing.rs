//! Splits the bytes of a component's stream into stanzas (RFC 6120, section 4).

use pushlark_xmpp::{Element, MAX_STANZA_BYTES, ParseError};

/// The namespaces of a component's stream (XEP-0114), which its stanzas do not declare again.
const CONTEXT: &str = "<s xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'>";
/// The longest start tag or stanza that is buffered: slightly longer than the longest that can be parsed.
const MAX_FRAME_BYTES: usize = MAX_STANZA_BYTES + 1024;

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The start tag of the stream: its `id`.
    Start(String),
    /// A first-level element.
    Stanza(Element),
    /// A first-level element that cannot be parsed: the reason, and the element without its content if its start tag
    /// can be parsed. Chat servers forward the stanzas of their users, so the stream continues.
    Refused(ParseError, Option<Element>),
    /// The end tag of the stream.
    End,
}

/// A stream that cannot continue. The bridge closes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The start tag of the stream is longer than [`MAX_FRAME_BYTES`].
    #[error("the start tag of the stream has more than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// Not XML, or not a valid stream.
    #[error("{0}")]
    Malformed(String),
}

/// Takes bytes and returns frames.
#[derive(Debug, Default)]
pub struct Framer {
    /// The bytes received since the last frame.
    buffer: Vec<u8>,
    /// The number of bytes of the buffer that have been scanned.
    seen: usize,
    /// The length of the current stanza's start tag, once the tag is complete.
    start_tag: usize,
    /// The number of bytes of the current stanza that were dropped because it is too long.
    skipped: usize,
    /// The number of open elements, including the stream.
    depth: usize,
    state: ScanState,
}

/// The syntactic context of the next byte.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ScanState {
    #[default]
    Text,
    /// After a `<`.
    Open,
    /// After a `<!`.
    Bang,
    Tag(Tag),
    /// In a quoted attribute value.
    Quoted(Tag, u8),
    /// In a CDATA section, after this many `]` (at most 2).
    CData(u8),
}

/// The kind of a tag, as far as it has been scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Start,
    /// A start tag after `/`: an empty element if `>` follows.
    Empty,
    End,
    Declaration,
}

impl Framer {
    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next frame, or `None` until all of it has been received.
    pub fn next(&mut self) -> Result<Option<Frame>, FramingError> {
        while let Some(byte) = self.buffer.get(self.seen).copied() {
            self.seen += 1;
            self.state = match (self.state, byte) {
                (ScanState::Text, b'<') => {
                    if self.depth <= 1 {
                        self.begin();
                    }
                    ScanState::Open
                }
                (ScanState::Open, b'/') => ScanState::Tag(Tag::End),
                (ScanState::Open, b'!') => ScanState::Bang,
                (ScanState::Bang, b'[') => ScanState::CData(0),
                (ScanState::Bang, _) | (ScanState::Open, b'?') if self.depth > 0 => {
                    return Err(malformed("a declaration within the stream"));
                }
                (ScanState::Bang, _) | (ScanState::Open, b'?') => ScanState::Tag(Tag::Declaration),
                (ScanState::CData(2), b'>') => ScanState::Text,
                (ScanState::CData(brackets), b']') => ScanState::CData(2.min(brackets + 1)),
                (ScanState::CData(_), _) => ScanState::CData(0),
                (ScanState::Tag(tag), quote @ (b'"' | b'\'')) => ScanState::Quoted(tag, quote),
                (ScanState::Quoted(tag, quote), byte) if byte == quote => ScanState::Tag(tag),
                (ScanState::Tag(Tag::Start), b'/') => ScanState::Tag(Tag::Empty),
                (ScanState::Tag(tag), b'>') => {
                    self.state = ScanState::Text;
                    if let Some(frame) = self.tag(tag)? {
                        return Ok(Some(frame));
                    }
                    continue;
                }
                (ScanState::Open | ScanState::Tag(Tag::Empty), _) => ScanState::Tag(Tag::Start),
                (state, _) => state,
            };
        }
        if self.depth == 1 && self.state == ScanState::Text {
            // Between stanzas there is only white space, which keeps the connection alive.
            self.discard();
        }
        if self.buffer.len() > MAX_FRAME_BYTES {
            if self.depth == 0 {
                return Err(FramingError::TooLarge);
            }
            self.skipped += self.seen - self.start_tag;
            self.buffer.truncate(self.start_tag);
            self.seen = self.start_tag;
        }
        Ok(None)
    }

    /// Starts a stanza or the stream at the `<` that was just scanned.
    fn begin(&mut self) {
        self.buffer.drain(..self.seen - 1);
        (self.seen, self.start_tag, self.skipped) = (1, 0, 0);
    }

    /// Handles the tag that has just ended.
    fn tag(&mut self, tag: Tag) -> Result<Option<Frame>, FramingError> {
        if self.depth == 1 && tag != Tag::End && self.skipped == 0 {
            self.start_tag = self.seen;
        }
        match tag {
            Tag::Start => self.depth += 1,
            Tag::End => {
                self.depth = self.depth.checked_sub(1).ok_or_else(|| malformed("an end tag without a start tag"))?
            }
            Tag::Empty => {}
            Tag::Declaration => {
                self.discard();
                return Ok(None);
            }
        }
        let frame = match (self.depth, tag) {
            (0, _) => Frame::End,
            (1, Tag::Start) => {
                let text = format!("{}</stream:stream>", text(&self.buffer[..self.seen]).map_err(malformed)?);
                let stream = Element::parse(&text).map_err(malformed)?;
                Frame::Start(stream.attribute("id").unwrap_or_default().into())
            }
            (1, _) => self.stanza().map_or_else(|refused| Frame::Refused(refused, self.empty()), Frame::Stanza),
            _ => return Ok(None),
        };
        self.discard();
        Ok(Some(frame))
    }

    /// Parses the stanza that has just ended.
    fn stanza(&self) -> Result<Element, ParseError> {
        match self.skipped {
            0 => in_context(text(&self.buffer[..self.seen])?),
            skipped => Err(ParseError::TooLarge(skipped + self.seen)),
        }
    }

    /// Parses the start tag of that stanza as an empty element.
    fn empty(&self) -> Option<Element> {
        let tag = text(&self.buffer[..self.start_tag]).ok()?.strip_suffix('>')?;
        in_context(&format!("{}/>", tag.strip_suffix('/').unwrap_or(tag))).ok()
    }

    /// Drops the scanned bytes.
    fn discard(&mut self) {
        self.buffer.drain(..self.seen);
        self.seen = 0;
    }
}

/// Parses a first-level element of the stream.
fn in_context(text: &str) -> Result<Element, ParseError> {
    let stream = Element::parse(&format!("{CONTEXT}{text}</s>"))?;
    stream.children().next().cloned().ok_or_else(|| ParseError::Malformed("no element".into()))
}

fn text(bytes: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|error| ParseError::Malformed(error.to_string()))
}

fn malformed(reason: impl ToString) -> FramingError {
    FramingError::Malformed(reason.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::MAX_DEPTH;

    use super::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
        xmlns:stream='http://etherx.jabber.org/streams' id='1>8' from=\"push.localhost\"> <handshake/>\n\
        <iq type='set' id='a>\"b' from='x'><a b='/>'><![CDATA[<]]]>ü</a><c/></iq>\
        <stream:error><conflict xmlns='urn:x'/></stream:error></stream:stream>";

    fn read(chunks: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<Vec<Frame>, FramingError> {
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
    fn stanzas_are_found_wherever_the_bytes_are_split() {
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
    fn an_invalid_stream_is_refused() {
        let start = "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'>";
        for bad in
            ["</a>", "<stream:stream>", &format!("{start}<!-- "), &format!("{start}<a><?"), &format!("{start}<!D")]
        {
            assert!(matches!(read([bad].iter()), Err(FramingError::Malformed(_))), "{bad}");
        }
        let large = format!("<stream:stream id='{}", "x".repeat(MAX_FRAME_BYTES));
        assert_eq!(read([large].iter()), Err(FramingError::TooLarge));
        let blank = format!("{start}{}<a/>", " ".repeat(2 * MAX_FRAME_BYTES));
        assert_eq!(read([blank].iter()).unwrap().len(), 2);
    }

    #[test]
    fn a_stanza_that_cannot_be_parsed_is_skipped() {
        let start = "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'>";
        let deep = format!("{}{}", "<a>".repeat(MAX_DEPTH), "</a>".repeat(MAX_DEPTH));
        let wide: String = (0..65).map(|n| format!(" a{n}=''")).collect();
        let namespace = "x".repeat(257);
        let large = "x".repeat(3 * MAX_FRAME_BYTES);
        let closing = format!("{}<![CDATA[</iq>]]]><a b='/></iq>'/>{}", &large[1..], "<b>".repeat(100_000));
        for content in [
            deep,
            format!("<a{wide}/>"),
            format!("<a xmlns='{namespace}'/>"),
            "<undeclared:a/>".into(),
            "<a></b>".into(),
            format!("<a b='{large}'/><c/>"),
            format!("<a><![CDATA[{large}</a>]]></a>"),
            format!("{closing}{}", "</b>".repeat(100_000)),
        ] {
            let stream = format!("{start}<iq type='get' id='1/'>{content}</iq>\n<iq{wide}/><after/>");
            for size in [1, 7, 8192, stream.len()] {
                let frames = read(stream.as_bytes().chunks(size)).unwrap();
                let [_, Frame::Refused(_, Some(iq)), Frame::Refused(_, None), Frame::Stanza(after)] = frames.as_slice()
                else {
                    unreachable!("{frames:?}")
                };
                assert_eq!((iq.attribute("id"), iq.children().count(), after.name()), (Some("1/"), 0, "after"));
            }
        }
        let not_utf_8 = [start.as_bytes(), b"<a>\xff</a><a/>"].concat();
        assert!(matches!(read([not_utf_8].iter()).unwrap()[1..], [Frame::Refused(..), Frame::Stanza(_)]));
        let long_tag = format!("{start}<iq id='{large}'>{large}</iq><iq/>");
        let frames = read(long_tag.as_bytes().chunks(1000)).unwrap();
        assert_eq!(frames[1], Frame::Refused(ParseError::TooLarge(long_tag.len() - start.len() - "<iq/>".len()), None));
    }

    #[test]
    fn an_endless_stanza_does_not_grow_the_buffer() {
        let mut framer = Framer::default();
        framer.push(b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'><iq>");
        for _ in 0..10_000 {
            framer.push(&[b'x'; 1000]);
            framer.next().unwrap();
            assert!(framer.buffer.len() <= MAX_FRAME_BYTES);
        }
    }
}
