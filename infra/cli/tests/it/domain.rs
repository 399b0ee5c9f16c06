//! `domain remove`: the registrations of one domain are deleted.

use serde_json::json;
use tests::{BOB, Pushlark};

use crate::run;

#[tokio::test]
async fn the_registrations_of_a_domain_are_counted_and_deleted() {
    let pushlark = Pushlark::start().await;
    for user in (0..5).map(|number| format!("u{number}@example.com")) {
        pushlark.enable(&user, &format!("{user}-phone")).await;
    }
    pushlark.enable("bob@chat.example.com", "other").await;
    let printed = run(&pushlark, &["domain", "remove", "example.com", "--dry-run"]).await.printed();
    assert_eq!(printed, "example.com has 5 registrations and push nodes. Nothing is deleted.\n");
    let error = run(&pushlark, &["domain", "remove", "example.com"]).await.error();
    assert!(
        error.contains("5 registrations and push nodes of example.com will be deleted") && error.contains("--yes"),
        "{error}"
    );
    assert_eq!(pushlark.nodes("u0@example.com").await.len(), 1);
    let removed = run(&pushlark, &["domain", "remove", "example.com", "--yes", "--json"]).await.json();
    assert_eq!(removed, json!({"domain": "example.com", "found": 5, "deleted": 5}));
    for user in (0..5).map(|number| format!("u{number}@example.com")) {
        assert!(pushlark.nodes(&user).await.is_empty());
    }
    assert_eq!(pushlark.nodes("bob@chat.example.com").await, ["other"]);
    let again = run(&pushlark, &["domain", "remove", "example.com", "--yes"]).await.printed();
    assert_eq!(again, "example.com: 0 registrations and push nodes deleted.\n");
    for wrong in [BOB, "*.example.com", "example.com/x", ".example.com"] {
        let ran = run(&pushlark, &["domain", "remove", wrong, "--yes"]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains("expected a domain"), "{ran:?}");
    }
}
