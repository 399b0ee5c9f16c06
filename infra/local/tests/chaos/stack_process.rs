//! Starts, kills and stops the stack as a process, and reads its log.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use tokio::time::Instant;

use crate::harness::{Endpoints, Harness};

/// The stack as a process.
pub struct StackProcess {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl StackProcess {
    /// Starts it on the data in `folder`. A thread copies its log, and passes its endpoints and errors to the harness.
    pub fn start(folder: &Path, push_service: &str, harness: &Harness) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pushlark-local"))
            .args(["--port", "0", "--data"])
            .arg(folder)
            .envs([("MONGOOSEPUSH_URL", push_service), ("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")])
            // Fewer workers than by default, so that few received messages exceed the timeout.
            .envs([("PUBLISH_TIMEOUT_MS", "2000"), ("WORKERS", "16")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, harness) = (child.stdout.take().unwrap(), harness.clone());
        // The thread ends with the process.
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writeln!(&*harness.log, "{line}").unwrap();
                if let Some(endpoints) = line.strip_prefix("Pushlark is at ") {
                    let url = endpoints.split("/enable").next().unwrap().to_owned();
                    let sqs_url = endpoints.split("its SQS at ").nth(1).unwrap().trim_end_matches('.').to_owned();
                    harness.endpoints.send_replace(Some(Endpoints { url, sqs_url }));
                } else if line.contains("the worker timed out") || line.contains("given up at the deadline") {
                    harness.history().invocations_aborted.push(Instant::now());
                } else if line.contains("not notified yet") && line.contains("timed out") {
                    let recipient = line.split(" to=").nth(1).unwrap_or_default();
                    let user = recipient.split('@').next().unwrap_or_default().to_owned();
                    *harness.history().timed_out.entry(user).or_default() += 1;
                } else if line.contains("panic") {
                    harness.history().errors.push(line);
                }
            }
        });
        Self { child, reader: Some(reader) }
    }

    /// Waits until the process and its thread have ended.
    fn end(&mut self, harness: &Harness) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        harness.endpoints.send_replace(None);
        status
    }

    /// SIGKILL.
    pub fn kill(mut self, harness: &Harness) {
        if let Some(status) = self.child.try_wait().unwrap() {
            harness.history().errors.push(format!("the stack exited by itself: {status}"));
        }
        let running = Instant::now();
        self.child.kill().unwrap();
        self.end(harness);
        harness.history().kills.push((running, Instant::now()));
    }

    /// SIGTERM: the stack finishes its work, so nothing may be repeated afterwards.
    pub fn stop(mut self, harness: &Harness) {
        let terminated = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(terminated.success());
        let status = self.end(harness);
        if !status.success() {
            harness.history().errors.push(format!("the stack did not stop: {status}"));
        }
    }
}

impl Drop for StackProcess {
    fn drop(&mut self) {
        // It is already dead, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
