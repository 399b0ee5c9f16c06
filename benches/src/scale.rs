//! The units of DynamoDB and the instructions per event, by the number of registrations in the table.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_benches::input;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::build::Binaries;
use crate::function::Function;
use crate::lambda_event::{batch, request};
use crate::table::Table;
use crate::valgrind::instructions_of_each;
use crate::world::World;

/// The functions that are measured.
pub const FUNCTIONS: [&str; 3] = ["enable", "ingest", "worker"];
/// The numbers of registrations, one for each user.
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, MOST_REGISTRATIONS];
/// The default of the largest number.
pub const MOST_REGISTRATIONS: u64 = 1_000_000;
/// The table stops to grow after this time, or at the last of the sizes.
const GROWS_FOR: Duration = Duration::from_mins(10);
/// Most items of one BatchWriteItem.
const MAX_ITEMS: usize = 25;
/// The invocations of the shorter and of the longer run; the difference is measured.
const INVOCATIONS: [u64; 2] = [20, 60];
/// Largest ratio of the instructions at any number of registrations to those at the first.
const MOST: f64 = 1.05;

type Item = HashMap<String, AttributeValue>;

/// A kind of invocation, each with one event.
struct Load {
    function: &'static str,
    what: &'static str,
    event: fn(u64) -> anyhow::Result<Value>,
}

const LOADS: [Load; 4] = [
    Load {
        function: "enable",
        what: "JSON",
        event: |number| {
            Ok(request(
                "application/json",
                json!({"user": input::user(number), "jid": "push.example.com", "node": "device", "form": form(number)}),
            ))
        },
    },
    Load {
        function: "ingest",
        what: "presence",
        event: |number| {
            let jid = format!("{}/phone", input::user(number));
            Ok(request("application/json", json!({"type": "presence", "jid": jid, "status": "offline"})))
        },
    },
    Load { function: "ingest", what: "message", event: |number| Ok(request("application/json", input::event(number))) },
    Load { function: "worker", what: "1 record of 1 event", event: |number| batch(number, 1, 1) },
];

/// Units of DynamoDB: calls, read units and write units.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Units {
    calls: f64,
    reads: f64,
    writes: f64,
}

/// The figures of one load, per event.
#[derive(Clone, Copy)]
struct Figures {
    units: Units,
    instructions: u64,
}

/// Measures each load at each size up to `most`, prints a table, and returns whether the figures are the same at all
/// sizes.
pub async fn measure(binaries: &Binaries, most: u64) -> anyhow::Result<bool> {
    let world = World::start().await?;
    let meter = Meter::start(world.dynamodb_url()).await?;
    let mut environment = world.environment();
    environment.push(("AWS_ENDPOINT_URL_DYNAMODB".into(), meter.url.clone()));
    let sample = sample(&world).await?;
    let (mut registrations, stops) = (0, Instant::now() + GROWS_FOR);
    let columns = ["registrations", "function", "event", "calls", "read units", "write units", "instructions", "ratio"];
    let (mut table, mut first, mut is_met) = (Table::new(columns), Vec::new(), true);
    for size in SIZES.into_iter().filter(|size| *size <= most) {
        let begin = Instant::now();
        registrations = grow(&world, &sample, registrations..size, stops).await?;
        eprintln!("{registrations} registrations, after {:.0} s", begin.elapsed().as_secs_f64());
        for (index, load) in LOADS.iter().enumerate() {
            let figures = load.measure(binaries, &environment, &meter).await?;
            let base = *first.get(index).unwrap_or(&figures);
            if first.len() == index {
                first.push(figures);
            }
            let ratio = figures.instructions as f64 / base.instructions as f64;
            let is_same = figures.units == base.units && (1.0 / MOST..=MOST).contains(&ratio);
            is_met &= is_same;
            let Units { calls, reads, writes } = figures.units;
            table.row([
                registrations.to_string(),
                load.function.into(),
                load.what.into(),
                calls.to_string(),
                reads.to_string(),
                writes.to_string(),
                figures.instructions.to_string(),
                format!("{ratio:.3}, {}", if is_same { "met" } else { "MISSED" }),
            ]);
            eprintln!("{}, {}: measured", load.function, load.what);
        }
        if registrations < size {
            eprintln!("the table did not grow further within {GROWS_FOR:?}");
            break;
        }
    }
    println!("{table}");
    Ok(is_met)
}

impl Load {
    async fn measure(
        &self,
        binaries: &Binaries,
        environment: &[(String, String)],
        meter: &Meter,
    ) -> anyhow::Result<Figures> {
        let mut units = Vec::new();
        let instructions = instructions_of_each(INVOCATIONS, async |times, mut command| {
            command.arg(binaries.path(self.function)?);
            meter.take()?;
            let function = Function::start(command, environment).await?;
            let events: anyhow::Result<Vec<_>> =
                (0..times).map(|number| Ok((self.event)(number)?.to_string().into_bytes())).collect();
            for response in function.runtime_api.invoke(events?).await? {
                let response: Value = serde_json::from_slice(&response)?;
                let is_handled = response["batchItemFailures"].as_array().is_some_and(Vec::is_empty);
                ensure!(is_handled || response["statusCode"].as_u64() < Some(300), "{}: {response}", self.function);
            }
            function.check_log()?;
            units.push(meter.take()?);
            function.terminate()?;
            Ok(())
        })
        .await?;
        let each =
            |part: fn(&Units) -> f64| (part(&units[1]) - part(&units[0])) / (INVOCATIONS[1] - INVOCATIONS[0]) as f64;
        let units = Units {
            calls: each(|units| units.calls),
            reads: each(|units| units.reads),
            writes: each(|units| units.writes),
        };
        Ok(Figures { units, instructions })
    }
}

/// The form of the device of the user of this number.
fn form(number: u64) -> Value {
    json!({"service": "fcm", "device_id": format!("{number:0152}"), "priority": "high"})
}

/// The name of the user of this number, who is another one for each number.
fn user(number: u64) -> String {
    format!("user{number}@example.com")
}

/// Returns the items that `/enable` writes for the first user. Fails if [`copy`] makes of them other items than those
/// that `/enable` writes for other users.
async fn sample(world: &World) -> anyhow::Result<Vec<Item>> {
    world.enable(&user(0), form(0)).await?;
    let sample = items(world, &user(0)).await?;
    let mut domain_shards = BTreeSet::new();
    for number in 1..200 {
        world.enable(&user(number), form(number)).await?;
        let mut written = items(world, &user(number)).await?;
        let mut copied: Vec<_> = sample.iter().map(|item| copy(item, number)).collect();
        for item in written.iter_mut().chain(&mut copied) {
            item.retain(|name, _| !is_time(name));
            domain_shards.extend(item.remove("domain_shard").and_then(|shard| shard.as_s().ok().cloned()));
        }
        ensure!(written == copied, "/enable writes {written:?}, not {copied:?}");
    }
    ensure!(domain_shards.len() > 1, "all users have the same shard of the index");
    Ok(sample)
}

/// Returns the items of a user, by their sort keys.
async fn items(world: &World, user: &str) -> anyhow::Result<Vec<Item>> {
    let query = world.dynamodb().query().table_name("pushlark").key_condition_expression("pk = :pk");
    let found = query.expression_attribute_values(":pk", AttributeValue::S(user.into())).send().await?;
    ensure!(found.count > 0, "{user} has no items");
    Ok(found.items.unwrap_or_default())
}

/// Whether an attribute is the time of a request, in microseconds. All items of a user have the same one.
fn is_time(name: &str) -> bool {
    matches!(name, "created_at" | "first_enabled_at" | "added_at")
}

/// Returns an item of the first user as that of the user of this number.
fn copy(item: &Item, number: u64) -> Item {
    let device = |number| form(number)["device_id"].as_str().unwrap_or_default().to_owned();
    let copied = |value: &AttributeValue| match value {
        AttributeValue::S(text) if *text == user(0) => AttributeValue::S(user(number)),
        AttributeValue::S(text) if *text == device(0) => AttributeValue::S(device(number)),
        other => other.clone(),
    };
    let mut copy: Item = item.iter().map(|(name, value)| (name.clone(), copied(value))).collect();
    if let Some(AttributeValue::M(form)) = item.get("form") {
        let form = form.iter().map(|(name, value)| (name.clone(), copied(value))).collect();
        copy.insert("form".into(), AttributeValue::M(form));
    }
    if item.contains_key("domain_shard") {
        copy.insert("domain_shard".into(), AttributeValue::S(format!("example.com#{}", number % 16)));
    }
    copy
}

/// Writes the registrations of these users, in the layout of the sample. Returns the number of users with one.
async fn grow(world: &World, sample: &[Item], users: std::ops::Range<u64>, stops: Instant) -> anyhow::Result<u64> {
    let users_per_batch = (MAX_ITEMS / sample.len()) as u64;
    let batches = users.clone().step_by(users_per_batch as usize).map(|first| {
        let numbers = first..(first + users_per_batch).min(users.end);
        async move {
            if Instant::now() > stops {
                return Ok(0);
            }
            let count = numbers.end - numbers.start;
            let puts = numbers.flat_map(|number| sample.iter().map(move |item| copy(item, number)));
            let puts: Result<Vec<_>, _> = puts
                .map(|item| PutRequest::builder().set_item(Some(item)).build())
                .map(|put| put.map(|put| WriteRequest::builder().put_request(put).build()))
                .collect();
            let written = world.dynamodb().batch_write_item().request_items("pushlark", puts?).send().await?;
            let unprocessed = written.unprocessed_items.unwrap_or_default();
            ensure!(unprocessed.is_empty(), "the table does not take all items");
            anyhow::Ok(count)
        }
    });
    let written: u64 =
        stream::iter(batches).buffered(4).try_fold(0, |sum, count| async move { Ok(sum + count) }).await?;
    Ok(users.start + written)
}

/// A proxy between a function and DynamoDB that sums up the consumed capacity.
struct Meter {
    url: String,
    state: Arc<MeterState>,
    _server: JoinSet<()>,
}

struct MeterState {
    client: reqwest::Client,
    target: String,
    /// The units since the last call of [`Meter::take`], or the reason why they are not known.
    units: Mutex<anyhow::Result<Units>>,
}

impl Meter {
    async fn start(target: &str) -> anyhow::Result<Self> {
        let units = Mutex::new(Ok(Units::default()));
        let state = Arc::new(MeterState { client: reqwest::Client::new(), target: target.to_owned(), units });
        let router = Router::new().fallback(forward).with_state(Arc::clone(&state)).layer(DefaultBodyLimit::disable());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the proxy of DynamoDB stopped: {error}");
            }
        });
        Ok(Self { url, state, _server: server })
    }

    /// Returns the units since the last call.
    fn take(&self) -> anyhow::Result<Units> {
        let mut units = self.state.units.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut units, Ok(Units::default()))
    }
}

async fn forward(
    State(state): State<Arc<MeterState>>,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, HeaderMap, Bytes), StatusCode> {
    let operation = headers.get("x-amz-target").and_then(|target| target.to_str().ok()?.split('.').nth(1));
    let operation = operation.unwrap_or_default().to_owned();
    // They are those of another body.
    headers.remove("host");
    headers.remove("content-length");
    let mut request: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    request["ReturnConsumedCapacity"] = "TOTAL".into();
    let answered = async {
        let request = state.client.post(&state.target).headers(headers).body(request.to_string());
        let response = request.send().await?;
        let (status, mut headers) = (response.status(), response.headers().clone());
        headers.remove("transfer-encoding");
        Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
    };
    let (status, headers, body) = answered.await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let mut units = state.units.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(sum) = &mut *units {
        match consumed(&operation, &body) {
            Ok(consumed) => {
                sum.calls += 1.0;
                sum.reads += consumed.reads;
                sum.writes += consumed.writes;
            }
            Err(error) => *units = Err(error),
        }
    }
    Ok((status, headers, body))
}

/// Reads the consumed capacity of a call from its response ("ConsumedCapacity" in the "Amazon DynamoDB API Reference").
fn consumed(operation: &str, body: &[u8]) -> anyhow::Result<Units> {
    let response: Value = serde_json::from_slice(body)?;
    let consumed = match &response["ConsumedCapacity"] {
        Value::Array(tables) => tables.iter().collect(),
        one => vec![one],
    };
    let units: Option<f64> = consumed.iter().map(|table| table["CapacityUnits"].as_f64()).sum();
    let units = units.with_context(|| format!("{operation} does not return its consumed capacity: {response}"))?;
    match operation {
        "GetItem" | "BatchGetItem" | "Query" | "Scan" | "TransactGetItems" => {
            Ok(Units { reads: units, ..Units::default() })
        }
        "PutItem" | "UpdateItem" | "DeleteItem" | "BatchWriteItem" | "TransactWriteItems" => {
            Ok(Units { writes: units, ..Units::default() })
        }
        _ => bail!("{operation} is neither a read nor a write"),
    }
}
