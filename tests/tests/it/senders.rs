//! Who wrote a message: the sender as it is shown, and the recipient's own messages.

use serde_json::{Value, json};
use tests::{ALICES_PC, BOB, BOBS_PC, CAROL, Event, PushRequest, Pushlark, ROOM_OCCUPANT};

const MIX: &str = "<nick>Alice</nick><jid>alice@example.com</jid>";

async fn with_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

fn message(attributes: &str, content: &str) -> String {
    format!("<message to='{BOB}' {attributes}><body>canary Hi</body>{content}</message>")
}

/// Posts an event, and returns the alert of its notification.
async fn alert(pushlark: &Pushlark, event: Event) -> Value {
    pushlark.settled().await;
    let before = pushlark.notifications("phone").await.len();
    pushlark.event(event).await;
    let mut all = pushlark.notified("phone", before + 1).await;
    assert_eq!(all.len(), before + 1, "{all:?}");
    all.remove(before)["notification"]["alert"].take()
}

/// Returns the title of the notification of a stanza.
async fn title(pushlark: &Pushlark, from: &str, attributes: &str, content: &str) -> String {
    let stanza = message(&format!("from='{from}' {attributes}"), content);
    alert(pushlark, Event::stanza(BOB, &stanza).from(from)).await["title"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_private_message_of_an_occupant_shows_the_room_and_the_nick() {
    let pushlark = with_bob(&[("MUC_HOSTS", "chat.@HOST@")]).await;
    let marked = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
    for kind in ["type='chat'", "type='normal'", ""] {
        for (from, content) in [
            (ROOM_OCCUPANT, marked),
            (ROOM_OCCUPANT, ""),
            ("books@rooms.example.org/alice", ""),
            ("books@chat.example.com/alice", ""),
            ("books@talk.example.org/alice", marked),
        ] {
            assert_eq!(title(&pushlark, from, kind, content).await, from, "{kind} {content}");
        }
        assert_eq!(title(&pushlark, ALICES_PC, kind, "").await, "alice@example.com");
        assert_eq!(title(&pushlark, "books@talk.example.org/alice", kind, "").await, "books@talk.example.org");
    }
}

#[tokio::test]
async fn a_channel_tells_the_nick_of_its_participant() {
    let pushlark = with_bob(&[]).await;
    let mix = |content: &str| format!("<mix xmlns='urn:xmpp:mix:core:1'>{content}</mix>");
    let group = "type='groupchat'";
    let participant = "books@mix.example.com/8b1f2c9e";
    assert_eq!(title(&pushlark, participant, group, &mix(MIX)).await, "books@mix.example.com/Alice");
    assert_eq!(title(&pushlark, participant, group, &mix("<jid>alice@example.com</jid>")).await, participant);
    assert_eq!(title(&pushlark, participant, group, &mix("<nick> </nick>")).await, participant);
    // Anybody can write this element.
    for (from, kind, shown) in [
        ("mallory@example.com/pc", "type='chat'", "mallory@example.com"),
        ("room@muc.example.com/mallory", group, "room@muc.example.com/mallory"),
        ("books@mix.evil.example/mallory", group, "books@mix.evil.example/mallory"),
    ] {
        assert_eq!(title(&pushlark, from, kind, &mix(MIX)).await, shown);
    }
    let pushlark = with_bob(&[("MIX_HOSTS", "channels.example.org")]).await;
    assert_eq!(
        title(&pushlark, "books@channels.example.org/8b1f2c9e", group, &mix(MIX)).await,
        "books@channels.example.org/Alice"
    );
    assert_eq!(title(&pushlark, participant, group, &mix(MIX)).await, participant);
}

#[tokio::test]
async fn an_escaped_localpart_is_shown_without_escapes() {
    let pushlark = with_bob(&[]).await;
    let alert = alert(&pushlark, Event::message(BOB, "canary Hi").from(r"o\27hara@example.com/pc")).await;
    assert_eq!((&alert["title"], &alert["tag"]), (&json!("o'hara@example.com"), &json!(r"o\27hara@example.com")));
}

#[tokio::test]
async fn a_message_that_a_room_wraps_for_its_subscriber_is_shown_as_its_occupants() {
    let pushlark = with_bob(&[]).await;
    let wrapped = |outer: &str, node: &str| {
        format!(
            "<message xmlns='jabber:client' from='{outer}' to='{BOB}'><event xmlns='http://jabber.org/protocol/pubsub#event'>\
             <items node='urn:xmpp:mucsub:nodes:{node}'><item id='1'><message xmlns='jabber:client' type='groupchat' \
             from='{ROOM_OCCUPANT}' to='{BOB}'><subject>Books</subject><body>canary Next book?</body></message></item>\
             </items></event></message>"
        )
    };
    for silent in [
        wrapped("room@muc.example.com", "subject"),
        wrapped("room@muc.example.com/eve", "messages"),
        wrapped("eve@example.com/pc", "messages"),
        wrapped("books@muc.example.com", "messages"),
    ] {
        pushlark.stanza(silent).await;
    }
    pushlark.stanza(wrapped("room@muc.example.com", "messages")).await;
    pushlark.settled().await;
    let all = pushlark.notified("phone", 1).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let alert = &all[0]["notification"]["alert"];
    assert_eq!((&alert["title"], &alert["body"]), (&json!(ROOM_OCCUPANT), &json!("canary Next book?")));
}

#[tokio::test]
async fn own_messages_neither_notify_nor_count() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    let nick = |nick: &str| json!({"nick": nick});
    let group = |from: &str| Event::groupchat(from, BOB, "canary own");
    let mix = |jid: &str| {
        let mix = format!("<mix xmlns='urn:xmpp:mix:core:1'><nick>B</nick><jid>{jid}</jid></mix>");
        let from = "books@mix.example.com/8b1f";
        Event::stanza(BOB, &message(&format!("type='groupchat' from='{from}'"), &mix)).from(from)
    };
    let copy = |to: &str| {
        let stanza = format!("<message type='chat' from='{BOBS_PC}' to='{to}'><body>canary own</body></message>");
        Event::stanza(BOB, &stanza).from(BOBS_PC)
    };
    for own in [
        group("team@muclight.example.com/bob@example.com"),
        mix(BOB),
        mix("BOB@example.com/phone"),
        group("room@muc.example.com/Bobby").recipient(nick("Bobby")),
        group("room@other.example.org/Bobby").recipient(nick("Bobby")),
        copy("alice@example.com"),
        copy("room@muc.example.com"),
    ] {
        pushlark.event(own).await;
    }
    pushlark.settled().await;
    assert!(pushlark.notifications("phone").await.is_empty());
    for (others, badge) in [
        (group("team@muclight.example.com/alice@example.com"), 1),
        (mix("alice@example.com"), 1),
        (group("room@muc.example.com/Bobby").recipient(nick("Bob")), 1),
        (group("room@muc.example.com/bob@example.com"), 2),
        // A session can have the name of a nick.
        (Event::message(BOB, "canary Hi").from("kate@example.com/Bobby").recipient(nick("Bobby")), 1),
        // A note to self.
        (copy(BOB), 1),
        (Event::message(BOB, "canary note").from(BOBS_PC), 2),
    ] {
        assert_eq!(alert(&pushlark, others.clone()).await["badge"], badge, "{others:?}");
    }
}

#[tokio::test]
async fn own_messages_mark_their_conversation_as_read() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    let mix = |jid: &str| {
        let mix = format!("<mix xmlns='urn:xmpp:mix:core:1'><jid>{jid}</jid></mix>");
        let from = "books@mix.example.com/8b1f";
        Event::stanza(BOB, &message(&format!("type='groupchat' from='{from}'"), &mix)).from(from)
    };
    let muc = |nick: &str| {
        let from = format!("room@muc.example.com/{nick}");
        Event::groupchat(&from, BOB, "canary Hi").recipient(json!({"nick": "Bobby"}))
    };
    let copy = {
        let stanza =
            format!("<message type='chat' from='{BOBS_PC}' to='{ALICES_PC}'><body>canary own</body></message>");
        Event::stanza(BOB, &stanza).from(BOBS_PC)
    };
    for (others, own) in
        [(mix("alice@example.com"), mix(BOB)), (muc("Alice"), muc("Bobby")), (Event::message(BOB, "canary Hi"), copy)]
    {
        assert_eq!(alert(&pushlark, others.clone()).await["badge"], 1);
        assert_eq!(alert(&pushlark, others.clone()).await["badge"], 2);
        pushlark.event(own).await;
        pushlark.settled().await;
        assert_eq!(alert(&pushlark, others).await["badge"], 1);
    }
}

#[tokio::test]
async fn a_nick_is_that_of_the_only_recipient() {
    let pushlark = with_bob(&[]).await;
    pushlark.enable(CAROL, "tablet").await;
    let group = Event::groupchat("room@muc.example.com/Bobby", [BOB, CAROL], "canary Hi");
    pushlark.event(group.recipient(json!({"nick": "Bobby"}))).await;
    pushlark.notified("phone", 1).await;
    pushlark.notified("tablet", 1).await;
}

#[tokio::test]
async fn a_mention_of_the_reported_nick_is_a_mention() {
    let pushlark = with_bob(&[("GROUP_DATA", "mention")]).await;
    let group = |body: &str| Event::groupchat(ROOM_OCCUPANT, BOB, body).recipient(json!({"nick": "Bobby"}));
    pushlark.event(group("canary Hi @bobby")).await;
    assert_eq!(pushlark.notified("phone", 1).await[0]["notification"]["data"], json!({"mention": "true"}));
    pushlark.event(group("canary Hi @kate")).await;
    assert_eq!(pushlark.notified("phone", 2).await[1]["notification"]["data"], Value::Null);
}

#[tokio::test]
async fn names_of_occupants_and_sessions_may_have_emoji() {
    let pushlark = with_bob(&[("MUC_HOSTS", "muc.@HOST@"), ("MIX_HOSTS", "mix.@HOST@"), ("UNREAD_COUNTS", "on")]).await;
    let room = "r@muc.example.com/Alice 🐦";
    assert_eq!(title(&pushlark, room, "type='groupchat'", "").await, room);
    let occupant = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
    assert_eq!(title(&pushlark, "r@muc.example.com/אa 😀", "type='chat'", occupant).await, "r@muc.example.com/אa 😀");
    let mix = "<mix xmlns='urn:xmpp:mix:core:1'><nick>😀</nick></mix>";
    assert_eq!(title(&pushlark, "c@mix.example.com/1", "type='groupchat'", mix).await, "c@mix.example.com/😀");
    assert_eq!(title(&pushlark, "alice@example.com/📱", "type='chat'", "").await, "alice@example.com");
    // The session of such a client ties its registration, and keeps it quiet.
    let phone = "zoe@example.com/📱";
    assert_eq!(pushlark.json("/enable", PushRequest::new(phone, "node").device("watch")).await.status, 200);
    pushlark.event(Event::presence(phone, "online")).await;
    pushlark.event(Event::message("zoe@example.com", "canary Hi")).await;
    pushlark.settled().await;
    assert!(pushlark.notifications("watch").await.is_empty());
    pushlark.event(Event::presence(phone, "offline")).await;
    pushlark.event(Event::message("zoe@example.com", "canary Hi")).await;
    pushlark.notified("watch", 1).await;
}
