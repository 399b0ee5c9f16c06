//! The bill: what AWS bills of a load, by line, in dollars per million.

mod baseline;
mod meter;
mod scenario;
mod system;
mod template;
mod waits;

use std::collections::BTreeSet;
use std::env::temp_dir;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use pushlark_prices::{Bill, LINES, Prices, Quantities, Standing, total};
use pushlark_settings::catalogue;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::build::Binaries;
use crate::table::Table;
use crate::valgrind::Callgrind;
use baseline::Bills;
use meter::Units;
use scenario::{Scenario, Unit, scenarios};
use system::{Commands, System, Usage};
use template::Template;
use waits::Service;

/// The functions of all scenarios.
const FUNCTIONS: [&str; 2] = ["ingest", "worker"];
/// The key of the month without events.
const IDLE_MONTH: &str = "idle_month";
/// The instructions per second of one vCPU of Lambda, in user space. The time in the kernel is part of it.
const INSTRUCTIONS_PER_SECOND: f64 = 1.5e9;
/// The memory with which a function has one vCPU ("Configure Lambda function memory").
const MB_OF_VCPU: f64 = 1769.0;
/// The factor of the latencies while waits are observed: then the processor time of this machine hardly matters.
const SLOWNESS: u32 = 10;
/// The factor of the processes' clocks. No timer of the functions comes to its end, however slow the machine is.
const SLOW_CLOCK: u32 = 1_000;
/// The rounds in which waits are observed. Their medians count.
const OBSERVED_ROUNDS: u64 = 3;
/// Lambda's pollers of a queue without messages, and the seconds of their long polls ("Using Lambda with Amazon SQS").
const POLLERS: f64 = 5.0;
const LONG_POLL_SECONDS: f64 = 20.0;
const SECONDS_OF_MONTH: f64 = 30.0 * 24.0 * 3600.0;
/// The lines that Lambda logs at the start and at the end of an invocation, with `SystemLogLevel: INFO`.
const REPORT_LINES: [&str; 2] = [
    r#"{"time":"2026-11-28T12:00:00.000Z","type":"platform.start","record":{"requestId":"e1506fd5-9e7b-434f-bd42-4f8fa224b599","version":"$LATEST"}}"#,
    r#"{"time":"2026-11-28T12:00:00.000Z","type":"platform.report","record":{"requestId":"e1506fd5-9e7b-434f-bd42-4f8fa224b599","metrics":{"durationMs":61.234,"billedDurationMs":62,"memorySizeMB":512,"maxMemoryUsedMB":30},"status":"success"}}"#,
];

/// The options of the bill.
#[derive(Debug, clap::Args)]
pub struct BillArguments {
    /// The folder that `sam build` filled, for the functions of `bill`; without it, they are built.
    #[arg(long, value_name = "FOLDER")]
    functions: Option<PathBuf>,
    /// Fail if a line of the bill is higher than in benches/bill.json.
    #[arg(long)]
    check: bool,
    /// Write the bill to benches/bill.json and docs/costs.md.
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// The only scenario of the bill; all without it.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
}

/// The figures of a scenario.
struct Figures {
    unit: Unit,
    quantities: Quantities,
    durations: [f64; 2],
    instructions: [f64; 2],
    metrics: BTreeSet<String>,
}

/// Measures the scenarios and prints their bills. Returns whether no line is higher than before.
pub async fn measure(arguments: &BillArguments) -> anyhow::Result<bool> {
    let binaries = match &arguments.functions {
        Some(folder) => Binaries::of_sam(folder, &FUNCTIONS)?,
        None => Binaries::of(&FUNCTIONS)?,
    };
    let (prices, template) = (Prices::read()?, Template::read()?);
    let is_wanted = |name: &str| arguments.scenario.as_deref().is_none_or(|wanted| wanted == name);
    let bench = Arc::new(Bench { binaries, slow_clock: slow_clock()?, template, processors: processors()? });
    let mut running = JoinSet::new();
    for (index, scenario) in scenarios().into_iter().enumerate().filter(|(_, scenario)| is_wanted(scenario.name)) {
        let bench = Arc::clone(&bench);
        running.spawn(async move {
            let figures = bench.figures(&scenario).await.with_context(|| scenario.name);
            match &figures {
                Ok(_) => eprintln!("{}: measured", scenario.name),
                Err(error) => eprintln!("not measured: {error:#}"),
            }
            (index, scenario, figures)
        });
    }
    let mut measured = running.join_all().await;
    fs::remove_file(&bench.slow_clock)?;
    measured.sort_by_key(|(index, ..)| *index);

    let (mut bills, mut is_met) = (Bills::new(), true);
    let mut metrics = BTreeSet::new();
    let mut quantities = Table::new([
        "scenario",
        "unit",
        "invocations",
        "ingest, ms",
        "worker, ms",
        "ingest, instructions",
        "worker, instructions",
        "SQS requests",
        "writes",
        "reads",
        "log lines",
        "log bytes",
        "bytes out",
    ]);
    for (_, scenario, figures) in measured {
        match figures {
            Ok(figures) => {
                bills.insert(scenario.name.to_owned(), rounded(prices.million(&figures.quantities)));
                quantities.row(figures.row(scenario.name));
                metrics.extend(figures.metrics);
            }
            Err(_) => is_met = false,
        }
    }
    if is_wanted(IDLE_MONTH) {
        let month = Standing {
            receives: POLLERS * SECONDS_OF_MONTH / LONG_POLL_SECONDS,
            alarm_metric_months: bench.template.alarm_metrics as f64,
            // A metric costs in the hours in which it has data, and no function runs.
            metric_months: 0.0,
            dashboard_months: 0.0,
        };
        bills.insert(IDLE_MONTH.to_owned(), rounded(prices.standing(&month)));
    }
    ensure!(!bills.is_empty() || !is_met, "there is no such scenario");

    println!("{}", table(&bills));
    println!("{quantities}");
    print_model(&prices, &bench.template, &metrics);
    if let (Some(on), Some(off)) = (bills.get("unread_counts"), bills.get("busy_single")) {
        println!("Unread counts cost ${:.2} more than the same load without them.\n", total(on) - total(off));
    }
    if arguments.write {
        baseline::write(&bills)?;
    }
    if arguments.check {
        let rises = baseline::rises(&baseline::read()?, &bills, is_wanted);
        for rise in &rises {
            eprintln!("{rise}");
        }
        is_met &= rises.is_empty();
    }
    println!("{}", summary(&bills));
    Ok(is_met)
}

/// What all scenarios need.
struct Bench {
    binaries: Binaries,
    slow_clock: String,
    template: Template,
    /// One permit for each processor: as many processes run under callgrind.
    processors: Semaphore,
}

/// The figures of a run under callgrind.
struct Run {
    usage: Usage,
    instructions: [f64; 2],
    log_lines: f64,
    log_bytes: f64,
    metrics: BTreeSet<String>,
}

impl Bench {
    async fn figures(&self, scenario: &Scenario) -> anyhow::Result<Figures> {
        for (name, _) in scenario.settings {
            let is_setting = catalogue::all().iter().any(|setting| setting.name == *name);
            ensure!(is_setting, "the functions have no setting {name}");
        }
        let (waits, observed) = self.observe(scenario).await?;
        let few = self.count(scenario, 1).await?;
        let many = self.count(scenario, 1 + scenario.more_rounds).await?;
        let rounds = scenario.more_rounds as f64;
        let each = |of: fn(&Run) -> f64| (of(&many) - of(&few)) / rounds;
        let calls = each(|run| run.usage.units.calls);
        ensure!(
            (calls - observed.calls).abs() < 0.01,
            "the functions made {calls} calls under callgrind, and {} without it",
            observed.calls
        );
        let invocations = [each(|run| run.usage.invocations[0]), each(|run| run.usage.invocations[1])];
        let per_round = [each(|run| run.instructions[0]), each(|run| run.instructions[1])];
        let instructions = [0, 1].map(|function| per_round[function] / invocations[function].max(1.0));
        let durations = [0, 1].map(|function| {
            let memory = self.template.memory[function];
            let processor = instructions[function] / (INSTRUCTIONS_PER_SECOND * memory / MB_OF_VCPU);
            let waits = waits[function].iter().map(Duration::as_secs_f64);
            waits.map(|wait| ((processor + wait) * 1e3).ceil() / 1e3).collect::<Vec<_>>()
        });
        let gb_seconds =
            [0, 1].map(|function| durations[function].iter().sum::<f64>() * self.template.memory[function] / 1024.0);
        let invocations = invocations.iter().sum::<f64>();
        let report_bytes: usize = REPORT_LINES.iter().map(|line| line.len()).sum();
        let [report_lines, report_bytes] =
            if self.template.has_report_lines { [REPORT_LINES.len() as f64, report_bytes as f64] } else { [0.0, 0.0] };
        let of_unit = |of_round: f64| of_round / scenario.units;
        let mean = |durations: &[f64]| durations.iter().sum::<f64>() / durations.len().max(1) as f64;
        Ok(Figures {
            unit: scenario.unit,
            quantities: Quantities {
                lambda_requests: of_unit(invocations),
                gb_seconds: of_unit(gb_seconds.iter().sum()),
                gb_seconds_x86_64: 0.0,
                sqs_requests: of_unit(each(|run| run.usage.units.sqs)),
                fair_requests: of_unit(each(|run| run.usage.units.fair)),
                writes: of_unit(each(|run| run.usage.units.writes)),
                reads: of_unit(each(|run| run.usage.units.reads)),
                log_events: of_unit(each(|run| run.log_lines) + invocations * report_lines),
                log_bytes: of_unit(each(|run| run.log_bytes) + invocations * report_bytes),
                bytes_out: of_unit(each(|run| run.usage.units.push_bytes + run.usage.response_bytes)),
            },
            durations: [mean(&durations[0]), mean(&durations[1])],
            instructions,
            metrics: many.metrics,
        })
    }

    /// Returns the waits of each invocation of a round, of ingest and of the worker, and the units of a round.
    async fn observe(&self, scenario: &Scenario) -> anyhow::Result<([Vec<Duration>; 2], Units)> {
        let command = |function| Ok::<_, anyhow::Error>(Command::new(self.binaries.path(function)?));
        let commands = self.commands(command("ingest")?, command("worker")?);
        let mut system = System::start(scenario, commands).await?;
        system.slow_down(SLOWNESS);
        let (mut rounds, mut calls) = (Vec::new(), 0.0);
        for round in 0..OBSERVED_ROUNDS {
            let before = system.usage().units.calls;
            rounds.push(system.round(scenario, scenario.warm_up + round).await?);
            // Those of the last round: the first one may read what is kept afterwards.
            calls = system.usage().units.calls - before;
        }
        system.stop()?;
        let medians = [0, 1].map(|function| {
            let invocations = 0..rounds[0][function].len();
            invocations
                .map(|invocation| {
                    let mut waits: Vec<_> =
                        rounds.iter().filter_map(|round| round[function].get(invocation).copied()).collect();
                    waits.sort_unstable();
                    waits[waits.len() / 2]
                })
                .collect()
        });
        Ok((medians, Units { calls, ..Units::default() }))
    }

    /// Counts under callgrind what this number of rounds uses, with the start and the rounds before.
    async fn count(&self, scenario: &Scenario, rounds: u64) -> anyhow::Result<Run> {
        let _permits = self.processors.acquire().await?;
        let [(ingest, mut start_ingest), (worker, mut start_worker)] = [Callgrind::new(), Callgrind::new()];
        start_ingest.arg(self.binaries.path("ingest")?);
        start_worker.arg(self.binaries.path("worker")?);
        let commands = self.commands(start_ingest, start_worker);
        let mut system = System::start(scenario, commands).await?;
        for round in 0..rounds {
            let before = system.usage().notifications;
            system.round(scenario, scenario.warm_up + round).await?;
            let notified = system.usage().notifications - before;
            ensure!(notified == scenario.notifications as f64, "{notified} notifications in a round");
        }
        let usage = system.usage();
        let logs = system.stop()?;
        Ok(Run {
            usage,
            instructions: [ingest.instructions()? as f64, worker.instructions()? as f64],
            log_lines: logs.iter().map(|log| log.lines as f64).sum(),
            log_bytes: logs.iter().map(|log| log.bytes as f64).sum(),
            metrics: logs.into_iter().flat_map(|log| log.metrics).collect(),
        })
    }

    fn commands(&self, ingest: Command, worker: Command) -> Commands {
        Commands { ingest, worker, slow_clock: SLOW_CLOCK, slow_clock_library: self.slow_clock.clone() }
    }
}

impl Figures {
    fn row(&self, name: &str) -> [String; 13] {
        let Quantities { lambda_requests, sqs_requests, writes, reads, log_events, log_bytes, bytes_out, .. } =
            self.quantities;
        let unit = match self.unit {
            Unit::Notification => "notification",
            Unit::UserDay => "user and day",
        };
        let number = |number: f64| format!("{number:.3}");
        let whole = |number: f64| format!("{number:.0}");
        let [ingest, worker] = self.durations.map(|seconds| format!("{:.1}", seconds * 1e3));
        let [of_ingest, of_worker] = self.instructions.map(whole);
        [
            name.into(),
            unit.into(),
            number(lambda_requests),
            ingest,
            worker,
            of_ingest,
            of_worker,
            number(sqs_requests),
            number(writes),
            number(reads),
            number(log_events),
            whole(log_bytes),
            whole(bytes_out),
        ]
    }
}

/// Returns the table of the bills, one scenario a column.
pub fn table(bills: &Bills) -> String {
    let names = order(bills);
    let mut rows = vec![
        [vec!["dollars for a million".to_owned()], names.iter().map(|name| format!("`{name}`")).collect()].concat(),
    ];
    let cell = |dollars: Option<f64>| dollars.map_or(String::new(), |dollars| format!("{dollars:.3}"));
    for line in LINES {
        if names.iter().any(|name| bills[*name].contains_key(line)) {
            rows.push(
                [vec![line.to_owned()], names.iter().map(|name| cell(bills[*name].get(line).copied())).collect()]
                    .concat(),
            );
        }
    }
    rows.push([vec!["all".to_owned()], names.iter().map(|name| cell(Some(total(&bills[*name])))).collect()].concat());
    Table::of_rows(rows).to_string()
}

/// Returns the names of the scenarios in the order of the results.
fn order(bills: &Bills) -> Vec<&'static str> {
    let names = scenarios().into_iter().map(|scenario| scenario.name).chain([IDLE_MONTH]);
    names.filter(|name| bills.contains_key(*name)).collect()
}

/// Returns the dollars by scenario, as JSON.
fn summary(bills: &Bills) -> String {
    let members = order(bills).into_iter().map(|name| format!("\"{name}\": {:.4}", total(&bills[name])));
    format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
}

/// Rounds to a hundredth of a cent.
fn rounded(bill: Bill) -> Bill {
    let rounded = bill.into_iter().map(|(line, dollars)| (line, (dollars * 1e4).round() / 1e4));
    rounded.filter(|(_, dollars)| *dollars > 0.0).collect()
}

fn print_model(prices: &Prices, template: &Template, metrics: &BTreeSet<String>) {
    let [ingest, worker] = template.memory;
    let latency = |service: Service| service.latency().as_millis();
    println!(
        "Prices of {}, us-east-1, arm64, without free tiers. Memory: ingest {ingest} MB, worker {worker} MB. A vCPU \
         ({MB_OF_VCPU} MB) runs {:.1} billion instructions a second. Waits: DynamoDB {} ms, SQS {} ms, push service {} \
         ms; concurrent calls count once. A month has {:.0} empty receives.",
        prices.date,
        INSTRUCTIONS_PER_SECOND / 1e9,
        latency(Service::DynamoDb),
        latency(Service::Sqs),
        latency(Service::Push),
        POLLERS * SECONDS_OF_MONTH / LONG_POLL_SECONDS,
    );
    for scenario in scenarios() {
        println!("- `{}`: {}", scenario.name, scenario.purpose);
    }
    println!("- `{IDLE_MONTH}`: dollars for one stack and month without events");
    let names: Vec<_> = metrics.iter().map(String::as_str).collect();
    println!(
        "\nA metric that has data all month costs ${:.2}; these scenarios have {}: {}.\n",
        prices.metric(),
        names.len(),
        names.join(", ")
    );
}

fn processors() -> anyhow::Result<Semaphore> {
    Ok(Semaphore::new(available_parallelism()?.get()))
}

/// Compiles the library that slows the clock of a process, and returns its path.
fn slow_clock() -> anyhow::Result<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bill/slow_clock.c");
    let library = temp_dir().join(format!("pushlark-slow-clock-{}.so", std::process::id()));
    let compiled = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    ensure!(compiled.context("there is no C compiler")?.success(), "the library of the clock is not compiled");
    library.into_os_string().into_string().map_err(|path| anyhow!("{path:?} is not UTF-8"))
}
