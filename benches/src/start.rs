//! The time from the start of a function's process to its first request for an event.

use std::process::Command;
use std::time::Duration;

use crate::build::{Binaries, EMPTY, FUNCTIONS};
use crate::function::Function;
use crate::table::{Table, judged};
use crate::world::World;

/// Starts of each function, in turn.
const STARTS: usize = 41;
/// Longest time, as a multiple of the empty function's.
const TARGET: f64 = 1.3;

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
        let [ratio, target] = judged(wall / *empty.get_or_insert(wall), 2, Some(TARGET));
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
