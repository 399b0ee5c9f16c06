//! Escapes characters in log lines that could forge lines or control a terminal.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::format::Format;

/// Escapes each character that would begin a line, control a terminal or change the order of the visible text. Each
/// write must be one whole line, as tracing-subscriber writes it.
#[derive(Debug)]
pub struct Escaping<W> {
    /// The format of the line, which determines the escape sequences.
    pub format: Format,
    /// The output, which receives the escaped lines.
    pub writer: W,
}

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for Escaping<M> {
    type Writer = Escaping<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Escaping { format: self.format, writer: self.writer.make_writer() }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.writer.write_all(escape(&String::from_utf8_lossy(line), self.format).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn escape(line: &str, format: Format) -> String {
    let text = line.strip_suffix('\n').unwrap_or(line);
    let mut escaped = String::with_capacity(line.len());
    for c in text.chars() {
        match format {
            _ if !is_unseen(c) => escaped.push(c),
            // It can only be within a string, because there is no white space between the values.
            Format::Json => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped += &format!("\\u{unit:04x}")),
            Format::Human => escaped.extend(c.escape_default()),
        }
    }
    escaped + &line[text.len()..]
}

/// Returns whether a character is a control character, or a format character of Unicode without a glyph.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, pipe};
    use std::sync::Arc;

    use serde_json::Value;
    use tracing::dispatcher::with_default;

    use super::*;
    use crate::dispatch;
    use crate::levels::Levels;

    /// The lines of two events. The first one has `text` in a field of each kind, in a span and in the message.
    fn written(format: Format, text: &str) -> String {
        let (mut lines, writer) = pipe().unwrap();
        with_default(&dispatch(format, Levels::default(), Arc::new(writer)), || {
            tracing::info_span!("message", sender = %text).in_scope(|| {
                tracing::info!(shown = %text, debugged = ?text, given = text, "it says {text}");
            });
            tracing::info!("next");
        });
        let mut written = String::new();
        lines.read_to_string(&mut written).unwrap();
        written
    }

    /// All characters that must be escaped.
    fn unseen() -> String {
        let ranges = [0..=0x1f, 0x7f..=0x9f, 0x61c..=0x61c, 0x200b..=0x200f, 0x2028..=0x202e, 0x2060..=0x206f];
        let more = [0xfeff..=0xfeff, 0xe0000..=0xe007f];
        ranges.into_iter().chain(more).flatten().filter_map(char::from_u32).collect()
    }

    #[test]
    fn a_line_stays_one_line_in_its_visible_order() {
        let unseen = unseen();
        for text in ["Eve\n2026-01-01T00:00:00Z  INFO disabled", "\u{202e}evil\u{2066}\r\u{1b}[2K\u{85}", &unseen] {
            for format in [Format::Json, Format::Human] {
                let written = written(format, text);
                assert_eq!(written.lines().count(), 2, "{written}");
                let raw: Vec<_> = written.chars().filter(|c| *c != '\n' && unseen.contains(*c)).collect();
                assert!(raw.is_empty(), "{raw:?} in {written}");
            }
        }
        assert!(written(Format::Human, "a\u{202e}b").contains("it says a\\u{202e}b"));
        assert!(written(Format::Human, "a\nb").contains("it says a\\nb"));
    }

    #[test]
    fn json_decodes_to_the_same_text() {
        for text in ["Zażółć 😀 مرحبا 👩‍👧 \"q\" \\u202e \\", "\\\u{202e}\u{e0041}\n", &unseen()] {
            let written = written(Format::Json, text);
            let line: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
            assert_eq!((&line["shown"], &line["given"], &line["sender"]), (&text.into(), &text.into(), &text.into()));
            assert_eq!(line["debugged"], format!("{text:?}"));
            assert_eq!(line["message"], format!("it says {text}"));
        }
    }

    #[test]
    fn visible_characters_are_not_escaped() {
        let text = "Zażółć 😀 مرحبا שלום 你好 e\u{301} <>&'";
        for format in [Format::Json, Format::Human] {
            let written = written(format, text);
            assert!(written.contains(&format!("it says {text}")), "{written}");
        }
    }
}
