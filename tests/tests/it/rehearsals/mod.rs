//! The rehearsals of `docs/operations.md`: emergencies of an operator, from outside. The page names the tests of each,
//! here and in other files.

mod credentials;
mod dead_letters;
mod outages;
mod region;
mod secrets;

use std::fs;
use std::path::Path;
use std::time::Duration;

use local::Options;
use pushlark_settings::Environment;
use tests::with_fast_sqs;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// An hour on the clock of [`options`].
const AN_HOUR: Duration = Duration::from_secs(6);

/// Options of a stack whose SQS clock needs six seconds for an hour.
fn options(settings: &[(&str, &str)]) -> Options {
    Options { environment: Environment::from_iter(settings.iter().copied()), ..with_fast_sqs(600) }
}

/// Returns the tests that a section names, as `` `function` in `path/of/file.rs` ``.
fn tests_of(section: &str) -> Vec<(&str, &str)> {
    let quoted: Vec<_> = section.split('`').collect();
    let named = quoted.windows(3).filter(|parts| parts[1].trim() == "in");
    named.map(|parts| (parts[0], parts[2])).collect()
}

#[test]
fn each_rehearsal_of_the_page_names_tests_that_exist() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/operations.md")).unwrap();
    let rehearsals = page.split("\n## ").find(|part| part.starts_with("Rehearsals\n")).unwrap();
    let sections: Vec<_> = rehearsals.split("\n### ").skip(1).collect();
    assert_eq!(sections.len(), 7);
    for section in sections {
        let heading = section.lines().next().unwrap();
        for part in ["When", "Users notice", "Steps", "Verify", "Not recovered", "Rehearsed by"] {
            assert!(section.contains(&format!("**{part}.**")), "{heading}: {part}");
        }
        let tests = tests_of(section);
        assert!(!tests.is_empty(), "{heading}");
        for (name, file) in tests {
            let source = fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
            let is_test = source.split("fn ").zip(source.split("fn ").skip(1)).any(|(before, rest)| {
                let attributes = before.rsplit('}').next().unwrap_or_default();
                rest.starts_with(&format!("{name}(")) && (attributes.contains("test]") || attributes.contains("test("))
            });
            assert!(is_test, "{heading}: {file} has no test {name}");
        }
    }
}
