//! The answers of users to calls (XEP-0353), which end the call on the user's other devices.

use pushlark_xmpp::{BareJid, Jid, Message};

use crate::sources::sent_copy;

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
        let is_answer = |message: &Message| message.call().is_some_and(|call| call.step.is_answer());
        if is_answer(message) {
            let mut element = message.element().clone();
            if let (None, [to]) = (element.attribute("to"), to) {
                element = element.with_attribute("to", to.as_str());
            }
            return Self::new(from.clone(), Message::from_element(element).ok()?);
        }
        let (from, copied) = sent_copy(from, to, message).filter(|(_, copied)| is_answer(copied))?;
        Self::new(from, copied)
    }

    fn new(from: Jid, message: Message) -> Option<Self> {
        let user = from.to_bare();
        user.node().is_some().then_some(Self { user, from, message })
    }
}
