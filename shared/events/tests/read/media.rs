//! Media types that are not supported.

use pushlark_http::Media;

use crate::problem;

#[test]
fn the_refusal_of_another_media_type_lists_the_supported_ones() {
    for media in ["", "text/plain", "application/octet-stream", "multipart/form-data"] {
        let problem = problem(Media::Unknown(media.into()), r#"{"type": "user_removed", "jid": "bob@example.com"}"#);
        assert_eq!(problem["status"], 415);
        let detail = problem["detail"].as_str().unwrap();
        for named in
            [media, "application/json", "application/x-ndjson", "application/xml", "application/x-www-form-urlencoded"]
        {
            assert!(detail.contains(named), "{detail}");
        }
    }
}
