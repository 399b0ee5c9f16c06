//! The body of a notification as MongoosePush takes it.

use serde::Serialize;
use serde_json::{Map, Value};

use pushlark_plugin::InvalidOptions;

use crate::{Payload, PublishOptions};

/// The fields that an alert shows.
const SUMMARY: [&str; 3] = [Payload::MESSAGE_COUNT, Payload::LAST_MESSAGE_SENDER, Payload::LAST_MESSAGE_BODY];
/// The title, which the API demands, of an alert that is not to tell the sender.
const UNTOLD_SENDER: &str = "New message";

/// A notification; only what is given is written.
#[derive(Debug, Serialize)]
pub struct Notification<'n> {
    service: &'n str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live: Option<u64>,
    /// What is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Alert<'n>>,
    /// What the app is told.
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct Alert<'n> {
    body: &'n str,
    title: &'n str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click_action: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'n str>,
}

/// A registration that MongoosePush cannot be told of; the client's to mend by enabling again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The form lacks what names the device.
    #[error("the registration's form has no {0:?}")]
    Missing(&'static str),
    /// The form has a value that the API does not know.
    #[error(transparent)]
    Option(#[from] InvalidOptions),
}

impl<'n> Notification<'n> {
    /// The notification, and the id of the device that it is for.
    pub fn new(options: &'n PublishOptions, payload: &'n Payload) -> Result<(&'n str, Self), Unusable> {
        let required = |name| options.get(name).filter(|value| !value.is_empty()).ok_or(Unusable::Missing(name));
        options.check()?;
        let alert = if options.silent()? { None } else { Alert::new(options, payload) };
        // What an alert has no place for goes beside it.
        let is_shown = |name| alert.is_some() && SUMMARY.contains(&name);
        let data = payload.fields().filter(|(name, _)| !is_shown(name)).map(value).collect();
        let notification = Self {
            service: required("service")?,
            mode: options.get("mode"),
            priority: options.get("priority"),
            topic: options.get("topic"),
            mutable_content: options.mutable_content()?,
            time_to_live: options.time_to_live()?.map(|ttl| ttl.as_secs()),
            alert,
            data,
        };
        Ok((required("device_id")?, notification))
    }
}

impl<'n> Alert<'n> {
    /// What is shown of `payload`, if it has a text.
    fn new(options: &'n PublishOptions, payload: &'n Payload) -> Option<Self> {
        let sender = payload.get(Payload::LAST_MESSAGE_SENDER);
        Some(Self {
            body: payload.get(Payload::LAST_MESSAGE_BODY)?,
            title: sender.unwrap_or(UNTOLD_SENDER),
            tag: sender,
            badge: payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok()),
            click_action: options.get("click_action"),
            sound: options.get("sound"),
        })
    }
}

/// A field as the API takes it: the count as a number, if it is one.
fn value((name, value): (&str, &str)) -> (String, Value) {
    let count = (name == Payload::MESSAGE_COUNT).then(|| value.parse::<u64>().ok()).flatten();
    (name.into(), count.map_or_else(|| value.into(), Value::from))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options<const N: usize>(fields: [(&str, &str); N]) -> PublishOptions {
        PublishOptions::new(fields.map(|(name, value)| (name.into(), value.into())).into()).unwrap()
    }

    fn summary() -> Payload {
        Payload::default()
            .with(Payload::MESSAGE_COUNT, "3")
            .with(Payload::LAST_MESSAGE_SENDER, "alice@localhost")
            .with(Payload::LAST_MESSAGE_BODY, "OH, HAI!")
    }

    #[test]
    fn an_alert_shows_the_message() {
        let options = options([
            ("service", "apns"),
            ("device_id", "sometoken"),
            ("mode", "prod"),
            ("priority", "high"),
            ("topic", "some_topic"),
            ("mutable_content", "true"),
            ("time_to_live", "86400"),
            ("click_action", "myactivity"),
            ("sound", "default"),
            ("tags", "any"),
        ]);
        let payload = summary();
        let (device_id, notification) = Notification::new(&options, &payload).unwrap();
        assert_eq!(device_id, "sometoken");
        let alert = json!({"body": "OH, HAI!", "title": "alice@localhost", "tag": "alice@localhost", "badge": 3,
            "click_action": "myactivity", "sound": "default"});
        let expected = json!({"service": "apns", "mode": "prod", "priority": "high", "topic": "some_topic",
            "mutable_content": true, "time_to_live": 86400, "alert": alert});
        assert_eq!(serde_json::to_value(notification).unwrap(), expected);
    }

    #[test]
    fn a_silent_notification_carries_all_fields_as_data() {
        let options = options([("service", "fcm"), ("device_id", "t"), ("silent", "true"), ("click_action", "a")]);
        let payload = summary();
        let (_, notification) = Notification::new(&options, &payload).unwrap();
        let data =
            json!({"message-count": 3, "last-message-sender": "alice@localhost", "last-message-body": "OH, HAI!"});
        assert_eq!(serde_json::to_value(notification).unwrap(), json!({"service": "fcm", "data": data}));
    }

    #[test]
    fn a_payload_without_a_body_goes_as_data() {
        let options = options([("service", "fcm"), ("device_id", "t")]);
        let payload = Payload::default().with("jingle-message", "propose");
        let (_, notification) = Notification::new(&options, &payload).unwrap();
        assert_eq!(serde_json::to_value(notification).unwrap()["data"], json!({"jingle-message": "propose"}));
    }

    #[test]
    fn what_an_alert_cannot_show_goes_beside_it() {
        let options = options([("service", "fcm"), ("device_id", "t")]);
        let payload = summary().with("mention", "true");
        let (_, notification) = Notification::new(&options, &payload).unwrap();
        let notification = serde_json::to_value(notification).unwrap();
        assert_eq!((&notification["data"], &notification["alert"]["badge"]), (&json!({"mention": "true"}), &json!(3)));
    }

    #[test]
    fn an_alert_that_tells_no_sender_has_a_title_and_no_tag() {
        let options = options([("service", "fcm"), ("device_id", "t")]);
        let payload = Payload::default().with(Payload::LAST_MESSAGE_BODY, "Hi");
        let (_, notification) = Notification::new(&options, &payload).unwrap();
        let alert = json!({"body": "Hi", "title": "New message"});
        assert_eq!(serde_json::to_value(notification).unwrap(), json!({"service": "fcm", "alert": alert}));
    }

    #[test]
    fn a_form_that_names_no_device_is_unusable() {
        let payload = summary();
        let refused = |options: PublishOptions| Notification::new(&options, &payload).unwrap_err().to_string();
        assert!(refused(options([("device_id", "t")])).contains("service"));
        assert!(refused(options([("service", "apns"), ("device_id", "")])).contains("device_id"));
        assert!(refused(options([("service", "apns"), ("device_id", "t"), ("priority", "10")])).contains("priority"));
    }
}
