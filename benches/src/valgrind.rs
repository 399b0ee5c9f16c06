//! Instructions, counted by callgrind: unlike time, they do not depend on other load of the machine.

use std::env::temp_dir;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// A run of a program under callgrind.
pub struct Callgrind {
    log: PathBuf,
}

impl Callgrind {
    /// Returns a run, and the command to which the program is an argument.
    pub fn new() -> (Self, Command) {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let log = temp_dir().join(format!("pushlark-benches-{}-{run}.valgrind", std::process::id()));
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.arg(format!("--log-file={}", log.display()));
        (Self { log }, command)
    }

    /// Returns the instructions of the program, which has ended.
    pub fn instructions(self) -> anyhow::Result<u64> {
        let report = fs::read_to_string(&self.log)?;
        let collected = report.lines().find_map(|line| line.split_once("Collected : "));
        let instructions = collected.context("valgrind counts nothing")?.1.trim().parse()?;
        fs::remove_file(self.log)?;
        Ok(instructions)
    }
}

/// The instructions of one repetition: the difference between `run` with few and with many, divided by theirs. `run`
/// gets the number of repetitions and a command under which it starts the program.
pub async fn instructions_of_each(
    times: [u64; 2],
    mut run: impl AsyncFnMut(u64, Command) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut counts = [0; 2];
    for (times, count) in times.into_iter().zip(&mut counts) {
        let (callgrind, command) = Callgrind::new();
        run(times, command).await?;
        *count = callgrind.instructions()?;
    }
    Ok((counts[1] - counts[0]) / (times[1] - times[0]))
}
