//! Fallback text: the parts of a body that stand for another element of the stanza (XEP-0428).

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use crate::element::Element;
use crate::ns;

/// The elements that are about an earlier message: nobody reads the text that stands for them.
const ABOUT_EARLIER: [&str; 11] = [
    ns::REPLY,
    ns::REACTIONS,
    ns::RETRACTION,
    ns::RETRACTION_0,
    ns::MODERATION,
    ns::MODERATION_0,
    ns::FASTENING,
    ns::CORRECTION,
    ns::CHAT_MARKERS,
    ns::RECEIPTS,
    ns::CHAT_STATES,
];

/// Returns whether a child of a stanza marks fallback text.
pub fn is_fallback(child: &Element) -> bool {
    [ns::FALLBACK, ns::FEATURE_FALLBACK].iter().any(|namespace| child.is("fallback", namespace))
}

/// Returns `text` without its fallback parts; `fallbacks` are the `<fallback/>` elements of the stanza.
///
/// If nothing else is left, the fallback of an element that is itself a message for people, such as a file or a poll,
/// is the text: it is written for clients that do not show this element.
pub fn without_fallback<'m>(text: Cow<'m, str>, fallbacks: &[&'m Element]) -> Cow<'m, str> {
    let length = text.chars().count();
    let cut_by = |is_cut: &dyn Fn(&Element) -> bool| {
        let fallbacks = fallbacks.iter().filter(|fallback| is_cut(fallback));
        without(&text, fallbacks.flat_map(|fallback| ranges(fallback, length)).collect())
    };
    match cut_by(&|_| true) {
        None => text,
        Some(rest) if is_blank(&rest) => cut_by(&is_about_earlier).map_or(text, Cow::Owned),
        Some(rest) => Cow::Owned(rest),
    }
}

/// Returns whether a text shows nothing: it has only white space and characters without a glyph.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

fn is_about_earlier(fallback: &Element) -> bool {
    fallback.attribute("for").is_some_and(|namespace| ABOUT_EARLIER.contains(&namespace))
}

/// White space, control characters, and those of Unicode's property `Default_Ignorable_Code_Point`; also the Braille
/// pattern without dots.
fn is_invisible(c: char) -> bool {
    !c.is_ascii_graphic()
        && (c.is_whitespace()
            || c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'))
}

/// Returns the ranges that a `<fallback/>` marks in a text of `length` code points (XEP-0426). An element without a
/// `<body/>` and a `<subject/>`, or a `<body/>` without numbers, marks the whole body. Ranges that do not fit the text
/// are left out.
fn ranges(fallback: &Element, length: usize) -> Vec<Range<usize>> {
    let mut children = fallback.children().filter(|child| child.namespace() == fallback.namespace()).peekable();
    if children.peek().is_none() {
        return iter::once(0..length).collect();
    }
    let position = |body: &Element, name, default| {
        body.attribute(name).map_or(Some(default), |number| number.trim().parse::<usize>().ok())
    };
    children
        .filter(|child| child.name() == "body")
        .filter_map(|body| Some(position(body, "start", 0)?..position(body, "end", length)?))
        .filter(|range| range.start <= range.end && range.end <= length)
        .collect()
}

/// Returns the text outside of the ranges, without white space around it; `None` if the ranges are empty.
fn without(text: &str, mut ranges: Vec<Range<usize>>) -> Option<String> {
    ranges.retain(|range| !range.is_empty());
    if ranges.is_empty() {
        return None;
    }
    // In one pass over the text: the sender chooses the number of ranges.
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut characters, mut position) = (text.chars(), 0);
    let mut rest = String::with_capacity(text.len());
    for Range { start, end } in ranges {
        rest.extend(characters.by_ref().take(start.saturating_sub(position)));
        position = position.max(start);
        characters.by_ref().take(end.saturating_sub(position)).for_each(drop);
        position = position.max(end);
    }
    rest.extend(characters);
    Some(rest.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn left(text: &str, fallbacks: &[&str]) -> String {
        let fallbacks: Vec<_> = fallbacks
            .iter()
            .map(|content| {
                let (namespace, bodies) = content.split_once(' ').unwrap_or((content, ""));
                let xml = format!("<fallback xmlns='urn:xmpp:fallback:0' for='{namespace}'>{bodies}</fallback>");
                Element::parse(&xml).unwrap()
            })
            .collect();
        without_fallback(text.into(), &fallbacks.iter().collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn ranges_count_code_points_and_exclude_their_end() {
        let reply = |start: usize, end: usize| format!("urn:xmpp:reply:0 <body start='{start}' end='{end}'/>");
        assert_eq!(left("> 👍🏽é\nyes", &[&reply(0, 6)]), "yes");
        assert_eq!(left("> a\n\n  yes", &[&reply(0, 4)]), "yes");
        assert_eq!(left("yes", &[&reply(1, 1)]), "yes");
        assert_eq!(left("> a\nb> c\nd", &["urn:xmpp:reply:0 <body end='4'/><body start='5' end='9'/>"]), "bd");
        assert_eq!(left("> a\nb> c\nd", &[&reply(0, 4), &reply(5, 9), &reply(2, 4)]), "bd");
        assert_eq!(left("yes> a", &["urn:xmpp:reply:0 <body start='3'/>"]), "yes");
    }

    #[test]
    fn many_ranges_in_a_long_text_are_cut_in_one_pass() {
        let text = "ab".repeat(50_000);
        let a_of = |index: usize| format!("<body start='{}' end='{}'/>", 2 * index, 2 * index + 1);
        let indexes: Vec<usize> = (0..50_000).rev().collect();
        let of_reply =
            |indexes: &[usize]| format!("urn:xmpp:reply:0 {}", indexes.iter().copied().map(a_of).collect::<String>());
        let fallbacks: Vec<_> = indexes.chunks(5_000).map(of_reply).collect();
        let fallbacks: Vec<_> = fallbacks.iter().map(String::as_str).collect();
        let started = Instant::now();
        assert_eq!(left(&text, &fallbacks), "b".repeat(50_000));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn ranges_that_do_not_fit_the_text_are_ignored() {
        for range in ["start='0' end='4'", "start='3' end='1'", "start='x' end='2'", "end='-1'", "start='99'"] {
            assert_eq!(left("yes", &[&format!("urn:xmpp:reply:0 <body {range}/>")]), "yes", "{range}");
        }
        let huge = "urn:xmpp:reply:0 <body start='0' end='99999999999999999999999'/>";
        assert_eq!(left("yes", &[huge]), "yes");
        assert_eq!(left("> a\nyes", &[huge, "urn:xmpp:reply:0 <body start='0' end='4'/>"]), "yes");
    }

    #[test]
    fn a_whole_text_is_fallback_only_of_an_element_about_an_earlier_message() {
        for whole in ["", " <body/>", " <body start='0'/>", " <subject/><body/>"] {
            assert_eq!(left("> a", &[&format!("urn:xmpp:reply:0{whole}")]), "", "{whole}");
            assert_eq!(left("https://example.com/a", &[&format!("urn:xmpp:sfs:0{whole}")]), "https://example.com/a");
        }
        // Nobody knows the element without `for`.
        let unnamed = Element::parse("<fallback xmlns='urn:xmpp:fallback:0'/>").unwrap();
        assert_eq!(without_fallback("A poll".into(), &[&unnamed]), "A poll");
        assert_eq!(left("yes", &["urn:xmpp:reply:0 <subject/>"]), "yes");
        let (quote, file) = ("urn:xmpp:reply:0 <body start='0' end='4'/>", "urn:xmpp:sfs:0 <body start='4'/>");
        assert_eq!(left("> a\nhttps://example.com/a", &[quote, file]), "https://example.com/a");
        assert_eq!(left("> a\nSee https://example.com", &[quote, "urn:xmpp:sfs:0 <body start='8'/>"]), "See");
    }

    #[test]
    fn white_space_and_characters_without_a_glyph_are_blank() {
        for blank in
            ["", " ", "\n\r\n\t", "\u{a0}\u{3000}\u{2028}", "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}", "\u{ad}"]
        {
            assert!(is_blank(blank), "{blank:?}");
        }
        for blank in ["\u{200e}\u{202b}\u{2067}", "\u{fe0f}", "\u{3164}\u{2800}", "\u{e0041}", "\u{85}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for visible in ["a", "\u{200b}.", "👩\u{200d}🚀", "é", "-"] {
            assert!(!is_blank(visible), "{visible:?}");
        }
    }
}
