//! The log of a panic, in a separate process.

#![allow(clippy::unwrap_used)]

use std::env;
use std::panic::catch_unwind;
use std::process::Command;

use pushlark_settings::Environment;
use pushlark_telemetry::{Format, start};
use serde_json::Value;

const INSIDE_PANIC_TEST: &str = "PUSHLARK_TEST_PANIC";

#[test]
fn a_panic_is_logged_without_its_message() {
    if env::var(INSIDE_PANIC_TEST).is_ok() {
        start(Format::Json, &Environment::default()).unwrap();
        catch_unwind(|| panic!("the text of a message")).unwrap_err();
        return;
    }
    let this_test = ["--exact", "a_panic_is_logged_without_its_message", "--nocapture"];
    let run = Command::new(env::current_exe().unwrap()).args(this_test).env(INSIDE_PANIC_TEST, "").output().unwrap();
    let (log, errors) = (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    assert!(run.status.success(), "{errors}");
    let line = log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"a panic".into()));
    assert!(line["at"].as_str().unwrap().contains("panic.rs:"), "{line}");
    assert!(!(log + &errors).contains("the text of a message"));
}
