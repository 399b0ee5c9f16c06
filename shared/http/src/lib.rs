//! What the HTTP functions share: the request's envelope, problem answers, authentication.
//!
//! A function is invoked by a Function URL (or an HTTP API, payload version 2.0), or with a bare JSON value, as
//! `cargo lambda invoke` does; the latter is answered with bare JSON and needs no credential, since IAM has vouched.

mod access;
mod command;
mod problem;

pub use access::Access;
pub use command::{Rejection, command};
pub use problem::Problem;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;

use aws_lambda_events::http::{HeaderValue, header};
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lambda_runtime::{Error as BoxError, LambdaEvent, service_fn};
use pushlark_telemetry::flush;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What a function is invoked with.
#[derive(Debug)]
pub enum Invocation {
    /// An HTTP request.
    Http(HttpRequest),
    /// A JSON value from a caller that IAM knows.
    Direct(Box<RawValue>),
}

/// What a function reads of a Function URL's event ("Invoking Lambda function URLs", "Request payload format"). Much of
/// the event is left out, so that one of an HTTP API or of a test, which differ in the rest, is as good.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRequest {
    #[serde(default)]
    headers: HashMap<String, String>,
    #[serde(default)]
    query_string_parameters: Option<HashMap<String, String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
    request_context: RequestContext,
}

#[derive(Debug, Deserialize)]
struct RequestContext {
    http: HttpContext,
}

#[derive(Debug, Deserialize)]
struct HttpContext {
    method: String,
}

/// What a function answers: to HTTP by HTTP, to a direct caller by bare JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// An HTTP response.
    Http(LambdaFunctionUrlResponse),
    /// A JSON value.
    Direct(Box<RawValue>),
}

/// A request that may be acted on: its caller is known, its method and size are right.
#[derive(Debug)]
pub struct Request {
    /// What the body is.
    pub media: Media,
    /// The body.
    pub body: Vec<u8>,
}

/// The media types that a function may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    JsonLines,
    /// `application/xml`, `text/xml` or `application/xmpp+xml`: the one that it is, to be answered in kind.
    Xml(&'static str),
    /// `application/x-www-form-urlencoded`
    Form,
    /// Any other, as it was written.
    Unknown(String),
}

/// The good end of a request.
#[derive(Debug)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl<'de> Deserialize<'de> for Invocation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope {
            #[serde(rename = "requestContext")]
            _request_context: IgnoredAny,
        }

        let payload = Box::<RawValue>::deserialize(deserializer)?;
        // Whatever looks like HTTP is HTTP or an error: taken for a direct call, it would need no credential.
        if serde_json::from_str::<Envelope>(payload.get()).is_err() {
            return Ok(Self::Direct(payload));
        }
        serde_json::from_str(payload.get()).map(Self::Http).map_err(D::Error::custom)
    }
}

impl HttpRequest {
    /// A header's value, by its name in lower case, in which Lambda gives it.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query_string_parameters.as_ref()?.get(name).map(String::as_str)
    }
}

/// Answers an invocation by `act`, once its credential, method and size are found right.
pub async fn answer(
    access: &Access,
    invocation: Invocation,
    act: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
) -> Answer {
    match invocation {
        Invocation::Direct(payload) => {
            let acted = match Request::new(Media::Json, payload.get().as_bytes().to_vec()) {
                Ok(request) => act(request).await,
                Err(problem) => Err(problem),
            };
            let body = match acted {
                Ok(response) => response.body,
                Err(problem) => problem.to_json(),
            };
            // Handlers answer JSON with JSON; it parses.
            Answer::Direct(RawValue::from_string(body).unwrap_or_default())
        }
        Invocation::Http(request) => {
            let outcome = match admit(access, request) {
                Ok(request) => act(request).await,
                Err(problem) => Err(problem),
            };
            Answer::Http(outcome.map_or_else(Problem::into_http, Response::into_http))
        }
    }
}

/// Runs an HTTP function on Lambda, until Lambda ends the process.
pub async fn run(handle: impl AsyncFn(Invocation) -> Answer) -> Result<(), BoxError> {
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Invocation>| {
        let answer = handle(event.payload).await;
        flush();
        Ok::<_, Infallible>(answer)
    }))
    .await
}

fn admit(access: &Access, mut request: HttpRequest) -> Result<Request, Problem> {
    let body = request.body.take().unwrap_or_default();
    let body = if request.is_base64_encoded {
        BASE64_STANDARD.decode(body).map_err(|_| Problem::bad_request("the body is not valid base64"))?
    } else {
        body.into_bytes()
    };
    access.check(&request, &body)?;
    let method = &request.request_context.http.method;
    if method != "POST" {
        return Err(Problem::method_not_allowed(method, "POST"));
    }
    Request::new(Media::of(request.header("content-type").unwrap_or_default()), body)
}

impl Request {
    /// A request with a body of at most [`MAX_BODY_BYTES`].
    pub fn new(media: Media, body: Vec<u8>) -> Result<Self, Problem> {
        if body.len() > MAX_BODY_BYTES {
            return Err(Problem::too_large(body.len()));
        }
        Ok(Self { media, body })
    }
}

impl Media {
    fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Self::Json,
            "application/x-ndjson" => Self::JsonLines,
            "application/xml" => Self::Xml("application/xml"),
            "text/xml" => Self::Xml("text/xml"),
            "application/xmpp+xml" => Self::Xml("application/xmpp+xml"),
            "application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Unknown(essence),
        }
    }
}

impl fmt::Display for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/x-ndjson",
            Self::Xml(xml) => xml,
            Self::Form => "application/x-www-form-urlencoded",
            Self::Unknown(other) => other,
        })
    }
}

impl Response {
    /// A JSON answer.
    pub fn json(status: u16, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_string(body).map_err(|_| Problem::internal())?;
        Ok(Self { status, content_type: "application/json", body })
    }

    /// An XML answer of one of the media types of [`Media::Xml`].
    pub fn xml(content_type: &'static str, body: String) -> Self {
        Self { status: 200, content_type, body }
    }

    fn into_http(self) -> LambdaFunctionUrlResponse {
        http_response(self.status, HeaderValue::from_static(self.content_type), self.body)
    }
}

fn http_response(status: u16, content_type: HeaderValue, body: String) -> LambdaFunctionUrlResponse {
    let mut response = LambdaFunctionUrlResponse::default();
    response.status_code = status.into();
    response.headers.insert(header::CONTENT_TYPE, content_type);
    response.body = Some(body);
    response
}

/// Reads a body that must be UTF-8.
pub fn read_text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {error}")))
}

/// Reads a JSON object; what is wrong with it is told with the path to the field.
pub fn read_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    // An array would do for serde: its elements for the fields in their order.
    if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err("expected a JSON object".into());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.path().to_string() {
            path if path == "." => without_value(error.inner()),
            path => format!("{path}: {}", without_value(error.inner())),
        })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// What was expected, without the value that was found instead: it may be a token, or a message's text.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((found, expected)) if !found.starts_with("unknown field ") => format!("expected {expected}"),
        _ => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_without_its_value() {
        let error = read_json::<HashMap<String, u8>>(br#"{"a": "a text, expected nowhere"}"#).unwrap_err();
        assert_eq!(error, "a: expected u8 at line 1 column 32");
    }

    #[test]
    fn what_looks_like_http_is_never_taken_for_a_direct_call() {
        let direct = ["{}", "5", "[]", r#"{"user": "bob@example.com", "headers": {}}"#];
        for payload in direct {
            assert!(matches!(serde_json::from_str(payload), Ok(Invocation::Direct(_))), "{payload}");
        }
        let http = r#"{"requestContext": {"http": {"method": "POST"}}}"#;
        assert!(matches!(serde_json::from_str(http), Ok(Invocation::Http(_))));
        let neither = [r#"{"requestContext": {}}"#, r#"{"requestContext": null}"#];
        for payload in neither {
            assert!(serde_json::from_str::<Invocation>(payload).is_err(), "{payload}");
        }
        let neither = r#"{"requestContext": {"http": {"method": "POST"}}, "headers": 5}"#;
        assert!(serde_json::from_str::<Invocation>(neither).is_err());
    }
}
