//! Properties of reading that hold for all bodies.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use pushlark_access::Caller;
use pushlark_events::{Effect, Sources, read};
use pushlark_http::{Media, Request};
use pushlark_queue::{MAX_RECIPIENTS, Record, Work, WorkKind};
use pushlark_xmpp::{BareJid, Element, Message, is_xml_text};
use serde_json::{Value, json};

use crate::{XML, captured, now, taken};

/// The largest message of SQS, in bytes ("Amazon SQS message quotas").
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn media() -> impl Strategy<Value = Media> {
    select(vec![Media::Json, Media::JsonLines, XML, Media::Form])
}

/// The events of one user, in order.
#[derive(Debug, Default)]
struct Told {
    /// Their ids.
    ids: Vec<String>,
    /// An upper limit of their size in JSON.
    bytes: usize,
    /// The indices of their records.
    records: BTreeSet<usize>,
}

/// Reads a body, and returns the number of its events; `None` if it is refused. Checks that the work of the events
/// passes through the queue unchanged and in order, to a worker that can read it.
fn check(media: Media, body: &[u8]) -> Result<Option<usize>, TestCaseError> {
    let Ok(events) = read(&Request::new(Caller::Operator, media, body.to_vec()).unwrap(), &Sources::default(), now())
    else {
        return Ok(None);
    };
    let count = events.len();
    let (mut told, mut packed) = (BTreeMap::<BareJid, Told>::new(), BTreeMap::<BareJid, Told>::new());
    let mut work = Vec::new();
    for event in events {
        prop_assert!(!event.id.is_empty() && event.id.len() <= 256);
        if let Effect::Queue(kind) = event.effect {
            let one = Work::new(event.id, event.at, kind);
            let bytes = serde_json::to_string(&one).unwrap().len();
            for user in users_of(&one.kind) {
                let told = told.entry(user).or_default();
                told.ids.push(one.id.clone());
                told.bytes += bytes;
            }
            work.push(one);
        }
    }
    for (index, record) in Record::pack(work).enumerate() {
        let body = serde_json::to_string(&record).unwrap();
        prop_assert!(body.len() <= MAX_MESSAGE_BYTES, "{} bytes", body.len());
        // SQS accepts the characters that XML allows.
        prop_assert!(is_xml_text(&body));
        prop_assert_eq!(&Record::read(&body).unwrap(), &record);
        let users: BTreeSet<_> = record.work.iter().flat_map(|work| users_of(&work.kind)).collect();
        prop_assert!((1..=MAX_RECIPIENTS).contains(&users.len()), "{} users", users.len());
        for work in record.work {
            for user in users_of(&work.kind) {
                let packed = packed.entry(user).or_default();
                packed.ids.push(work.id.clone());
                packed.records.insert(index);
            }
            if let WorkKind::Message { stanza, .. } | WorkKind::Unacknowledged { stanza, .. } = work.kind {
                Message::from_element(Element::parse(&stanza).unwrap()).unwrap();
            }
        }
    }
    prop_assert!(told.keys().eq(packed.keys()));
    for (user, told) in &told {
        let packed = &packed[user];
        prop_assert_eq!(&told.ids, &packed.ids, "{}", user);
        prop_assert!(packed.records.len() == 1 || told.bytes > MAX_MESSAGE_BYTES / 2, "{}: {:?}", user, packed.records);
    }
    Ok(Some(count))
}

/// Returns a user for each recipient; for a removed domain, the domain.
fn users_of(kind: &WorkKind) -> Vec<BareJid> {
    match kind {
        WorkKind::Message { to, .. } => to.clone(),
        WorkKind::Unacknowledged { to, .. } => to.iter().map(|session| session.to_bare()).collect(),
        WorkKind::Subscription { to, .. } => vec![to.clone()],
        WorkKind::Read { jid, .. } | WorkKind::UserRemoved { jid } => vec![jid.clone()],
        WorkKind::Notification(notification) => vec![notification.owner.clone()],
        WorkKind::DomainRemoved { domain } => vec![BareJid::from_parts(None, domain)],
    }
}

/// Returns valid bodies, which the tests change.
fn originals() -> Vec<(Media, Vec<u8>)> {
    let message = r#"{"type":"message","id":"1","at":"2026-11-22T19:33:37Z","from":"a@example.com/x","to":["b@example.com","c@d.example"],"chat":"chat","body":"Hi","recipient":{"exists":true,"online":false,"unread_count":2,"sender_known":true},"sender_name":"A","room_name":"B"}"#;
    let stanza = r#"{"type":"unacknowledged","to":"b@example.com/x","stanza":"<message type='chat' from='a@example.com'><body>\"Hi\"</body></message>"}"#;
    let presence = r#"{"type":"presence","jid":"b@example.com/x","status":"offline"}"#;
    let removed = r#"{"type":"domain_removed","domain":"example.com"}"#;
    let captures = [
        include_str!("../fixtures/ejabberd/chat.http"),
        include_str!("../fixtures/ejabberd/chat-to-full-jid.http"),
        include_str!("../fixtures/ejabberd/groupchat.http"),
        include_str!("../fixtures/mongooseim/escaped.http"),
        include_str!("../fixtures/mongooseim/unicode.http"),
    ]
    .map(captured);
    let others = [
        (XML, include_str!("../fixtures/prosody/message.xml").to_owned()),
        (XML, "<presence from='b@example.com/x' to='b@example.com'><priority>-1</priority></presence>".into()),
        (Media::Json, message.to_owned()),
        (Media::Json, format!("[{message}, {stanza}, {presence}]")),
        (Media::JsonLines, format!("{stanza}\n\n{presence}\r\n{removed}\n")),
    ];
    let captures = captures.map(|(media, body)| (media, body.to_owned()));
    captures.into_iter().chain(others).map(|(media, body)| (media, body.into_bytes())).collect()
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "",
        "null",
        "{}",
        "[",
        "]",
        ",",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "-1",
        "1e400",
        "true",
        "message",
        "unacknowledged",
        "chat",
        "groupchat",
        "<",
        ">",
        "&amp;",
        "&",
        "=",
        "%00",
        "%ff",
        "+",
        "\n",
        "\r\n",
        "@",
        "/",
        "//",
        "<!--",
        "<![CDATA[",
        "]]>",
        " type='error'",
        " xmlns=''",
        "é",
        "\u{1f600}",
        "\u{feff}",
    ];
    prop_oneof![select(pieces).prop_map(|piece| piece.as_bytes().to_vec()), vec(any::<u8>(), 1..3)]
}

fn mutated() -> impl Strategy<Value = (Media, Vec<u8>)> {
    (select(originals()), vec((any::<Index>(), 0..10_usize, piece()), 1..4)).prop_map(|((media, mut body), changes)| {
        for (at, length, piece) in changes {
            let start = at.index(body.len() + 1);
            let end = (start + length).min(body.len());
            body.splice(start..end, piece);
        }
        (media, body)
    })
}

fn text() -> impl Strategy<Value = String> {
    let special = select(vec!["\r\n", "\t", "\"", "\\", "'", "<", ">", "&", "]]>", "\u{7f}", "\u{2028}", "\u{10ffff}"]);
    let piece = prop_oneof![special.prop_map(str::to_owned), "\\PC{1,4}", "[a-z ]{1,8}"];
    let texts = (vec(piece, 1..6), prop_oneof![9 => Just(1), 1 => 1..2000_usize]);
    texts
        .prop_map(|(pieces, times)| pieces.concat().repeat(times))
        .prop_filter("XML's characters", |text| is_xml_text(text))
}

fn jid() -> impl Strategy<Value = String> {
    let longest = format!("{}@example.com/{}", "L".repeat(1023), "\u{fc}".repeat(511));
    let jids =
        ["alice@example.com/PC", "Zo\u{eb}@b\u{fc}cher.example/\"x\" \\ <&>'", "room@muc.example.com/Nick", &longest];
    prop_oneof![
        select(jids.map(str::to_owned).to_vec()),
        "[a-zA-Z0-9._-]{1,12}@[a-z]{1,5}\\.example/[a-zA-Z0-9 /@]{0,5}[a-z]"
    ]
}

/// Generates valid events.
fn event() -> impl Strategy<Value = Value> {
    // Some users are recipients of most events.
    let occupant = (0..40_u32).prop_map(|number| format!("u{number}@example.com/x"));
    let to = vec(prop_oneof![1 => jid(), 3 => occupant], 1..60).prop_map(Value::from);
    let flag = || option::of(any::<bool>());
    let recipient = (flag(), flag(), option::of(any::<u32>()), flag()).prop_map(|(exists, online, unread_count, known)| {
        json!({"exists": exists, "online": online, "unread_count": unread_count, "sender_known": known})
    });
    let names = (option::of(text()), option::of(text()));
    let kind = select(vec!["message", "unacknowledged"]);
    let common = (kind, option::of("[a-z0-9#:/\"\\\\é-]{1,40}"), jid(), to, recipient, names);
    let chat = select(vec!["chat", "groupchat"]);
    let message = (common, any::<bool>(), chat, text()).prop_map(
        |((kind, id, from, to, recipient, names), stanza, chat, body)| {
            let mut event = json!({"type": kind, "id": id, "from": from, "to": to, "recipient": recipient});
            (event["sender_name"], event["room_name"]) = (json!(names.0), json!(names.1));
            if stanza {
                let message = Element::new("message", "jabber:client").with_attribute("type", chat);
                let message = message.with_child(Element::new("body", "jabber:client").with_text(body));
                event["stanza"] = message.to_string().into();
            } else {
                event["chat"] = chat.into();
                event["body"] = body.into();
            }
            event
        },
    );
    let user_removed = jid().prop_map(|jid| json!({"type": "user_removed", "jid": jid}));
    let presence = jid().prop_map(|jid| json!({"type": "presence", "jid": jid, "status": "offline"}));
    prop_oneof![6 => message, 1 => user_removed, 1 => presence]
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn no_bytes_make_reading_panic(media in media(), body in vec(any::<u8>(), 0..80)) {
        check(media, &body)?;
    }

    #[test]
    fn no_text_makes_reading_panic(media in media(), body in "\\PC{0,40}|[{}\\[\\]\",:a-z0-9<>/=&;'% \n]{0,60}") {
        check(media, body.as_bytes())?;
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn no_change_to_a_body_makes_reading_panic_or_queues_unreadable_work((media, body) in mutated()) {
        check(media, &body)?;
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn valid_events_become_records_that_are_read_unchanged(events in vec(event(), 1..16)) {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        if lines.len() <= pushlark_http::MAX_BODY_BYTES {
            prop_assert_eq!(check(Media::JsonLines, lines.as_bytes())?, Some(events.len()), "{}", lines);
            prop_assert_eq!(check(Media::Json, Value::from(events.clone()).to_string().as_bytes())?, Some(events.len()));
        }
    }
}

#[test]
fn the_bodies_to_change_are_valid() {
    for (media, body) in originals() {
        assert!(!taken(media, body).is_empty());
    }
}

#[test]
fn the_largest_stanza_to_the_longest_jids_fits_into_records() {
    // JSON needs two bytes for a quotation mark.
    let around = "<message type='groupchat'><body></body></message>".len();
    let body = "\"".repeat(pushlark_xmpp::MAX_STANZA_BYTES - around);
    let stanza = format!("<message type='groupchat'><body>{body}</body></message>");
    let long = |i: usize| format!("{i:0>1023}@example.com/{}", "x".repeat(1023));
    let to: Vec<_> = (0..60).map(long).collect();
    let from = long(60);
    let event = json!({"type": "unacknowledged", "from": from, "to": to, "stanza": stanza}).to_string();
    assert_eq!(check(Media::Json, event.as_bytes()).unwrap(), Some(1));
}
