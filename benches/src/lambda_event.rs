//! The events with which Lambda invokes a function.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_benches::input;
use serde_json::{Value, json};

use crate::world::SECRET;

/// An HTTP request as a Function URL gives it ("Request payload format").
pub fn request(content_type: &str, body: impl ToString) -> Value {
    let base64 = matches!(content_type, "application/x-ndjson" | "application/x-www-form-urlencoded");
    let body = if base64 { BASE64_STANDARD.encode(body.to_string()) } else { body.to_string() };
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/events",
        "rawQueryString": "",
        "headers": {
            "authorization": format!("Bearer {SECRET}"),
            "content-length": body.len().to_string(),
            "content-type": content_type,
            "host": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
            "user-agent": "MongooseIM/6.4.0",
            "x-amzn-tls-cipher-suite": "TLS_AES_128_GCM_SHA256",
            "x-amzn-tls-version": "TLSv1.3",
            "x-amzn-trace-id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700",
            "x-forwarded-for": "198.51.100.17",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefghijklmnopqrstuvwxyz012345",
            "domainName": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
            "domainPrefix": "abcdefghijklmnopqrstuvwxyz012345",
            "http": {
                "method": "POST",
                "path": "/events",
                "protocol": "HTTP/1.1",
                "sourceIp": "198.51.100.17",
                "userAgent": "MongooseIM/6.4.0",
            },
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1_773_342_238_000_u64,
        },
        "body": body,
        "isBase64Encoded": base64,
    })
}

/// The batch of this number, with this many records.
pub fn batch(number: u64, records: u64, recipients: u64) -> anyhow::Result<Value> {
    let id = |number| format!("059f36b4-87a3-44ab-83d2-{number:012}");
    let messages: anyhow::Result<Vec<_>> = (number * records..(number + 1) * records)
        .map(|number| Ok((id(number), input::record(number, recipients)?)))
        .collect();
    Ok(sqs_event(messages?))
}

/// A batch of SQS messages, by their ids and bodies, as the event source mapping gives it ("Using Lambda with Amazon
/// SQS").
pub fn sqs_event(messages: impl IntoIterator<Item = (String, String)>) -> Value {
    let records = messages.into_iter().map(|(id, body)| {
        json!({
            "messageId": id,
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a".repeat(5),
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1773342238000",
                "SenderId": "AROAEXAMPLEEXAMPLE000:ingest",
                "ApproximateFirstReceiveTimestamp": "1773342238009",
            },
            "messageAttributes": {},
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:pushlark",
            "awsRegion": "us-east-1",
        })
    });
    json!({"Records": records.collect::<Vec<_>>()})
}
