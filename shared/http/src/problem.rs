//! Error responses (RFC 9457).

use std::time::Duration;

use aws_lambda_events::http::{HeaderValue, header};
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use pushlark_access::AccessError;
use pushlark_sns::SnsError;
use pushlark_telemetry::Causes;
use serde::Serialize;

use crate::body::{MAX_BODY_BYTES, Media};
use crate::invocation::http_response;

/// An error response of type `application/problem+json`.
#[derive(Debug, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "<[ItemError]>::is_empty")]
    errors: Box<[ItemError]>,
    #[serde(skip)]
    header: Option<Header>,
}

/// A header with which the caller can correct or retry the request.
#[derive(Debug)]
enum Header {
    /// `WWW-Authenticate`: the supported schemes.
    Challenge(&'static str),
    /// `Allow`: the supported methods.
    Allow(&'static str),
    /// `Retry-After`, in seconds.
    RetryAfter(u64),
}

/// The error of one event of a request.
#[derive(Debug, Serialize)]
struct ItemError {
    index: usize,
    detail: String,
}

/// The maximum length of a detail, in characters. A detail may quote the request, and Lambda rejects a response
/// over 6 MB ("Lambda quotas").
const MAX_DETAIL_CHARS: usize = 500;

impl Problem {
    fn new(status: u16, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = shortened(detail.into());
        Self { r#type: "about:blank", title, status, detail, errors: Box::default(), header: None }
    }

    fn with_header(self, header: Header) -> Self {
        Self { header: Some(header), ..self }
    }

    /// Returns the status if it is 500 or more, for the log.
    pub(crate) fn server_error(&self) -> Option<u16> {
        (self.status >= 500).then_some(self.status)
    }

    /// Returns the detail of a 403, for the log.
    pub(crate) fn forbidden_detail(&self) -> Option<&str> {
        (self.status == 403).then_some(self.detail.as_str())
    }

    /// 400: the content of the request is invalid. `detail` names the field. The caller must change the request.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    /// 400: the events at these indices are invalid. The caller must change or remove them.
    pub fn bad_events(errors: Vec<(usize, String)>) -> Self {
        Self::bad_request("").with_errors("invalid", errors)
    }

    /// 403: the events at these indices are about users or domains that the credential does not cover.
    pub fn forbidden_events(errors: Vec<(usize, String)>) -> Self {
        Self::forbidden("").with_errors("not permitted by the credential", errors)
    }

    fn with_errors(self, verdict: &str, errors: Vec<(usize, String)>) -> Self {
        let detail = match errors.as_slice() {
            [(_, only)] => only.clone(),
            several => format!("{} events are {verdict}; none was accepted", several.len()),
        };
        let errors = errors.into_iter().map(|(index, detail)| ItemError { index, detail: shortened(detail) }).collect();
        Self { errors, detail: shortened(detail), ..self }
    }

    /// 401: the credential is missing, unknown or expired. The caller must send a valid one.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let challenge = Header::Challenge("Bearer, Basic realm=\"pushlark\"");
        Self::new(401, "Unauthorized", detail).with_header(challenge)
    }

    /// 403: the credential is known, but does not permit this request.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", detail)
    }

    /// 405: `method` is not one of `allowed`, which the response lists in `Allow`.
    pub fn method_not_allowed(method: &str, allowed: &'static str) -> Self {
        let detail = format!("the method {method:?} is not allowed, use {allowed}");
        Self::new(405, "Method Not Allowed", detail).with_header(Header::Allow(allowed))
    }

    /// 409: a limit is reached. The caller must delete an item first.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Conflict", detail)
    }

    /// 413: the body has `bytes` bytes, more than [`MAX_BODY_BYTES`]. The caller must send a smaller one.
    pub fn too_large(bytes: usize) -> Self {
        Self::new(413, "Content Too Large", format!("the body has {bytes} bytes, {MAX_BODY_BYTES} are allowed"))
    }

    /// 413: the events concern more accounts than one request may. The caller must split the request.
    pub(crate) fn too_many_accounts(detail: impl Into<String>) -> Self {
        Self::new(413, "Content Too Large", detail)
    }

    /// 415: the function does not accept `media`. `supported` lists the accepted types.
    pub fn unsupported_media(media: &Media, supported: &str) -> Self {
        let detail = format!("the content type \"{media}\" is not supported, use {supported}");
        Self::new(415, "Unsupported Media Type", detail)
    }

    /// 500: an error in Pushlark. A retry fails in the same way.
    pub fn internal() -> Self {
        Self::new(500, "Internal Server Error", "the request could not be answered")
    }

    /// 429: the account is over the rate limit. The same request may succeed after `wait`, which is sent in
    /// `Retry-After`.
    pub fn too_many_requests(detail: impl Into<String>, wait: Duration) -> Self {
        Self::new(429, "Too Many Requests", detail).with_header(Header::RetryAfter(wait.as_secs().max(1)))
    }

    /// 503: the table or another service does not respond. The same request may succeed later; `Retry-After` is 5 s.
    pub fn unavailable() -> Self {
        let detail = "the service is not available at the moment, try again";
        Self::new(503, "Service Unavailable", detail).with_header(Header::RetryAfter(5))
    }

    /// Returns the problem as a JSON object.
    pub fn to_json(&self) -> String {
        // Strings and numbers can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn into_http(self) -> LambdaFunctionUrlResponse {
        let content_type = HeaderValue::from_static("application/problem+json");
        let mut response = http_response(self.status, content_type, self.to_json());
        let (name, value) = match self.header {
            Some(Header::Challenge(challenge)) => (header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge)),
            Some(Header::Allow(methods)) => (header::ALLOW, HeaderValue::from_static(methods)),
            Some(Header::RetryAfter(seconds)) => (header::RETRY_AFTER, seconds.into()),
            None => return response,
        };
        response.headers.insert(name, value);
        response
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Unauthorized { detail, .. } => Self::unauthorized(detail),
            AccessError::Unavailable => Self::unavailable(),
        }
    }
}

impl From<SnsError> for Problem {
    fn from(error: SnsError) -> Self {
        match error {
            SnsError::NotMessage(_) | SnsError::Refused(_) | SnsError::SubscribeUrl(_) => {
                Self::bad_request(error.to_string())
            }
            SnsError::NoCertificate(_) | SnsError::NotConfirmed(_) => {
                tracing::error!(error = %Causes(&error), "SNS cannot be reached");
                Self::unavailable()
            }
        }
    }
}

fn shortened(detail: String) -> String {
    match detail.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail,
    }
}
