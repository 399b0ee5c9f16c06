//! The presentation of a notification on the device.

use std::time::Duration;

use serde::Deserialize;

use crate::Priority;

/// The presentation of a notification, as a rule of the operator sets it. A field that is `None` is as the form of the
/// registration has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presentation {
    /// The title of the alert, in place of the sender.
    pub title: Option<String>,
    /// The priority, in place of the form's `priority`.
    pub priority: Option<Priority>,
    /// The sound, in place of the form's `sound`.
    pub sound: Option<Sound>,
    /// The interruption level of APNs.
    pub interruption_level: Option<InterruptionLevel>,
    /// The notification channel of Android.
    pub channel_id: Option<String>,
    /// The time after which the notification expires, in place of the form's `time_to_live`.
    pub time_to_live: Option<Duration>,
    /// The earlier notifications that this one replaces.
    pub collapse: Option<Collapse>,
}

/// The sound of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sound {
    /// No sound and no vibration.
    None,
    /// The sound of this name in the app.
    Named(String),
}

/// The interruption level of an alert ("Generating a remote notification", `interruption-level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum InterruptionLevel {
    Passive,
    Active,
    TimeSensitive,
    Critical,
}

/// The earlier notifications that a notification replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collapse {
    /// Those of the same message: retries.
    Message,
    /// Those of the same conversation.
    Conversation,
}

impl Sound {
    const NONE: &str = "none";

    /// Returns the name of the sound, or `none`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::None => Self::NONE,
            Self::Named(name) => name,
        }
    }
}

impl From<String> for Sound {
    fn from(name: String) -> Self {
        if name == Self::NONE { Self::None } else { Self::Named(name) }
    }
}

impl InterruptionLevel {
    /// Returns the level as APNs names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Active => "active",
            Self::TimeSensitive => "time-sensitive",
            Self::Critical => "critical",
        }
    }
}

impl Collapse {
    /// Returns the name: `message` or `conversation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Conversation => "conversation",
        }
    }
}
