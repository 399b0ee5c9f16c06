//! The bill that a change must not raise, in `benches/bill.json`, and its table in `docs/costs.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::Context;

use super::{Bill, LINES, table};
use pushlark_prices::DURATION;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bill.json");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/costs.md");
/// The lines of the page before and after the table.
const TABLE_START: &str = "<!-- Table of benches/bill.json. -->\n\n";
const TABLE_END: &str = "\n<!-- End of the table. -->";
/// The largest rise of a line, as a share of it.
const TOLERANCE: f64 = 0.02;
/// A rise of a duration by at most this many dollars is none: a millisecond of 256 MB in ingest and one in the worker for
/// each message, since a duration is rounded up.
const SMALLEST_RISE_OF_DURATION: f64 = 0.007;
/// A rise of another line by at most this many dollars is none: a byte per message.
const SMALLEST_RISE: f64 = 0.0005;

/// The bills by scenario.
pub type Bills = BTreeMap<String, Bill>;

/// A line that is higher than before, or that has no counterpart.
#[derive(Debug, PartialEq)]
pub struct Rise {
    scenario: String,
    line: String,
    before: f64,
    now: f64,
}

impl fmt::Display for Rise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, line, before, now } = self;
        if line.is_empty() {
            return write!(f, "{scenario}: benches/bill.json or the measurement does not have this scenario");
        }
        write!(f, "{scenario}, {line}: ${now:.4} for a million, and ${before:.4} in benches/bill.json")
    }
}

/// Reads the file.
pub fn read() -> anyhow::Result<Bills> {
    let text = fs::read_to_string(FILE).context(FILE)?;
    Ok(serde_json::from_str(&text)?)
}

/// Writes the file and the page. Scenarios that were not measured stay as they are.
pub fn write(bills: &Bills) -> anyhow::Result<()> {
    let mut all = if fs::exists(FILE)? { read()? } else { Bills::new() };
    all.extend(bills.clone());
    fs::write(FILE, serde_json::to_string_pretty(&all)? + "\n")?;
    let page = fs::read_to_string(PAGE).context(PAGE)?;
    fs::write(PAGE, with_table(&page, &all).context("docs/costs.md has no place for the table")?)?;
    Ok(())
}

/// Returns the page with the table of these bills.
fn with_table(page: &str, bills: &Bills) -> Option<String> {
    let (before, rest) = page.split_once(TABLE_START)?;
    let (_, after) = rest.split_once(TABLE_END)?;
    Some(format!("{before}{TABLE_START}{}{TABLE_END}{after}", table(bills)))
}

/// Returns the lines of the wanted scenarios that are higher than before.
pub fn rises(before: &Bills, now: &Bills, is_wanted: impl Fn(&str) -> bool) -> Vec<Rise> {
    let mut rises = Vec::new();
    let scenarios: std::collections::BTreeSet<_> =
        before.keys().chain(now.keys()).filter(|name| is_wanted(name)).collect();
    for scenario in scenarios {
        let (Some(before), Some(now)) = (before.get(scenario), now.get(scenario)) else {
            rises.push(Rise { scenario: scenario.clone(), line: String::new(), before: 0.0, now: 0.0 });
            continue;
        };
        for line in LINES {
            let [before, now] = [before, now].map(|bill| bill.get(line).copied().unwrap_or_default());
            if now - before > f64::max(before * TOLERANCE, smallest_rise(line)) {
                rises.push(Rise { scenario: scenario.clone(), line: line.to_owned(), before, now });
            }
        }
    }
    rises
}

fn smallest_rise(line: &str) -> f64 {
    if line == DURATION { SMALLEST_RISE_OF_DURATION } else { SMALLEST_RISE }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bills(lines: &[(&str, f64)]) -> Bills {
        let bill = lines.iter().map(|(line, dollars)| ((*line).to_owned(), *dollars)).collect();
        Bills::from([("quiet".to_owned(), bill)])
    }

    fn shown(before: &Bills, now: &Bills) -> Vec<String> {
        rises(before, now, |_| true).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_line_that_rises_by_more_than_two_percent_is_named_even_if_the_sum_falls() {
        let before = bills(&[("SQS requests", 1.2), ("DynamoDB writes", 0.625)]);
        assert!(shown(&before, &before).is_empty());
        assert!(shown(&before, &bills(&[("SQS requests", 1.22), ("DynamoDB writes", 0.3)])).is_empty());
        assert_eq!(
            shown(&before, &bills(&[("SQS requests", 0.4), ("DynamoDB writes", 0.64)])),
            ["quiet, DynamoDB writes: $0.6400 for a million, and $0.6250 in benches/bill.json"]
        );
        assert_eq!(
            shown(&before, &bills(&[("SQS requests", 1.2), ("DynamoDB writes", 0.625), ("logs", 0.1)])),
            ["quiet, logs: $0.1000 for a million, and $0.0000 in benches/bill.json"]
        );
    }

    #[test]
    fn a_duration_may_rise_by_a_millisecond_and_a_small_line_by_a_byte() {
        for (line, rise) in [(DURATION, SMALLEST_RISE_OF_DURATION), ("logs", SMALLEST_RISE)] {
            let before = bills(&[(line, 0.02)]);
            assert!(shown(&before, &bills(&[(line, 0.02 + rise * 0.9)])).is_empty(), "{line}");
            assert_eq!(shown(&before, &bills(&[(line, 0.02 + rise * 1.1)])).len(), 1, "{line}");
        }
    }

    #[test]
    fn a_scenario_on_one_side_only_is_a_failure() {
        let (one, none) = (bills(&[("logs", 0.05)]), Bills::new());
        assert_eq!((shown(&one, &none).len(), shown(&none, &one).len()), (1, 1));
        assert!(rises(&one, &none, |name| name == "room_100").is_empty());
    }

    /// Raising a line of the file's own figures fails the check.
    #[test]
    fn the_file_holds_each_line_of_each_scenario() {
        let before = read().unwrap();
        for (scenario, bill) in &before {
            for (line, dollars) in bill {
                let mut now = before.clone();
                now.get_mut(scenario).unwrap().insert(line.clone(), dollars * 1.03 + smallest_rise(line));
                let [rise] = &rises(&before, &now, |_| true)[..] else { panic!("{scenario}, {line}") };
                assert_eq!((&rise.scenario, &rise.line), (scenario, line));
            }
        }
    }

    #[test]
    fn the_page_has_the_table_of_the_file() {
        let page = fs::read_to_string(PAGE).unwrap();
        assert_eq!(with_table(&page, &read().unwrap()).unwrap(), page, "renew it: benches -- bill --write");
    }
}
