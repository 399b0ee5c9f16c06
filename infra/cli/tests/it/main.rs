//! The program `pushlark`, run as operators run it: beside a local stack, or alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dead_letters;
mod doctor;
mod domain;
mod erase;
mod explain;
mod import;
mod logs;
mod registrations;
mod rules;
mod send;
mod shell;
mod status;
mod terminal;

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use tests::Pushlark;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// The time after which a test fails. It is long, since the machine may compile beside the tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A folder of a test, which is deleted at its end. Contains its path.
struct Folder(String);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("pushlark-cli-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path.into_os_string().into_string().unwrap())
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// Writes a file, and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The result of a run.
#[derive(Debug)]
struct Ran {
    /// The exit code; `None` if a signal ended the program.
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Checks that the command succeeded, and returns its output.
    fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Checks that the command succeeded, and returns its JSON.
    fn json(self) -> Value {
        serde_json::from_str(&self.printed()).unwrap()
    }

    /// Checks that the command failed without output, and returns its error.
    fn error(self) -> String {
        assert!(self.code == Some(1) && self.stdout.is_empty(), "{self:?}");
        self.stderr
    }
}

/// Returns a run of the program, in an environment that has nothing of AWS or Pushlark.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushlark"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Returns a run of the program at the stack.
fn program_at(pushlark: &Pushlark, arguments: &[&str]) -> Command {
    let local = format!("--local={}", pushlark.stack.url);
    program(&[&[local.as_str()], arguments].concat())
}

/// Waits for the end of a run.
async fn finished(child: Child) -> Ran {
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command that needs no stack.
async fn run_alone(arguments: &[&str]) -> Ran {
    finished(program(arguments).spawn().unwrap()).await
}

/// Runs a command at the stack.
async fn run(pushlark: &Pushlark, arguments: &[&str]) -> Ran {
    run_with(pushlark, arguments, &[], "").await
}

/// Runs a command at the stack with variables and standard input.
async fn run_with(pushlark: &Pushlark, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut command = program_at(pushlark, arguments);
    let mut child = command.envs(variables.iter().copied()).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read may have ended.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    finished(child).await
}
