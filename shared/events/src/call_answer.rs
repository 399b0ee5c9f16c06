//! The answers of users to calls (XEP-0353), which end the call on the user's other devices.

use pushlark_xmpp::{BareJid, Element, Jid, Message, ns, parse_jid};

/// The namespace of forwarded stanzas (XEP-0297).
const FORWARD: &str = "urn:xmpp:forward:0";

/// An answer of a user to a call.
#[derive(Debug)]
pub struct CallAnswer {
    /// The user who answers.
    pub user: BareJid,
    /// The sender of the answer: a session of the user.
    pub from: Jid,
    /// The answer. Its `to` is the caller, unless the user tells only the own account.
    pub message: Message,
}

impl CallAnswer {
    /// Returns the answer in a message from `from` to a user: the user's session sends it to the caller, or to the
    /// user's own account. A carbon copy (XEP-0280) of it is an answer as well, if `to` is the user's own account.
    pub fn of(from: &Jid, to: &[BareJid], message: &Message) -> Option<Self> {
        if message.call().is_some_and(|call| call.step.is_answer()) {
            let mut element = message.element().clone();
            if let (None, [to]) = (element.attribute("to"), to) {
                element = element.with_attribute("to", to.as_str());
            }
            return Self::new(from.clone(), Message::from_element(element).ok()?);
        }
        let copied = copied(message)?;
        let answer = Self::new(parse_jid(copied.element().attribute("from")?).ok()?, copied)?;
        // Only the user's own server sends carbon copies (XEP-0280, section 11).
        let is_authentic = *from == answer.user && *to == [answer.user.clone()];
        is_authentic.then_some(answer)
    }

    fn new(from: Jid, message: Message) -> Option<Self> {
        let user = from.to_bare();
        user.node().is_some().then_some(Self { user, from, message })
    }
}

/// Returns the answer to a call in a carbon copy of a sent message.
fn copied(message: &Message) -> Option<Message> {
    let forwarded = message.element().child("sent", ns::CARBONS)?.child("forwarded", FORWARD)?;
    let inner = forwarded.children().find(|child| child.name() == "message")?;
    let inner = Message::from_element(Element::clone(inner)).ok()?;
    let is_answer = inner.call()?.step.is_answer();
    is_answer.then_some(inner)
}
