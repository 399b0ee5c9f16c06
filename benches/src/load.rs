//! Each function under load: events per second, processor time, instructions and memory of its process.

use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use axum::body::Bytes;
use pushlark_benches::input;
use serde_json::Value;

use crate::build::Binaries;
use crate::function::Function;
use crate::lambda_event::{batch, request};
use crate::table::{Table, judged};
use crate::valgrind::instructions_of_each;
use crate::world::World;

/// Rounds of a load. The one with the least processor time counts, since other processes only add to it.
const ROUNDS: u32 = 5;

/// Invocations with the same kind of event.
struct Load {
    function: &'static str,
    what: &'static str,
    /// Events, or recipients of one event, per invocation.
    events: u64,
    /// The number of invocations per round.
    invocations: u64,
    /// Most milliseconds of processor time per event.
    target: Option<f64>,
    /// Returns the payload of the invocation with this number.
    event: fn(u64) -> anyhow::Result<Value>,
    /// The result of an invocation, which is checked.
    effect: Effect,
}

/// The result of an invocation, with the number of records in the queue, or of notifications.
#[derive(Clone, Copy)]
enum Effect {
    Records(u64),
    Notifications(u64),
    /// Registrations or nodes in the table, which later loads need.
    Table,
    /// One registration less, which was enabled before.
    Removal,
}

fn loads() -> Vec<Load> {
    let enable = Load {
        function: "enable",
        what: "JSON",
        events: 1,
        invocations: input::USERS,
        target: None,
        event: |number| Ok(request("application/json", input::enable(number))),
        effect: Effect::Table,
    };
    let ingest = |what, events: u64, event| Load {
        function: "ingest",
        what,
        events,
        invocations: 2_000 / (events + 1),
        target: Some(0.08),
        event,
        // A record has at most 25 recipients.
        effect: Effect::Records(events.div_ceil(25)),
    };
    let worker = |what, records: u64, recipients: u64, event| Load {
        function: "worker",
        what,
        events: records * recipients,
        invocations: 2_500 / (records * recipients + 1),
        target: Some(0.25),
        event,
        effect: Effect::Notifications(records * recipients),
    };
    let disable = Load {
        function: "disable",
        what: "JSON",
        invocations: input::USERS / u64::from(ROUNDS + 1),
        event: |number| Ok(request("application/json", input::disable(number))),
        effect: Effect::Removal,
        ..enable
    };
    let push_node = |what, event, effect| Load {
        function: "pubsub",
        what,
        events: 1,
        invocations: input::USERS,
        target: None,
        event,
        effect,
    };
    vec![
        enable,
        ingest("JSON", 1, |number| Ok(request("application/json", input::event(number)))),
        ingest("JSON with a stanza", 1, |number| Ok(request("application/json", input::stanza_event(number)))),
        ingest("XML", 1, |number| Ok(request("text/xml", input::stanza(number)))),
        ingest("form", 1, |number| Ok(request("application/x-www-form-urlencoded", input::form(number)))),
        ingest("NDJSON, 25 events", 25, |number| Ok(request("application/x-ndjson", input::event_lines(number, 25)))),
        ingest("NDJSON, 100 events", 100, |number| {
            Ok(request("application/x-ndjson", input::event_lines(number, 100)))
        }),
        ingest("JSON array, 25 events", 25, |number| Ok(request("application/json", input::event_array(number, 25)))),
        ingest("JSON array, 100 events", 100, |number| {
            Ok(request("application/json", input::event_array(number, 100)))
        }),
        ingest("group message, 100 recipients", 100, |number| {
            Ok(request("application/json", input::group_event(number, 100)))
        }),
        worker("1 record of 1 event", 1, 1, |number| batch(number, 1, 1)),
        worker("10 records of 1 event", 10, 1, |number| batch(number, 10, 1)),
        worker("1 record of 25 recipients", 1, 25, |number| batch(number, 1, 25)),
        worker("10 records of 25 recipients", 10, 25, |number| batch(number, 10, 25)),
        disable,
        push_node("enable", |number| Ok(request("application/xml", input::enable_node(number))), Effect::Table),
        push_node("publish", |number| Ok(request("application/xml", input::publish(number))), Effect::Records(1)),
    ]
}

/// Most memory of a function, in MB.
const PEAK_MEMORY: f64 = 30.0;

/// Runs all loads, and prints their figures.
pub async fn measure(binaries: &Binaries) -> anyhow::Result<()> {
    let world = World::start().await?;
    let loads = loads();
    let mut time = Table::new(["function", "load", "events/s", "CPU-ms/event", "target", "instructions/event"]);
    let mut memory = Table::new(["function", "peak RSS, MB", "target"]);
    for loads in loads.chunk_by(|one, next| one.function == next.function) {
        let name = loads[0].function;
        let binary = binaries.path(name)?;
        let function = Function::start(Command::new(binary), &world.environment()).await?;
        for load in loads {
            let Best { per_second, milliseconds } = load.measure(&function, &world).await?;
            let instructions = load.instructions(binaries, &world).await?;
            let [cpu, target] = judged(milliseconds, 3, load.target);
            let per_second = format!("{per_second:.0}");
            time.row([name.into(), load.what.into(), per_second, cpu, target, instructions.to_string()]);
            eprintln!("{name}, {}: measured", load.what);
        }
        let [peak, target] = judged(function.peak_memory()? as f64 / 1e6, 1, Some(PEAK_MEMORY));
        memory.row([name.into(), peak, target]);
    }
    println!("{time}\n{memory}");
    Ok(())
}

/// The figures of the best round.
struct Best {
    per_second: f64,
    milliseconds: f64,
}

impl Load {
    async fn measure(&self, function: &Function, world: &World) -> anyhow::Result<Best> {
        self.prepare(world).await?;
        let mut best = Best { per_second: 0.0, milliseconds: f64::INFINITY };
        // The first round is for warming up.
        for round in 0..=u64::from(ROUNDS) {
            let events = self.events(round * self.invocations, self.invocations)?;
            let (cpu, start) = (function.cpu()?, Instant::now());
            let responses = function.runtime_api.invoke(events).await?;
            let (cpu, wall) = (function.cpu()? - cpu, start.elapsed());
            self.check(&responses, world).await?;
            function.check_log()?;
            let events = (self.events * self.invocations) as f64;
            let milliseconds = cpu.as_secs_f64() * 1e3 / events;
            if round > 0 && milliseconds < best.milliseconds {
                best = Best { per_second: events / wall.as_secs_f64(), milliseconds };
            }
        }
        Ok(best)
    }

    /// The instructions of the whole process per event, in user space.
    async fn instructions(&self, binaries: &Binaries, world: &World) -> anyhow::Result<u64> {
        let few = (60 / self.events).max(2);
        let per_invocation = instructions_of_each([few, 3 * few], async |times, mut command| {
            self.prepare(world).await?;
            command.arg(binaries.path(self.function)?);
            let mut environment = world.environment();
            // Under valgrind everything takes fifty times as long, but the timeouts of calls stay.
            environment.push(("WORKER_CONCURRENCY".into(), "4".into()));
            let function = Function::start(command, &environment).await?;
            let responses = function.runtime_api.invoke(self.events(0, times)?).await?;
            self.check(&responses, world).await?;
            function.check_log()?;
            function.terminate()?;
            Ok(())
        })
        .await?;
        Ok(per_invocation / self.events)
    }

    /// Enables all devices, if the load is to disable them.
    async fn prepare(&self, world: &World) -> anyhow::Result<()> {
        if let Effect::Removal = self.effect {
            for number in 0..input::USERS {
                let form = input::enable(number)["form"].take();
                world.enable_node(&input::user(number), &format!("node-{number}"), form).await?;
            }
        }
        Ok(())
    }

    fn events(&self, first: u64, invocations: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        (first..first + invocations).map(|number| Ok((self.event)(number)?.to_string().into_bytes())).collect()
    }

    /// Fails unless each event had its result.
    async fn check(&self, responses: &[Bytes], world: &World) -> anyhow::Result<()> {
        for response in responses {
            let response: Value = serde_json::from_slice(response)?;
            let fine = match self.effect {
                Effect::Notifications(_) => response["batchItemFailures"].as_array().is_some_and(Vec::is_empty),
                Effect::Records(_) | Effect::Table => is_success(&response),
                Effect::Removal => {
                    let body: Value = serde_json::from_str(response["body"].as_str().unwrap_or_default())?;
                    body["removed"] == 1
                }
            };
            ensure!(fine, "{} fails at {}: {response}", self.function, self.what);
        }
        let invocations = responses.len() as u64;
        let (came, expected) = match self.effect {
            Effect::Notifications(each) => (world.take_notifications(), each * invocations),
            Effect::Records(each) => (world.take_records().await?, each * invocations),
            Effect::Table | Effect::Removal => return Ok(()),
        };
        ensure!(came == expected, "of {}, {}: {came} came instead of {expected}", self.function, self.what);
        Ok(())
    }
}

/// Returns whether a function accepted a request. An IQ of type `error` has status 200, too.
fn is_success(response: &Value) -> bool {
    let is_error = response["body"].as_str().is_some_and(|body| body.contains("type=\"error\""));
    (response["statusCode"] == 200 || response["statusCode"] == 202) && !is_error
}
