//! Counts what AWS bills of the calls of functions, in proxies before DynamoDB, SQS and a push service.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use doubles::tls_acceptor;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::waits::{Call, Service};

/// SQS bills each 64 KiB of a payload as one request ("Amazon SQS pricing").
pub const SQS_UNIT_BYTES: usize = 64 * 1024;
/// DynamoDB bills a write by 1 KB of the item ("DynamoDB read and write operations").
const WRITE_UNIT_BYTES: usize = 1024;

/// The units that functions used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Units {
    /// Write request units of DynamoDB.
    pub writes: f64,
    /// Read request units of DynamoDB.
    pub reads: f64,
    /// Requests of SQS.
    pub sqs: f64,
    /// Requests of SQS with a message group.
    pub fair: f64,
    /// Bytes that were written to the push service, with TLS.
    pub push_bytes: f64,
    /// Calls of any service.
    pub calls: f64,
}

/// The proxies, and what they counted.
pub struct Meter {
    /// The endpoint of DynamoDB.
    pub dynamodb_url: String,
    /// The endpoint of SQS.
    pub sqs_url: String,
    /// The URL of the push service, with TLS.
    pub push_url: String,
    counts: Arc<Counts>,
    _servers: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    units: Mutex<Units>,
    calls: Mutex<Vec<Call>>,
    /// The factor of the latencies; 0 for none.
    slowness: Mutex<u32>,
}

impl Counts {
    fn units(&self) -> MutexGuard<'_, Units> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latency(&self, service: Service) -> Duration {
        service.latency() * *self.slowness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call that has ended.
    fn add(&self, call: Call) {
        self.units().calls += 1.0;
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Meter {
    /// Starts proxies before services at these URLs.
    pub async fn start(dynamodb: &str, sqs: &str, push_service: &str) -> anyhow::Result<Self> {
        let counts = Arc::<Counts>::default();
        let mut servers = JoinSet::new();
        let dynamodb_url = aws_proxy(&mut servers, Service::DynamoDb, dynamodb, &counts).await?;
        let sqs_url = aws_proxy(&mut servers, Service::Sqs, sqs, &counts).await?;
        let push_url = tls_proxy(&mut servers, push_service, &counts).await?;
        Ok(Self { dynamodb_url, sqs_url, push_url, counts, _servers: servers })
    }

    /// Makes each call of an AWS service take its latency times this factor.
    pub fn slow_down(&self, factor: u32) {
        *self.counts.slowness.lock().unwrap_or_else(PoisonError::into_inner) = factor;
    }

    /// Returns the time that each call of a service takes at least.
    pub fn latency(&self, service: Service) -> Duration {
        self.counts.latency(service)
    }

    /// Returns the units so far.
    pub fn units(&self) -> Units {
        *self.counts.units()
    }

    /// Adds requests of SQS that Lambda makes for the worker.
    pub fn add_sqs(&self, requests: usize, is_fair: bool) {
        let mut units = self.counts.units();
        units.sqs += requests as f64;
        units.fair += if is_fair { requests as f64 } else { 0.0 };
    }

    /// Adds a call of the push service.
    pub fn add_call(&self, call: Call) {
        self.counts.add(call);
    }

    /// Returns the calls since the last time.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.counts.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state of a proxy before an AWS service.
#[derive(Clone)]
struct AwsProxy {
    service: Service,
    target: String,
    http: reqwest::Client,
    counts: Arc<Counts>,
}

async fn aws_proxy(
    servers: &mut JoinSet<()>,
    service: Service,
    target: &str,
    counts: &Arc<Counts>,
) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let state =
        AwsProxy { service, target: target.to_owned(), http: reqwest::Client::new(), counts: Arc::clone(counts) };
    let router = Router::new().fallback(forward).layer(DefaultBodyLimit::disable()).with_state(state);
    servers.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("a proxy stopped: {error}");
        }
    });
    Ok(url)
}

async fn forward(State(proxy): State<AwsProxy>, headers: HeaderMap, body: Bytes) -> (StatusCode, Bytes) {
    let start = Instant::now();
    let (status, answer) = proxy.call(headers, body).await.unwrap_or_else(|error| {
        eprintln!("a call cannot be counted: {error:#}");
        (StatusCode::NOT_IMPLEMENTED, Bytes::new())
    });
    let latency = proxy.counts.latency(proxy.service);
    sleep(latency.saturating_sub(start.elapsed())).await;
    proxy.counts.add(Call { service: proxy.service, start, end: Instant::now() });
    (status, answer)
}

impl AwsProxy {
    /// Counts and forwards a call.
    async fn call(&self, mut headers: HeaderMap, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let operation = headers.get("x-amz-target").context("a call without an operation")?.to_str()?;
        let operation = operation.rsplit('.').next().unwrap_or_default().to_owned();
        let mut request: Value = serde_json::from_slice(&body)?;
        if self.service == Service::DynamoDb {
            request["ReturnConsumedCapacity"] = "TOTAL".into();
            if request.get("ConditionExpression").is_some() {
                request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD".into();
            }
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::HOST);
        let sent = self.http.post(&self.target).headers(headers).body(request.to_string()).send().await?;
        let (status, answer) = (sent.status(), sent.bytes().await?);
        let read: Value = serde_json::from_slice(&answer)?;
        match self.service {
            Service::DynamoDb => self.count_dynamodb(&operation, &request, &read)?,
            Service::Sqs => self.count_sqs(&operation, &request)?,
            Service::Push => bail!("the push service is no AWS service"),
        }
        Ok((status, answer))
    }

    fn count_dynamodb(&self, operation: &str, request: &Value, answer: &Value) -> anyhow::Result<()> {
        let units = dynamodb_units(operation, request, answer)?;
        let mut counted = self.counts.units();
        match operation {
            "GetItem" | "Query" | "BatchGetItem" | "TransactGetItems" => counted.reads += units,
            "PutItem" | "UpdateItem" | "DeleteItem" | "BatchWriteItem" | "TransactWriteItems" => {
                counted.writes += units;
            }
            _ => bail!("the units of {operation} are unknown"),
        }
        Ok(())
    }

    fn count_sqs(&self, operation: &str, request: &Value) -> anyhow::Result<()> {
        let payload = match operation {
            "SendMessage" => text_bytes(&request["MessageBody"]),
            "SendMessageBatch" => {
                request["Entries"].as_array().into_iter().flatten().map(|entry| text_bytes(&entry["MessageBody"])).sum()
            }
            "ChangeMessageVisibility" | "ChangeMessageVisibilityBatch" | "DeleteMessage" | "DeleteMessageBatch" => 0,
            _ => bail!("the requests of {operation} are unknown"),
        };
        let is_fair = request.to_string().contains("\"MessageGroupId\"");
        let requests = sqs_requests(payload) as f64;
        let mut counted = self.counts.units();
        counted.sqs += requests;
        counted.fair += if is_fair { requests } else { 0.0 };
        Ok(())
    }
}

/// Returns the requests that SQS bills for one call with a payload of this size.
pub fn sqs_requests(payload: usize) -> usize {
    payload.div_ceil(SQS_UNIT_BYTES).max(1)
}

/// Returns the units of a call of DynamoDB. The emulator counts them, except for a write whose condition fails.
fn dynamodb_units(operation: &str, request: &Value, answer: &Value) -> anyhow::Result<f64> {
    let error = answer["__type"].as_str().unwrap_or_default();
    if error.ends_with("#ConditionalCheckFailedException") {
        // "Failed conditional writes": by the size of the item that is there, at least 1.
        return Ok(item_bytes(&answer["Item"])?.div_ceil(WRITE_UNIT_BYTES).max(1) as f64);
    }
    if error.ends_with("#TransactionCanceledException") {
        // Two units for each action, of items of at most 1 KB.
        return Ok(2.0 * request["TransactItems"].as_array().map_or(0, Vec::len) as f64);
    }
    if !error.is_empty() {
        bail!("DynamoDB refuses {operation}: {answer}");
    }
    let of_tables =
        answer["ConsumedCapacity"].as_array().cloned().unwrap_or_else(|| vec![answer["ConsumedCapacity"].clone()]);
    let units: Option<f64> = of_tables.iter().map(|table| table["CapacityUnits"].as_f64()).sum();
    units.with_context(|| format!("DynamoDB counts no units of {operation}"))
}

/// Returns the size of an item ("DynamoDB item sizes and formats").
fn item_bytes(item: &Value) -> anyhow::Result<usize> {
    let Some(attributes) = item.as_object() else { return Ok(0) };
    attributes.iter().map(|(name, value)| Ok(name.len() + attribute_bytes(value)?)).sum()
}

fn attribute_bytes(value: &Value) -> anyhow::Result<usize> {
    let (kind, value) =
        value.as_object().and_then(|value| value.iter().next()).context("an attribute without a value")?;
    let texts = |of_text: fn(&Value) -> usize| value.as_array().into_iter().flatten().map(of_text).sum();
    Ok(match kind.as_str() {
        "S" => text_bytes(value),
        "N" => number_bytes(value),
        "B" => text_bytes(value) / 4 * 3,
        "BOOL" | "NULL" => 1,
        "SS" => texts(text_bytes),
        "NS" => texts(number_bytes),
        "M" => {
            let entries = value.as_object().context("a map")?;
            3 + entries.len() + item_bytes(value)?
        }
        "L" => {
            let entries = value.as_array().context("a list")?;
            let sizes: anyhow::Result<usize> = entries.iter().map(|entry| Ok(1 + attribute_bytes(entry)?)).sum();
            3 + sizes?
        }
        _ => bail!("an attribute of type {kind}"),
    })
}

fn text_bytes(text: &Value) -> usize {
    text.as_str().map_or(0, str::len)
}

/// About one byte for two digits, and one more.
fn number_bytes(number: &Value) -> usize {
    text_bytes(number).div_ceil(2) + 1
}

/// Starts a TLS server that forwards what it decrypts to the server at `target`, and counts the encrypted bytes.
async fn tls_proxy(servers: &mut JoinSet<()>, target: &str, counts: &Arc<Counts>) -> anyhow::Result<String> {
    let acceptor = tls_acceptor();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("https://localhost:{}", listener.local_addr()?.port());
    let (target, counts) = (target.trim_start_matches("http://").to_owned(), Arc::clone(counts));
    servers.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, target, counts) = (acceptor.clone(), target.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                let stream = CountedStream { stream, counts };
                let (Ok(mut client), Ok(mut server)) =
                    (acceptor.accept(stream).await, TcpStream::connect(target).await)
                else {
                    return;
                };
                // The function may close the connection at any time.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Ok(url)
}

/// A connection that counts the bytes which the function writes.
struct CountedStream {
    stream: TcpStream,
    counts: Arc<Counts>,
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.counts.units().push_bytes += (buffer.filled().len() - before) as f64;
        read
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use local::{Options, Stack};
    use serde_json::json;

    use super::*;

    /// The emulator's table behind a meter.
    struct Measured {
        _stack: Stack,
        meter: Meter,
    }

    impl Measured {
        async fn start() -> Self {
            let stack = Stack::start(Options::default()).await.unwrap();
            let meter = Meter::start(&stack.dynamodb_url, &stack.sqs_url, "http://127.0.0.1:1").await.unwrap();
            Self { _stack: stack, meter }
        }

        /// Returns the write and read units of a call.
        async fn units(&self, operation: &str, request: Value) -> (f64, f64) {
            let before = self.meter.units();
            let post = reqwest::Client::new()
                .post(&self.meter.dynamodb_url)
                .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
                .header("content-type", "application/x-amz-json-1.0")
                .header(
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=local/20261128/us-east-1/dynamodb/aws4_request, \
                    SignedHeaders=host;x-amz-date, Signature=0",
                )
                .header("x-amz-date", "20261128T120000Z");
            let answer = post.body(request.to_string()).send().await.unwrap().text().await.unwrap();
            let after = self.meter.units();
            assert!(after.calls - before.calls == 1.0, "{answer}");
            (after.writes - before.writes, after.reads - before.reads)
        }
    }

    fn item(sk: &str, bytes: usize) -> Value {
        json!({"pk": {"S": "user"}, "sk": {"S": sk}, "filler": {"S": "x".repeat(bytes)}})
    }

    /// "DynamoDB read and write operations".
    #[tokio::test]
    async fn units_are_those_that_dynamodb_bills() {
        let measured = Measured::start().await;
        let put = |item: Value| json!({"TableName": "pushlark", "Item": item});
        for (sk, bytes, writes) in [("a", 900, 1.0), ("b", 1_500, 2.0), ("c", 1_500, 2.0), ("d", 1_500, 2.0)] {
            assert_eq!(measured.units("PutItem", put(item(sk, bytes))).await, (writes, 0.0), "{sk}");
        }
        // The larger of the sizes before and after.
        let smaller = json!({"TableName": "pushlark", "Key": {"pk": {"S": "user"}, "sk": {"S": "b"}},
            "UpdateExpression": "SET filler = :x", "ExpressionAttributeValues": {":x": {"S": "x"}}});
        assert_eq!(measured.units("UpdateItem", smaller).await, (2.0, 0.0));
        // A failed condition costs as much as the item that is there.
        for (sk, writes) in [("a", 1.0), ("b", 1.0), ("c", 2.0)] {
            let mut refused = put(item(sk, 10));
            refused["ConditionExpression"] = "attribute_not_exists(pk)".into();
            assert_eq!(measured.units("PutItem", refused).await, (writes, 0.0), "{sk}");
        }
        // A write of the index is one more.
        let mut indexed = item("e", 10);
        indexed["domain_shard"] = json!({"S": "example.com#0"});
        indexed["created_at"] = json!({"N": "1"});
        assert_eq!(measured.units("PutItem", put(indexed)).await, (2.0, 0.0));
        // A query reads 4 KB of all items together, a weakly consistent one for half the price.
        let mut query = json!({"TableName": "pushlark", "KeyConditionExpression": "pk = :pk AND sk BETWEEN :a AND :d",
            "ExpressionAttributeValues": {":pk": {"S": "user"}, ":a": {"S": "a"}, ":d": {"S": "d"}}});
        assert_eq!(measured.units("Query", query.clone()).await, (0.0, 0.5));
        query["ConsistentRead"] = true.into();
        assert_eq!(measured.units("Query", query.clone()).await, (0.0, 1.0));
        measured.units("PutItem", put(item("b", 1_500))).await;
        assert_eq!(measured.units("Query", query).await, (0.0, 2.0));
        // A transaction costs twice as much.
        let action = |sk| json!({"Put": put(item(sk, 10))});
        let transaction = json!({"TransactItems": [action("f"), action("g")]});
        assert_eq!(measured.units("TransactWriteItems", transaction).await, (4.0, 0.0));
    }

    #[test]
    fn sqs_bills_each_64_kib() {
        let requests = [0, 1, SQS_UNIT_BYTES, SQS_UNIT_BYTES + 1].map(sqs_requests);
        assert_eq!(requests, [1, 1, 1, 2]);
    }

    #[test]
    fn an_item_has_the_size_of_its_names_and_values() {
        let item = json!({"pk": {"S": "abc"}, "n": {"N": "12345"}, "t": {"BOOL": true}, "l": {"L": [{"S": "ab"}]}});
        assert_eq!(item_bytes(&item).unwrap(), (2 + 3) + (1 + 4) + (1 + 1) + (1 + 3 + 1 + 2));
        assert_eq!(item_bytes(&Value::Null).unwrap(), 0);
    }
}
