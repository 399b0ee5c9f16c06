//! Rules never panic, whatever their text and the event are.

use proptest::prelude::*;
use pushlark_rules::Rules;

use crate::world::{chat, decide, device, offline, online};

/// Returns texts that are likely to be rules.
fn rules() -> impl Strategy<Value = String> {
    let condition = prop_oneof![
        "(event|type|body|hint|kind|from|to|room|app|provider|hour) = '[a-z@*./:{}0-9-]{0,12}'",
        "(jingle|mention|encrypted|sender_known) = (true|false|1)",
        "(members_over|age_over) = -?[0-9]{1,12}",
        Just("event = 'msg'".to_owned()),
        Just("hour = '22:00-07:00'".to_owned()),
    ];
    let conditions = proptest::collection::vec(condition, 0..3).prop_map(|fields| format!("{{{}}}", fields.join(", ")));
    let field = prop_oneof![
        Just("action = 'push'".to_owned()),
        Just("content = 'message'".to_owned()),
        "(title|body|name|sound) = '[a-z{}|0-9é😀]{0,12}'",
        "body = '\\{(sender|sender_name|room|nick|body|count|kind)\\|[0-9]{1,4}\\}'",
        proptest::collection::vec(conditions, 0..3).prop_map(|tables| format!("conditions = [{}]", tables.join(", "))),
    ];
    let rule = proptest::collection::vec(field, 0..5).prop_map(|fields| format!("[[rules]]\n{}\n", fields.join("\n")));
    proptest::collection::vec(rule, 0..4).prop_map(|rules| rules.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = text.parse::<Rules>();
    }

    #[test]
    fn rules_decide_about_any_text_of_a_message(rules in rules(), body in "[^<&\\p{C}]{0,80}") {
        let Ok(rules) = rules.parse::<Rules>() else { return Ok(()) };
        for recipient in [offline(), online(None)] {
            decide(&rules, &chat(&body), &recipient, &[device("phone", &[("service", "apns"), ("tz", "Mars")])]);
        }
    }

    #[test]
    fn a_body_has_at_most_the_length_of_its_filter(body in "\\PC{1,80}", length in 1_usize..50) {
        let escaped = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let toml = format!("[[rules]]\naction = 'push'\ncontent = 'message'\nbody = '{{body|{length}}}'");
        let decided = decide(&toml.parse().unwrap(), &chat(&escaped), &offline(), &[device("phone", &[])]);
        if let [publication] = decided.publications.as_slice() {
            let text = publication.payload.get("last-message-body").unwrap();
            prop_assert!(unicode_segmentation::UnicodeSegmentation::graphemes(text, true).count() <= length);
        }
    }
}
