//! The body of a notification as MongoosePush takes it.

use serde::Serialize;
use serde_json::{Map, Value};

use pushlark_plugin::InvalidOptions;

use crate::{Payload, PublishOptions};

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
    #[serde(flatten)]
    content: Content<'n>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'n> {
    Alert(Alert<'n>),
    Data(Map<String, Value>),
}

#[derive(Debug, Serialize)]
struct Alert<'n> {
    body: &'n str,
    title: &'n str,
    tag: &'n str,
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
        let notification = Self {
            service: required("service")?,
            mode: options.get("mode"),
            priority: options.get("priority"),
            topic: options.get("topic"),
            mutable_content: options.mutable_content()?,
            time_to_live: options.time_to_live()?.map(|ttl| ttl.as_secs()),
            content: Content::new(options, payload, options.silent()?),
        };
        Ok((required("device_id")?, notification))
    }
}

impl<'n> Content<'n> {
    /// An alert, unless the app is to be woken silently or there is nothing to show.
    fn new(options: &'n PublishOptions, payload: &'n Payload, silent: bool) -> Self {
        let count = payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok());
        match (payload.get(Payload::LAST_MESSAGE_BODY), payload.get(Payload::LAST_MESSAGE_SENDER)) {
            (Some(body), Some(sender)) if !silent => Self::Alert(Alert {
                body,
                title: sender,
                tag: sender,
                badge: count,
                click_action: options.get("click_action"),
                sound: options.get("sound"),
            }),
            _ => Self::Data(
                payload
                    .fields()
                    .map(|(name, value)| match count {
                        Some(count) if name == Payload::MESSAGE_COUNT => (name.into(), count.into()),
                        _ => (name.into(), value.into()),
                    })
                    .collect(),
            ),
        }
    }
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
        Payload::summary(3, "alice@localhost".into(), "OH, HAI!".into())
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
    fn a_form_that_names_no_device_is_unusable() {
        let payload = summary();
        let refused = |options: PublishOptions| Notification::new(&options, &payload).unwrap_err().to_string();
        assert!(refused(options([("device_id", "t")])).contains("service"));
        assert!(refused(options([("service", "apns"), ("device_id", "")])).contains("device_id"));
        assert!(refused(options([("service", "apns"), ("device_id", "t"), ("priority", "10")])).contains("priority"));
    }
}
