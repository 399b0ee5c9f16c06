//! The cost of Pushlark's functions: `cargo run --release -p pushlark-benches -- all`.

mod bill;
mod build;
mod fairness;
mod function;
mod isolation;
mod lambda_event;
mod latency;
mod load;
mod picture;
mod pure;
mod runtime_api;
mod scale;
mod services;
mod size;
mod start;
mod table;
mod valgrind;
mod world;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use build::Binaries;

/// Measures the functions' own binaries, each as a process on a double of Lambda's Runtime API.
#[derive(Debug, Parser)]
struct Arguments {
    /// The benchmark to run.
    #[arg(default_value = "all")]
    what: What,
    /// How often `isolation` runs each load with the trouble and without it.
    #[arg(long, default_value_t = isolation::ROUNDS)]
    rounds: u32,
    /// A part of the names of the loads that `isolation` runs.
    #[arg(long, default_value = "")]
    trouble: String,
    /// The largest number of registrations of `scale`.
    #[arg(long, default_value_t = scale::MOST_REGISTRATIONS)]
    registrations: u64,
    #[command(flatten)]
    bill: bill::BillArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// All benchmarks below but `bill`.
    All,
    /// What AWS bills of a load.
    Bill,
    /// The effect of one domain's flood on another domain, with fair queues and without.
    Fairness,
    /// The effect of a failing device on the notifications of others.
    Isolation,
    /// The time from a webhook to the arrival at the push service, warm and after a start.
    Latency,
    /// Processor time, instructions and memory under load.
    Load,
    /// The parts without I/O: parsing, decision, encoding.
    Pure,
    /// Units of DynamoDB and instructions per event, by the number of registrations in the table.
    Scale,
    /// The worker against doubles of each push service.
    Services,
    /// The size of the deployed files.
    Size,
    /// The time until a function asks for its first event.
    Start,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { what: wanted, rounds, trouble, registrations, bill } = Arguments::parse();
    let wants = |what| wanted == What::All || wanted == what;
    let binaries = match wanted {
        What::Bill => {
            return Ok(if bill::measure(&bill).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        // They run the local stack in this process.
        What::Isolation | What::Fairness => Binaries::default(),
        What::Latency => Binaries::of(&latency::FUNCTIONS)?.with_local_stack()?,
        What::Scale => Binaries::of(&scale::FUNCTIONS)?,
        What::All => Binaries::build()?.with_local_stack()?,
        What::Load | What::Pure | What::Services | What::Size | What::Start => Binaries::build()?,
    };
    let mut is_met = true;
    if wants(What::Size) {
        size::measure(&binaries)?;
    }
    if wants(What::Start) {
        start::measure(&binaries).await?;
    }
    if wants(What::Pure) {
        pure::measure(&binaries).await?;
    }
    if wants(What::Services) {
        services::measure(&binaries).await?;
    }
    if wants(What::Load) {
        load::measure(&binaries).await?;
    }
    if wants(What::Latency) {
        is_met &= latency::measure(&binaries).await?;
    }
    if wants(What::Scale) {
        is_met &= scale::measure(&binaries, registrations).await?;
    }
    if wants(What::Isolation) {
        is_met &= isolation::measure(&trouble, rounds).await?;
    }
    if wants(What::Fairness) {
        is_met &= fairness::measure().await?;
    }
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
