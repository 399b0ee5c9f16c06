//! Problem answers (RFC 9457).

use aws_lambda_events::http::HeaderValue;
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use serde::Serialize;

use crate::{MAX_BODY_BYTES, Media, http_response};

/// Why a request was not acted on, as `application/problem+json`.
#[derive(Debug, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemError>,
    #[serde(skip)]
    header: Option<(&'static str, &'static str)>,
}

/// What is wrong with one event of several.
#[derive(Debug, Serialize)]
struct ItemError {
    index: usize,
    detail: String,
}

impl Problem {
    fn new(status: u16, title: &'static str, detail: impl Into<String>) -> Self {
        Self { r#type: "about:blank", title, status, detail: detail.into(), errors: Vec::new(), header: None }
    }

    /// 400: the request's content is wrong; `detail` names the field.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    /// 400: these of the request's events, by their index, are wrong.
    pub fn bad_events(errors: Vec<(usize, String)>) -> Self {
        let detail = match errors.as_slice() {
            [(_, only)] => only.clone(),
            several => format!("{} events are wrong; none was taken", several.len()),
        };
        let errors = errors.into_iter().map(|(index, detail)| ItemError { index, detail }).collect();
        Self { errors, ..Self::bad_request(detail) }
    }

    /// 401: no credential that is known.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let challenge = ("www-authenticate", "Bearer, Basic realm=\"pushlark\"");
        Self { header: Some(challenge), ..Self::new(401, "Unauthorized", detail) }
    }

    /// 405: not one of the methods `allowed`.
    pub fn method_not_allowed(method: &str, allowed: &'static str) -> Self {
        let allow = ("allow", allowed);
        let detail = format!("the method {method:?} is not allowed, use {allowed}");
        Self { header: Some(allow), ..Self::new(405, "Method Not Allowed", detail) }
    }

    /// 413: the body is too large.
    pub fn too_large(bytes: usize) -> Self {
        Self::new(413, "Content Too Large", format!("the body has {bytes} bytes, {MAX_BODY_BYTES} are allowed"))
    }

    /// 415: not a media type that the function takes.
    pub fn unsupported_media(media: &Media, supported: &str) -> Self {
        let detail = format!("the content type \"{media}\" is not supported, use {supported}");
        Self::new(415, "Unsupported Media Type", detail)
    }

    /// 500: a fault of ours.
    pub fn internal() -> Self {
        Self::new(500, "Internal Server Error", "the request could not be answered")
    }

    /// 503: what is needed does not answer; the same request may succeed later.
    pub fn unavailable() -> Self {
        let retry = ("retry-after", "5");
        let detail = "the service is not available at the moment, try again";
        Self { header: Some(retry), ..Self::new(503, "Service Unavailable", detail) }
    }

    /// The problem as a JSON object.
    pub fn to_json(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn into_http(self) -> LambdaFunctionUrlResponse {
        let content_type = HeaderValue::from_static("application/problem+json");
        let mut response = http_response(self.status, content_type, self.to_json());
        if let Some((name, value)) = self.header {
            response.headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
