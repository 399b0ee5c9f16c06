//! Reading rules: accepted forms, and the text of each refusal.

use pushlark_rules::{Rules, RulesError};

fn accepted(toml: &str) -> Rules {
    toml.parse().unwrap_or_else(|error| panic!("{error}\n{toml}"))
}

/// Asserts that rules are refused with an error that has exactly this text.
fn refused(toml: &str, expected: &str) {
    let error = toml.parse::<Rules>().map_err(|error| error.to_string());
    assert_eq!(error, Err(expected.to_owned()), "{toml}");
}

/// A configuration of MongooseIM with rules and much else.
const MONGOOSEIM: &str = r#"
[general]
  loglevel = "warning"
  hosts = ["example.com"]

[[listen.c2s]]
  port = 5222

[outgoing_pools.http.mongoose_push]
  scope = "global"
  workers = 50

[modules.mod_csi]
  buffer_max = "a value that MongooseIM refuses"

[modules.mod_event_pusher.http]
  handlers = 3

[modules.mod_event_pusher.push]
  backend = "mnesia"
  wpool.workers = 200
  virtual_pubsub_hosts = ["pubsub.@HOST@"]

  [[modules.mod_event_pusher.push.rules]]
    conditions = [{hint = "no_store"}]
    action = "skip"

  [[modules.mod_event_pusher.push.rules]]
    action = "push"
    content = "message"

    [[modules.mod_event_pusher.push.rules.conditions]]
      event = "msg"
      body = "non_empty"
      user_status = "offline"

    [[modules.mod_event_pusher.push.rules.conditions]]
      event = "unack_msg"
      body = "non_empty"

[modules.mod_mam.pm]
"#;

#[test]
fn all_forms_of_the_same_rules_are_read_the_same() {
    let short = r#"
        [[rules]]
        conditions = [{hint = "no_store"}]
        action = "skip"

        [[rules]]
        conditions = [
          {event = "msg", body = "non_empty", user_status = "offline"},
          {event = "unack_msg", body = "non_empty"},
        ]
        action = "push"
        content = "message"
    "#;
    let inline = "rules = [{action = 'skip', conditions = [{hint = 'no_store'}]}, \
                  {conditions = [{user_status = 'offline', body = 'non_empty', event = 'msg'}, \
                  {event = 'unack_msg', body = 'non_empty'}], content = 'message', action = 'push'}]";
    for other in [
        short.to_owned(),
        short.replace('\n', "\r\n"),
        inline.into(),
        format!("modules.mod_event_pusher.push.{inline}"),
    ] {
        assert_eq!(accepted(&other), accepted(MONGOOSEIM), "{other}");
    }
}

#[test]
fn every_condition_and_every_action_is_accepted() {
    for toml in [
        "rules = []",
        "modules.mod_event_pusher.push.rules = []",
        "[[rules]]\naction = 'skip'",
        "[[rules]]\naction = 'push'\ncontent = 'message'",
        "[[rules]]\naction = 'push'\ncontent = 'jingle'",
        "[[rules]]\nname = 'night'\naction = 'skip'",
        "# a comment\n[[rules]]\naction = 'skip'\nconditions = [{type = 'chat'}, {type = 'groupchat'}]",
        "[[rules]]\naction = 'skip'\nconditions = [{type = 'chat'}, {type = 'groupchat'}]\n\
         [[rules]]\naction = 'skip'\nconditions = [{type = 'groupchat'}, {type = 'chat'}]",
        "[[rules]]\naction = 'push'\ncontent = 'message'\ntitle = '{sender_name}'\nbody = '{body|40}'\n\
         data = {room = '{room}'}\npriority = 'high'\nsound = 'none'\ninterruption_level = 'time-sensitive'\n\
         channel_id = 'c'\ntime_to_live = 0\ncollapse = 'conversation'\nto = {app = 'work'}",
    ]
    .map(|toml| toml.replace("{room = ", "{place = "))
    {
        accepted(&toml);
    }
    for condition in [
        "event = 'msg'",
        "event = 'unack_msg'",
        "type = 'chat'",
        "type = 'groupchat'",
        "body = 'absent'",
        "body = 'empty'",
        "body = 'non_empty'",
        "hint = 'no_store'",
        "hint = 'store'",
        "jingle = true",
        "jingle = false",
        "user_status = 'online'",
        "user_status = 'offline'",
        "client_state = 'active'",
        "client_state = 'inactive'",
        "kind = 'message'",
        "kind = 'call'",
        "kind = 'call_end'",
        "kind = 'invitation'",
        "kind = 'subscription'",
        "kind = 'read'",
        "from = '*@example.com'",
        "to = 'example.com'",
        "room = 'books@muc.example.com'",
        "mention = true",
        "encrypted = false",
        "sender_known = false",
        "app = 'work'",
        "provider = 'apns'",
        "provider = 'fcm'",
        "provider = 'web-push'",
        "hour = '22:00-07:00'",
        "hour = {from = '22:00', to = '07:00'}",
        "hour = {from = '22:00', to = '07:00', tz = 'Europe/Berlin'}",
        "members_over = 0",
        "age_over = 3600",
    ] {
        accepted(&format!("[[rules]]\naction = 'skip'\nconditions = [{{{condition}}}]"));
    }
}

#[test]
fn a_text_without_a_list_of_rules_is_refused() {
    let missing = "the text has no rules: expected [[rules]] or [[modules.mod_event_pusher.push.rules]]";
    for toml in
        ["", "# only a comment", "[[rule]]\naction = 'skip'", "[modules.mod_event_pusher.push]\nbackend = 'mnesia'"]
    {
        refused(toml, missing);
    }
    refused("modules = 1", missing);
    refused("[[modules]]\nmod_event_pusher = 1", missing);
    refused("rules = {}", "line 1: rules: expected an array of tables");
    refused("\n[rules]\naction = 'skip'", "line 2: rules: expected an array of tables");
    refused("\n\n[modules.mod_event_pusher.push]\nrules = 'all'", "line 4: rules: expected an array of tables");
    let both = "the text has both [[rules]] and [[modules.mod_event_pusher.push.rules]]: expected one of them";
    refused(&format!("rules = []\n{MONGOOSEIM}"), both);
    refused("rules = []\n[rule]\naction = 'skip'", "line 2: unknown field \"rule\", expected rules");
    refused(
        "[modules.mod_event_pusher.push]\nrules = []\nplugin_module = 'mod_event_pusher_push_plugin_enhanced'",
        "line 3: plugin_module is not allowed with rules",
    );
}

#[test]
fn a_text_that_is_not_toml_is_refused_with_its_line() {
    refused("rules = [\n{action = 'skip'}", "line 2: unclosed array, expected `]`");
    refused("[[rules]]\naction = 'skip'\naction = 'skip'", "line 3: duplicate key");
    refused("[[rules]]\naction", "line 2: key with no value, expected `=`");
    for toml in ["rules = [", "\u{0}", "[[rules]", "rules = '", "\u{feff}\u{feff}rules"] {
        assert!(matches!(toml.parse::<Rules>(), Err(RulesError::Invalid { .. })), "{toml:?}");
    }
}

#[test]
fn a_rule_that_mongooseim_refuses_is_refused() {
    for (rule, expected) in [
        ("", "line 4: missing field `action`"),
        ("content = 'message'", "line 4: missing field `action`"),
        ("action = 'notify'", "line 5: action: unknown variant `notify`, expected `push` or `skip`"),
        ("action = true", "line 5: action: wanted string or table"),
        ("action = 'push'", "line 4: the action push needs a content: message or jingle"),
        ("action = 'skip'\ncontent = 'message'", "line 4: the action skip allows no content"),
        (
            "action = 'push'\ncontent = 'summary'",
            "line 6: content: unknown variant `summary`, expected `message` or `jingle`",
        ),
        ("action = 'skip'\nconditions = []", "line 4: conditions: expected at least one table"),
        ("action = 'skip'\nconditions = {}", "line 6: conditions: invalid type: map, expected a sequence"),
        ("action = 'skip'\nconditions = [{}]", "line 4: conditions: table 1 is empty"),
        (
            "action = 'skip'\nconditions = [\n['msg', 'chat']]",
            "line 7: only conditions is an array, and its items are tables",
        ),
        (
            "action = 'skip'\nconditions = [{hour = ['22:00', '07:00', 'UTC']}]",
            "line 6: only conditions is an array, and its items are tables",
        ),
        ("action = ['skip']", "line 5: only conditions is an array, and its items are tables"),
        ("action = 'skip'\nconditions = [{jingle = true}, {}]", "line 4: conditions: table 2 is empty"),
        (
            "action = 'skip'\nconditions = [{jingle = true}, {type = 'chat'}, {jingle = true}]",
            "line 4: conditions: table 3 is equal to table 1",
        ),
        (
            "action = 'skip'\n[[rules.conditions]]\nevent = 'msg'\nbody = 'empty'\n[[rules.conditions]]\n\
             body = 'empty'\nevent = 'msg'",
            "line 4: conditions: table 2 is equal to table 1",
        ),
        (
            "action = 'skip'\nconditions = [{event = 'presence'}]",
            "line 6: conditions.event: unknown variant `presence`, expected `msg` or `unack_msg`",
        ),
        (
            "action = 'skip'\nconditions = [{type = 'error'}]",
            "line 6: conditions.type: unknown variant `error`, expected `chat` or `groupchat`",
        ),
        (
            "action = 'skip'\nconditions = [{body = 'present'}]",
            "line 6: conditions.body: unknown variant `present`, expected one of `absent`, `empty`, `non_empty`",
        ),
        (
            "action = 'skip'\nconditions = [{hint = 'archive'}]",
            "line 6: conditions.hint: unknown variant `archive`, expected `store` or `no_store`",
        ),
        (
            "action = 'skip'\nconditions = [{user_status = 'away'}]",
            "line 6: conditions.user_status: unknown variant `away`, expected `online` or `offline`",
        ),
        (
            "action = 'skip'\nconditions = [{client_state = 'away'}]",
            "line 6: conditions.client_state: unknown variant `away`, expected `active` or `inactive`",
        ),
        (
            "action = 'skip'\nconditions = [\n{type = 'chat'},\n{jingle = 'yes'}]",
            "line 8: conditions.jingle: invalid type: string \"yes\", expected a boolean",
        ),
    ] {
        let first = "[[rules]]\naction = 'push'\ncontent = 'jingle'";
        refused(&format!("{first}\n[[rules]]\n{rule}"), &format!("rule 2, {expected}"));
    }
}

#[test]
fn equal_rules_are_refused_wherever_they_are() {
    let rule = "[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{type = 'chat'}]";
    let other = "[[rules]]\naction = 'skip'";
    refused(&[rule, other, rule].join("\n"), "rule 3, line 7: the rule is equal to rule 1");
    refused(&[rule, other, "name = 'a'", rule, "name = 'b'"].join("\n"), "rule 3, line 8: the rule is equal to rule 1");
    accepted(&[rule, "title = 'A'", rule, "title = 'B'"].join("\n"));
}

#[test]
fn a_field_of_ours_with_an_impossible_value_is_refused() {
    let long = "x".repeat(129);
    for (fields, expected) in [
        (
            "title = '{foo}'",
            "title: unknown variable {foo}, expected one of {sender}, {sender_name}, {room}, {room_name}, {nick}, {body}, {count}, {kind}",
        ),
        (
            "body = '{}'",
            "body: unknown variable {}, expected one of {sender}, {sender_name}, {room}, {room_name}, {nick}, {body}, {count}, {kind}",
        ),
        ("body = 'New: {body'", "body: a variable is not closed; write {{ for a brace"),
        ("body = '{body|0}'", "body: expected a length from 1 to 1000 after the | of a variable, such as {body|40}"),
        ("body = '{body|-1}'", "body: expected a length from 1 to 1000 after the | of a variable, such as {body|40}"),
        ("body = '{body|}'", "body: expected a length from 1 to 1000 after the | of a variable, such as {body|40}"),
        ("body = 1", "body: invalid type: integer `1`, expected a string"),
        ("data = 'x'", "data: invalid type: string \"x\", expected a map"),
        ("data = {x = 1}", "data.x: invalid type: integer `1`, expected a string"),
        ("data = {message-count = 'x'}", "data: the name of the field \"message-count\" is reserved"),
        ("data = {type = 'x'}", "data: the name of the field \"type\" is reserved"),
        ("data = {aps = 'x'}", "data: the name of the field \"aps\" is reserved"),
        ("data = {'google.c.a.e' = 'x'}", "data: the name of the field \"google.c.a.e\" is reserved"),
        ("data = {'' = 'x'}", "data: the field \"\" must have a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        ("data = {'é' = 'x'}", "data: the field \"é\" must have a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        ("data = {a='',b='',c='',d='',e='',f='',g='',h='',i=''}", "data: 9 fields, 8 are allowed"),
        ("priority = 'urgent'", "priority: unknown variant `urgent`, expected `normal` or `high`"),
        ("sound = false", "sound: invalid type: boolean `false`, expected a string"),
        (
            "interruption_level = 'time_sensitive'",
            "interruption_level: unknown variant `time_sensitive`, expected one of `passive`, `active`, \
             `time-sensitive`, `critical`",
        ),
        ("time_to_live = -1", "time_to_live: invalid value: integer `-1`, expected u32"),
        ("time_to_live = '1 h'", "time_to_live: invalid type: string \"1 h\", expected u32"),
        ("collapse = 'all'", "collapse: unknown variant `all`, expected `message` or `conversation`"),
        ("to = 'some'", "to: unknown variant `some`, expected one of `all`, `tied`, `app`"),
        ("to = {app = 1}", "to: invalid type: integer `1`, expected a string"),
        ("to = {app = 'a', all = 1}", "to: wanted exactly 1 element, more than 1 element"),
        (
            "foo = 1",
            "foo: unknown field `foo`, expected one of `name`, `conditions`, `action`, `content`, `title`, `body`, \
             `data`, `priority`, `sound`, `interruption_level`, `channel_id`, `time_to_live`, `collapse`, `to`",
        ),
        (
            "conditions = [{kind = 'presence'}]",
            "conditions.kind: unknown variant `presence`, expected one of `message`, `call`, `call_end`, `invitation`, `subscription`, `read`",
        ),
        (
            "conditions = [{from = 'a b@example.com'}]",
            "conditions.from: expected a JID, or a pattern such as *@example.com: not a JID: localpart doesn’t pass nodeprep validation",
        ),
        ("conditions = [{mention = 1}]", "conditions.mention: invalid type: integer `1`, expected a boolean"),
        (
            "conditions = [{provider = 'webpush'}]",
            "conditions.provider: unknown variant `webpush`, expected one of `apns`, `fcm`, `web-push`",
        ),
        ("conditions = [{hour = '22:00'}]", "conditions.hour: expected hours such as 22:00-07:00"),
        ("conditions = [{hour = '22:00-24:00'}]", "conditions.hour: expected a time such as 22:00"),
        ("conditions = [{hour = '22-7'}]", "conditions.hour: expected a time such as 22:00"),
        (
            "conditions = [{hour = 22}]",
            "conditions.hour: expected hours such as \"22:00-07:00\", or a table with from, to and tz",
        ),
        (
            "conditions = [{hour = {from = '22:00', to = '07:00', tz = 'Mars/Base'}}]",
            "conditions.hour: tz: expected the name of an IANA time zone, such as Europe/Berlin",
        ),
        ("conditions = [{members_over = -1}]", "conditions.members_over: invalid value: integer `-1`, expected u32"),
        ("conditions = [{age_over = 1.5}]", "conditions.age_over: invalid type: floating point `1.5`, expected u32"),
        (
            "conditions = [{events = 'msg'}]",
            "conditions.events: unknown field `events`, expected one of `event`, `type`, `body`, `hint`, `jingle`, \
             `user_status`, `client_state`, `kind`, `from`, `to`, `room`, `mention`, `encrypted`, `sender_known`, \
             `app`, `provider`, `hour`, `members_over`, `age_over`",
        ),
    ] {
        let rule = format!("[[rules]]\naction = 'push'\ncontent = 'message'\n{fields}");
        refused(&rule, &format!("rule 1, line 4: {expected}"));
    }
    for (field, value) in [("name", ""), ("name", &long), ("sound", " "), ("channel_id", &long)] {
        let rule = format!("[[rules]]\naction = 'push'\ncontent = 'message'\n{field} = '{value}'");
        refused(&rule, &format!("rule 1, line 1: {field}: expected a text of 1 to 128 bytes"));
    }
    for field in [
        "title = 'x'",
        "body = 'x'",
        "data = {x = 'x'}",
        "priority = 'high'",
        "sound = 'none'",
        "interruption_level = 'active'",
        "channel_id = 'x'",
        "time_to_live = 1",
        "collapse = 'message'",
        "to = 'all'",
    ] {
        let name = field.split(' ').next().unwrap();
        refused(
            &format!("[[rules]]\naction = 'skip'\n{field}"),
            &format!("rule 1, line 1: the action skip allows no {name}"),
        );
    }
}

#[test]
fn too_many_rules_and_too_long_texts_are_refused() {
    let rules = |number: usize| {
        let rules = (0..number).map(|i| format!("[[rules]]\naction = 'skip'\nconditions = [{{members_over = {i}}}]\n"));
        rules.collect::<String>()
    };
    accepted(&rules(1_000));
    refused(&rules(1_001), "there are 1001 rules, 1000 are allowed");
    let conditions: Vec<_> = (0..101).map(|i| format!("{{members_over = {i}}}")).collect();
    let conditions = conditions.join(", ");
    refused(
        &format!("[[rules]]\naction = 'skip'\nconditions = [{conditions}]"),
        "rule 1, line 1: conditions: 101 tables, 100 are allowed",
    );
    refused(&" ".repeat(65_537), "the rules have 65537 bytes, 65536 are allowed");
    let template = "x".repeat(1_025);
    refused(
        &format!("[[rules]]\naction = 'push'\ncontent = 'message'\ntitle = '{template}'"),
        "rule 1, line 4: title: the template has 1025 bytes, 1024 are allowed",
    );
    let deep = format!("rules = {}", "[".repeat(100_000));
    assert!(deep.parse::<Rules>().is_err());
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let page = include_str!("../../../../docs/rules.md");
    let examples: Vec<_> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() > 3);
    examples.into_iter().for_each(|example| drop(accepted(example)));
}
