//! `pushlark`: the work of an operator of Pushlark from a shell, on AWS or with the local stack.

mod bill;
mod dead_letters;
mod doctor;
mod domain;
mod erase;
mod explain;
mod export;
mod import;
mod log_line;
mod logs;
mod metrics;
mod output;
mod registrations;
mod retention;
mod rules;
mod send;
mod shell;
mod stack;
mod status;
mod user;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use bill::BillOptions;
use dead_letters::DeadLettersOptions;
use doctor::DoctorOptions;
use domain::DomainOptions;
use erase::EraseOptions;
use explain::ExplainOptions;
use export::ExportOptions;
use import::ImportOptions;
use logs::LogsOptions;
use output::Format;
use registrations::RegistrationsOptions;
use rules::RulesOptions;
use send::SendOptions;
use shell::ShellOptions;
use stack::StackOptions;
use status::StatusOptions;

/// Operate Pushlark: push notifications for XMPP chat servers.
///
/// The exit code is 0 on success, 1 if a command fails, 2 if its arguments are wrong.
#[derive(Debug, Parser)]
#[command(name = "pushlark", version)]
struct Arguments {
    #[command(flatten)]
    stack: StackOptions,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bill(BillOptions),
    DeadLetters(DeadLettersOptions),
    Doctor(DoctorOptions),
    Domain(DomainOptions),
    Erase(EraseOptions),
    Explain(ExplainOptions),
    Export(ExportOptions),
    Import(ImportOptions),
    Logs(LogsOptions),
    Registrations(RegistrationsOptions),
    Rules(RulesOptions),
    Send(SendOptions),
    Shell(ShellOptions),
    Status(StatusOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(code) => code,
        // The reader of the output has seen enough, such as `head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pushlark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let format = if arguments.json { Format::Json } else { Format::Human };
    let stack = &arguments.stack;
    match arguments.command {
        Command::Bill(command) => command.run(stack, format).await,
        Command::DeadLetters(command) => command.run(stack, format).await,
        Command::Doctor(command) => command.run(stack, format).await,
        Command::Domain(command) => command.run(stack, format).await,
        Command::Erase(command) => command.run(stack, format).await,
        Command::Explain(command) => command.run(stack, format).await,
        Command::Export(command) => command.run(stack, format).await,
        Command::Import(command) => command.run(stack, format).await,
        Command::Logs(command) => command.run(stack, format).await,
        Command::Registrations(command) => command.run(stack, format).await,
        Command::Rules(command) => command.run(stack, format).await,
        Command::Send(command) => command.run(stack, format).await,
        Command::Shell(command) => command.run(stack, format).await,
        Command::Status(command) => command.run(stack, format).await,
    }
}
