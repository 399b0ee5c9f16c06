//! XML elements, as XMPP restricts them: parsed within limits, written without loss.

use std::borrow::Cow;
use std::fmt;

use quick_xml::errors::IllFormedError::{MismatchedEndTag, MissingDeclVersion, MissingEndTag, UnmatchedEndTag};
use quick_xml::escape::minimal_escape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use quick_xml::{Error, XmlVersion};

/// The largest stanza that is parsed, in bytes.
pub const MAX_STANZA_BYTES: usize = 256 * 1024;
/// The deepest nesting of elements that is parsed. Real stanzas are less deep.
pub const MAX_DEPTH: usize = 64;

/// The most attributes of an element: each is compared with all others of its element.
const MAX_ATTRIBUTES: usize = 64;
/// The longest namespace, in bytes. It is written again for each element with another namespace than its parent.
const MAX_NAMESPACE_BYTES: usize = 256;
/// The most namespace declarations in scope: they are searched for each name.
const MAX_BINDINGS: usize = 128;

const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";

/// A text that is not the XML of a stanza. The sender must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_STANZA_BYTES`]; the length in bytes.
    #[error("the stanza has {0} bytes, {MAX_STANZA_BYTES} are allowed")]
    TooLarge(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Over a limit for attributes or namespaces.
    #[error(
        "an element has more than {MAX_ATTRIBUTES} attributes or is within more than {MAX_BINDINGS} declarations of \
         namespaces, or a namespace has more than {MAX_NAMESPACE_BYTES} bytes"
    )]
    TooWide,
    /// XML that XMPP prohibits (RFC 6120, section 11.1).
    #[error("{0} is not allowed in a stanza")]
    Restricted(&'static str),
    /// Not well-formed XML, or not namespace-well-formed.
    #[error("malformed XML: {0}")]
    Malformed(String),
}

/// An element with its namespace. The prefix is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    namespace: String,
    attributes: Vec<Attribute>,
    children: Vec<ChildNode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    namespace: String,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ChildNode {
    Element(Element),
    Text(String),
}

impl Element {
    /// Creates an element without attributes and children.
    pub fn new(name: &str, namespace: &str) -> Self {
        Self { name: name.into(), namespace: namespace.into(), attributes: Vec::new(), children: Vec::new() }
    }

    /// Sets the attribute `name`, which is in no namespace.
    pub fn with_attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.retain(|attribute| attribute.name != name || !attribute.namespace.is_empty());
        self.attributes.push(Attribute { name: name.into(), namespace: String::new(), value: value.into() });
        self
    }

    /// Appends a child element after all other children.
    pub fn with_child(mut self, child: Self) -> Self {
        self.children.push(ChildNode::Element(child));
        self
    }

    /// Removes the child elements for which `is_unwanted` returns true.
    pub fn without_children(mut self, is_unwanted: impl Fn(&Self) -> bool) -> Self {
        self.children.retain(|node| !matches!(node, ChildNode::Element(child) if is_unwanted(child)));
        self
    }

    /// Appends character data; it is escaped when it is written.
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.children.push(ChildNode::Text(text.into()));
        self
    }

    /// Returns the local name, without a prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the namespace; empty if there is none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns whether this is the element `name` of `namespace`.
    pub fn is(&self, name: &str, namespace: &str) -> bool {
        self.name == name && self.namespace == namespace
    }

    /// Returns the value of an attribute that is in no namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.name == name && a.namespace.is_empty()).map(|a| a.value.as_str())
    }

    /// Returns the language of this element itself, not of its parents: its `xml:lang`, unless it is empty.
    pub fn lang(&self) -> Option<&str> {
        let lang = self.attributes.iter().find(|a| a.name == "lang" && a.namespace == XML_NAMESPACE)?;
        Some(lang.value.as_str()).filter(|lang| !lang.is_empty())
    }

    /// Returns the child elements, in document order.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            ChildNode::Element(element) => Some(element),
            ChildNode::Text(_) => None,
        })
    }

    /// Returns the first child `name` of `namespace`.
    pub fn child(&self, name: &str, namespace: &str) -> Option<&Self> {
        self.children().find(|child| child.is(name, namespace))
    }

    /// Returns the text directly inside this element.
    pub fn text(&self) -> Cow<'_, str> {
        let mut texts = self.children.iter().filter_map(|node| match node {
            ChildNode::Text(text) => Some(text.as_str()),
            ChildNode::Element(_) => None,
        });
        match (texts.next(), texts.next()) {
            (None, _) => Cow::Borrowed(""),
            (Some(only), None) => Cow::Borrowed(only),
            (Some(first), Some(second)) => {
                let mut whole = [first, second].concat();
                whole.extend(texts);
                Cow::Owned(whole)
            }
        }
    }

    /// Parses one element. Only white space and an XML declaration may surround it.
    ///
    /// Document types, comments, processing instructions and entities other than the five predefined ones are refused
    /// (RFC 6120, section 11.1).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_STANZA_BYTES {
            return Err(ParseError::TooLarge(text.len()));
        }
        let mut reader = NsReader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        reader.resolver_mut().set_max_namespace_bindings(MAX_BINDINGS);
        let mut open: Vec<Self> = Vec::new();
        // The number of namespaces that the open elements declare when written. It may differ from the number in the
        // input.
        let mut bindings = 0;
        let mut root: Option<Self> = None;
        let mut at_start = true;
        loop {
            let event = reader.read_event().map_err(|error| {
                let reason = unquoted(error);
                malformed(format!("{reason}, at byte {}", reader.error_position()))
            })?;
            let complete = match event {
                Event::Start(tag) => {
                    if open.len() == MAX_DEPTH {
                        return Err(ParseError::TooDeep);
                    }
                    if root.is_some() {
                        return Err(malformed("a second root element"));
                    }
                    let element = Self::from_tag(&reader, &tag)?;
                    bindings += element.bindings(open.last());
                    open.push(element);
                    None
                }
                Event::Empty(_) if root.is_some() => return Err(malformed("a second root element")),
                Event::Empty(_) if open.len() == MAX_DEPTH => return Err(ParseError::TooDeep),
                Event::Empty(tag) => {
                    let element = Self::from_tag(&reader, &tag)?;
                    bindings += element.bindings(open.last());
                    Some(element)
                }
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    if text.contains("]]>") {
                        return Err(malformed("\"]]>\" in character data"));
                    }
                    push_text(&mut open, &text.xml10_content())?;
                    None
                }
                Event::CData(_) if open.is_empty() => return Err(malformed("character data outside of the element")),
                Event::CData(text) => {
                    push_text(&mut open, &text.xml10_content())?;
                    None
                }
                Event::GeneralRef(reference) => {
                    let text = match reference.resolve_char_ref().map_err(unread)? {
                        Some(character) => Cow::Owned(character.to_string()),
                        None => Cow::Borrowed(
                            quick_xml::escape::resolve_xml_entity(&reference)
                                .ok_or(ParseError::Restricted("an entity other than the five predefined ones"))?,
                        ),
                    };
                    if open.is_empty() {
                        return Err(malformed("character data outside of the element"));
                    }
                    push_text(&mut open, &text)?;
                    None
                }
                Event::Decl(_) if at_start => None,
                Event::Decl(_) => return Err(malformed("an XML declaration that is not at the start")),
                Event::DocType(_) => return Err(ParseError::Restricted("a document type declaration")),
                Event::Comment(_) => return Err(ParseError::Restricted("a comment")),
                Event::PI(_) => return Err(ParseError::Restricted("a processing instruction")),
                Event::Eof if !open.is_empty() => return Err(malformed("the document ends within an element")),
                Event::Eof => return root.ok_or_else(|| malformed("there is no element")),
            };
            at_start = false;
            if bindings > MAX_BINDINGS {
                return Err(ParseError::TooWide);
            }
            if let Some(element) = complete {
                bindings -= element.bindings(open.last());
                match open.last_mut() {
                    Some(parent) => parent.children.push(ChildNode::Element(element)),
                    None => root = Some(element),
                }
            }
        }
    }

    fn from_tag(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<Self, ParseError> {
        let (namespace, name) = reader.resolver().resolve_element(tag.name());
        let mut element = Self::new(check_name(name.into_inner())?, &resolved(namespace)?);
        if element.namespace == XML_NAMESPACE {
            // It would need the prefix "xml", which is written only for attributes.
            return Err(malformed("an element in the namespace of XML itself"));
        }
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(unread)?;
            if attribute.value.contains('<') {
                return Err(malformed("\"<\" in an attribute value"));
            }
            let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(unread)?;
            check_text(&value)?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
            let (name, namespace) = (check_name(name.into_inner())?, resolved(namespace)?);
            if element.attributes.len() == MAX_ATTRIBUTES {
                return Err(ParseError::TooWide);
            }
            if element.attributes.iter().any(|a| a.name == name && a.namespace == namespace) {
                return Err(malformed("an attribute is given twice"));
            }
            element.attributes.push(Attribute {
                name: name.into(),
                namespace: namespace.into_owned(),
                value: value.into_owned(),
            });
        }
        Ok(element)
    }

    /// Returns the number of namespaces that this element declares when written.
    fn bindings(&self, parent: Option<&Self>) -> usize {
        let declares = |attribute: &&Attribute| !matches!(attribute.namespace.as_str(), "" | XML_NAMESPACE);
        usize::from(self.namespace != parent.map_or("", Self::namespace))
            + self.attributes.iter().filter(declares).count()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, inherited: &str) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        if self.namespace != inherited {
            write!(f, " xmlns=\"{}\"", escape_attribute(&self.namespace))?;
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            let (name, value) = (&attribute.name, escape_attribute(&attribute.value));
            match attribute.namespace.as_str() {
                "" => write!(f, " {name}=\"{value}\"")?,
                XML_NAMESPACE => write!(f, " xml:{name}=\"{value}\"")?,
                other => write!(f, " xmlns:a{index}=\"{}\" a{index}:{name}=\"{value}\"", escape_attribute(other))?,
            }
        }
        if self.children.is_empty() {
            return f.write_str("/>");
        }
        f.write_str(">")?;
        for child in &self.children {
            match child {
                ChildNode::Element(element) => element.write(f, &self.namespace)?,
                ChildNode::Text(text) => f.write_str(&escape_text(text))?,
            }
        }
        write!(f, "</{}>", self.name)
    }
}

/// The element as XML, with its namespaces but without the original prefixes.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

/// Returns whether `text` has only characters that XML 1.0 allows (production 2, `Char`).
pub fn is_xml_text(text: &str) -> bool {
    text.chars().all(is_xml_char)
}

fn is_xml_char(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

fn malformed(reason: impl Into<String>) -> ParseError {
    ParseError::Malformed(reason.into())
}

/// Returns the text of an error of the XML reader without the names that it quotes: in unescaped text, these may be
/// words of the text.
fn unquoted(error: impl Into<Error>) -> Cow<'static, str> {
    Cow::Borrowed(match error.into() {
        Error::IllFormed(MissingEndTag(_) | UnmatchedEndTag(_) | MismatchedEndTag { .. }) => {
            "a start tag and an end tag do not match"
        }
        Error::IllFormed(MissingDeclVersion(_)) => "the XML declaration does not begin with a version",
        Error::Escape(_) => "a reference is neither a character reference nor one of the five predefined entities",
        Error::Namespace(_) => "a prefix is bound to a reserved namespace",
        other => return Cow::Owned(other.to_string()),
    })
}

fn unread(error: impl Into<Error>) -> ParseError {
    malformed(unquoted(error))
}

fn resolved<'n>(namespace: ResolveResult<'n>) -> Result<Cow<'n, str>, ParseError> {
    match namespace {
        ResolveResult::Unbound => Ok(Cow::Borrowed("")),
        ResolveResult::Bound(namespace) if namespace.as_ref().len() > MAX_NAMESPACE_BYTES => Err(ParseError::TooWide),
        ResolveResult::Bound(namespace) => {
            let namespace = quick_xml::escape::unescape(namespace.into_inner()).map_err(unread)?;
            if namespace == XMLNS_NAMESPACE {
                return Err(malformed("a name is in the namespace of namespace declarations"));
            }
            // The escaped namespace must be within the limit, too.
            if escape_attribute(&namespace).len() > MAX_NAMESPACE_BYTES {
                return Err(ParseError::TooWide);
            }
            Ok(namespace)
        }
        ResolveResult::Unknown(_) => Err(malformed("a prefix is not declared")),
    }
}

/// Checks the characters of a name, which the reader does not check: XML 1.0, productions 4 and 4a, without the colon.
fn check_name(name: &str) -> Result<&str, ParseError> {
    let start = |c: char| {
        matches!(c, 'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
            | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
            | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
            | '\u{10000}'..='\u{effff}')
    };
    let inside = |c: char| {
        start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
    };
    if name.starts_with(start) && name.chars().all(inside) {
        Ok(name)
    } else {
        Err(malformed("a name has a character that is not allowed in names"))
    }
}

fn check_text(text: &str) -> Result<(), ParseError> {
    if is_xml_text(text) { Ok(()) } else { Err(malformed("a character that XML does not allow")) }
}

fn push_text(open: &mut [Element], text: &str) -> Result<(), ParseError> {
    check_text(text)?;
    match open.last_mut() {
        Some(Element { children, .. }) => match children.last_mut() {
            Some(ChildNode::Text(before)) => before.push_str(text),
            _ if text.is_empty() => {}
            _ => children.push(ChildNode::Text(text.into())),
        },
        None if text.trim_ascii().is_empty() => {}
        None => return Err(malformed("character data outside of the element")),
    }
    Ok(())
}

/// Escapes only the required characters (XML 1.0, section 2.4), so that the text stays within the limits. Characters
/// that XML does not allow are removed.
fn escape_text(text: &str) -> String {
    minimal_escape(without_invalid(text)).replace("]]>", "]]&gt;").replace('\r', "&#13;")
}

/// White space in an attribute survives only as a character reference (XML 1.0, section 3.3.3).
fn escape_attribute(value: &str) -> String {
    let escaped = minimal_escape(without_invalid(value)).replace('"', "&quot;");
    escaped.replace('\t', "&#9;").replace('\n', "&#10;").replace('\r', "&#13;")
}

fn without_invalid(text: &str) -> Cow<'_, str> {
    if is_xml_text(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter(|c| is_xml_char(*c)).collect())
}
