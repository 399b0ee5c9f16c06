//! The stack has the values and the table that the template declares.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::KeySchemaElement;
use worker::FUNCTION_TIMEOUT;

use crate::emulators::{MAX_RECEIVE_COUNT, RETENTION_SECONDS};
use crate::{Options, Stack};

const TEMPLATE: &str = include_str!("../../template.yaml");

/// The text between each `start` and the next `end`.
fn all_between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

#[test]
fn time_outs_retention_and_receive_count_are_those_of_the_template() {
    assert_eq!(all_between(TEMPLATE, "\n    Timeout: ", "\n"), [FUNCTION_TIMEOUT.as_secs().to_string()]);
    let retention = RETENTION_SECONDS.to_string();
    assert_eq!(all_between(TEMPLATE, "MessageRetentionPeriod: ", "\n"), [&retention, &retention]);
    assert_eq!(all_between(TEMPLATE, "maxReceiveCount: ", "}"), [MAX_RECEIVE_COUNT.to_string()]);
    let visibility = all_between(TEMPLATE, "\n  VisibilityTimeout:\n", "\n\n")[0];
    let timeouts: Vec<(u32, u32)> = visibility
        .lines()
        .map(|line| {
            let (window, seconds) = line.trim().trim_end_matches('}').split_once(": {Seconds: ").unwrap();
            (window.trim_matches('"').parse().unwrap(), seconds.parse().unwrap())
        })
        .collect();
    assert!(timeouts.len() > 10);
    for (window, seconds) in timeouts {
        assert_eq!(Options::default().visibility_timeout + window, seconds);
    }
}

#[tokio::test]
async fn the_table_is_that_of_the_template() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let described = stack.dynamodb.describe_table().table_name("pushlark").send().await.unwrap().table.unwrap();
    let [declared] = all_between(TEMPLATE, "\n  Table:\n", "\n\n")[..] else { panic!("one table is expected") };

    let types = described.attribute_definitions().iter();
    let types = types.map(|attribute| format!("{}: {}", attribute.attribute_name, attribute.attribute_type));
    let expected = all_between(declared, "{AttributeName: ", "}").into_iter();
    let expected = expected.filter_map(|pair| pair.split_once(", AttributeType: "));
    let expected = expected.map(|(name, kind)| format!("{name}: {}", kind.trim_matches('"')));
    assert_eq!(types.collect::<BTreeSet<_>>(), expected.collect());

    let [index] = described.global_secondary_indexes() else { panic!("one index is expected") };
    let key = |key: &KeySchemaElement| format!("{}, KeyType: {}", key.attribute_name, key.key_type);
    let keys: Vec<_> = described.key_schema().iter().chain(index.key_schema()).map(key).collect();
    let expected = all_between(declared, "{AttributeName: ", "}").into_iter().filter(|pair| pair.contains("KeyType"));
    assert_eq!(keys, expected.collect::<Vec<_>>());
    assert_eq!(all_between(declared, "IndexName: ", "\n"), [index.index_name().unwrap()]);
    let projection = index.projection().unwrap().projection_type().unwrap().as_str();
    assert_eq!(all_between(declared, "{ProjectionType: ", "}"), [projection]);

    let expiry = stack.dynamodb.describe_time_to_live().table_name("pushlark").send().await.unwrap();
    let expiry = expiry.time_to_live_description.unwrap().attribute_name.unwrap();
    assert_eq!(all_between(declared, "TimeToLiveSpecification: {AttributeName: ", ", Enabled: true}"), [expiry]);
}
