//! JID escaping (XEP-0106).

use std::borrow::Cow;

/// The length of an escape in a localpart (XEP-0106): a backslash and two digits.
const ESCAPE_BYTES: usize = 3;

/// Undoes the escapes in the localpart of a JID, for display (XEP-0106, section 4.2). A space cannot be the first or last
/// character of a localpart, so its escape is left there.
pub fn unescaped(jid: &str) -> Cow<'_, str> {
    let bare = jid.split('/').next().unwrap_or_default();
    let Some((localpart, _)) = bare.split_once('@').filter(|(localpart, _)| localpart.contains('\\')) else {
        return Cow::Borrowed(jid);
    };
    let (mut shown, mut rest) = (String::with_capacity(jid.len()), localpart);
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        shown.push_str(before);
        let is_at_edge = shown.is_empty() || escape.len() == ESCAPE_BYTES;
        let character = escape.get(1..ESCAPE_BYTES).and_then(escaped).filter(|c| *c != ' ' || !is_at_edge);
        let length = if character.is_some() { ESCAPE_BYTES } else { 1 };
        shown.push(character.unwrap_or('\\'));
        rest = &escape[length..];
    }
    shown.push_str(rest);
    shown.push_str(&jid[localpart.len()..]);
    Cow::Owned(shown)
}

/// Returns the character that is escaped by a backslash and these two digits.
fn escaped(digits: &str) -> Option<char> {
    Some(match digits {
        "20" => ' ',
        "22" => '"',
        "26" => '&',
        "27" => '\'',
        "2f" => '/',
        "3a" => ':',
        "3c" => '<',
        "3e" => '>',
        "40" => '@',
        "5c" => '\\',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escapes_of_a_localpart_are_undone() {
        for (jid, shown) in [
            (r"o\27hara@example.com", "o'hara@example.com"),
            (r"space\20cadet@example.com", "space cadet@example.com"),
            (r"\22\26\27\2f\3a\3c\3e\40@example.com", r#""&'/:<>@@example.com"#),
            (r"c\3a\5c5commas@example.com", r"c:\5commas@example.com"),
            (r"a\5c20b@example.com", r"a\20b@example.com"),
            (r"a\b\2b\@example.com", r"a\b\2b\@example.com"),
            (r"\20a\20@example.com", r"\20a\20@example.com"),
            (r"a\é@example.com", r"a\é@example.com"),
            (r"o\27hara@muc.example.com/it\27s", r"o'hara@muc.example.com/it\27s"),
            (r"example.com/a\40b@c", r"example.com/a\40b@c"),
            ("alice@example.com", "alice@example.com"),
        ] {
            assert_eq!(unescaped(jid), shown);
        }
    }
}
