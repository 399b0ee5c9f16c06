//! The commands `status`, `logs`, `bill`, `doctor` and `shell`, run as operators run them.
#![allow(clippy::unwrap_used)]

mod doctor;
mod logs;
mod shell;
mod status;

use serde_json::Value;
use tokio::process::Command;

/// The result of a run.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Returns the JSON on standard output of a run with this exit code.
    fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// Runs `pushlark` with these environment variables beside those of the machine that have nothing of AWS or Pushlark.
async fn pushlark(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushlark"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
    let ran = command.envs(environment.iter().copied()).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: ran.status.code().unwrap_or(-1), out: text(&ran.stdout), err: text(&ran.stderr) }
}
