//! The HTTP envelope of the functions: requests, responses, problems and commands.
//!
//! A function is invoked by a Function URL (or an HTTP API, payload version 2.0), or with a bare JSON value, as
//! `cargo lambda invoke` does; the latter is answered with bare JSON and needs no credential, since IAM has vouched.

mod command;
mod problem;

pub use command::{Rejection, command};
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

/// The largest body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How many bytes less than base64 stands for can be in it: its last group stands for one byte at least.
const BASE64_PADDING: usize = 2;

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
    /// That the invocation failed, and why: whoever invoked the function without waiting for its answer does it again.
    #[serde(skip)]
    Failed(String),
}

/// A request that may be acted on: its caller is known, its method and size are right.
#[derive(Debug)]
pub struct Request {
    /// Who calls.
    pub caller: Caller,
    /// The messages of SNS in the request, if SNS is the caller.
    pub sns: Vec<SnsMessage>,
    /// One of those that the function allows.
    pub method: Method,
    /// What the body is.
    pub media: Media,
    /// The body.
    pub body: Vec<u8>,
    http: Option<HttpRequest>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// To tell what there is.
    Get,
    /// To do something.
    Post,
}

/// The methods that a function allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// POST alone.
    Post,
    /// GET, too.
    GetAndPost,
}

/// The media types that a function may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    JsonLines,
    /// `application/cloudevents+json`: an event of CloudEvents 1.0.
    CloudEvent,
    /// `application/cloudevents-batch+json`: an array of them.
    CloudEvents,
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
        let payload = Box::<RawValue>::deserialize(deserializer)?;
        // Whatever looks like HTTP is HTTP or an error: taken for a direct call, it would need no credential.
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
    /// A header's value, by its name in lower case, in which Lambda gives it.
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

/// Answers an invocation by `act`, once its size, credential and method are found right.
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

/// Answers a direct invocation. One of SNS fails with its request, so that Lambda invokes the function again.
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
            tracing::error!(reason, "a message of SNS was not taken");
            Answer::Failed(reason)
        }
        // Handlers answer JSON with JSON; it parses.
        Ok(response) => Answer::Direct(RawValue::from_string(response.body).unwrap_or_default()),
        Err(problem) => Answer::Direct(RawValue::from_string(problem.to_json()).unwrap_or_default()),
    }
}

/// Runs an HTTP function on Lambda, until Lambda ends the process.
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
    // Before a signature is computed over the body.
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
    /// A request without headers to do something.
    pub fn new(caller: Caller, media: Media, body: Vec<u8>) -> Result<Self, Problem> {
        check_size(body.len())?;
        Ok(Self { caller, sns: Vec::new(), method: Method::Post, media, body, http: None })
    }

    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.http.as_ref()?.header(name)
    }

    /// The value of a parameter in the query.
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

    /// The answer to OPTIONS, which anybody may ask for: Prosody's `mod_rest` asks when it starts, without a credential,
    /// and sends what stands first in `Accept` from then on. Its JSON leaves payloads out.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_http_is_never_taken_for_a_direct_call() {
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
