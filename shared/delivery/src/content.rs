//! The visible alert of a notification and its data for the app: the same for every push service.

use pushlark_model::{Payload, PublishOptions};
use serde_json::{Map, Value};

/// The fields of a payload that an alert shows.
const SUMMARY: [&str; 3] = [Payload::MESSAGE_COUNT, Payload::LAST_MESSAGE_SENDER, Payload::LAST_MESSAGE_BODY];
/// The title of an alert whose payload does not name the sender. MongoosePush requires a title.
const DEFAULT_TITLE: &str = "New message";

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
    pub title: &'n str,
    pub body: &'n str,
    /// The sender, if the payload names it: an alert replaces the previous one of the same sender.
    pub tag: Option<&'n str>,
    /// The number of unread messages.
    pub badge: Option<u64>,
}

impl<'n> Content<'n> {
    /// Divides a payload by the form's field `silent`, which must be checked before.
    pub fn new(options: &PublishOptions, payload: &'n Payload) -> Self {
        let rings = payload.call().is_some() && (!options.is_apns() || options.is_push_kit());
        let is_silent = rings || options.silent().unwrap_or(false);
        let alert = if is_silent { None } else { Alert::new(payload) };
        let is_shown = |name| alert.is_some() && SUMMARY.contains(&name);
        let data = payload.fields().filter(|(name, _)| !is_shown(name)).collect();
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
    fn new(payload: &'n Payload) -> Option<Self> {
        let sender = payload.get(Payload::LAST_MESSAGE_SENDER);
        let body = payload.get(Payload::LAST_MESSAGE_BODY)?;
        let default_title = if payload.call().is_some() { body } else { DEFAULT_TITLE };
        Some(Self {
            body,
            title: sender.unwrap_or(default_title),
            tag: sender,
            badge: payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok()),
        })
    }
}
