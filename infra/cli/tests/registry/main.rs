//! The commands about registrations, explanations, test notifications, dead letters, the data of a user, domains and
//! rules: the program runs beside a local stack.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dead_letters;
mod domain;
mod erase;
mod explain;
mod registrations;
mod rules;
mod send;
mod terminal;

use std::process::Stdio;

use serde_json::Value;
use tests::Pushlark;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The result of a command.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Checks that the command succeeded, and returns its output.
    fn printed(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Checks that the command succeeded, and returns its JSON.
    fn json(self) -> Value {
        serde_json::from_str(&self.printed()).unwrap()
    }

    /// Checks that the command failed without output, and returns its error.
    fn error(self) -> String {
        assert!(self.code == 1 && self.stdout.is_empty(), "{self:?}");
        self.stderr
    }
}

/// Runs a command at the stack.
async fn run(pushlark: &Pushlark, arguments: &[&str]) -> Ran {
    run_with(pushlark, arguments, &[], "").await
}

/// Runs a command at the stack with variables and standard input.
async fn run_with(pushlark: &Pushlark, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pushlark"))
        .arg(format!("--local={}", pushlark.stack.url))
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read may have ended.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
