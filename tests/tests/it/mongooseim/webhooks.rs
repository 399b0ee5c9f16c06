//! Webhooks (`push_http_SUITE`, `mod_event_pusher_http_SUITE`).

use serde_json::json;
use tests::Pushlark;

use super::{PM, RES1, Sent, defaults, enable, presence, pushed};

async fn form_event(pushlark: &Pushlark, event: &str) {
    let reply = pushlark.post("/events", "application/x-www-form-urlencoded", event.to_owned()).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    pushlark.settled().await;
}

#[tokio::test]
async fn simple_push() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=hej").await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=").await;
    let alert = Sent { body: "hej", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}

#[tokio::test]
async fn simple_message() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    presence(&pushlark, "alice@localhost/res1", "offline").await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=Hi%2C+Simple%21").await;
    let alert = Sent { body: "Hi, Simple!", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}

#[tokio::test]
async fn proper_http_message_encode_decode() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=Hi+Test%21%26escape%3DHello").await;
    let alert = Sent { body: "Hi Test!&escape=Hello", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}
