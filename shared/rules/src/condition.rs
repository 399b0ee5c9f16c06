//! The conditions of a rule.

use pushlark_model::{ClientState, Registration};
use pushlark_plugin::Recipient;
use pushlark_xmpp::{Jid, ns};
use serde::Deserialize;

use crate::facts::{BodyState, Chat, Facts, Kind, Source};
use crate::hours::Hours;
use crate::jid_pattern::JidPattern;

/// One table of conditions, which must all be met. A condition on a fact that the event does not have is not met.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table of conditions")]
pub struct Condition {
    event: Option<Source>,
    r#type: Option<Chat>,
    body: Option<BodyState>,
    hint: Option<Hint>,
    jingle: Option<bool>,
    user_status: Option<UserStatus>,
    client_state: Option<ClientState>,
    kind: Option<Kind>,
    from: Option<JidPattern>,
    to: Option<JidPattern>,
    room: Option<JidPattern>,
    mention: Option<bool>,
    encrypted: Option<bool>,
    sender_known: Option<bool>,
    app: Option<String>,
    provider: Option<Provider>,
    hour: Option<Hours>,
    /// The event has more recipients than this.
    members_over: Option<u32>,
    /// The event is older than this, in seconds.
    age_over: Option<u32>,
}

/// A hint for the storage of a message (XEP-0334).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Hint {
    Store,
    NoStore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UserStatus {
    Online,
    Offline,
}

/// A push service, as `service` in the form of a registration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Provider {
    Apns,
    Fcm,
    WebPush,
}

impl Condition {
    /// Returns whether the conditions name a kind of events.
    pub fn names(&self, kind: Kind) -> bool {
        self.kind == Some(kind)
    }

    /// Returns whether the conditions name unacknowledged messages.
    pub fn names_unacknowledged(&self) -> bool {
        self.event == Some(Source::UnackMsg)
    }

    /// Returns whether the conditions depend on the recipient or on the registration.
    pub fn depends_on_recipient(&self) -> bool {
        let Self { user_status, client_state, app, provider, hour, .. } = self;
        user_status.is_some() || client_state.is_some() || app.is_some() || provider.is_some() || hour.is_some()
    }

    /// Returns whether the conditions on the event are met.
    pub fn matches_event(&self, facts: &Facts<'_>) -> bool {
        let is_jid = |pattern: &Option<JidPattern>, jid: Option<&Jid>| {
            pattern.as_ref().is_none_or(|pattern| jid.is_some_and(|jid| pattern.matches(jid)))
        };
        let has_hint = |hint| facts.stanza().is_some_and(|stanza| stanza.child(hint, ns::HINTS).is_some());
        let is_encrypted = || facts.message().map(|_| facts.is_encrypted);
        let is_known = || facts.event.map(|event| event.sender_known.unwrap_or(true));
        let room = || facts.room.clone().map(Jid::from);
        self.matches_kind(facts)
            && is_met(self.event, || facts.source())
            && is_met(self.r#type, || facts.chat())
            && is_met(self.body, || facts.body())
            && self.hint.is_none_or(|hint| has_hint(hint.element()))
            && is_met(self.jingle, || facts.has_jingle())
            && is_jid(&self.from, Some(&facts.from))
            && is_jid(&self.to, Some(&facts.to))
            && (self.room.is_none() || is_jid(&self.room, room().as_ref()))
            && is_met(self.mention, || facts.mentions())
            && is_met(self.encrypted, is_encrypted)
            && is_met(self.sender_known, is_known)
            && self.members_over.is_none_or(|members| facts.event.is_some_and(|event| event.members > members))
            && self.age_over.is_none_or(|age| facts.age.whole_seconds() > age.into())
    }

    /// Conditions without a kind are MongooseIM's: for messages and, with `jingle`, calls of the types chat and
    /// groupchat.
    fn matches_kind(&self, facts: &Facts<'_>) -> bool {
        match self.kind {
            Some(_) => self.kind == facts.kind,
            None if facts.chat().is_none() => false,
            None => facts.message().is_some() || facts.kind == Some(Kind::Call) && self.jingle == Some(true),
        }
    }

    /// Returns whether the conditions on the recipient and the registration are met. `recipient` is `None` if its state
    /// is not known.
    pub fn matches_recipient(
        &self,
        facts: &Facts<'_>,
        recipient: Option<&Recipient>,
        registration: &Registration,
    ) -> bool {
        // MongooseIM does not tell the state of a user whose session does not acknowledge.
        let recipient = recipient.filter(|_| facts.source() != Some(Source::UnackMsg));
        let status = || recipient.map(|recipient| UserStatus::of(recipient.online));
        let client_state = || recipient.filter(|recipient| recipient.online)?.client_state;
        let options = &registration.options;
        is_met(self.user_status, status)
            && is_met(self.client_state, client_state)
            && self.app.as_ref().is_none_or(|app| app == options.app())
            && self.provider.is_none_or(|provider| provider.as_str() == options.service())
            && self.hour.as_ref().is_none_or(|hours| hours.contain(facts.at, registration))
    }
}

/// Returns whether a fact is the one that a condition names.
fn is_met<T: PartialEq>(condition: Option<T>, fact: impl FnOnce() -> Option<T>) -> bool {
    condition.is_none() || condition == fact()
}

impl Hint {
    /// Returns the name of the element.
    fn element(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::NoStore => "no-store",
        }
    }
}

impl UserStatus {
    fn of(online: bool) -> Self {
        if online { Self::Online } else { Self::Offline }
    }
}

impl Provider {
    /// Returns the name that [`PublishOptions::service`](pushlark_model::PublishOptions::service) has.
    fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::WebPush => "web-push",
        }
    }
}
