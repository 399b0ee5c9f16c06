//! What a notification shows, and what it tells the app besides: the same for every push service.

use pushlark_model::{Payload, PublishOptions};
use serde_json::{Map, Value};

/// The fields that an alert shows.
const SUMMARY: [&str; 3] = [Payload::MESSAGE_COUNT, Payload::LAST_MESSAGE_SENDER, Payload::LAST_MESSAGE_BODY];
/// The title, which MongoosePush demands, of an alert that is not to tell the sender.
const UNTOLD_SENDER: &str = "New message";

/// A payload, parted.
#[derive(Debug)]
pub struct Content<'n> {
    /// What is shown, unless the device is silent or the payload has no text.
    pub alert: Option<Alert<'n>>,
    /// The fields that an alert has no place for; all of them when there is none.
    pub data: Vec<(&'n str, &'n str)>,
}

/// What is shown.
#[derive(Debug)]
pub struct Alert<'n> {
    pub title: &'n str,
    pub body: &'n str,
    /// Who sent the message, if that is to be told: an alert of the same sender takes the place of the one before.
    pub tag: Option<&'n str>,
    /// How many messages are unread.
    pub badge: Option<u64>,
}

impl<'n> Content<'n> {
    /// What the options' `silent`, which must be checked before, makes of a payload.
    pub fn new(options: &PublishOptions, payload: &'n Payload) -> Self {
        let is_silent = options.silent().unwrap_or(false);
        let alert = if is_silent { None } else { Alert::new(payload) };
        let is_shown = |name| alert.is_some() && SUMMARY.contains(&name);
        let data = payload.fields().filter(|(name, _)| !is_shown(name)).collect();
        Self { alert, data }
    }

    /// The data with the count as a number, if it is one.
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
        Some(Self {
            body: payload.get(Payload::LAST_MESSAGE_BODY)?,
            title: sender.unwrap_or(UNTOLD_SENDER),
            tag: sender,
            badge: payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok()),
        })
    }
}

/// Whether a payload announces a call (XEP-0353), which is worth something at once or not at all.
pub fn is_call(payload: &Payload) -> bool {
    payload.get(Payload::JINGLE_MESSAGE) == Some("propose")
}
