//! Calls: Jingle message initiation (XEP-0353).

use crate::{Element, Message, MessageType, ns};

/// The most media of one call that are notified: the caller chooses their number.
const MAX_MEDIA: usize = 4;
/// The longest name of a medium, in bytes. Clients have `audio` and `video`.
const MAX_MEDIA_BYTES: usize = 32;
/// The namespace of audio and video in Jingle (XEP-0167).
const JINGLE_RTP: &str = "urn:xmpp:jingle:apps:rtp:1";

/// A step of a call, as a message has it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'m> {
    /// The kind of the step.
    pub step: CallStep,
    /// The id of the call's Jingle session, not empty. The caller chooses it.
    pub sid: &'m str,
    element: &'m Element,
}

/// The kind of a step of a call (XEP-0353, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStep {
    /// The caller starts the call.
    Propose,
    /// A device of the callee rings.
    Ringing,
    /// A device of the callee takes the call.
    Proceed,
    /// A device of the callee tells the callee's other devices that it takes the call (versions before 0.4).
    Accept,
    /// A device of the callee declines the call.
    Reject,
    /// The caller ends the call before it was taken.
    Retract,
    /// Either side has ended the call.
    Finish,
}

impl CallStep {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "propose" => Self::Propose,
            "ringing" => Self::Ringing,
            "proceed" => Self::Proceed,
            "accept" => Self::Accept,
            "reject" => Self::Reject,
            "retract" => Self::Retract,
            "finish" => Self::Finish,
            _ => return None,
        })
    }

    /// Returns whether it is the answer of the callee, after which no other device of the callee rings.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Proceed | Self::Accept | Self::Reject)
    }
}

impl Message {
    /// Returns the step of a call in it; of several, the first that is not `ringing`, which tells nobody. A message of a
    /// room, an error or a headline is no call, nor is an unknown element or one without an id.
    pub fn call(&self) -> Option<Call<'_>> {
        let step = |element| {
            let step = CallStep::of(Element::name(element))?;
            let sid = element.attribute("id").filter(|id| !id.is_empty())?;
            Some(Call { step, sid, element })
        };
        let elements = self.element().children().filter(|child| child.namespace() == ns::JINGLE_MESSAGE_INITIATION);
        let call = elements.filter_map(step).min_by_key(|call| call.step == CallStep::Ringing)?;
        let is_call = matches!(self.kind(), MessageType::Chat | MessageType::Normal) && !self.is_carbon();
        is_call.then_some(call)
    }
}

impl<'m> Call<'m> {
    /// Returns the media that the caller proposes, such as `audio` and `video`, each once (XEP-0167, section 5). At
    /// most four are returned, of at most 32 bytes each.
    pub fn media(&self) -> Vec<&'m str> {
        let descriptions = self.element.children().filter(|child| child.is("description", JINGLE_RTP));
        let mut media = Vec::new();
        for name in descriptions.filter_map(|description| description.attribute("media")) {
            if media.len() == MAX_MEDIA {
                break;
            }
            let is_name = (1..=MAX_MEDIA_BYTES).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if is_name && !media.contains(&name) {
                media.push(name);
            }
        }
        media
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(kind: &str, content: &str) -> Message {
        let stanza = format!("<message xmlns='jabber:client' type='{kind}'>{content}</message>");
        Message::from_element(Element::parse(&stanza).unwrap()).unwrap()
    }

    fn element(name: &str, id: &str) -> String {
        format!("<{name} xmlns='urn:xmpp:jingle-message:0'{id}/>")
    }

    #[test]
    fn each_step_is_read_with_the_id_of_its_session() {
        for (name, step) in [
            ("propose", CallStep::Propose),
            ("ringing", CallStep::Ringing),
            ("proceed", CallStep::Proceed),
            ("accept", CallStep::Accept),
            ("reject", CallStep::Reject),
            ("retract", CallStep::Retract),
            ("finish", CallStep::Finish),
        ] {
            for kind in ["chat", "normal", ""] {
                let message = message(kind, &element(name, " id='c1'"));
                let call = message.call().unwrap();
                assert_eq!((call.step, call.sid), (step, "c1"), "{kind}");
            }
        }
    }

    #[test]
    fn the_first_known_step_is_read_and_ringing_is_the_last_choice() {
        let [ringing, propose, retract] = ["ringing", "propose", "retract"].map(|name| element(name, " id='c1'"));
        for (content, step) in [
            (format!("{}{propose}", element("other", " id='c1'")), CallStep::Propose),
            (format!("{}{propose}", element("retract", "")), CallStep::Propose),
            (format!("{ringing}{propose}"), CallStep::Propose),
            (format!("{retract}{propose}"), CallStep::Retract),
            (format!("{}{ringing}", element("other", "")), CallStep::Ringing),
        ] {
            assert_eq!(message("chat", &content).call().unwrap().step, step, "{content}");
        }
    }

    #[test]
    fn other_elements_and_messages_are_no_calls() {
        let carbon = format!("<sent xmlns='urn:xmpp:carbons:2'/>{}", element("propose", " id='c1'"));
        for (kind, content) in [
            ("chat", element("propose", "")),
            ("chat", element("propose", " id=''")),
            ("chat", element("other", " id='c1'")),
            ("chat", "<propose xmlns='urn:other' id='c1'/>".into()),
            ("chat", "<body>propose</body>".into()),
            ("chat", carbon),
            ("groupchat", element("propose", " id='c1'")),
            ("error", element("propose", " id='c1'")),
            ("headline", element("propose", " id='c1'")),
        ] {
            assert!(message(kind, &content).call().is_none(), "{kind}: {content}");
        }
    }

    #[test]
    fn the_media_of_the_descriptions_are_listed_once() {
        let media = |descriptions: &str| {
            let propose = format!("<propose xmlns='urn:xmpp:jingle-message:0' id='c1'>{descriptions}</propose>");
            message("chat", &propose).call().unwrap().media().join(",")
        };
        let rtp = |media: &str| format!("<description xmlns='urn:xmpp:jingle:apps:rtp:1'{media}/>");
        let (audio, video) = (rtp(" media='audio'"), rtp(" media='video'"));
        assert_eq!(media(""), "");
        assert_eq!(media(&audio), "audio");
        assert_eq!(media(&[audio.as_str(), &video, &audio].concat()), "audio,video");
        assert_eq!(media(&[rtp(""), rtp(" media=''"), rtp(" media='a,b'")].concat()), "");
        assert_eq!(media("<description xmlns='urn:other' media='audio'/>"), "");
        let many: String =
            ["a".repeat(33).as_str(), "a", "b", "c", "d", "e"].map(|name| rtp(&format!(" media='{name}'"))).concat();
        assert_eq!(media(&many), "a,b,c,d");
    }
}
