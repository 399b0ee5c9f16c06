//! A Lambda Function URL: turns an HTTP request into an event and the answer into a response ("Invoking Lambda function
//! URLs", "Request and response payloads").

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use pushlark_http::{Answer, Invocation};
use serde_json::{Map, Value, json};

/// The largest request that Lambda accepts: 6 MB ("Lambda quotas").
const MAX_REQUEST_BYTES: usize = 6 * 1024 * 1024;

/// Serves a function at `path`.
pub fn route<F, H, R>(path: &str, function: F, handle: H) -> Router
where
    F: Clone + Send + Sync + 'static,
    H: Fn(F, Invocation) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let serve = move |request: Request| {
        let (function, handle) = (function.clone(), handle.clone());
        async move {
            let event = match event(request).await {
                Ok(event) => event,
                Err(status) => return status.into_response(),
            };
            match serde_json::from_value(event) {
                Ok(invocation) => response(handle(function, invocation).await),
                // Lambda's response when a function cannot read its event.
                Err(_) => StatusCode::BAD_GATEWAY.into_response(),
            }
        }
    };
    // On AWS the function has all paths.
    Router::new().route(path, any(serve.clone())).route(&format!("{path}/{{*rest}}"), any(serve))
}

async fn event(request: Request) -> Result<Value, StatusCode> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_REQUEST_BYTES).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (body, is_base64_encoded) = match std::str::from_utf8(&body) {
        Ok(text) if is_text(content_type) => (text.to_owned(), false),
        _ => (BASE64_STANDARD.encode(&body), true),
    };
    let query = head.uri.query().unwrap_or_default();
    let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": head.uri.path(),
        "rawQueryString": query,
        "queryStringParameters": parameters(query),
        "headers": headers(&head.headers),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": "localhost",
            "domainPrefix": "local",
            "requestId": uuid::Uuid::now_v7().to_string(),
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": u64::try_from(milliseconds).unwrap_or_default(),
            "http": {
                "method": head.method.as_str(),
                "path": head.uri.path(),
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
            },
        },
        "body": body,
        "isBase64Encoded": is_base64_encoded,
    }))
}

fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.is_empty()
        || essence.starts_with("text/")
        || matches!(essence.as_str(), "application/json" | "application/xml" | "application/javascript")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
}

fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let values = |name| -> Vec<_> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect()
    };
    headers.keys().map(|name| (name.to_string(), values(name).join(",").into())).collect()
}

fn parameters(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let (name, mut value) = (decode(name), decode(value));
        if let Some(Value::String(before)) = parameters.get(&name) {
            value = format!("{before},{value}");
        }
        parameters.insert(name, value.into());
    }
    parameters
}

fn response(answer: Answer) -> Response {
    let answer = match answer {
        Answer::Http(answer) => answer,
        // Only direct invocations have these answers.
        Answer::Direct(_) | Answer::Failed(_) => return StatusCode::BAD_GATEWAY.into_response(),
    };
    let status = u16::try_from(answer.status_code).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(Body::from(answer.body.unwrap_or_default()));
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().extend(answer.headers);
    response
}
