//! A function's binary as a process, and the kernel's figures for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

use crate::runtime_api::RuntimeApi;

/// A running process of a function, as Lambda starts it.
pub struct Function {
    // Dropped first: a function that loses its Runtime API logs errors.
    process: Process,
    started: Instant,
    /// The Runtime API that it polls for events.
    pub runtime_api: RuntimeApi,
    complaint: Arc<Mutex<Option<String>>>,
    log: JoinHandle<Log>,
}

/// What a function wrote to its log.
#[derive(Debug, Default)]
pub struct Log {
    /// The number of lines.
    pub lines: u64,
    /// The bytes of the lines, without the line breaks.
    pub bytes: u64,
    /// The names of the metrics in the embedded metric format.
    pub metrics: BTreeSet<String>,
}

/// A process that is killed when it is dropped.
pub struct Process(pub Child);

impl Function {
    /// Starts `command` with Lambda's environment variables and these.
    pub async fn start(mut command: Command, environment: &[(String, String)]) -> anyhow::Result<Self> {
        let runtime_api = RuntimeApi::start().await?;
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "pushlark")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/pushlark")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0123456789abcdef")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "ASIAEXAMPLEEXAMPLE00")
            .env("AWS_SECRET_ACCESS_KEY", "secret/example/example/example/example00")
            .env("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjE".repeat(50))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let started = Instant::now();
        let mut process = Process(command.spawn().with_context(|| format!("{command:?} does not start"))?);
        let log = process.0.stdout.take().context("the log")?;
        let complaint = Arc::new(Mutex::new(None));
        let complained = Arc::clone(&complaint);
        // As on Lambda, the log is read.
        let log = thread::spawn(move || {
            let mut read = Log::default();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                read.add(&line);
                if line.contains("\"level\":\"ERROR\"") || line.contains("\"level\":\"WARN\"") {
                    complained.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(line);
                }
            }
            read
        });
        Ok(Self { process, started, runtime_api, complaint, log })
    }

    /// The time from the start of the process to its first request for an event.
    pub async fn time_to_first_next(&self) -> anyhow::Result<Duration> {
        Ok(self.runtime_api.first_next().await? - self.started)
    }

    /// The processor time of its threads so far, in user space and in the kernel.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.0.id()))? {
            let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanoseconds = schedstat.split(' ').next().context("schedstat is empty")?.parse()?;
            total += Duration::from_nanos(nanoseconds);
        }
        Ok(total)
    }

    /// Its peak resident memory, in bytes.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Fails if it logged a warning or an error.
    pub fn check_log(&self) -> anyhow::Result<()> {
        let complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(complaint.is_none(), "a function complains: {}", complaint.as_deref().unwrap_or_default());
        Ok(())
    }

    /// Sends SIGTERM and waits for the end, so that valgrind writes its figures. Returns the whole log.
    pub fn terminate(mut self) -> anyhow::Result<Log> {
        Command::new("kill").arg(self.process.0.id().to_string()).status()?;
        self.process.0.wait()?;
        self.log.join().map_err(|_| anyhow!("the log is not read to its end"))
    }
}

impl Log {
    fn add(&mut self, line: &str) {
        self.lines += 1;
        self.bytes += line.len() as u64;
        if line.contains("\"CloudWatchMetrics\"") {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().into_iter().flatten();
            self.metrics.extend(metrics.filter_map(|metric| metric["Name"].as_str()).map(str::to_owned));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
