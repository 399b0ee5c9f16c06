//! The functions ingest and worker as processes, with everything that they call.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use doubles::{CA_FILE, Fcm};
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::meter::{Meter, Units, sqs_requests};
use super::scenario::{Scenario, Step};
use super::waits::{Call, Service, longest_chain};
use crate::function::{Function, Log};
use crate::lambda_event::request;
use crate::world::SECRET;

/// The settings of both functions that no scenario changes.
const STACK_NAME: &str = "pushlark";
/// Time for the notifications of one webhook before a scenario, in the dev profile on a loaded machine.
const PREPARED_WITHIN: Duration = Duration::from_secs(120);

/// The system of one scenario.
pub struct System {
    stack: Stack,
    /// A queue without a receiver, unlike the stack's own.
    queue_url: String,
    fcm: Fcm,
    meter: Meter,
    ingest: Function,
    worker: Function,
    /// The requests of the push service that are counted as calls.
    pushed: usize,
    response_bytes: f64,
    invocations: [u64; 2],
}

/// The commands that start the functions.
pub struct Commands {
    pub ingest: Command,
    pub worker: Command,
    /// The factor by which the processes' clocks are slower.
    pub slow_clock: u32,
    /// The library that slows them.
    pub slow_clock_library: String,
}

/// The usage of a system from its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub units: Units,
    /// Bytes of the responses to webhooks.
    pub response_bytes: f64,
    /// Invocations of ingest and of the worker.
    pub invocations: [f64; 2],
    /// Notifications that the push service accepted.
    pub notifications: f64,
}

impl System {
    /// Starts everything, enables the devices of a scenario and fills the table.
    pub async fn start(scenario: &Scenario, commands: Commands) -> anyhow::Result<Self> {
        let fcm = Fcm::start().await;
        let mut settings = vec![("PUSH_SERVICE".to_owned(), "direct".to_owned())];
        settings.extend(scenario.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let credentials = json!({"default": {"fcm": fcm.service_account()}}).to_string();
        let stacks_own = settings.iter().cloned().chain([("PUSH_CREDENTIALS".to_owned(), credentials)]);
        let environment = Environment::from_iter(stacks_own);
        let stack = Stack::start(Options { environment, ..Options::default() }).await?;
        let queue = stack.sqs.create_queue().queue_name("measured").send().await?;
        let queue_url = queue.queue_url.context("a queue without a URL")?;
        let meter = Meter::start(&stack.dynamodb_url, &stack.sqs_url, &fcm.url).await?;

        // The access token comes without TLS, once an hour.
        let mut account = fcm.service_account();
        account["url"] = meter.push_url.as_str().into();
        let own = [
            ("AWS_ENDPOINT_URL_DYNAMODB", meter.dynamodb_url.clone()),
            ("AWS_ENDPOINT_URL_SQS", meter.sqs_url.clone()),
            ("TABLE_NAME", "pushlark".into()),
            ("QUEUE_URL", queue_url.clone()),
            ("DEAD_LETTER_QUEUE_URL", queue_url.clone()),
            ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@".into()),
            ("WEBHOOK_SECRET", SECRET.into()),
            ("STACK_NAME", STACK_NAME.into()),
            ("PUSH_CREDENTIALS", json!({"default": {"fcm": account}}).to_string()),
            ("EXTRA_CA_FILE", CA_FILE.into()),
            ("LD_PRELOAD", commands.slow_clock_library),
            ("SLOW_CLOCK", commands.slow_clock.to_string()),
        ];
        settings.extend(own.map(|(name, value)| (name.to_owned(), value)));
        prepare(scenario, &stack, &fcm).await?;
        let ingest = Function::start(commands.ingest, &settings).await?;
        let worker = Function::start(commands.worker, &settings).await?;
        let pushed = fcm.requests().len();
        let mut system =
            Self { stack, queue_url, fcm, meter, ingest, worker, pushed, response_bytes: 0.0, invocations: [0; 2] };
        // The first notifications open the connections, and fill the header tables of HTTP/2.
        for round in 0..scenario.warm_up {
            system.round(scenario, round).await?;
        }
        Ok(system)
    }

    /// Makes each later call take the latency of the model times this factor.
    pub fn slow_down(&self, factor: u32) {
        self.meter.slow_down(factor);
        self.fcm.hold(Service::Push.latency() * factor);
    }

    /// Runs one round of a scenario. Returns the waits of the invocations of ingest and of the worker.
    pub async fn round(&mut self, scenario: &Scenario, number: u64) -> anyhow::Result<[Vec<Duration>; 2]> {
        let mut waits = [Vec::new(), Vec::new()];
        for step in (scenario.round)(number) {
            match step {
                Step::Webhook(content_type, body) => waits[0].push(self.webhook(content_type, &body).await?),
                Step::Batch => waits[1].extend(self.batch(scenario.batch_size).await?),
            }
        }
        ensure!(self.receive(1).await?.is_empty(), "{}: records are left in the queue", scenario.name);
        Ok(waits)
    }

    /// Returns the usage so far.
    pub fn usage(&self) -> Usage {
        Usage {
            units: self.meter.units(),
            response_bytes: self.response_bytes,
            invocations: self.invocations.map(|count| count as f64),
            notifications: (self.fcm.count()) as f64,
        }
    }

    /// Stops the functions, so that valgrind writes its figures. Returns their logs.
    pub fn stop(self) -> anyhow::Result<[Log; 2]> {
        self.ingest.check_log()?;
        self.worker.check_log()?;
        Ok([self.ingest.terminate()?, self.worker.terminate()?])
    }

    async fn webhook(&mut self, content_type: &str, body: &str) -> anyhow::Result<Duration> {
        let responses =
            self.ingest.runtime_api.invoke(vec![request(content_type, body).to_string().into_bytes()]).await?;
        let response: Value = serde_json::from_slice(responses.first().context("no response")?)?;
        ensure!(response["statusCode"] == 202, "ingest refuses its webhook: {response}");
        self.response_bytes += response_bytes(&response) as f64;
        self.invocations[0] += 1;
        Ok(self.take_waits())
    }

    /// Invokes the worker with a batch as Lambda does. Without records there is no invocation.
    async fn batch(&mut self, size: usize) -> anyhow::Result<Option<Duration>> {
        let records = self.receive(size).await?;
        if records.is_empty() {
            return Ok(None);
        }
        let payload = records.iter().map(|record| record.body().map_or(0, str::len)).sum();
        let is_fair = records.iter().any(|record| {
            record.attributes().is_some_and(|all| all.contains_key(&MessageSystemAttributeName::MessageGroupId))
        });
        let event = json!({"Records": records.iter().map(lambda_record).collect::<Vec<_>>()});
        let responses = self.worker.runtime_api.invoke(vec![event.to_string().into_bytes()]).await?;
        let response: Value = serde_json::from_slice(responses.first().context("no response")?)?;
        let failures = response["batchItemFailures"].as_array();
        ensure!(failures.is_some_and(Vec::is_empty), "the worker fails: {response}");
        // Lambda receives a batch by one call, and deletes it by one.
        self.meter.add_sqs(sqs_requests(payload) + 1, is_fair);
        self.delete(&records).await?;
        self.invocations[1] += 1;
        Ok(Some(self.take_waits()))
    }

    /// Returns the waits of the calls since the last time, all of one invocation.
    fn take_waits(&mut self) -> Duration {
        let requests = self.fcm.requests();
        for request in &requests[self.pushed..] {
            let (start, end) = (request.at, request.at + self.hold());
            self.meter.add_call(Call { service: Service::Push, start, end });
        }
        self.pushed = requests.len();
        longest_chain(self.meter.take_calls())
    }

    fn hold(&self) -> Duration {
        self.meter.latency(Service::Push)
    }

    async fn receive(&self, most: usize) -> anyhow::Result<Vec<Message>> {
        let received = self
            .stack
            .sqs
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(most as i32)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn delete(&self, records: &[Message]) -> anyhow::Result<()> {
        let entries: Result<Vec<_>, _> = records
            .iter()
            .enumerate()
            .map(|(index, record)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry.set_receipt_handle(record.receipt_handle.clone()).build()
            })
            .collect();
        let deleted =
            self.stack.sqs.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries?)).send().await?;
        ensure!(deleted.failed.is_empty(), "records are not deleted: {:?}", deleted.failed);
        Ok(())
    }
}

/// Enables the devices, and fills the table through the local stack's own functions.
async fn prepare(scenario: &Scenario, stack: &Stack, fcm: &Fcm) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    for user in (scenario.users)() {
        let form = json!({"service": "fcm", "device_id": device(&user), "priority": "high"});
        let body = json!({"user": user, "jid": "push.example.com", "node": "device", "form": form});
        let response = http.post(format!("{}/enable", stack.url)).json(&body).send().await?;
        ensure!(response.status() == 200, "not enabled: {}", response.text().await?);
    }
    let mut expected = 0;
    for events in (scenario.before)() {
        expected += events.len() as u64;
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        let post = http.post(format!("{}/events", stack.url)).header("content-type", "application/x-ndjson");
        let response = post.body(lines).send().await?;
        ensure!(response.status() == 202, "not accepted: {}", response.text().await?);
        let all_notified = async {
            while fcm.count() < expected {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let is_notified = timeout(PREPARED_WITHIN, all_notified).await.is_ok();
        ensure!(is_notified, "{} of {expected} events before the scenario are notified", fcm.count());
    }
    Ok(())
}

/// A token as long as those of FCM.
fn device(user: &str) -> String {
    let mut token = user.replace(['@', '.'], "-");
    while token.len() < 142 {
        token.push('T');
    }
    token
}

/// A record as the event source mapping gives it ("Using Lambda with Amazon SQS").
fn lambda_record(message: &Message) -> Value {
    let attributes = message.attributes().into_iter().flatten();
    let attributes: serde_json::Map<_, _> =
        attributes.map(|(name, value)| (name.as_str().to_owned(), value.as_str().into())).collect();
    json!({
        "messageId": message.message_id(),
        "receiptHandle": message.receipt_handle(),
        "body": message.body(),
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": message.md5_of_body(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:pushlark",
        "awsRegion": "us-east-1",
    })
}

/// The bytes of a response by a Function URL, in one TLS record.
fn response_bytes(response: &Value) -> usize {
    let headers = response["headers"].as_object().into_iter().flatten();
    let own: usize = headers.map(|(name, value)| name.len() + value.as_str().map_or(0, str::len) + 4).sum();
    RESPONSE_HEAD.len() + own + response["body"].as_str().map_or(0, str::len) + TLS_RECORD_BYTES
}

/// What a Function URL adds to the headers of a function.
const RESPONSE_HEAD: &str = "HTTP/1.1 202 Accepted\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Length: 100\r\n\
    Connection: keep-alive\r\nx-amzn-RequestId: e1506fd5-9e7b-434f-bd42-4f8fa224b599\r\n\
    X-Amzn-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n\r\n";
/// The header, the type and the tag of a record of TLS 1.3.
const TLS_RECORD_BYTES: usize = 22;
