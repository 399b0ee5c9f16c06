//! The ways in which devices receive calls (XEP-0353).

use pushlark_model::PublishOptions;

/// The way in which a device receives calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ringing {
    /// By PushKit, Apple's service for calls. The device receives calls alone.
    PushKit,
    /// By PushKit with a token of its own (`voip_device_id`); other notifications go to the `device_id`.
    PushKitToo,
    /// APNs without PushKit: the app does not run, so the call is an alert.
    Alert,
    /// APNs without PushKit, as data: the form is silent, or the gateway passes all fields on.
    Background,
    /// As data: the app rings.
    App,
}

impl Ringing {
    /// Returns the way for a gateway that shows alerts.
    pub fn with_alerts(options: &PublishOptions) -> Self {
        match Self::as_data(options) {
            Self::Background if !options.silent().unwrap_or(false) => Self::Alert,
            ringing => ringing,
        }
    }

    /// Returns the way for a gateway that passes the fields of a call on as they are.
    pub fn as_data(options: &PublishOptions) -> Self {
        match (options.is_push_kit(), options.is_apns()) {
            (true, _) => Self::PushKit,
            (false, true) => Self::Background,
            (false, false) => Self::App,
        }
    }

    /// Returns whether the device rings by PushKit.
    pub fn is_by_push_kit(self) -> bool {
        matches!(self, Self::PushKit | Self::PushKitToo)
    }
}
