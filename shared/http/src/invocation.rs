//! Invocations of HTTP functions by Lambda, and their results.

use std::collections::HashMap;

use aws_lambda_events::http::{HeaderValue, header};
use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use pushlark_access::PresentedCredentials;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The payload of an invocation.
#[derive(Debug)]
pub enum Invocation {
    /// An HTTP request, not yet authenticated.
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
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) is_base64_encoded: bool,
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
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query_string_parameters.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn presented(&self) -> PresentedCredentials<'_> {
        PresentedCredentials { headers: &self.headers, token: self.query("token") }
    }

    pub(crate) fn method(&self) -> &str {
        &self.request_context.http.method
    }
}

/// Returns the response of a Function URL ("Invoking Lambda function URLs", "Response payload format").
pub fn http_response(status: u16, content_type: HeaderValue, body: String) -> LambdaFunctionUrlResponse {
    let mut response = LambdaFunctionUrlResponse::default();
    response.status_code = status.into();
    response.headers.insert(header::CONTENT_TYPE, content_type);
    response.body = Some(body);
    response
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
