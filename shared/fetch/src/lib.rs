//! Fetches small public documents, such as keys and certificates, by HTTP.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

/// The timeout of one fetch. An invocation has ten seconds in total.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum size of a document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// An HTTP client for documents of at most 64 KiB. It follows no redirects, and is created by the first fetch.
#[derive(Debug, Clone, Default)]
pub struct Fetch(Arc<OnceLock<Client>>);

/// A failed fetch. A later retry may succeed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server did not respond within 3 seconds, or the connection failed.
    #[error("the document cannot be fetched")]
    Unanswered(#[from] reqwest::Error),
    /// The server responded with this status, which is not 200.
    #[error("the server responded with {0}")]
    Status(reqwest::StatusCode),
    /// The document is larger than 64 KiB.
    #[error("the document has more than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
}

impl Fetch {
    /// Fetches the document at `url` by GET, and returns its bytes.
    pub async fn get(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        // The URL may contain a secret.
        let unanswered = |error: reqwest::Error| FetchError::Unanswered(error.without_url());
        let mut response = self.client()?.get(url).send().await.map_err(unanswered)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document)
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        let client = Client::builder().timeout(FETCH_TIMEOUT).redirect(Policy::none()).build()?;
        Ok(self.0.get_or_init(|| client))
    }
}
