//! Methods, media types and sizes, which are the same for each HTTP function.

use axum::http::Method;
use reqwest::header::HeaderValue;
use tests::{BOB, Event, Pushlark, send};

const PATHS: [&str; 3] = ["/enable", "/disable", "/events"];

#[tokio::test]
async fn other_methods_are_refused() {
    let pushlark = Pushlark::start().await;
    for (path, allowed) in [
        ("/enable", "GET, POST, OPTIONS"),
        ("/disable", "POST, OPTIONS"),
        ("/events", "POST, OPTIONS"),
        ("/pubsub", "POST, OPTIONS"),
    ] {
        let url = format!("{}{path}", pushlark.stack.url);
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD] {
            if allowed.contains(method.as_str()) {
                continue;
            }
            let is_head = method == Method::HEAD;
            let reply = send(pushlark.http.request(method, &url)).await;
            assert!(is_head || reply.problem(405).contains("POST"));
            assert_eq!((reply.status, &reply.headers["allow"]), (405, &allowed.parse().unwrap()));
        }
        let reply = send(pushlark.http.request(Method::OPTIONS, &url)).await;
        assert_eq!((reply.status, &reply.headers["allow"]), (200, &allowed.parse().unwrap()));
        assert_eq!(reply.headers["accept"], "application/xmpp+xml, application/json");
    }
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let pushlark = Pushlark::start().await;
    for path in PATHS {
        for media in ["", "text/plain", "application/octet-stream", "multipart/form-data"] {
            let detail = pushlark.post(path, media, "{}").await.problem(415);
            assert!(detail.contains(media) && detail.contains("application/json"), "{detail}");
        }
    }
    pushlark.post("/enable", "application/x-ndjson", "{}").await.problem(415);
    pushlark.post("/enable", "application/x-www-form-urlencoded", "a=b").await.problem(415);
}

#[tokio::test]
async fn a_media_type_may_have_any_case_and_parameters() {
    let pushlark = Pushlark::start().await;
    let event = Event::user_removed(BOB).to_string();
    assert_eq!(pushlark.post("/events", "Application/JSON; charset=UTF-8", event).await.status, 202);
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused() {
    let pushlark = Pushlark::start().await;
    for path in PATHS {
        let large = "x".repeat(1024 * 1024 + 1);
        assert!(pushlark.post(path, "application/json", large).await.problem(413).contains("1048577"));
    }
    let event = Event::user_removed(BOB).to_string();
    let fits = event.clone() + &" ".repeat(1024 * 1024 - event.len());
    assert_eq!(pushlark.post("/events", "application/json", fits).await.status, 202);
}

#[tokio::test]
async fn bytes_that_are_not_utf8_are_refused() {
    let pushlark = Pushlark::start().await;
    let json = b"{\"user\": \"b\xffb@example.com\"}".to_vec();
    let xml = b"<message from='a@b/c' to='d@e'>\xff</message>".to_vec();
    let form = "author=alice&server=example.com&receiver=bob&message=%FF";
    pushlark.post("/enable", "application/json", json.clone()).await.problem(400);
    pushlark.post("/events", "application/json", json.clone()).await.problem(400);
    pushlark.post("/events", "application/x-ndjson", json).await.problem(400);
    pushlark.post("/events", "application/xml", xml).await.problem(400);
    let detail = pushlark.post("/events", "application/x-www-form-urlencoded", form).await.problem(400);
    assert!(detail.contains("message"), "{detail}");
}

#[tokio::test]
async fn a_header_may_have_any_characters() {
    let pushlark = Pushlark::start().await;
    let event = Event::user_removed(BOB).to_string();
    for (id, status) in [("w\u{e9}1".as_bytes(), 202), (b"w\xe91", 202), (b"w\t1", 400)] {
        let id = HeaderValue::from_bytes(id).unwrap();
        let request = pushlark.request("/events", "application/json", event.clone()).header("webhook-id", id);
        assert_eq!(send(request).await.status, status);
    }
}
