//! The publish options of a registration.

use std::collections::BTreeMap;
use std::time::Duration;

/// The most fields that a form may have.
pub const MAX_OPTION_FIELDS: usize = 32;
/// The most that a form's names and values may hold together, in bytes of UTF-8.
pub const MAX_OPTIONS_BYTES: usize = 8 * 1024;

/// The fields whose values are no secret, of whatever push service.
const OPEN_FIELDS: [&str; 9] =
    ["service", "mode", "priority", "topic", "silent", "mutable_content", "time_to_live", "click_action", "sound"];

/// The fields of the form that a client enabled notifications with (XEP-0357, section 5). A real PubSub service gets
/// them as they are; at a virtual host they tell the push service how to reach the device, and the methods here read
/// the ones that MongooseIM's documentation names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishOptions(BTreeMap<String, String>);

/// What is wrong with publish options, naming the field: `bad-request`, the client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishOptionsError {
    /// Over [`MAX_OPTION_FIELDS`].
    #[error("the form has {0} fields, {MAX_OPTION_FIELDS} are allowed")]
    TooManyFields(usize),
    /// Over [`MAX_OPTIONS_BYTES`].
    #[error("the form has {0} bytes, {MAX_OPTIONS_BYTES} are allowed")]
    TooLarge(usize),
    /// A field without a name, which the table cannot hold.
    #[error("a field of the form has no name")]
    Unnamed,
    /// A value that no push service could make sense of.
    #[error("the form's field {name:?} must be {expected}")]
    Impossible {
        /// The field.
        name: &'static str,
        /// The values that it may have.
        expected: &'static str,
    },
}

/// How urgent a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The device may wait.
    Normal,
    /// The device is woken.
    High,
}

/// Which of a push service's environments a device belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Apps from a store.
    Production,
    /// Apps in development.
    Development,
}

impl PublishOptions {
    /// Options from a form's fields, within bounds.
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

    /// The value of a field, without surrounding white space.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// The value of a field, as [`get`](Self::get) has it, unless it is empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All fields, as the client gave them.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// All fields as they may be shown: what may be a token, a key or a secret by its end alone, if it is long.
    pub fn masked(&self) -> BTreeMap<String, String> {
        let shown = |(name, value): (&String, &String)| {
            let is_open = OPEN_FIELDS.contains(&name.as_str());
            (name.clone(), if is_open { value.clone() } else { masked(value) })
        };
        self.0.iter().map(shown).collect()
    }

    /// Refuses what a virtual host could never act on, while there is still somebody to be told.
    pub fn check(&self) -> Result<(), PublishOptionsError> {
        self.priority()?;
        self.mode()?;
        self.silent()?;
        self.mutable_content()?;
        self.time_to_live()?;
        Ok(())
    }

    /// `priority`: `normal` or `high`.
    pub fn priority(&self) -> Result<Option<Priority>, PublishOptionsError> {
        self.choice("priority", "normal or high", |value| match value {
            "normal" => Some(Priority::Normal),
            "high" => Some(Priority::High),
            _ => None,
        })
    }

    /// `mode`: `prod` or `dev`.
    pub fn mode(&self) -> Result<Option<Mode>, PublishOptionsError> {
        self.choice("mode", "prod or dev", |value| match value {
            "prod" => Some(Mode::Production),
            "dev" => Some(Mode::Development),
            _ => None,
        })
    }

    /// `silent`: whether the app handles the notification without showing it. A boolean, `false` when it is not given.
    pub fn silent(&self) -> Result<bool, PublishOptionsError> {
        Ok(self.boolean("silent")?.unwrap_or(false))
    }

    /// `mutable_content`: whether the app may change the notification before it is shown. A boolean.
    pub fn mutable_content(&self) -> Result<Option<bool>, PublishOptionsError> {
        self.boolean("mutable_content")
    }

    /// `time_to_live`: how long the notification is worth delivering, in seconds.
    pub fn time_to_live(&self) -> Result<Option<Duration>, PublishOptionsError> {
        self.choice("time_to_live", "a number of seconds", |value| {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| value.parse::<u32>().ok()).flatten().map(|seconds| Duration::from_secs(seconds.into()))
        })
    }

    /// A field of type `boolean` (XEP-0004, section 3.3).
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

/// The last four characters of a value that is long enough to keep the rest of it to itself.
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
    fn known_options_with_impossible_values_are_refused_by_name() {
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
    fn booleans_are_those_of_data_forms_and_white_space_around_a_value_is_ignored() {
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
    fn what_may_be_secret_is_masked() {
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
    fn a_form_is_bounded() {
        let many = (0..=MAX_OPTION_FIELDS).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(PublishOptions::new(many), Err(PublishOptionsError::TooManyFields(33)));
        let large = BTreeMap::from([("x".to_owned(), "y".repeat(MAX_OPTIONS_BYTES))]);
        assert_eq!(PublishOptions::new(large), Err(PublishOptionsError::TooLarge(8193)));
        let unnamed = BTreeMap::from([(String::new(), "x".to_owned())]);
        assert_eq!(PublishOptions::new(unnamed), Err(PublishOptionsError::Unnamed));
    }
}
