//! The time from the start of a function's process to its first request for an event.

use std::process::Command;
use std::time::Duration;

use crate::build::{Binaries, EMPTY, FUNCTIONS, WORKER};
use crate::function::Function;
use crate::table::{Table, judged};
use crate::world::World;

/// Starts of each function, in turn.
const STARTS: usize = 41;
/// Longest time, as a multiple of the empty function's, of the functions that answer HTTP requests.
const TARGET: f64 = 1.5;
/// The same for the worker, which has more clients.
const WORKER_TARGET: f64 = 2.0;

/// Starts all functions, and prints the medians.
pub async fn measure(binaries: &Binaries) -> anyhow::Result<()> {
    let world = World::start().await?;
    let names: Vec<&str> = [EMPTY].into_iter().chain(FUNCTIONS).collect();
    let mut starts = vec![Vec::with_capacity(STARTS); names.len()];
    for _ in 0..STARTS {
        for (name, starts) in names.iter().zip(&mut starts) {
            let function = Function::start(Command::new(binaries.path(name)?), &world.environment()).await?;
            let wall = function.time_to_first_next().await?;
            starts.push((wall, function.cpu()?));
        }
    }
    let mut table = Table::new(["function", "start to first /next, ms", "of the empty one's", "target", "CPU-ms"]);
    let medians = starts.into_iter().map(|starts| {
        let (wall, cpu): (Vec<_>, Vec<_>) = starts.into_iter().unzip();
        (median(wall), median(cpu))
    });
    let mut empty = None;
    for (name, (wall, cpu)) in names.into_iter().zip(medians) {
        let target = if name == WORKER { WORKER_TARGET } else { TARGET };
        let [ratio, target] = judged(wall / *empty.get_or_insert(wall), 2, Some(target));
        table.row([name.into(), format!("{wall:.2}"), ratio, target, format!("{cpu:.2}")]);
    }
    println!("{table}");
    Ok(())
}

/// The median, in milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
