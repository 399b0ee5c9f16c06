//! A server that publishes a document.

use std::sync::{Arc, Mutex};

use crate::{Answer, Double};

/// What it publishes can be changed.
#[derive(Clone)]
pub struct Published {
    double: Double,
    document: Arc<Mutex<(u16, String)>>,
}

impl std::ops::Deref for Published {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Published {
    /// Listens, and has nothing yet.
    pub async fn start() -> Self {
        let document = Arc::new(Mutex::new((404, String::new())));
        let published = Arc::clone(&document);
        let check = move |_: &str, request: &crate::Request| {
            let (status, document) = published.lock().unwrap().clone();
            (request.path.clone(), Answer::text(status, &document))
        };
        Self { double: Double::start(100, check).await, document }
    }

    /// Publishes a document from now on, by this status.
    pub fn set(&self, status: u16, document: &str) {
        *self.document.lock().unwrap() = (status, document.to_owned());
    }
}
