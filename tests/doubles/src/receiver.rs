//! A push service of an operator's own, which takes webhooks.

use std::ops::Deref;

use serde_json::{Value, json};

use crate::{Answer, Double};

/// The double; a device is the node of its registration.
#[derive(Clone)]
pub struct Receiver(Double);

impl Deref for Receiver {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.0
    }
}

impl Receiver {
    /// Listens.
    pub async fn start() -> Self {
        let double = Double::start(1_000, |_, request| {
            let notification: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let node = notification["node"].as_str().unwrap_or_default().to_owned();
            (node, Answer::json(204, &json!("")))
        })
        .await;
        Self(double)
    }
}
