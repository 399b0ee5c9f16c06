//! The visible alert of a notification and its data for the app: the same for every push service.

use std::borrow::Cow;

use pushlark_model::Payload;
use pushlark_xmpp::unescaped;
use serde_json::{Map, Value};

use crate::notification::Notification;

/// The fields of a payload that an alert shows.
const SUMMARY: [&str; 3] = [Payload::MESSAGE_COUNT, Payload::LAST_MESSAGE_SENDER, Payload::LAST_MESSAGE_BODY];
/// The title of an alert about a message whose payload does not name the sender. MongoosePush requires a title.
const MESSAGE_TITLE: &str = "New message";
/// The same about a contact request.
const CONTACT_REQUEST_TITLE: &str = "New contact";

/// A payload, divided into an alert and data.
#[derive(Debug)]
pub struct Content<'n> {
    /// The visible alert; `None` if the registration is silent, the payload has no text, or the app rings for a call.
    pub alert: Option<Alert<'n>>,
    /// The fields that the alert does not show; all fields without an alert.
    pub data: Vec<(&'n str, &'n str)>,
}

/// The visible part of a notification.
#[derive(Debug)]
pub struct Alert<'n> {
    /// The title of the presentation, or else the sender, with the escapes of the localpart undone (XEP-0106).
    pub title: Cow<'n, str>,
    pub body: &'n str,
    /// An alert replaces the previous one with the same tag: by default the sender, if the payload names it.
    pub tag: Option<Cow<'n, str>>,
    /// The number of unread messages.
    pub badge: Option<u64>,
}

impl<'n> Content<'n> {
    /// Divides the payload of a notification by the form's field `silent`, which must be checked before.
    pub fn new(notification: Notification<'n>) -> Self {
        let Notification { registration, payload, .. } = notification;
        let options = &registration.options;
        let rings = payload.call().is_some() && (!options.is_apns() || options.is_push_kit());
        let is_silent = rings || options.silent().unwrap_or(false);
        let alert = if is_silent { None } else { Alert::new(notification) };
        let is_shown = |name| alert.is_some() && SUMMARY.contains(&name);
        let data = payload.readable().fields().filter(|(name, _)| !is_shown(name)).collect();
        Self { alert, data }
    }

    /// Returns the data, with the message count as a JSON number if it is one.
    pub fn data_with_count(&self) -> Map<String, Value> {
        let value = |(name, value): &(&str, &str)| {
            let count = (*name == Payload::MESSAGE_COUNT).then(|| value.parse::<u64>().ok()).flatten();
            ((*name).to_owned(), count.map_or_else(|| (*value).into(), Value::from))
        };
        self.data.iter().map(value).collect()
    }
}

impl<'n> Alert<'n> {
    fn new(notification: Notification<'n>) -> Option<Self> {
        let payload = notification.payload.readable();
        let sender = payload.get(Payload::LAST_MESSAGE_SENDER);
        let body = payload.get(Payload::LAST_MESSAGE_BODY)?;
        let title = match payload.call() {
            Some(_) => body,
            None if payload.is_contact_request() => CONTACT_REQUEST_TITLE,
            None => MESSAGE_TITLE,
        };
        let unread = payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok());
        Some(Self {
            body,
            title: match notification.title() {
                Some(title) => Cow::Borrowed(title),
                None => sender.map_or(Cow::Borrowed(title), unescaped),
            },
            tag: notification.tag().map(Cow::Owned).or(sender.map(Cow::Borrowed)),
            badge: unread.map(|unread| notification.badge.map_or(unread, Into::into)),
        })
    }
}
