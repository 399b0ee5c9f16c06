//! Which messages notify, and with which text: types, bodies, fallback, encryption, invitations and delays.

use serde_json::{Value, json};
use tests::{ALICE, ALICES_PC, BOB, Event, PUSH_HOST, Pushlark, ago, stanza};

const ROOM: &str = "books@muc.example.com";

async fn with_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

fn message(attributes: &str, content: &str) -> String {
    format!("<message xmlns='jabber:client' to='{BOB}' {attributes}>{content}</message>")
}

/// A chat message from Alice.
fn chat(content: &str) -> String {
    message(&format!("type='chat' from='{ALICES_PC}'"), content)
}

/// Posts a stanza, and returns its notification.
async fn notification(pushlark: &Pushlark, stanza: &str) -> Value {
    pushlark.settled().await;
    let before = pushlark.notifications("phone").await.len();
    pushlark.stanza(stanza).await;
    pushlark.settled().await;
    let mut all = pushlark.notified("phone", before + 1).await;
    assert_eq!(all.len(), before + 1, "{stanza}");
    all.remove(before)["notification"].take()
}

async fn text(pushlark: &Pushlark, stanza: &str) -> String {
    notification(pushlark, stanza).await["alert"]["body"].as_str().unwrap().to_owned()
}

/// Posts stanzas that must not notify.
async fn assert_silent(pushlark: &Pushlark, stanzas: impl IntoIterator<Item = String>) {
    for stanza in stanzas {
        let before = pushlark.notifications("phone").await.len();
        pushlark.stanza(stanza.as_str()).await;
        pushlark.settled().await;
        assert_eq!(pushlark.notifications("phone").await.len(), before, "{stanza}");
    }
}

#[tokio::test]
async fn a_text_of_the_types_chat_groupchat_and_normal_notifies() {
    let pushlark = with_bob(&[]).await;
    for kind in ["type='chat'", "type='groupchat'", "type='normal'", "type='unknown'", ""] {
        let stanza = message(&format!("{kind} from='example.com'"), "<body>Maintenance tonight</body>");
        let alert = notification(&pushlark, &stanza).await["alert"].clone();
        assert_eq!((&alert["title"], &alert["body"]), (&json!("example.com"), &json!("Maintenance tonight")), "{kind}");
    }
    let normal = Event::message(BOB, "canary Hi").with("chat", "normal");
    pushlark.event(normal).await;
    assert_eq!(pushlark.notified("phone", 6).await[5]["notification"]["alert"]["title"], ALICE);
    let of_type = |kind: &str| message(&format!("type='{kind}' from='{ALICES_PC}'"), "<body>canary Hi</body>");
    assert_silent(&pushlark, ["headline", "error"].map(of_type)).await;
}

#[tokio::test]
async fn a_blank_body_is_no_text() {
    let pushlark = with_bob(&[]).await;
    let blank = [" ", "\n \r\n", "&#x200b;&#x200d;", "&#x2060;&#xfeff;&#xad;", "&#xa0;&#x2028;&#x200e;"];
    assert_silent(&pushlark, blank.map(|body| chat(&format!("<body>{body}</body>")))).await;
    assert_eq!(text(&pushlark, &chat("<body> canary\nHi </body>")).await, " canary\nHi ");
    assert_eq!(text(&pushlark, &chat("<body>👩&#x200d;🚀</body>")).await, "👩\u{200d}🚀");
}

#[tokio::test]
async fn the_body_for_everybody_is_the_text() {
    let pushlark = with_bob(&[]).await;
    for (bodies, expected) in [
        ("<body xml:lang='cs'>Ahoj</body><body>Hello</body>", "Hello"),
        ("<body>Hello</body><body xml:lang='cs'>Ahoj</body>", "Hello"),
        ("<body xml:lang='cs'>Ahoj</body><body xml:lang='de'>Hallo</body>", "Ahoj"),
        ("<body xml:lang='cs'>Ahoj</body><body xml:lang='de'>Hallo</body><body xml:lang=''>Hello</body>", "Hello"),
        ("<body> </body><body xml:lang='cs'>Ahoj</body>", "Ahoj"),
    ] {
        assert_eq!(text(&pushlark, &chat(bodies)).await, expected, "{bodies}");
        let czech = message(&format!("type='chat' xml:lang='cs' from='{ALICES_PC}'"), bodies);
        assert_eq!(text(&pushlark, &czech).await, expected, "{bodies}");
    }
}

fn fallback(namespace: &str, bodies: &str) -> String {
    format!("<fallback xmlns='urn:xmpp:fallback:0' for='{namespace}'>{bodies}</fallback>")
}

#[tokio::test]
async fn the_quote_of_a_reply_is_not_shown() {
    let pushlark = with_bob(&[]).await;
    let reply = |body: &str, range: &str| {
        let reply = "<reply to='bob@example.com/phone' id='m1' xmlns='urn:xmpp:reply:0'/>";
        chat(&format!("<body>{body}</body>{reply}{}", fallback("urn:xmpp:reply:0", range)))
    };
    let quoted = "&gt; Shall we meet at eight, or is nine better for you?\nNine";
    assert_eq!(text(&pushlark, &reply(quoted, "<body start='0' end='53'/>")).await, "Nine");
    assert_eq!(text(&pushlark, &reply("&gt; 🐦\nNine", "<body start='0' end='4'/>")).await, "Nine");
    assert_eq!(text(&pushlark, &reply("&gt; a\nNine", "<body start='0' end='900'/>")).await, "> a\nNine");
    assert_silent(&pushlark, [reply("&gt; a\n", "<body start='0' end='4'/>"), reply("&gt; a", "<body/>")]).await;
    // The namespace of the first version of replies.
    let earlier = |stanza: String| stanza.replace("urn:xmpp:fallback:0", "urn:xmpp:feature-fallback:0");
    assert_eq!(text(&pushlark, &earlier(reply("&gt; a\nNine", "<body start='0' end='4'/>"))).await, "Nine");
    assert_silent(&pushlark, [earlier(reply("&gt; a", "")), earlier(reply("&gt; a", "<body/>"))]).await;
    // The text for clients that show no files is the text here too.
    let url = "https://example.com/cat.jpg";
    let file = chat(&format!("<body>{url}</body>{}", fallback("urn:xmpp:sfs:0", "<body/>")));
    assert_eq!(text(&pushlark, &file).await, url);
}

#[tokio::test]
async fn reactions_retractions_and_moderation_neither_notify_nor_count() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    let body = "<body>canary /me took a message back</body><store xmlns='urn:xmpp:hints'/>";
    let (reactions, retraction) = ("urn:xmpp:reactions:0", "urn:xmpp:message-retract:1");
    let fastened = |content: &str| format!("<apply-to id='m1' xmlns='urn:xmpp:fasten:0'>{content}</apply-to>");
    let retract_0 = "<retract xmlns='urn:xmpp:message-retract:0'/>";
    for element in [
        format!("<reactions id='m1' xmlns='{reactions}'><reaction>👍</reaction></reactions>"),
        format!("<reactions id='m1' xmlns='{reactions}'/>{}", fallback(reactions, "<body start='0' end='4'/>")),
        format!("<retract id='m1' xmlns='{retraction}'/>{}", fallback(retraction, "")),
        format!("<retracted id='m1' stamp='2020-01-01T00:00:00Z' xmlns='{retraction}'/>"),
        fastened(retract_0),
        fastened(&format!("<moderated by='{ROOM}' xmlns='urn:xmpp:message-moderate:0'>{retract_0}</moderated>")),
        fastened("<external name='body' xmlns='urn:xmpp:fasten:0'/>"),
        format!("<retract id='s1' xmlns='{retraction}'><moderated xmlns='urn:xmpp:message-moderate:1'/></retract>"),
        fallback(retraction, ""),
        fallback(retraction, "").replace("urn:xmpp:fallback:0", "urn:xmpp:feature-fallback:0"),
    ] {
        let group = message(&format!("type='groupchat' from='{ROOM}'"), &format!("{body}{element}"));
        assert_silent(&pushlark, [chat(&format!("{element}{body}")), group]).await;
    }
    assert_eq!(notification(&pushlark, &chat("<body>canary Hi</body>")).await["alert"]["badge"], 1);
}

#[tokio::test]
async fn a_spoiler_shows_its_hint_or_the_placeholder() {
    let pushlark = with_bob(&[]).await;
    let spoiler = |content: &str| format!("<spoiler xmlns='urn:xmpp:spoiler:0'>{content}</spoiler>");
    let secret = "<body>canary The butler did it</body>";
    for (spoilers, expected) in [
        (spoiler("The end of the book"), "The end of the book"),
        (spoiler(""), "New message"),
        (spoiler(" "), "New message"),
        (spoiler("Konec").replace("<spoiler", "<spoiler xml:lang='cs'") + &spoiler("The end"), "The end"),
    ] {
        assert_eq!(text(&pushlark, &chat(&format!("{spoilers}{secret}"))).await, expected, "{spoilers}");
    }
    assert_silent(&pushlark, [chat(&spoiler("The end of the book"))]).await;
    let pushlark = with_bob(&[("INCLUDE_BODY", "off")]).await;
    assert_eq!(text(&pushlark, &chat(&format!("{}{secret}", spoiler("The end")))).await, "New message");
}

#[tokio::test]
async fn keys_alone_do_not_notify_and_encrypted_texts_do() {
    let pushlark = with_bob(&[]).await;
    let eme = |namespace: &str| format!("<encryption xmlns='urn:xmpp:eme:0' namespace='{namespace}'/>");
    let body = "<body>canary I sent you an encrypted message</body>";
    for namespace in ["eu.siacs.conversations.axolotl", "urn:xmpp:omemo:0", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2"] {
        let omemo = |content: &str| format!("<encrypted xmlns='{namespace}'><header sid='1'/>{content}</encrypted>");
        let keys = omemo("");
        assert_silent(&pushlark, [chat(&keys), chat(&format!("{keys}{}{body}", eme(namespace)))]).await;
        assert_eq!(text(&pushlark, &chat(&omemo("<payload>eHg=</payload>"))).await, "New message");
    }
    let openpgp = "<openpgp xmlns='urn:xmpp:openpgp:0'>eHg=</openpgp>";
    let legacy = "<x xmlns='jabber:x:encrypted'>eHg=</x>";
    let unknown = format!("<mls xmlns='urn:example:mls'>eHg=</mls>{}", eme("urn:example:mls"));
    for encrypted in [openpgp, legacy, &format!("{openpgp}{}", eme("urn:xmpp:openpgp:0")), &unknown] {
        assert_eq!(text(&pushlark, &chat(encrypted)).await, "New message", "{encrypted}");
    }
    assert_silent(&pushlark, [chat(&eme("urn:example:mls"))]).await;
}

fn invite(from: &str, content: &str) -> String {
    format!("<x xmlns='http://jabber.org/protocol/muc#user'><invite {from}>{content}</invite></x>")
}

fn direct(jid: &str, attributes: &str) -> String {
    format!("<x xmlns='jabber:x:conference' jid='{jid}' {attributes}/>")
}

#[tokio::test]
async fn an_invitation_shows_its_inviter_and_its_body_reason_or_room() {
    let pushlark = with_bob(&[]).await;
    let from_alice = format!("from='{ALICES_PC}'");
    let (reason, body) = ("<reason>Book club</reason>", "<body>canary Alice asks you into books</body>");
    let mediated = |kind: &str, content: &str| message(&format!("from='{ROOM}' {kind}"), content);
    let spoiler = "<spoiler xmlns='urn:xmpp:spoiler:0'>The end</spoiler>";
    let omemo = |content: &str| format!("<encrypted xmlns='urn:xmpp:omemo:2'>{content}</encrypted>");
    let placeholder = format!("Invitation to {ROOM}");
    for (stanza, expected) in [
        (mediated("", &invite(&from_alice, reason)), "Book club"),
        (mediated("type='normal'", &invite(&from_alice, "<reason> </reason>")), &placeholder),
        (mediated("type='chat'", &(invite(&from_alice, reason) + body)), "canary Alice asks you into books"),
        (
            mediated("", &(invite(&from_alice, "") + &direct(ROOM, "reason='x'") + body)),
            "canary Alice asks you into books",
        ),
        // A room may add its own element, and the sender of the body may hide it (XEP-0382).
        (mediated("", &(invite("", "").replace("<invite ></invite>", "") + &invite(&from_alice, reason))), "Book club"),
        (mediated("", &(invite(&from_alice, reason) + spoiler + body)), "Book club"),
        (message(&from_alice, &direct(ROOM, "reason='Book club'")), "Book club"),
        (message(&from_alice, &direct("books@muc.example.com/alice", "")), &placeholder),
        (
            message(&format!("{from_alice} type='chat'"), &(direct(ROOM, "reason='x'") + body)),
            "canary Alice asks you into books",
        ),
        // The body of an encrypted message is not for people.
        (
            message(&from_alice, &(omemo("<payload>eHg=</payload>") + &direct(ROOM, "reason='Book club'") + body)),
            "Book club",
        ),
        (message(&from_alice, &(direct(ROOM, "") + &omemo("<payload>eHg=</payload>") + body)), &placeholder),
        (message(&from_alice, &(omemo("") + &direct(ROOM, "") + body)), &placeholder),
    ] {
        let notification = notification(&pushlark, &stanza).await;
        let alert = &notification["alert"];
        assert_eq!((&alert["title"], &alert["body"]), (&json!(ALICE), &json!(expected)), "{stanza}");
        assert_eq!((&alert["tag"], &alert["badge"]), (&json!(ALICE), &json!(1)), "{stanza}");
        assert_eq!(notification["data"], json!({"room": ROOM}), "{stanza}");
    }
}

#[tokio::test]
async fn what_only_looks_like_an_invitation_is_a_message_or_nothing() {
    let pushlark = with_bob(&[]).await;
    let decline = "<x xmlns='http://jabber.org/protocol/muc#user'><decline from='alice@example.com'/></x>";
    let from_alice = format!("from='{ALICES_PC}'");
    assert_silent(
        &pushlark,
        [
            message(&format!("from='{ROOM}'"), decline),
            message(&from_alice, &direct("", "reason='canary'")),
            message(&from_alice, &direct("@", "")),
            message(&from_alice, &direct("muc.example.com", "")),
            message(&format!("from='{ROOM}' type='error'"), &invite(&from_alice, "")),
            message(&format!("{from_alice} type='headline'"), &direct(ROOM, "")),
        ],
    )
    .await;
    let talk = notification(&pushlark, &chat(&format!("<body>canary Hi</body>{}", direct("@", "")))).await;
    assert_eq!((&talk["alert"]["body"], &talk["data"]), (&json!("canary Hi"), &Value::Null));
}

#[tokio::test]
async fn an_invitation_names_an_inviter_only_for_a_room() {
    let pushlark = with_bob(&[]).await;
    let forged = invite("from='boss@example.com'", "<reason>canary Now</reason>");
    for (from, title) in [
        ("mallory@example.com/pc", "mallory@example.com"),
        ("books@muc.example.com/mallory", "books@muc.example.com/mallory"),
    ] {
        let alert = notification(&pushlark, &message(&format!("from='{from}'"), &forged)).await["alert"].clone();
        assert_eq!((&alert["title"], &alert["body"]), (&json!(title), &json!("canary Now")));
    }
    // Some chat servers report the bare JID of a sender although the stanza has the full one.
    let stanza = message("from='mallory@example.com/pc'", &forged);
    pushlark.event(Event::stanza(BOB, &stanza).from("mallory@example.com")).await;
    let all = pushlark.notified("phone", 3).await;
    assert_eq!(all[2]["notification"]["alert"]["title"], "mallory@example.com");
    // Escapes are undone in what is shown, not in ids (XEP-0106).
    let escaped = r"book\20club@muc.example.com";
    let club = notification(&pushlark, &message(&format!("from='{ALICES_PC}'"), &direct(escaped, ""))).await;
    assert_eq!(club["alert"]["body"], "Invitation to book club@muc.example.com");
    assert_eq!(club["data"], json!({"room": escaped}));
    // A room may name the occupant instead of the user.
    let by_occupant = invite(&format!("from='{ROOM}/Owl'"), "<reason>canary</reason>");
    let by_occupant = notification(&pushlark, &message(&format!("from='{ROOM}'"), &by_occupant)).await;
    assert_eq!(by_occupant["alert"]["title"], format!("{ROOM}/Owl"));
    // Without an inviter, the room is the sender.
    let anonymous = notification(&pushlark, &message(&format!("from='{ROOM}'"), &invite("", ""))).await;
    assert_eq!(anonymous["alert"]["title"], ROOM);
}

#[tokio::test]
async fn the_settings_for_body_and_sender_apply_to_invitations() {
    let invitation = message(
        &format!("from='{ROOM}'"),
        &(invite(&format!("from='{ALICES_PC}'"), "<reason>canary</reason>") + "<body>canary</body>"),
    );
    let settings = [("INCLUDE_BODY", "off"), ("INVITATION_PLACEHOLDER", "Come to {room}!")];
    let hidden = notification(&with_bob(&settings).await, &invitation).await;
    assert_eq!(
        (&hidden["alert"]["body"], &hidden["alert"]["title"]),
        (&json!(format!("Come to {ROOM}!")), &json!(ALICE))
    );
    assert_eq!(hidden["data"]["room"], ROOM);

    let pushlark = with_bob(&[("INCLUDE_SENDER", "off")]).await;
    let unnamed = notification(&pushlark, &invitation).await;
    assert_eq!((&unnamed["alert"]["title"], &unnamed["data"]["room"]), (&json!("New message"), &json!(ROOM)));
    assert!(!unnamed.to_string().contains("alice"), "{unnamed}");
    // The room would tell the sender.
    let anonymous = notification(&pushlark, &message(&format!("from='{ROOM}'"), &invite("", ""))).await;
    assert!(!anonymous.to_string().contains("books"), "{anonymous}");
}

#[tokio::test]
async fn the_history_of_a_room_neither_notifies_nor_counts() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    let group = |content: &str| {
        message(&format!("type='groupchat' from='{ROOM}/alice'"), &format!("<body>canary Hi</body>{content}"))
    };
    let delay = |by: &str| format!("<delay xmlns='urn:xmpp:delay' from='{by}' stamp='2020-01-01T00:00:00Z'/>");
    assert_silent(&pushlark, [group(&delay(ROOM)), group(&delay("example.com"))]).await;
    // The modules of chat servers send the present time with each event.
    for by in [ROOM, "example.com"] {
        pushlark.event(Event::stanza(BOB, &group(&delay(by))).from(&format!("{ROOM}/alice")).at(ago(0))).await;
    }
    pushlark.settled().await;
    assert!(pushlark.notifications("phone").await.is_empty());
    assert_eq!(notification(&pushlark, &group(&delay("mallory.example"))).await["alert"]["badge"], 1);
    assert_eq!(notification(&pushlark, &group("")).await["alert"]["badge"], 2);
}

#[tokio::test]
async fn an_unacknowledged_message_notifies_by_the_same_rules() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced")]).await;
    pushlark.enable(tests::BOBS_PHONE, "phone").await;
    let lost = |stanza: &str| Event::stanza(tests::BOBS_PHONE, stanza).with("type", "unacknowledged");
    let reaction = "<body>canary</body><reactions id='m1' xmlns='urn:xmpp:reactions:0'/>";
    pushlark.event(lost(&stanza::chat(reaction))).await;
    pushlark.event(lost("<message><body>canary Hi</body></message>")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["canary Hi"]);
    assert_eq!(pushlark.registrations(BOB).await[0].jid.as_str(), PUSH_HOST);
}
