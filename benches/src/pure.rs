//! The parts of the functions that do no I/O: instructions and time.

use std::process::{Command, Stdio};

use anyhow::ensure;

use crate::build::{Binaries, PURE};
use crate::table::{Table, judged};
use crate::valgrind::instructions_of_each;

/// The parts, with a description and the number of events.
const PARTS: [(&str, &str, u64); 9] = [
    ("json", "ingest: JSON", 1),
    ("json-stanza", "ingest: JSON with a stanza", 1),
    ("xml", "ingest: XML", 1),
    ("form", "ingest: form", 1),
    ("ndjson", "ingest: NDJSON, 25 events", 25),
    ("json-array", "ingest: JSON array, 25 events", 25),
    ("group", "ingest: group message, 100 recipients", 100),
    ("worker", "worker: record of 1 event", 1),
    ("worker-group", "worker: record of 25 recipients", 25),
];
/// Most microseconds per event.
const MICROSECONDS: f64 = 20.0;
/// Runs of a part. The fastest one counts.
const RUNS: u64 = 7;

/// Runs all parts, and prints their figures.
pub async fn measure(binaries: &Binaries) -> anyhow::Result<()> {
    let pure = binaries.path(PURE)?;
    let mut table = Table::new(["pure part", "instructions/event", "µs/event", "target"]);
    for (part, what, events) in PARTS {
        let instructions = instructions_of_each([100, 600], async |times, mut valgrind| {
            let status = valgrind.arg(pure).args([part, &times.to_string()]).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{part} fails");
            Ok(())
        });
        let instructions = instructions.await? / events;
        let times = 20_000 / events;
        let mut fastest = f64::INFINITY;
        for _ in 0..RUNS {
            let run = Command::new(pure).args([part, &times.to_string()]).output()?;
            let nanoseconds: f64 = std::str::from_utf8(&run.stdout)?.trim().parse()?;
            fastest = fastest.min(nanoseconds / (times * events) as f64);
        }
        let [microseconds, target] = judged(fastest / 1e3, 2, Some(MICROSECONDS));
        table.row([what.into(), instructions.to_string(), microseconds, target]);
    }
    println!("{table}");
    Ok(())
}
