//! A stack that sends notifications directly to doubles of APNs, FCM and Web Push.

use doubles::{APNS_KEY, APNS_KEY_ID, APNS_TEAM, APNS_TOPIC, Apns, Double, Fcm, Subscriber, WebPush};
use local::Options;
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::{Value, json};

use crate::push_request::browser;
use crate::{BOB, Pushlark, eventually};

/// A device token of APNs, in hexadecimal.
pub const IPHONE: &str = "00fc13adff78512263616e617279009a2341241421348097878e577c991de8f0";

/// A private key of VAPID: 32 bytes in base64url.
pub const VAPID_KEY: &str = "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5a3k";

/// Returns the device token of APNs with this number.
pub fn iphone(number: u32) -> String {
    format!("63616e617279{number:08x}")
}

/// Returns the credentials of an app for the three doubles.
pub fn credentials(apns: &Apns, fcm: &Fcm) -> Value {
    let apns = json!({"team_id": APNS_TEAM, "key_id": APNS_KEY_ID, "key": APNS_KEY, "topic": APNS_TOPIC,
        "url": apns.url, "dev_url": "http://127.0.0.1:1"});
    let web_push = json!({"key": VAPID_KEY, "subject": "mailto:canary@example.com"});
    json!({"default": {"apns": apns, "fcm": fcm.service_account(), "web_push": web_push}})
}

/// The stack and the doubles.
pub struct Providers {
    /// The stack with `PUSH_SERVICE=direct`.
    pub pushlark: Pushlark,
    /// The double of APNs.
    pub apns: Apns,
    /// FCM and Google's token server.
    pub fcm: Fcm,
    /// The push service of a browser.
    pub web_push: WebPush,
}

impl Providers {
    /// Starts the doubles and a stack with the default settings.
    pub async fn start() -> Self {
        Self::with_settings(&[]).await
    }

    /// Starts the doubles and a stack with these settings.
    pub async fn with_settings(settings: &[(&str, &str)]) -> Self {
        Self::with_plugins(Plugins::built_in(), settings).await
    }

    /// Starts the doubles and a stack with these plugins and settings.
    pub async fn with_plugins(plugins: Plugins, settings: &[(&str, &str)]) -> Self {
        let (apns, fcm, web_push) = (Apns::start().await, Fcm::start().await, WebPush::start().await);
        let credentials = credentials(&apns, &fcm).to_string();
        let own = [
            ("PUSH_SERVICE", "direct"),
            ("PUSH_CREDENTIALS", credentials.as_str()),
            ("WEB_PUSH_TRUSTED_ORIGINS", web_push.url.as_str()),
        ];
        let environment = Environment::from_iter(own.into_iter().chain(settings.iter().copied()));
        let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
        Self { pushlark, apns, fcm, web_push }
    }

    /// Enables a device of APNs for Bob.
    pub async fn enable_iphone(&self, token: &str, options: Value) {
        let mut form = json!({"service": "apns", "device_id": token});
        form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.pushlark.enable_with(BOB, token, form).await;
    }

    /// Enables a browser for Bob.
    pub async fn enable_browser(&self, device: &str, subscriber: &Subscriber, options: Value) {
        let mut form = browser(&self.web_push.endpoint(device), subscriber);
        form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.pushlark.enable_with(BOB, device, form).await;
    }

    /// Enables a device of `apns`, `fcm` or `web-push` for Bob. Returns the double and the device's name there.
    pub async fn enable_at(&self, service: &str) -> (&Double, &'static str) {
        match service {
            "apns" => {
                self.enable_iphone(IPHONE, json!({})).await;
                (&self.apns, IPHONE)
            }
            "fcm" => {
                self.pushlark.enable(BOB, "android").await;
                (&self.fcm, "android")
            }
            _ => {
                self.enable_browser("browser", &Subscriber::new(7), json!({})).await;
                (&self.web_push, "browser")
            }
        }
    }

    /// Sends a message to Bob, and waits until the queue is empty.
    pub async fn message(&self, body: &str) {
        self.pushlark.message(BOB, body).await;
        self.pushlark.settled().await;
    }
}

/// Waits until a double has answered this many notifications.
pub async fn answered(double: &Double, notifications: usize) {
    eventually("notifications", async || (double.requests().len() >= notifications).then_some(())).await;
}
