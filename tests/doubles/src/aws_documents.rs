//! Amazon S3 with one object, and Parameter Store with one parameter ("Authenticating Requests (AWS Signature Version
//! 4)"; API references, `GetObject` and `GetParameter`).

use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use axum::http::Method;
use serde_json::json;

use crate::{Answer, Double, Request};

/// The double: the object and the parameter have the same text. It checks the signature of each request with the secret
/// access key `local`.
#[derive(Clone)]
pub struct AwsDocuments {
    double: Double,
    text: Arc<Mutex<String>>,
}

impl std::ops::Deref for AwsDocuments {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl AwsDocuments {
    /// The URL of the only object.
    pub const S3_URL: &str = "s3://rules/push/all + ä.toml";
    /// The ARN of the only parameter.
    pub const PARAMETER: &str = "arn:aws:ssm:eu-west-1:000000000000:parameter/push/rules";

    const OBJECT_PATH: &str = "/rules/push/all%20%2B%20%C3%A4.toml";

    /// Starts the double on a free port of the loopback address.
    pub async fn start(text: &str) -> Self {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let stored = Arc::clone(&text);
        let check = move |_: &str, request: &Request| {
            let text = stored.lock().unwrap().clone();
            let answer = match request.header("x-amz-target") {
                "" => object(request, &text),
                target => parameter(request, target, &text),
            };
            (request.path.clone(), answer)
        };
        Self { double: Double::start(100, check).await, text }
    }

    /// Replaces the text.
    pub fn put(&self, text: &str) {
        *self.text.lock().unwrap() = text.to_owned();
    }
}

fn object(request: &Request, text: &str) -> Answer {
    let error = |status, code| Answer::text(status, &format!("<Error><Code>{code}</Code></Error>"));
    match (&request.method, request.path.as_str()) {
        _ if !is_signed(request, "us-east-1", "s3") => error(403, "SignatureDoesNotMatch"),
        (&Method::GET, AwsDocuments::OBJECT_PATH) => Answer::text(200, text),
        (&Method::GET, _) => error(404, "NoSuchKey"),
        _ => error(405, "MethodNotAllowed"),
    }
}

fn parameter(request: &Request, target: &str, text: &str) -> Answer {
    let error = |code| Answer::json(400, &json!({"__type": code}));
    let is_json = request.header("content-type") == "application/x-amz-json-1.1";
    if !is_signed(request, "eu-west-1", "ssm") {
        return error("InvalidSignatureException");
    }
    if request.method != Method::POST || target != "AmazonSSM.GetParameter" || !is_json {
        return error("UnknownOperationException");
    }
    match request.json() {
        body if body == json!({"Name": AwsDocuments::PARAMETER, "WithDecryption": true}) => {
            Answer::json(200, &json!({"Parameter": {"Name": "/push/rules", "Type": "String", "Value": text}}))
        }
        _ => error("ParameterNotFound"),
    }
}

/// Checks the header `Authorization` of a request without a query.
fn is_signed(request: &Request, region: &str, service: &str) -> bool {
    let Some(parts) = request.header("authorization").strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
    let part = |name: &str| {
        let mut parts = parts.split(", ");
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let at = request.header("x-amz-date");
    let date = at.get(..8).unwrap_or_default();
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let hash = hexadecimal(digest(&SHA256, &request.body).as_ref());
    let signed_headers = part("SignedHeaders");
    let headers: String =
        signed_headers.split(';').map(|name| format!("{name}:{}\n", request.header(name).trim())).collect();
    let canonical = format!("{}\n{}\n\n{headers}\n{signed_headers}\n{hash}", request.method, request.path);
    let canonical = hexadecimal(digest(&SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{canonical}");
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(HMAC_SHA256, key), text.as_bytes());
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(b"AWS4local".to_vec(), |key, text| sign(&key, text).as_ref().to_vec());
    let covers = ["host", "x-amz-content-sha256", "x-amz-date"].iter();
    let covers_all = covers.into_iter().all(|name| signed_headers.split(';').any(|signed| signed == *name));
    covers_all
        && part("Credential") == format!("local/{scope}")
        && request.header("x-amz-content-sha256") == hash
        && part("Signature") == hexadecimal(sign(&key, &to_sign).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
