//! HTTP requests, responses, problems and commands of the functions.
//!
//! A function is invoked by a Function URL or an HTTP API (payload version 2.0), or directly with a JSON value, for
//! example by `cargo lambda invoke`. A direct invocation returns JSON and needs no credential, since IAM has
//! authenticated the caller.

mod command;
mod init;
mod problem;

pub use command::{CommandError, command};
pub use init::Init;
pub use problem::Problem;

use std::collections::HashMap;
use std::fmt;

use aws_lambda_events::http::{HeaderValue, header};
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lambda_runtime::{Error as BoxError, LambdaEvent, service_fn};
use pushlark_access::{Access, Authenticated, Caller, Presented};
use pushlark_sns::SnsMessage;
use pushlark_telemetry::flush;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The maximum size of a body after base64 decoding, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The maximum difference between the estimated and the exact size of decoded base64, in bytes: the last group encodes
/// one to three bytes.
const BASE64_PADDING: usize = 2;

/// The payload of an invocation.
#[derive(Debug)]
pub enum Invocation {
    /// An HTTP request.
    Http(HttpRequest),
    /// A JSON value from a caller that IAM has authenticated.
    Direct(Box<RawValue>),
}

/// The event of a Function URL ("Invoking Lambda function URLs", "Request payload format"). It has only the fields that
/// are read, so that events of HTTP APIs and of tests, which differ in the other fields, are accepted too.
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

/// The result of an invocation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The response to an HTTP request.
    Http(LambdaFunctionUrlResponse),
    /// The JSON value for a direct caller.
    Direct(Box<RawValue>),
    /// A failed invocation, with the reason. Lambda retries an asynchronous invocation that fails.
    #[serde(skip)]
    Failed(String),
}

/// An authenticated request with an allowed method and a body of at most [`MAX_BODY_BYTES`].
#[derive(Debug)]
pub struct Request {
    /// The authenticated sender.
    pub caller: Caller,
    /// The SNS messages in the request; empty if the caller is not SNS.
    pub sns: Vec<SnsMessage>,
    /// The method, one of those that the function allows.
    pub method: Method,
    /// The media type of the body.
    pub media: Media,
    /// The body, decoded from base64.
    pub body: Vec<u8>,
    http: Option<HttpRequest>,
}

/// The HTTP method of an admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, a read-only request.
    Get,
    /// POST, with a command, a stanza or events in the body.
    Post,
}

/// The methods that a function allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// POST only.
    Post,
    /// POST and GET.
    GetAndPost,
}

/// The media type of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: one JSON value per line.
    JsonLines,
    /// `application/cloudevents+json`: an event of CloudEvents 1.0.
    CloudEvent,
    /// `application/cloudevents-batch+json`: an array of events of CloudEvents 1.0.
    CloudEvents,
    /// `application/xml`, `text/xml` or `application/xmpp+xml`. Contains the type, which the response has too.
    Xml(&'static str),
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Any other type, in lower case and without parameters.
    Unknown(String),
}

/// A successful response.
#[derive(Debug)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl<'de> Deserialize<'de> for Invocation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Box::<RawValue>::deserialize(deserializer)?;
        // An invalid HTTP event must not become a direct invocation, which needs no credential.
        if !payload.get().starts_with('{') {
            return Ok(Self::Direct(payload));
        }
        let fields: HashMap<String, IgnoredAny> = serde_json::from_str(payload.get()).map_err(D::Error::custom)?;
        if !fields.contains_key("requestContext") {
            return Ok(Self::Direct(payload));
        }
        serde_json::from_str(payload.get()).map(Self::Http).map_err(D::Error::custom)
    }
}

impl HttpRequest {
    /// Returns the value of a header. `name` is in lower case, as in Lambda's events.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query_string_parameters.as_ref()?.get(name).map(String::as_str)
    }

    fn presented(&self) -> Presented<'_> {
        Presented { headers: &self.headers, token: self.query("token") }
    }

    fn method(&self) -> &str {
        &self.request_context.http.method
    }
}

/// Checks size, credential and method of an invocation, passes the request to `act`, and returns its response.
pub async fn answer(
    access: &Access,
    methods: Methods,
    invocation: Invocation,
    act: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
) -> Answer {
    match invocation {
        Invocation::Direct(payload) => direct(access, &payload, act).await,
        Invocation::Http(request) if request.method() == "OPTIONS" => Answer::Http(methods.options()),
        Invocation::Http(request) => {
            let outcome = match admit(access, methods, request).await {
                Ok(request) => {
                    let caller = request.caller.clone();
                    let acted = act(request).await;
                    if let Some(detail) = acted.as_ref().err().and_then(Problem::forbidden_detail) {
                        caller.log_refusal(detail);
                    }
                    acted
                }
                Err(problem) => Err(problem),
            };
            Answer::Http(outcome.map_or_else(Problem::into_http, Response::into_http))
        }
    }
}

/// Handles a direct invocation. If SNS is the caller, a problem fails the invocation, so that Lambda retries it.
async fn direct(
    access: &Access,
    payload: &RawValue,
    act: impl AsyncFnOnce(Request) -> Result<Response, Problem>,
) -> Answer {
    let request = Request::new(Caller::Operator, Media::Json, payload.get().as_bytes().to_vec());
    let delivered = access.delivered(payload);
    let is_of_sns = delivered.is_some();
    let acted = match (request, delivered.unwrap_or_else(|| Ok(Vec::new()))) {
        (Ok(request), Ok(sns)) => act(Request { sns, ..request }).await,
        (Err(problem), _) => Err(problem),
        (_, Err(error)) => Err(Problem::from(error)),
    };
    match acted {
        Ok(_) if is_of_sns => Answer::Direct(RawValue::NULL.to_owned()),
        Err(problem) if is_of_sns => {
            let reason = problem.to_json();
            tracing::error!(reason, "an SNS message was not accepted");
            Answer::Failed(reason)
        }
        // The response to a JSON request is valid JSON.
        Ok(response) => Answer::Direct(RawValue::from_string(response.body).unwrap_or_default()),
        Err(problem) => Answer::Direct(RawValue::from_string(problem.to_json()).unwrap_or_default()),
    }
}

/// Runs an HTTP function on Lambda until Lambda ends the process.
pub async fn run(handle: impl AsyncFn(Invocation) -> Answer) -> Result<(), BoxError> {
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Invocation>| {
        let answer = handle(event.payload).await;
        flush();
        match answer {
            Answer::Failed(reason) => Err(BoxError::from(reason)),
            answer => Ok(answer),
        }
    }))
    .await
}

async fn admit(access: &Access, methods: Methods, mut request: HttpRequest) -> Result<Request, Problem> {
    let body = request.body.take().unwrap_or_default();
    let body = if request.is_base64_encoded {
        check_size(base64::decoded_len_estimate(body.len()).saturating_sub(BASE64_PADDING))?;
        BASE64_STANDARD.decode(body).map_err(|_| Problem::bad_request("the body is not valid base64"))?
    } else {
        body.into_bytes()
    };
    // Large bodies are refused before a signature is computed over them.
    check_size(body.len())?;
    let Authenticated { caller, sns } = access.check(request.presented(), &body).await?;
    let method = methods.admit(request.method())?;
    let media = Media::of(request.header("content-type").unwrap_or_default());
    Ok(Request { method, sns, http: Some(request), ..Request::new(caller, media, body)? })
}

fn check_size(bytes: usize) -> Result<(), Problem> {
    if bytes > MAX_BODY_BYTES { Err(Problem::too_large(bytes)) } else { Ok(()) }
}

impl Request {
    /// Creates a POST request without headers. A body over [`MAX_BODY_BYTES`] is a 413.
    pub fn new(caller: Caller, media: Media, body: Vec<u8>) -> Result<Self, Problem> {
        check_size(body.len())?;
        Ok(Self { caller, sns: Vec::new(), method: Method::Post, media, body, http: None })
    }

    /// Returns the value of a header. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.http.as_ref()?.header(name)
    }

    /// Returns the value of a query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.http.as_ref()?.query(name)
    }
}

impl Methods {
    fn allow(self) -> &'static str {
        match self {
            Self::Post => "POST, OPTIONS",
            Self::GetAndPost => "GET, POST, OPTIONS",
        }
    }

    fn admit(self, method: &str) -> Result<Method, Problem> {
        match (self, method) {
            (_, "POST") => Ok(Method::Post),
            (Self::GetAndPost, "GET") => Ok(Method::Get),
            _ => Err(Problem::method_not_allowed(method, self.allow())),
        }
    }

    /// Returns the response to OPTIONS, which needs no credential: Prosody's `mod_rest` sends OPTIONS without one when
    /// it starts, and then uses the first type in `Accept`. That is XML, because the JSON of `mod_rest` omits payloads.
    fn options(self) -> LambdaFunctionUrlResponse {
        let mut response = LambdaFunctionUrlResponse::default();
        response.status_code = 200;
        response.headers.insert(header::ALLOW, HeaderValue::from_static(self.allow()));
        response.headers.insert(header::ACCEPT, HeaderValue::from_static("application/xmpp+xml, application/json"));
        response
    }
}

impl Media {
    fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Self::Json,
            "application/x-ndjson" => Self::JsonLines,
            "application/cloudevents+json" => Self::CloudEvent,
            "application/cloudevents-batch+json" => Self::CloudEvents,
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
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
            Self::Xml(xml) => xml,
            Self::Form => "application/x-www-form-urlencoded",
            Self::Unknown(other) => other,
        })
    }
}

impl Response {
    /// Creates a JSON response. A body that cannot be serialized is a 500.
    pub fn json(status: u16, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_string(body).map_err(|_| Problem::internal())?;
        Ok(Self { status, content_type: "application/json", body })
    }

    /// Creates an XML response with status 200. `content_type` is one of the media types of [`Media::Xml`].
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

/// Reads a UTF-8 body. Invalid UTF-8 is a 400.
pub fn read_text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_a_request_context_is_never_a_direct_invocation() {
        let direct = ["{}", "5", "[]", r#"{"user": "bob@example.com", "headers": {}}"#];
        for payload in direct {
            assert!(matches!(serde_json::from_str(payload), Ok(Invocation::Direct(_))), "{payload}");
        }
        let http = r#"{"requestContext": {"http": {"method": "POST"}}}"#;
        assert!(matches!(serde_json::from_str(http), Ok(Invocation::Http(_))));
        let neither = [
            r#"{"requestContext": {}}"#,
            r#"{"requestContext": null}"#,
            r#"{"requestContext": {"http": {"method": "POST"}}, "requestContext": {"http": {"method": "POST"}}}"#,
            r#"{"\ud800": 1, "requestContext": {"http": {"method": "POST"}}}"#,
        ];
        for payload in neither {
            assert!(serde_json::from_str::<Invocation>(payload).is_err(), "{payload}");
        }
        let neither = r#"{"requestContext": {"http": {"method": "POST"}}, "headers": 5}"#;
        assert!(serde_json::from_str::<Invocation>(neither).is_err());
    }
}
