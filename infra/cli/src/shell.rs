//! The command `shell`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::output::Format;
use crate::stack::StackOptions;
use crate::{Arguments, WrongArguments};

/// Print completions for a shell, or the manual pages.
#[derive(Debug, Args)]
pub struct ShellOptions {
    #[command(subcommand)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Output {
    /// Print the completions of commands and options.
    Completions {
        /// The shell that reads them.
        shell: Shell,
    },
    /// Print the manual page of `pushlark`, or of one of its commands.
    Man {
        /// The command, such as `status` or `dead-letters retry`.
        command: Vec<String>,
    },
}

impl ShellOptions {
    /// Runs the command. The output has the format of the shell or of `man`, also with `--json`.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        let mut page = Vec::new();
        match self.output {
            Output::Completions { shell } => {
                clap_complete::generate(shell, &mut Arguments::command(), "pushlark", &mut page);
            }
            Output::Man { command } => {
                let mut chosen = Arguments::command();
                chosen.build();
                for name in &command {
                    let unknown = || WrongArguments(format!("there is no command {}", command.join(" ")));
                    chosen = chosen.find_subcommand(name).cloned().ok_or_else(unknown)?;
                }
                // A command has no version of its own.
                let source = concat!("pushlark ", env!("CARGO_PKG_VERSION"));
                Man::new(chosen).source(source).render(&mut page)?;
            }
        }
        io::stdout().lock().write_all(&page)?;
        Ok(ExitCode::SUCCESS)
    }
}
