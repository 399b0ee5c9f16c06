//! Reading rules: accepted forms, and the text of each refusal.

use pushlark_rules::Rules;

/// Asserts that rules are refused with an error that has exactly this text.
fn refused(toml: &str, expected: &str) {
    let error = toml.parse::<Rules>().map_err(|error| error.to_string());
    assert_eq!(error, Err(expected.to_owned()), "{toml}");
}

#[test]
fn the_rules_are_an_array_of_tables() {
    refused("rules = {}", "line 1: rules: expected an array of tables");
    refused("rules = [1]", "rule 1, line 1: expected a table");
}
