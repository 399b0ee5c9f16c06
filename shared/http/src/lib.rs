//! HTTP requests, responses, problems and commands of the functions.
//!
//! A function is invoked by a Function URL or an HTTP API (payload version 2.0), or directly with a JSON value, for
//! example by `cargo lambda invoke`. A direct invocation returns JSON and needs no credential, since IAM has
//! authenticated the caller.

mod body;
mod command;
mod init;
mod invocation;
mod problem;

pub use body::{MAX_BODY_BYTES, Media};
pub use command::{CommandError, command};
pub use init::Init;
pub use invocation::{Answer, HttpRequest, Invocation};
pub use problem::Problem;

use aws_lambda_events::http::{HeaderValue, header};
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lambda_runtime::{Error as BoxError, LambdaEvent, service_fn};
use pushlark_access::{Access, Authenticated, Caller};
use pushlark_sns::SnsMessage;
use pushlark_telemetry::{flush, record_cold_start};
use serde::Serialize;
use serde_json::value::RawValue;

use invocation::http_response;

/// The maximum difference between the estimated and the exact size of decoded base64, in bytes: the last group encodes
/// one to three bytes.
const BASE64_PADDING: usize = 2;

/// An authenticated request with an allowed method and a body of at most [`MAX_BODY_BYTES`].
#[derive(Debug)]
pub struct Request {
    /// The authenticated sender: an operator, a chat server or a client.
    pub caller: Caller,
    /// The SNS messages in the request; empty if the caller is not SNS.
    pub sns: Vec<SnsMessage>,
    /// The method, one of those that the function allows.
    pub method: Method,
    /// The media type of the body; JSON for a direct invocation.
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
    /// POST only; any other method is a 405.
    Post,
    /// POST and GET; any other method is a 405.
    GetAndPost,
}

/// A successful response, with a status from 200 to 299.
#[derive(Debug)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
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
            if let Some(status) = outcome.as_ref().err().and_then(Problem::server_error) {
                // A metric filter of the template counts this line.
                tracing::error!(status, "a request failed");
            }
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
    let delivered = access.sns_messages(payload);
    let is_from_sns = delivered.is_some();
    let acted = match (request, delivered.unwrap_or_else(|| Ok(Vec::new()))) {
        (Ok(request), Ok(sns)) => act(Request { sns, ..request }).await,
        (Err(problem), _) => Err(problem),
        (_, Err(error)) => Err(Problem::from(error)),
    };
    match acted {
        Ok(_) if is_from_sns => Answer::Direct(RawValue::NULL.to_owned()),
        Err(problem) if is_from_sns => {
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
    record_cold_start();
    let handle = &handle;
    // Boxed, since each layer of the runtime moves the future.
    let answer = |event: LambdaEvent<Invocation>| {
        Box::pin(async move {
            let answer = handle(event.payload).await;
            flush();
            match answer {
                Answer::Failed(reason) => Err(BoxError::from(reason)),
                answer => Ok(answer),
            }
        })
    };
    lambda_runtime::run(service_fn(answer)).await
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

/// Reads a UTF-8 body. Invalid UTF-8 is a 400.
pub fn read_text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {error}")))
}
