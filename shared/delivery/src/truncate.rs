//! Payload limits. If a payload is too long, only the text of the message is truncated.

use pushlark_model::Payload;
use unicode_segmentation::UnicodeSegmentation;

use crate::encrypted::GatewayPayload;

const ELLIPSIS: &str = "…";
/// The largest notification, in bytes, for a push service that has refused a larger one: APNs, FCM and Web Push accept
/// this size.
const LEAST_LIMIT: usize = 4_096;
/// A text of at most this number of bytes is not the reason why a notification is too large.
const LEAST_TEXT: usize = 64;

/// A payload that cannot be sent. A retry does not help.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TruncateError {
    /// It exceeds the push service's limit, or that of its encryption, even without its text.
    #[error("the payload has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// The length of the payload, in bytes.
        bytes: usize,
        /// The largest length.
        limit: usize,
    },
    /// It cannot be encrypted for the device.
    #[error("the payload cannot be encrypted")]
    NotEncrypted,
}

/// Returns the request that `build` makes of `payload`, which is encrypted if it has to be. If it is longer than
/// `limit` bytes, the message's text is truncated. `build` must write each field at most once.
pub fn truncate(
    limit: usize,
    payload: GatewayPayload<'_>,
    build: impl Fn(&Payload) -> Vec<u8>,
) -> Result<Vec<u8>, TruncateError> {
    match payload {
        GatewayPayload::Readable(payload) => truncate_text(limit, payload, build),
        GatewayPayload::Encrypted(payload) => payload.within(limit, build),
    }
}

/// Returns the JSON that `build` makes of `payload`. If it is longer than `limit` bytes, the message's text is
/// truncated at a grapheme boundary. `build` must write the text exactly once.
pub fn truncate_text(
    limit: usize,
    payload: &Payload,
    build: impl Fn(&Payload) -> Vec<u8>,
) -> Result<Vec<u8>, TruncateError> {
    let built = build(payload);
    let Some(excess) = built.len().checked_sub(limit).filter(|excess| *excess > 0) else { return Ok(built) };
    let too_large = TruncateError::TooLarge { bytes: built.len(), limit };
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

/// Sends a notification of at most `limit` bytes, with its text truncated if necessary. If the push service refuses it
/// as too large, it is sent once more with a shorter text. Fails if it is too large even without its text.
pub async fn send_truncated<A, E, F: Future<Output = Result<A, E>>>(
    limit: usize,
    payload: GatewayPayload<'_>,
    build: impl Fn(&Payload) -> Vec<u8>,
    send: impl Fn(Vec<u8>) -> F,
    is_too_large: impl Fn(&A) -> bool,
) -> Result<Result<A, E>, TruncateError> {
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

/// Returns a shorter notification after the push service refused one of `sent` bytes as too large: truncated to half of
/// that, and to at most 4,096 bytes. `None` if the text is not the reason for the size.
fn shrink(sent: usize, payload: GatewayPayload<'_>, build: impl Fn(&Payload) -> Vec<u8>) -> Option<Vec<u8>> {
    let rest = match payload {
        GatewayPayload::Readable(payload) => {
            payload.get(Payload::LAST_MESSAGE_BODY)?;
            build(&payload.clone().with(Payload::LAST_MESSAGE_BODY, "")).len()
        }
        GatewayPayload::Encrypted(payload) => payload.length_without_text(&build)?,
    };
    let limit = (sent / 2).min(LEAST_LIMIT).max(rest + LEAST_TEXT);
    truncate(limit, payload, build).ok().filter(|built| built.len() < sent)
}

/// Returns the beginning of a text: whole visible characters (grapheme clusters) of at most `most` bytes.
pub fn beginning(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let ends = text.grapheme_indices(true).map(|(start, grapheme)| start + grapheme.len());
    &text[..ends.take_while(|end| *end <= most).last().unwrap_or(0)]
}

/// Returns the length of a text within a JSON string, in bytes.
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

    fn truncated(limit: usize, text: &str) -> Result<(usize, String), TruncateError> {
        let payload = Payload::default().with("from", "alice").with(Payload::LAST_MESSAGE_BODY, text);
        truncate_text(limit, &payload, build).map(|bytes| {
            let fields: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            (bytes.len(), fields[Payload::LAST_MESSAGE_BODY].as_str().unwrap().to_owned())
        })
    }

    #[test]
    fn a_text_that_fits_is_not_changed() {
        assert_eq!(truncated(50, "Hi").unwrap(), (41, "Hi".into()));
        assert_eq!(truncated(41, "Hi").unwrap(), (41, "Hi".into()));
    }

    #[test]
    fn a_longer_text_ends_after_a_grapheme_with_an_ellipsis() {
        assert_eq!(truncated(45, "Hi there, Bob").unwrap(), (45, "Hi …".into()).clone());
        // A family of four people is one grapheme of 25 bytes.
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
        assert_eq!(truncated(69, &format!("{family}{family}")).unwrap(), (67, format!("{family}…")));
        assert_eq!(truncated(66, &format!("{family}{family}")).unwrap().1, "…");
        // A letter and its accent.
        assert_eq!(truncated(44, "ne\u{301}e\u{301}e\u{301}").unwrap().1, "n…");
    }

    #[test]
    fn escaped_characters_count_with_their_escaped_length() {
        for text in ["\"".repeat(40), "\n\u{1}".repeat(40), "\\ü€".repeat(40), "\u{7f}\u{2028}".repeat(40)] {
            assert_eq!(json_length(&text), serde_json::to_string(&text).unwrap().len() - 2);
            let (bytes, shortened) = truncated(80, &text).unwrap();
            assert!((70..=80).contains(&bytes), "{bytes}");
            assert!(text.starts_with(shortened.strip_suffix('…').unwrap()));
        }
    }

    #[test]
    fn a_notification_that_is_too_large_is_halved_as_far_as_its_text_allows() {
        let shrunk = |sent, other: usize, text: usize| {
            let payload = Payload::default().with("other", "x".repeat(other));
            let payload = payload.with(Payload::LAST_MESSAGE_BODY, "x".repeat(text));
            shrink(sent, (&payload).into(), build).map(|bytes| bytes.len())
        };
        let rest = build(&Payload::default().with("other", "").with(Payload::LAST_MESSAGE_BODY, "")).len();
        assert_eq!(shrunk(4_096, 0, 100_000), Some(2_048));
        assert_eq!(shrunk(100_000 + rest, 0, 100_000), Some(LEAST_LIMIT));
        assert_eq!(shrunk(2_000 + rest, 1_500, 500), Some(rest + 1_500 + LEAST_TEXT));
        assert_eq!(shrunk(2_000 + rest, 2_000 - LEAST_TEXT, LEAST_TEXT), None, "the text is short");
        let without_text = Payload::default().with("other", "x".repeat(4_000));
        assert_eq!(shrink(4_096, (&without_text).into(), build), None, "no text");
    }

    #[test]
    fn a_beginning_has_whole_graphemes() {
        for (text, most, expected) in
            [("Team", 4, "Team"), ("Team", 3, "Tea"), ("aé", 2, "a"), ("a👩‍👩‍👧", 12, "a"), ("é", 1, ""), ("", 0, "")]
        {
            assert_eq!(beginning(text, most), expected, "{text:?} {most}");
        }
    }

    #[test]
    fn only_the_text_is_truncated() {
        assert_eq!(truncated(41, "Hey").unwrap_err(), TruncateError::TooLarge { bytes: 42, limit: 41 });
        assert_eq!(
            truncated(10, &"x".repeat(100)).unwrap_err().to_string(),
            "the payload has 139 bytes, 10 are allowed"
        );
    }
}
