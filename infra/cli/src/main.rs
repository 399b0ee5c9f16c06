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
mod private_file;
mod registrations;
mod retention;
mod rules;
mod scan;
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
use output::{Format, tell};
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

/// Arguments that are wrong in a way that the parser of the command line does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongArguments(String);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(code) => code,
        // The reader of the output has seen enough, such as `head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format!("pushlark: {error:#}"));
            if error.is::<WrongArguments>() { ExitCode::from(2) } else { ExitCode::FAILURE }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    /// Returns the commands of `pushlark` in the shell snippets of the pages, each with its page.
    fn commands() -> Vec<(String, String)> {
        let pages = fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|page| page.unwrap().path());
        let mut commands = Vec::new();
        let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
        for page in pages.chain([Path::new(ROOT).join("README.md")]) {
            let text = fs::read_to_string(&page).unwrap().replace("\\\n", " ");
            let snippets = text.split("```sh\n").skip(1).filter_map(|snippet| snippet.split("```").next());
            let lines = snippets.flat_map(str::lines).map(str::trim).filter(|line| line.starts_with("pushlark "));
            commands.extend(lines.map(|line| (page.display().to_string(), line.to_owned())));
        }
        commands
    }

    /// Returns the words of the first command of a line, as a shell reads them.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for character in line.chars() {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (None, '\'' | '"') => quote = Some(character),
                (None, ';' | '|' | '<' | '>' | '&') => break,
                (None, ' ') => words.push(std::mem::take(&mut word)),
                _ => word.push(character),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn the_commands_of_the_pages_have_arguments_that_exist() {
        let commands = commands();
        assert!(commands.len() >= 8, "{}", commands.len());
        for (page, line) in commands {
            if let Err(error) = Arguments::try_parse_from(words(&line)) {
                panic!("{page}: {line}: {error}");
            }
        }
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
