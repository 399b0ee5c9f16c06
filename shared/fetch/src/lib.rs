//! Fetches small documents, such as keys, certificates and rules, by HTTP.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pushlark_http_client::{HttpVersions, Tls};
use reqwest::{Client, Method, Request, StatusCode, Url};

/// The timeout of one fetch. An invocation has ten seconds in total.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum size of a document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// An HTTP client for documents of at most 64 KiB. It follows no redirects, and is created by the first fetch.
#[derive(Debug, Clone, Default)]
pub struct Fetch {
    tls: Tls,
    client: Arc<OnceLock<Client>>,
}

/// A failed fetch. A later retry may succeed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server did not respond within 3 seconds, or the connection failed.
    #[error("the document cannot be fetched")]
    Unanswered(#[from] reqwest::Error),
    /// The server responded with this status, which is not 200.
    #[error("the server responded with {0}")]
    Status(StatusCode),
    /// The document is larger than 64 KiB.
    #[error("the document has more than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
}

impl Fetch {
    /// Returns a client that trusts the root certificates of `tls`.
    pub fn new(tls: Tls) -> Self {
        Self { tls, client: Arc::default() }
    }

    /// Fetches the document at `url` by GET, and returns its bytes.
    pub async fn get(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        match self.send(Request::new(Method::GET, url)).await? {
            (StatusCode::OK, document) => Ok(document),
            (status, _) => Err(FetchError::Status(status)),
        }
    }

    /// Sends a request, and returns the status and the body of the response. The body of an error may be cut off after
    /// 64 KiB.
    pub async fn send(&self, request: Request) -> Result<(StatusCode, Vec<u8>), FetchError> {
        // The URL may contain a secret.
        let unanswered = |error: reqwest::Error| FetchError::Unanswered(error.without_url());
        let mut response = self.client()?.execute(request).await.map_err(unanswered)?;
        let status = response.status();
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if document.len() + chunk.len() <= MAX_DOCUMENT_BYTES {
                document.extend_from_slice(&chunk);
            } else if status == StatusCode::OK {
                return Err(FetchError::TooLarge);
            } else {
                break;
            }
        }
        Ok((status, document))
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.tls.http_client(HttpVersions::Http2OrHttp1).timeout(FETCH_TIMEOUT).build()?;
        Ok(self.client.get_or_init(|| client))
    }
}
