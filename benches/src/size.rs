//! The size of the deployed files.

use std::fs;
use std::process::Command;

use anyhow::ensure;

use crate::build::{Binaries, FUNCTIONS, WORKER};
use crate::table::{Table, judged};

/// Largest zip file of a function, in MiB.
const TARGET: f64 = 2.8;
/// The same for the worker, which has the gateways and the plugins.
const WORKER_TARGET: f64 = 3.5;
const MIB: f64 = 1024.0 * 1024.0;

/// Prints the size of each function's binary, and of the zip file with it alone.
pub fn measure(binaries: &Binaries) -> anyhow::Result<()> {
    let mut table = Table::new(["function", "binary, MiB", "zip, MiB", "target"]);
    for name in FUNCTIONS {
        let binary = binaries.path(name)?;
        // A zip file contains the output of gzip, with headers of about the same size.
        let zipped = Command::new("gzip").args(["-9", "--stdout"]).arg(binary).output()?;
        ensure!(zipped.status.success(), "gzip fails");
        let target = if name == WORKER { WORKER_TARGET } else { TARGET };
        let [zip, target] = judged(zipped.stdout.len() as f64 / MIB, 2, Some(target));
        table.row([name.into(), format!("{:.2}", fs::metadata(binary)?.len() as f64 / MIB), zip, target]);
    }
    println!("{table}");
    Ok(())
}
