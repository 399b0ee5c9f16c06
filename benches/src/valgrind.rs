//! Instructions, counted by callgrind: unlike time, they do not depend on other load of the machine.

use std::env::temp_dir;
use std::fs;
use std::process::Command;

use anyhow::Context;

/// The instructions of one repetition: the difference between `run` with few and with many, divided by theirs. `run`
/// gets the number of repetitions and a command under which it starts the program.
pub async fn instructions_of_each(
    times: [u64; 2],
    mut run: impl AsyncFnMut(u64, Command) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut counts = [0; 2];
    for (times, count) in times.into_iter().zip(&mut counts) {
        let log = temp_dir().join(format!("pushlark-benches-{}.valgrind", std::process::id()));
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(format!("--log-file={}", log.display()));
        run(times, valgrind).await?;
        let report = fs::read_to_string(&log)?;
        let collected = report.lines().find_map(|line| line.split_once("Collected : "));
        *count = collected.context("valgrind counts nothing")?.1.trim().parse::<u64>()?;
        fs::remove_file(log)?;
    }
    Ok((counts[1] - counts[0]) / (times[1] - times[0]))
}
