//! A web server with one document, such as a set of public keys.

use std::sync::{Arc, Mutex};

use crate::{Answer, Double};

/// The double; each path has the same document.
#[derive(Clone)]
pub struct DocumentServer {
    double: Double,
    document: Arc<Mutex<(u16, String)>>,
}

impl std::ops::Deref for DocumentServer {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl DocumentServer {
    /// Listens on a free port; answers 404 until [`Self::set`] is called.
    pub async fn start() -> Self {
        let document = Arc::new(Mutex::new((404, String::new())));
        let served = Arc::clone(&document);
        let check = move |_: &str, request: &crate::Request| {
            let (status, document) = served.lock().unwrap().clone();
            (request.path.clone(), Answer::text(status, &document))
        };
        Self { double: Double::start(100, check).await, document }
    }

    /// Sets the status and the body of all later answers.
    pub fn set(&self, status: u16, document: &str) {
        *self.document.lock().unwrap() = (status, document.to_owned());
    }
}
