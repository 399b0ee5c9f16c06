//! The cost of Pushlark's functions: `cargo run --release -p pushlark-benches -- all`.

mod bill;
mod build;
mod function;
mod isolation;
mod lambda_event;
mod load;
mod pure;
mod runtime_api;
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
    #[command(flatten)]
    bill: bill::BillArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// All benchmarks below but `bill`.
    All,
    /// What AWS bills of a load.
    Bill,
    /// The effect of a failing device on the notifications of others.
    Isolation,
    /// Processor time, instructions and memory under load.
    Load,
    /// The parts without I/O: parsing, decision, encoding.
    Pure,
    /// The worker against doubles of each push service.
    Services,
    /// The size of the deployed files.
    Size,
    /// The time until a function asks for its first event.
    Start,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { what: wanted, rounds, trouble, bill } = Arguments::parse();
    let wants = |what| wanted == What::All || wanted == what;
    let isolation = async || {
        let is_met = isolation::measure(&trouble, rounds).await?;
        Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    // It runs the local stack, and needs none of the binaries.
    if wanted == What::Isolation {
        return isolation().await;
    }
    if wanted == What::Bill {
        return Ok(if bill::measure(&bill).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let binaries = Binaries::build()?;
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
    if wants(What::Isolation) { isolation().await } else { Ok(ExitCode::SUCCESS) }
}
