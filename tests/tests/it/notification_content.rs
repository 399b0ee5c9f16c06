//! The content of notifications: extensions of XMPP, and the settings for body, sender and group data.

use serde_json::{Value, json};
use tests::{ALICE, BOB, Pushlark, ROOM_OCCUPANT, stanza};

const ROOM: &str = "from='room@muc.example.com/alice' type='groupchat'";
const OMEMO: &str =
    "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/><payload>eHg=</payload></encrypted>";

async fn with_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    pushlark
}

async fn post_message(pushlark: &Pushlark, attributes: &str, content: &str) {
    pushlark.stanza(format!("<message to='{BOB}' {attributes}>{content}</message>")).await;
}

async fn chat(pushlark: &Pushlark, content: &str) {
    post_message(pushlark, "from='alice@example.com/pc' type='chat'", content).await;
}

/// Returns the only notification of a device.
async fn notification(pushlark: &Pushlark, device: &str) -> Value {
    pushlark.settled().await;
    let mut all = pushlark.notified(device, 1).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)["notification"].take()
}

#[tokio::test]
async fn an_encrypted_message_notifies_without_its_text() {
    let body = "<body>This message is OMEMO encrypted</body>";
    let marked = "<encryption xmlns='urn:xmpp:eme:0' namespace='urn:xmpp:openpgp:0'/>";
    for content in [
        format!("{body}{OMEMO}"),
        format!("{body}{OMEMO}{marked}"),
        format!("{body}{marked}"),
        format!("{OMEMO}<store xmlns='urn:xmpp:hints'/>"),
        OMEMO.replace("eu.siacs.conversations.axolotl", "urn:xmpp:omemo:2"),
        format!("{body}<openpgp xmlns='urn:xmpp:openpgp:0'>eHg=</openpgp>"),
        format!("{body}<x xmlns='jabber:x:encrypted'>eHg=</x>"),
    ] {
        for (settings, text) in [(vec![], "New message"), (vec![("BODY_PLACEHOLDER", "Psst!")], "Psst!")] {
            let pushlark = with_bob(&settings).await;
            chat(&pushlark, &content).await;
            let alert = json!({"body": text, "title": ALICE, "tag": ALICE, "badge": 1});
            assert_eq!(notification(&pushlark, "phone").await, json!({"service": "fcm", "alert": alert}), "{content}");
            assert_eq!(notification(&pushlark, "silent").await["data"]["last-message-body"], text, "{content}");
        }
    }
}

#[tokio::test]
async fn corrections_receipts_and_carbons_do_not_notify() {
    let pushlark = with_bob(&[]).await;
    let forwarded = "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' type='chat' from='bob@example.com/pc' \
                     to='alice@example.com'><body>Hello</body></message></forwarded>";
    for content in [
        "<body>Hello!</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
        "<received xmlns='urn:xmpp:receipts' id='x'/>",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        &stanza::displayed("x"),
        "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/></encrypted>",
        &format!("<sent xmlns='urn:xmpp:carbons:2'>{forwarded}</sent>"),
        &format!("<body>Hello</body><received xmlns='urn:xmpp:carbons:2'>{forwarded}</received>"),
    ] {
        chat(&pushlark, content).await;
    }
    pushlark.settled().await;
    assert!(pushlark.notifications("phone").await.is_empty());
    let asks = "<body>Hello</body><request xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/>\
                <markable xmlns='urn:xmpp:chat-markers:0'/>";
    chat(&pushlark, asks).await;
    assert_eq!(notification(&pushlark, "phone").await["alert"]["body"], "Hello");
}

#[tokio::test]
async fn include_body_off_hides_the_text() {
    let pushlark = with_bob(&[("INCLUDE_BODY", "off")]).await;
    chat(&pushlark, "<body>canary secret</body>").await;
    let alert = json!({"body": "New message", "title": ALICE, "tag": ALICE, "badge": 1});
    assert_eq!(notification(&pushlark, "phone").await["alert"], alert);
    let silent = notification(&pushlark, "silent").await;
    assert!(!silent.to_string().contains("secret"), "{silent}");
}

#[tokio::test]
async fn include_sender_off_hides_the_sender() {
    let pushlark = with_bob(&[("INCLUDE_SENDER", "off"), ("PLUGIN", "hints")]).await;
    chat(&pushlark, "<body>canary Hi</body>").await;
    let alert = json!({"body": "canary Hi", "title": "New message", "badge": 1});
    assert_eq!(notification(&pushlark, "phone").await["alert"], alert);
    let data = json!({"message-count": 1, "last-message-body": "canary Hi"});
    assert_eq!(notification(&pushlark, "silent").await["data"], data);
    chat(&pushlark, "<propose xmlns='urn:xmpp:jingle-message:0' id='c1'/><store xmlns='urn:xmpp:hints'/>").await;
    let call = pushlark.notified("silent", 2).await[1]["notification"]["data"].clone();
    assert_eq!(call, json!({"type": "jmi", "jmi-sid": "c1"}));
}

#[tokio::test]
async fn group_data_adds_urgency_and_mentions() {
    let urgent = "<headers xmlns='http://jabber.org/protocol/shim'><header name='Urgency'>high</header></headers>";
    let reference = |uri: &str| format!("<reference xmlns='urn:xmpp:reference:0' type='mention' uri='{uri}'/>");
    let data = json!({"urgent": "true"});
    let mention = json!({"mention": "true"});
    for (content, expected) in [
        ("<body>canary Hi</body>".to_owned(), Value::Null),
        (format!("<body>canary Hi</body>{urgent}"), data),
        (format!("<body>canary Hi</body>{}", urgent.replace("high", "low")), Value::Null),
        (format!("<body>Hi Bob</body>{}", reference("xmpp:bob@example.com")), mention.clone()),
        (format!("<body>Hi Bob</body>{}", reference("xmpp:room@muc.example.com/Bob")), mention.clone()),
        (format!("<body>Hi Bob</body>{}", reference("xmpp:room@muc.example.com/bob@example.com")), mention.clone()),
        (format!("<body>Hi Kate</body>{}", reference("xmpp:kate@example.com")), Value::Null),
        (format!("<body>Hi Bob</body>{}", reference("xmpp:other@muc.example.com/bob")), Value::Null),
        ("<body>Hi @Bob, and all</body>".to_owned(), mention.clone()),
        ("<body>to @bob.</body>".to_owned(), mention),
        ("<body>to @bobby and bob@example.com</body>".to_owned(), Value::Null),
        (format!("<body>&gt; @bob\nSure</body>{}", stanza::quote(7)), Value::Null),
        (format!("<body>&gt; Hi\nSure, @bob</body>{}", stanza::quote(5)), json!({"mention": "true"})),
    ] {
        let pushlark = with_bob(&[("GROUP_DATA", "urgent, mention")]).await;
        post_message(&pushlark, ROOM, &content).await;
        let loud = notification(&pushlark, "phone").await;
        assert_eq!(loud["data"], expected, "{content}");
        assert_eq!(loud["alert"]["title"], ROOM_OCCUPANT);
        let silent = notification(&pushlark, "silent").await;
        for field in ["urgent", "mention"] {
            assert_eq!(silent["data"][field], expected[field], "{content}");
        }
    }
    let content = format!("<body>Hi @bob</body>{urgent}{}", reference("xmpp:bob@example.com"));
    let pushlark = with_bob(&[]).await;
    post_message(&pushlark, ROOM, &content).await;
    assert_eq!(notification(&pushlark, "phone").await["data"], Value::Null, "without the setting");
    let pushlark = with_bob(&[("GROUP_DATA", "urgent,mention")]).await;
    chat(&pushlark, &content).await;
    assert_eq!(notification(&pushlark, "phone").await["data"], Value::Null, "not a group message");
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start() {
    for (name, value) in [
        ("INCLUDE_BODY", "no"),
        ("INCLUDE_SENDER", "true"),
        ("UNREAD_COUNTS", "yes"),
        ("GROUP_DATA", "urgent,mentions"),
        ("SESSION_LIFETIME", "0"),
        ("PLUGIN", "enhance"),
    ] {
        let environment = [(name, value)].into_iter().collect();
        let refused = local::Stack::start(local::Options { environment, ..local::Options::default() }).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{name}: ")), "{refused}");
    }
}
