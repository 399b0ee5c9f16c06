//! AWS Secrets Manager with one secret (API reference, `GetSecretValue`).

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::{Answer, Double};

/// A double of Secrets Manager with one secret.
#[derive(Clone)]
pub struct SecretsManager {
    double: Double,
    secret: Arc<Mutex<String>>,
}

impl std::ops::Deref for SecretsManager {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl SecretsManager {
    /// The ARN of the only secret.
    pub const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:webhook";

    /// Starts the double on a free port of the loopback address.
    pub async fn start(secret: &str) -> Self {
        let secret = Arc::new(Mutex::new(secret.to_owned()));
        let stored = Arc::clone(&secret);
        let check = move |_: &str, _: &crate::Request| {
            let value = json!({"ARN": Self::ARN, "SecretString": *stored.lock().unwrap()});
            (Self::ARN.to_owned(), Answer::json(200, &value))
        };
        Self { double: Double::start(100, check).await, secret }
    }

    /// Replaces the value of the secret.
    pub fn put(&self, secret: &str) {
        *self.secret.lock().unwrap() = secret.to_owned();
    }
}
