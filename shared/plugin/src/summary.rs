//! The content of notifications about messages.

use percent_encoding::percent_decode_str;
use pushlark_model::Payload;
use pushlark_xmpp::{BareJid, Content, MessageType, parse_jid};

use crate::content_policy::ContentPolicy;
use crate::event::Event;

impl Event {
    /// Returns the summary of the conversation within the operator's limits. `content` is that of the message.
    pub fn summary(&self, content: Content<'_>) -> Payload {
        let ContentPolicy { body, sender, placeholder, urgent, mention, .. } = &*self.content_policy;
        let is_group = self.message.kind() == MessageType::Groupchat;
        let mut payload = Payload::default().with(Payload::MESSAGE_COUNT, self.unread_count.to_string());
        if *sender {
            payload = payload.with(Payload::LAST_MESSAGE_SENDER, self.sender());
        }
        // If the room does not name the inviter, it is itself the sender.
        let is_shown = |room: &&BareJid| *sender || **room != self.from.to_bare();
        let room = self.room.as_ref().filter(|_| matches!(content, Content::Invitation(_))).filter(is_shown);
        let text = match content {
            Content::Text(text) | Content::Spoiler(Some(text)) | Content::Invitation(Some(text)) if *body => {
                text.into_owned()
            }
            Content::Invitation(_) if let Some(room) = room => self.content_policy.invitation(room.as_str()),
            _ => placeholder.clone(),
        };
        payload = payload.with(Payload::LAST_MESSAGE_BODY, text);
        if let Some(room) = room {
            payload = payload.with(Payload::ROOM, room.as_str());
        }
        if is_group && *urgent && self.message.is_urgent() {
            payload = payload.with(Payload::URGENT, "true");
        }
        if is_group && *mention && self.mentions_recipient(self.nick.as_deref()) {
            payload = payload.with(Payload::MENTION, "true");
        }
        payload
    }

    /// Returns the summary of a contact request within the operator's limits. It counts no message.
    pub fn contact_request(&self) -> Payload {
        let ContentPolicy { sender, subscription_placeholder, .. } = &*self.content_policy;
        let mut payload = Payload::default().with(Payload::PENDING_SUBSCRIPTION_COUNT, "1");
        if *sender {
            let contact = self.from.to_bare();
            payload = payload.with(Payload::PENDING_SUBSCRIPTION_FROM, contact.as_str());
            payload = payload.with(Payload::LAST_MESSAGE_SENDER, contact.as_str());
        }
        payload.with(Payload::LAST_MESSAGE_BODY, subscription_placeholder.as_str())
    }

    /// Returns the JID of the sender as notifications name it: that of a room's occupant with the nick, that of a user
    /// without the resource.
    pub fn sender(&self) -> String {
        if self.is_occupant { self.from.to_string() } else { self.from.to_bare().to_string() }
    }

    /// Returns whether the message mentions the recipient by a reference or an `@`, like the field `mention`, or its text
    /// contains the recipient's nick as a word. `nick` is the nick in the room, by default that of the event.
    pub fn mentions(&self, nick: Option<&str>) -> bool {
        let nick = nick.or(self.nick.as_deref());
        self.mentions_recipient(nick)
            || nick.is_some_and(|nick| has_word(&self.message.text().unwrap_or_default(), nick.trim()))
    }

    /// Returns whether the message mentions the recipient: it refers (XEP-0372) to the user's JID or to an occupant of
    /// the room whose nick is the recipient's (the localpart if the event reports none) or the bare JID (as in MUC
    /// Light), or its text contains the nick after an `@`.
    fn mentions_recipient(&self, nick: Option<&str>) -> bool {
        let user = self.recipient();
        let Some(localpart) = user.node().map(|node| node.as_str()) else { return false };
        let own_nick = nick.unwrap_or(localpart);
        let is_nick = |nick: &str| nick.eq_ignore_ascii_case(own_nick) || nick == user.as_str();
        let refers = |uri: &str| {
            // A URI is percent-encoded (RFC 5122, section 2.7); a mention of XEP-0513 has a JID.
            let address = match uri.strip_prefix("xmpp:").and_then(|uri| uri.split('?').next()) {
                Some(path) => percent_decode_str(path).decode_utf8_lossy(),
                None => uri.into(),
            };
            parse_jid(&address).is_ok_and(|jid| {
                let is_occupant = jid.to_bare() == self.from.to_bare();
                jid.to_bare() == user || is_occupant && jid.resource().is_some_and(is_nick)
            })
        };
        let text = self.message.text().unwrap_or_default();
        let mut words = text.split(|c: char| c.is_whitespace() || (c.is_ascii_punctuation() && !"@.-_".contains(c)));
        self.message.mentions().any(refers)
            || words.any(|word| word.trim_end_matches('.').strip_prefix('@').is_some_and(is_nick))
    }
}

/// Returns whether `text` contains `word` between other characters than letters and digits, in any case. The letters of
/// scripts without spaces between words do not make a word longer.
fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() && !is_of_unspaced_script(c));
    !word.is_empty()
        && text.match_indices(&word).any(|(start, found)| {
            let end = start + found.len();
            !is_part(text[..start].chars().next_back()) && !is_part(text[end..].chars().next())
        })
}

/// Returns whether a character is of a script without spaces around a name: Thai, Lao, Burmese, Khmer, Japanese,
/// Chinese, and Korean, in which particles follow a name directly.
fn is_of_unspaced_script(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}'
        | '\u{1000}'..='\u{109F}'
        | '\u{1780}'..='\u{17FF}'
        | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{9FFF}'
        | '\u{AC00}'..='\u{D7AF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_between_other_characters_than_letters_and_digits() {
        for (text, word, expected) in [
            ("Bobby: your turn", "Bobby", true),
            ("your turn, bobby!", "Bobby", true),
            ("your turn Bob Smith.", "bob smith", true),
            ("Bobby", "Bob", false),
            ("kebob", "Bob", false),
            ("bobby bob", "Bob", true),
            ("ÉLAN est là", "élan", true),
            ("élané", "élan", false),
            ("@Bob", "Bob", true),
            ("@小明你好", "小明", true),
            ("请Bob看一下", "Bob", true),
            ("Bob님 안녕하세요", "Bob", true),
            ("請Bobby看一下", "Bob", false),
            ("", "Bob", false),
            ("Bob", "", false),
        ] {
            assert_eq!(has_word(text, word), expected, "{word:?} in {text:?}");
        }
    }
}
