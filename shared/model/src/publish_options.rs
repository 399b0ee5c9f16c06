//! The publish options of a registration.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// The maximum number of fields in a form.
pub const MAX_OPTION_FIELDS: usize = 32;
/// The maximum size of all names and values of a form together, in bytes of UTF-8.
pub const MAX_OPTIONS_BYTES: usize = 8 * 1024;

/// The app of a form that names none.
const DEFAULT_APP: &str = "default";
/// The first of the names of Web Push.
const WEB_PUSH: &str = "web-push";

/// The fields whose values are not secret with any push service.
const PUBLIC_FIELDS: [&str; 9] =
    ["service", "mode", "priority", "topic", "silent", "mutable_content", "time_to_live", "click_action", "sound"];

/// The fields of the form in an enable request (XEP-0357, section 5), within [`MAX_OPTION_FIELDS`] and
/// [`MAX_OPTIONS_BYTES`]. A real PubSub service receives them unchanged. At a virtual host they address the device and
/// configure its notifications; the methods read the options that MongooseIM's documentation names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishOptions(BTreeMap<String, String>);

/// Invalid publish options. The client must change the form; the request is answered with `bad-request`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishOptionsError {
    /// The form has this number of fields, more than [`MAX_OPTION_FIELDS`].
    #[error("the form has {0} fields, {MAX_OPTION_FIELDS} are allowed")]
    TooManyFields(usize),
    /// The names and values have this number of bytes, more than [`MAX_OPTIONS_BYTES`].
    #[error("the form has {0} bytes, {MAX_OPTIONS_BYTES} are allowed")]
    TooLarge(usize),
    /// A field has an empty name, which the table cannot store.
    #[error("a field of the form has no name")]
    Unnamed,
    /// The value of a known field is invalid.
    #[error("the form's field {name:?} must be {expected}")]
    Impossible {
        /// The name of the field, such as `priority`.
        name: &'static str,
        /// The valid values, such as `normal or high`.
        expected: &'static str,
    },
}

/// The priority of a notification, `priority` in the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The device may receive the notification later, to save power.
    Normal,
    /// The notification wakes the device.
    High,
}

/// The environment of the push service that the device is registered with, `mode` in the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `prod`: an app from a store.
    Production,
    /// `dev`: an app in development.
    Development,
}

/// A device, as a form names it. Two forms with the same device notify the same app on the same phone or browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device<'o> {
    /// The value of `service`; `web-push` for all of its names, and empty without one.
    pub service: &'o str,
    /// The value of `app`, or the name of the default app.
    pub app: &'o str,
    /// The address of the device at the service.
    pub address: DeviceAddress<'o>,
}

/// The address of a device at its push service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceAddress<'o> {
    /// The token in `device_id`. APNs tokens are hexadecimal numbers, so theirs is in lower case.
    Token(Cow<'o, str>),
    /// The PushKit token in `voip_device_id`, of a form that has no other, in lower case for APNs.
    VoipToken(Cow<'o, str>),
    /// The URL in `endpoint`, of Web Push and UnifiedPush.
    Endpoint(&'o str),
}

impl PublishOptions {
    /// Returns the device that the form names, if it names one.
    pub fn device(&self) -> Option<Device<'_>> {
        let service = self.service();
        let is_web_push = service == WEB_PUSH;
        let endpoint = || self.given("endpoint").map(DeviceAddress::Endpoint);
        let token = || self.token("device_id").map(DeviceAddress::Token);
        let voip_token = || self.token("voip_device_id").map(DeviceAddress::VoipToken);
        let address = if is_web_push { endpoint()? } else { token().or_else(voip_token).or_else(endpoint)? };
        Some(Device { service, app: self.app(), address })
    }

    /// Returns the push service, the field `service`; `web-push` for all of its names, and empty without one.
    pub fn service(&self) -> &str {
        match self.given("service").unwrap_or_default() {
            WEB_PUSH | "webpush" | "unifiedpush" => WEB_PUSH,
            service => service,
        }
    }

    /// Returns the app, the field `app`; `default` without one.
    pub fn app(&self) -> &str {
        self.given("app").unwrap_or(DEFAULT_APP)
    }

    /// Returns the token in the field `name`, as [`DeviceAddress`] has it.
    fn token(&self, name: &str) -> Option<Cow<'_, str>> {
        let token = self.given(name)?;
        Some(if self.is_apns() { token.to_ascii_lowercase().into() } else { token.into() })
    }

    /// Checks the limits and names of a form's fields. The values are checked by [`check`](Self::check).
    pub fn new(fields: BTreeMap<String, String>) -> Result<Self, PublishOptionsError> {
        if fields.len() > MAX_OPTION_FIELDS {
            return Err(PublishOptionsError::TooManyFields(fields.len()));
        }
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_OPTIONS_BYTES {
            return Err(PublishOptionsError::TooLarge(bytes));
        }
        if fields.contains_key("") {
            return Err(PublishOptionsError::Unnamed);
        }
        Ok(Self(fields))
    }

    /// Returns the value of a field, without surrounding white space.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// Returns the same value as [`get`](Self::get), or `None` if it is empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Returns all fields unchanged.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Returns all fields for display. A value that may be a token, a key or a secret is replaced by `…`, with its last
    /// four characters if it has at least 16.
    pub fn masked(&self) -> BTreeMap<String, String> {
        let shown = |(name, value): (&String, &String)| {
            let is_public = PUBLIC_FIELDS.contains(&name.as_str());
            (name.clone(), if is_public { value.clone() } else { masked(value) })
        };
        self.0.iter().map(shown).collect()
    }

    /// Checks the values of all known options, so that the enable request fails and not each later notification.
    pub fn check(&self) -> Result<(), PublishOptionsError> {
        self.priority()?;
        self.mode()?;
        self.silent()?;
        self.mutable_content()?;
        self.time_to_live()?;
        Ok(())
    }

    /// Returns whether the device belongs to APNs: the field `service` is `apns`.
    pub fn is_apns(&self) -> bool {
        self.get("service") == Some("apns")
    }

    /// Returns whether the device belongs to PushKit, Apple's service for calls: APNs with a `topic` that ends in
    /// `.voip` ("Sending notification requests to APNs", `apns-topic`).
    pub fn is_push_kit(&self) -> bool {
        self.is_apns() && self.get("topic").is_some_and(|topic| topic.ends_with(".voip"))
    }

    /// Reads `priority`: `normal` or `high`.
    pub fn priority(&self) -> Result<Option<Priority>, PublishOptionsError> {
        self.choice("priority", "normal or high", |value| match value {
            "normal" => Some(Priority::Normal),
            "high" => Some(Priority::High),
            _ => None,
        })
    }

    /// Reads `mode`: `prod` or `dev`.
    pub fn mode(&self) -> Result<Option<Mode>, PublishOptionsError> {
        self.choice("mode", "prod or dev", |value| match value {
            "prod" => Some(Mode::Production),
            "dev" => Some(Mode::Development),
            _ => None,
        })
    }

    /// Reads `silent`: whether the app handles the notification without showing it. A boolean, `false` by default.
    pub fn silent(&self) -> Result<bool, PublishOptionsError> {
        Ok(self.boolean("silent")?.unwrap_or(false))
    }

    /// Reads `mutable_content`: whether the app may change the notification before it is shown. A boolean.
    pub fn mutable_content(&self) -> Result<Option<bool>, PublishOptionsError> {
        self.boolean("mutable_content")
    }

    /// Reads `time_to_live`: the time after which the notification expires, in whole seconds from 0 to 4294967295.
    pub fn time_to_live(&self) -> Result<Option<Duration>, PublishOptionsError> {
        self.choice("time_to_live", "a number of seconds", |value| {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| value.parse::<u32>().ok()).flatten().map(|seconds| Duration::from_secs(seconds.into()))
        })
    }

    /// Reads a field of type `boolean` (XEP-0004, section 3.3).
    fn boolean(&self, name: &'static str) -> Result<Option<bool>, PublishOptionsError> {
        self.choice(name, "true or false", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    fn choice<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, PublishOptionsError> {
        self.get(name).map(|value| read(value).ok_or(PublishOptionsError::Impossible { name, expected })).transpose()
    }
}

/// Returns `…`, and the last four characters of a value that has at least 16.
fn masked(value: &str) -> String {
    let end = value.char_indices().rev().nth(3).filter(|_| value.chars().count() >= 16);
    format!("…{}", end.map_or("", |(start, _)| &value[start..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options<const N: usize>(fields: [(&str, &str); N]) -> PublishOptions {
        PublishOptions::new(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).unwrap()
    }

    #[test]
    fn invalid_values_of_known_options_are_refused_by_name() {
        for (name, value) in [
            ("priority", "10"),
            ("mode", "production"),
            ("silent", "TRUE"),
            ("mutable_content", "yes"),
            ("time_to_live", "soon"),
            ("time_to_live", "-1"),
            ("time_to_live", "+1"),
            ("time_to_live", ""),
        ] {
            let refusal = options([(name, value)]).check().unwrap_err().to_string();
            assert!(refusal.contains(name), "{refusal}");
        }
        let fine = [("priority", "high"), ("mode", "dev"), ("silent", "false"), ("time_to_live", "0"), ("x", "any")];
        options(fine).check().unwrap();
    }

    #[test]
    fn booleans_follow_data_forms_and_surrounding_white_space_is_ignored() {
        for (value, expected) in [("true", true), ("1", true), (" true\n", true), ("false", false), ("0", false)] {
            let options = options([("silent", value), ("mutable_content", value)]);
            assert_eq!((options.silent(), options.mutable_content()), (Ok(expected), Ok(Some(expected))), "{value:?}");
        }
        let padded = options([("service", " fcm\t"), ("priority", "\nhigh "), ("time_to_live", " 60 ")]);
        assert_eq!(padded.get("service"), Some("fcm"));
        assert_eq!(padded.priority(), Ok(Some(Priority::High)));
        assert_eq!(padded.time_to_live(), Ok(Some(Duration::from_secs(60))));
    }

    #[test]
    fn a_device_of_apns_with_a_voip_topic_belongs_to_push_kit() {
        for (service, topic, is_apns, is_push_kit) in [
            ("apns", "com.example.chat.voip", true, true),
            (" apns ", " com.example.chat.voip\n", true, true),
            ("apns", "com.example.chat", true, false),
            ("apns", "com.example.voip.chat", true, false),
            ("apns", "com.example.chat.VOIP", true, false),
            ("APNS", "com.example.chat.voip", false, false),
            ("fcm", "com.example.chat.voip", false, false),
        ] {
            let options = options([("service", service), ("topic", topic)]);
            assert_eq!((options.is_apns(), options.is_push_kit()), (is_apns, is_push_kit), "{service} {topic}");
        }
        assert!(!options([("service", "apns")]).is_push_kit());
    }

    #[test]
    fn values_that_may_be_secret_are_masked() {
        let form = options([
            ("service", "fcm"),
            ("device_id", "fk3xT0ken9ABCDEF"),
            ("secret", "short"),
            ("auth", "é€😀x".repeat(4).as_str()),
        ]);
        let shown = [("auth", "…é€😀x"), ("device_id", "…CDEF"), ("secret", "…"), ("service", "fcm")];
        assert_eq!(form.masked(), shown.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn a_device_is_the_service_the_app_and_the_token_or_the_endpoint() {
        let phone = options([("service", "fcm"), ("device_id", "t")]);
        for same in [
            options([("service", " fcm"), ("device_id", "t\n"), ("mode", "dev"), ("topic", "a"), ("priority", "high")]),
            options([("service", "fcm"), ("device_id", "t"), ("app", "default")]),
            options([("service", "fcm"), ("device_id", "t"), ("app", ""), ("voip_device_id", "v"), ("endpoint", "e")]),
        ] {
            assert_eq!(same.device(), phone.device(), "{same:?}");
        }
        for other in [
            options([("service", "apns"), ("device_id", "t")]),
            options([("service", "fcm"), ("device_id", "t2")]),
            options([("service", "fcm"), ("device_id", "t"), ("app", "other")]),
            options([("service", "fcm"), ("voip_device_id", "t")]),
            options([("service", "fcm"), ("endpoint", "t")]),
        ] {
            assert!(other.device().is_some_and(|other| Some(other) != phone.device()), "{other:?}");
        }
        let iphone = |token| options([("service", "apns"), ("device_id", token)]);
        assert_eq!(iphone("0aF1").device(), iphone("0Af1").device(), "one number");
        let android = |token| options([("service", "fcm"), ("device_id", token)]);
        assert_ne!(android("0aF1").device(), android("0Af1").device());
        let browser =
            |service| options([("service", service), ("endpoint", "https://push.example"), ("device_id", "x")]);
        assert_eq!(browser("webpush").device(), browser("unifiedpush").device());
        for none in [options([]), options([("service", "fcm")]), options([("service", "webpush"), ("device_id", "t")])]
        {
            assert_eq!(none.device(), None, "{none:?}");
        }
    }

    #[test]
    fn a_form_over_a_limit_is_refused() {
        let many = (0..=MAX_OPTION_FIELDS).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(PublishOptions::new(many), Err(PublishOptionsError::TooManyFields(33)));
        let large = BTreeMap::from([("x".to_owned(), "y".repeat(MAX_OPTIONS_BYTES))]);
        assert_eq!(PublishOptions::new(large), Err(PublishOptionsError::TooLarge(8193)));
        let unnamed = BTreeMap::from([(String::new(), "x".to_owned())]);
        assert_eq!(PublishOptions::new(unnamed), Err(PublishOptionsError::Unnamed));
    }
}
