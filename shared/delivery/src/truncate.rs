//! Payload limits: the text of a message that is too long is truncated, and nothing else.

use pushlark_model::Payload;
use unicode_segmentation::UnicodeSegmentation;

const ELLIPSIS: &str = "…";
/// The most that is sent to a push service which takes less than it was expected to, in bytes: APNs, FCM and the servers of
/// Web Push take so much.
const LEAST_LIMIT: usize = 4_096;
/// A text of so many bytes is not what makes a notification too large.
const LEAST_TEXT: usize = 64;

/// A payload that is over the push service's limit even without its text; ours to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload has {bytes} bytes, {limit} are allowed")]
pub struct TooLarge {
    bytes: usize,
    limit: usize,
}

/// What `build` makes of `payload` as JSON, with the message's text shortened at a grapheme boundary until all of it is
/// at most `limit` bytes. `build` must write the text once.
pub fn truncate(limit: usize, payload: &Payload, build: impl Fn(&Payload) -> Vec<u8>) -> Result<Vec<u8>, TooLarge> {
    let built = build(payload);
    let Some(excess) = built.len().checked_sub(limit).filter(|excess| *excess > 0) else { return Ok(built) };
    let too_large = TooLarge { bytes: built.len(), limit };
    let text = payload.get(Payload::LAST_MESSAGE_BODY).unwrap_or_default();
    let Some(allowed) = json_length(text).checked_sub(excess + ELLIPSIS.len()) else { return Err(too_large) };
    let mut shortened = String::new();
    let mut length = 0;
    for grapheme in text.graphemes(true) {
        length += json_length(grapheme);
        if length > allowed {
            break;
        }
        shortened.push_str(grapheme);
    }
    shortened.push_str(ELLIPSIS);
    Ok(build(&payload.clone().with(Payload::LAST_MESSAGE_BODY, shortened)))
}

/// Sends a notification with its text truncated to `limit` bytes; if the push service finds that too large, once more with
/// a shorter text. Fails if the notification is too large even without its text.
pub async fn send_truncated<A, E, F: Future<Output = Result<A, E>>>(
    limit: usize,
    payload: &Payload,
    build: impl Fn(&Payload) -> Vec<u8>,
    send: impl Fn(Vec<u8>) -> F,
    is_too_large: impl Fn(&A) -> bool,
) -> Result<Result<A, E>, TooLarge> {
    let built = truncate(limit, payload, &build)?;
    let length = built.len();
    let answer = send(built).await;
    if answer.as_ref().is_ok_and(is_too_large)
        && let Some(shorter) = shrink(length, payload, &build)
    {
        return Ok(send(shorter).await);
    }
    Ok(answer)
}

/// What is sent once more when the push service finds `sent` bytes too large: as [`truncate`] makes it for half of them, and for
/// 4,096 at most. `None` when the text is not what makes them so many.
fn shrink(sent: usize, payload: &Payload, build: impl Fn(&Payload) -> Vec<u8>) -> Option<Vec<u8>> {
    payload.get(Payload::LAST_MESSAGE_BODY)?;
    let rest = build(&payload.clone().with(Payload::LAST_MESSAGE_BODY, "")).len();
    let limit = (sent / 2).min(LEAST_LIMIT).max(rest + LEAST_TEXT);
    truncate(limit, payload, build).ok().filter(|built| built.len() < sent)
}

/// How many bytes a text takes within a JSON string.
fn json_length(text: &str) -> usize {
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    };
    text.chars().map(escaped).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn build(payload: &Payload) -> Vec<u8> {
        let fields: serde_json::Map<_, _> = payload.fields().map(|(name, value)| (name.into(), value.into())).collect();
        serde_json::to_vec(&fields).unwrap()
    }

    fn fitted(limit: usize, text: &str) -> Result<(usize, String), TooLarge> {
        let payload = Payload::default().with("from", "alice").with(Payload::LAST_MESSAGE_BODY, text);
        truncate(limit, &payload, build).map(|bytes| {
            let fields: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            (bytes.len(), fields[Payload::LAST_MESSAGE_BODY].as_str().unwrap().to_owned())
        })
    }

    #[test]
    fn a_text_that_fits_stays() {
        assert_eq!(fitted(50, "Hi").unwrap(), (41, "Hi".into()));
        assert_eq!(fitted(41, "Hi").unwrap(), (41, "Hi".into()));
    }

    #[test]
    fn a_longer_one_ends_at_a_grapheme_in_an_ellipsis() {
        assert_eq!(fitted(45, "Hi there, Bob").unwrap(), (45, "Hi …".into()).clone());
        // A family of four people is one grapheme of 25 bytes.
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
        assert_eq!(fitted(69, &format!("{family}{family}")).unwrap(), (67, format!("{family}…")));
        assert_eq!(fitted(66, &format!("{family}{family}")).unwrap().1, "…");
        // A letter and its accent.
        assert_eq!(fitted(44, "ne\u{301}e\u{301}e\u{301}").unwrap().1, "n…");
    }

    #[test]
    fn what_json_escapes_counts_as_it_is_written() {
        for text in ["\"".repeat(40), "\n\u{1}".repeat(40), "\\ü€".repeat(40), "\u{7f}\u{2028}".repeat(40)] {
            assert_eq!(json_length(&text), serde_json::to_string(&text).unwrap().len() - 2);
            let (bytes, shortened) = fitted(80, &text).unwrap();
            assert!((70..=80).contains(&bytes), "{bytes}");
            assert!(text.starts_with(shortened.strip_suffix('…').unwrap()));
        }
    }

    #[test]
    fn a_notification_that_is_refused_as_too_large_is_halved_as_far_as_its_text_allows() {
        let shrunk = |sent, other: usize, text: usize| {
            let payload = Payload::default().with("other", "x".repeat(other));
            let payload = payload.with(Payload::LAST_MESSAGE_BODY, "x".repeat(text));
            shrink(sent, &payload, build).map(|bytes| bytes.len())
        };
        let rest = build(&Payload::default().with("other", "").with(Payload::LAST_MESSAGE_BODY, "")).len();
        assert_eq!(shrunk(4_096, 0, 100_000), Some(2_048));
        assert_eq!(shrunk(100_000 + rest, 0, 100_000), Some(LEAST_LIMIT));
        assert_eq!(shrunk(2_000 + rest, 1_500, 500), Some(rest + 1_500 + LEAST_TEXT));
        assert_eq!(shrunk(2_000 + rest, 2_000 - LEAST_TEXT, LEAST_TEXT), None, "the text is short");
        assert_eq!(shrink(4_096, &Payload::default().with("other", "x".repeat(4_000)), build), None, "no text");
    }

    #[test]
    fn nothing_but_the_text_is_shortened() {
        assert_eq!(fitted(41, "Hey").unwrap_err(), TooLarge { bytes: 42, limit: 41 });
        assert_eq!(fitted(10, &"x".repeat(100)).unwrap_err().to_string(), "the payload has 139 bytes, 10 are allowed");
    }
}
