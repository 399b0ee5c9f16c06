//! Reads Erlang terms as text, as `mnesia:dump_to_textfile` and `io:format("~p.~n")` write them.

use std::io::{self, BufRead};

use super::cursor::Cursor;
use super::record::{MAX_DEPTH, MAX_ROW_BYTES};

/// A term. Terms of other kinds, such as pids, are not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    Atom(String),
    Integer(i64),
    /// A binary, which need not be UTF-8.
    Binary(Vec<u8>),
    List(Vec<Term>),
    Tuple(Vec<Term>),
    Map(Vec<(Term, Term)>),
}

impl Term {
    /// Returns the fields of a record with this name.
    pub fn record(&self, name: &str) -> Option<&[Term]> {
        match self {
            Self::Tuple(fields) => match fields.split_first() {
                Some((Self::Atom(first), rest)) if first == name => Some(rest),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Binary(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Reads the next record of this name; `None` at the end. Other terms are skipped without reading them. A record that is
/// too long or not understood is an inner error.
pub fn next(input: &mut impl BufRead, record: &str) -> io::Result<Option<Result<Term, String>>> {
    let begin = format!("{{{record},");
    loop {
        match next_text(input)? {
            None => return Ok(None),
            Some(term) if !term.text.trim_ascii_start().starts_with(begin.as_bytes()) => {}
            Some(Text { cut: Some(error), .. }) => return Ok(Some(Err(error))),
            Some(Text { text, cut: None }) => return Ok(Some(parse(&text))),
        }
    }
}

/// A term as text.
struct Text {
    text: Vec<u8>,
    /// The reason why it is not the whole term.
    cut: Option<String>,
}

/// Reads the next term up to its period; `None` at the end.
fn next_text(input: &mut impl BufRead) -> io::Result<Option<Text>> {
    let mut term = Vec::new();
    let mut is_too_long = false;
    let (mut quote, mut is_escaped, mut is_comment, mut last) = (None, false, false, b'\n');
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            let is_blank = term.iter().all(u8::is_ascii_whitespace);
            return Ok((!is_blank).then(|| Text { text: term, cut: Some("the text ends within a term".into()) }));
        }
        let mut used = 0;
        let mut is_complete = false;
        for &byte in buffer {
            used += 1;
            let before = std::mem::replace(&mut last, byte);
            if is_comment {
                is_comment = byte != b'\n';
                continue;
            }
            match quote {
                Some(_) if is_escaped => is_escaped = false,
                Some(_) if byte == b'\\' => is_escaped = true,
                Some(open) if byte == open => quote = None,
                Some(_) => {}
                None if before == b'$' => {}
                None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                None if byte == b'%' => {
                    is_comment = true;
                    continue;
                }
                None if byte.is_ascii_whitespace() && before == b'.' => {
                    is_complete = true;
                    break;
                }
                None => {}
            }
            if term.len() < MAX_ROW_BYTES {
                term.push(byte);
            } else {
                is_too_long = true;
            }
        }
        input.consume(used);
        if is_complete {
            let cut = is_too_long.then(|| format!("the term is longer than {MAX_ROW_BYTES} bytes"));
            if !is_too_long {
                term.pop();
            }
            return Ok(Some(Text { text: term, cut }));
        }
    }
}

/// Reads one term without its period. The error says what is not understood, and at which byte; it quotes nothing.
fn parse(text: &[u8]) -> Result<Term, String> {
    let mut reader = Reader { text: Cursor::new(text) };
    let read = reader.value(0).and_then(|term| {
        reader.space();
        if reader.text.rest().is_empty() { Ok(term) } else { Err("expected the end of the term") }
    });
    read.map_err(|error| format!("{error} at byte {} of the term", reader.text.at))
}

struct Reader<'t> {
    text: Cursor<'t>,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Term, &'static str> {
        self.space();
        if depth > MAX_DEPTH {
            return Err("the term is nested too deeply");
        }
        match self.text.peek() {
            Some(b'{') => self.sequence(b'}', depth).map(Term::Tuple),
            Some(b'[') => self.sequence(b']', depth).map(Term::List),
            Some(b'<') => self.binary().map(Term::Binary),
            Some(b'#') => self.map(depth),
            Some(b'"') => Ok(Term::List(self.quoted()?.into_iter().map(|byte| Term::Integer(byte.into())).collect())),
            Some(b'\'') => {
                let name = self.quoted()?;
                String::from_utf8(name).map(Term::Atom).map_err(|_| "an atom is not UTF-8")
            }
            Some(b'-' | b'0'..=b'9') => self.integer().map(Term::Integer),
            Some(b'a'..=b'z') => {
                let name = self.text.take(|byte| byte.is_ascii_alphanumeric() || b"_@".contains(&byte));
                Ok(Term::Atom(String::from_utf8_lossy(name).into_owned()))
            }
            Some(_) => Err("a term of this kind is not understood"),
            None => Err("the term ends too early"),
        }
    }

    fn sequence(&mut self, end: u8, depth: usize) -> Result<Vec<Term>, &'static str> {
        self.text.at += 1;
        let mut terms = Vec::new();
        if self.accept(end) {
            return Ok(terms);
        }
        loop {
            terms.push(self.value(depth + 1)?);
            if self.accept(end) {
                return Ok(terms);
            }
            self.expect(b',')?;
        }
    }

    fn map(&mut self, depth: usize) -> Result<Term, &'static str> {
        self.text.at += 1;
        self.expect(b'{')?;
        let mut pairs = Vec::new();
        if self.accept(b'}') {
            return Ok(Term::Map(pairs));
        }
        loop {
            let key = self.value(depth + 1)?;
            self.expect(b'=')?;
            self.expect(b'>')?;
            pairs.push((key, self.value(depth + 1)?));
            if self.accept(b'}') {
                return Ok(Term::Map(pairs));
            }
            self.expect(b',')?;
        }
    }

    /// Reads `<<"text">>`, `<<"text"/utf8>>` or `<<1,2,3>>`.
    fn binary(&mut self) -> Result<Vec<u8>, &'static str> {
        self.expect(b'<')?;
        self.expect(b'<')?;
        let mut bytes = Vec::new();
        if self.accept(b'>') {
            self.expect(b'>')?;
            return Ok(bytes);
        }
        loop {
            self.space();
            if self.text.peek() == Some(b'"') {
                let text = self.quoted()?;
                if self.accept(b'/') {
                    if !self.text.rest().starts_with(b"utf8") {
                        return Err("the type of a binary is not understood");
                    }
                    self.text.at += 4;
                    // A file in Latin-1 has one byte for each of these characters.
                    match str::from_utf8(&text) {
                        Ok(_) => bytes.extend(text),
                        Err(_) => bytes.extend(text.into_iter().map(char::from).collect::<String>().into_bytes()),
                    }
                } else {
                    bytes.extend(text);
                }
            } else {
                bytes.push(self.integer()?.try_into().map_err(|_| "a binary has a number that is not a byte")?);
            }
            if self.accept(b'>') {
                self.expect(b'>')?;
                return Ok(bytes);
            }
            self.expect(b',')?;
        }
    }

    fn quoted(&mut self) -> Result<Vec<u8>, &'static str> {
        let quote = self.next()?;
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                byte if byte == quote => return Ok(bytes),
                b'\\' => self.escape(&mut bytes)?,
                byte => bytes.push(byte),
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), &'static str> {
        const UNKNOWN: &str = "an escape is not understood";
        match self.next()? {
            b'b' => bytes.push(8),
            b'd' => bytes.push(127),
            b'e' => bytes.push(27),
            b'f' => bytes.push(12),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b's' => bytes.push(b' '),
            b't' => bytes.push(b'\t'),
            b'v' => bytes.push(11),
            b'x' => {
                let rest = self.text.rest();
                if self.next()? != b'{' {
                    self.text.at += 1;
                    let digits = rest.get(..2).and_then(|digits| str::from_utf8(digits).ok());
                    bytes.push(u8::from_str_radix(digits.ok_or(UNKNOWN)?, 16).map_err(|_| UNKNOWN)?);
                    return Ok(());
                }
                let digits = self.text.take(|byte| byte != b'}');
                self.next()?;
                let digits = str::from_utf8(digits).map_err(|_| UNKNOWN)?;
                let code = u32::from_str_radix(digits, 16).map_err(|_| UNKNOWN)?;
                let character = char::from_u32(code).ok_or(UNKNOWN)?;
                bytes.extend(character.to_string().into_bytes());
            }
            first @ b'0'..=b'7' => bytes.push(self.text.code(first, 8).ok_or(UNKNOWN)?),
            byte => bytes.push(byte),
        }
        Ok(())
    }

    fn integer(&mut self) -> Result<i64, &'static str> {
        self.space();
        let digits = self.text.take(|byte| byte.is_ascii_digit() || byte == b'-');
        str::from_utf8(digits).unwrap_or_default().parse().map_err(|_| "a number is not understood")
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        match self.accept(byte) {
            true => Ok(()),
            false => Err(if self.text.rest().is_empty() { "the term ends too early" } else { "the term is malformed" }),
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.space();
        self.text.accept(byte)
    }

    fn space(&mut self) {
        self.text.take(|byte| byte.is_ascii_whitespace());
    }

    fn next(&mut self) -> Result<u8, &'static str> {
        self.text.next().ok_or("the term ends too early")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(mut text: &[u8]) -> Vec<Result<Term, String>> {
        std::iter::from_fn(|| next(&mut text, "r").unwrap()).collect()
    }

    fn field(text: impl AsRef<[u8]>) -> Result<Term, String> {
        match all(&[b"{r,", text.as_ref(), b"}.\n"].concat()).pop().unwrap()? {
            Term::Tuple(fields) => Ok(fields[1].clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_records_of_a_table_are_read_one_by_one() {
        let text = "{tables,[]}.\n% a comment, with \" and .\n{other,<0.1.0>}.\n{r,{<<\"b. ob\">>,<<98,195,188>>},-1,\n  \
                    'A.b',#{<<\"k\">> => <<\"ü\"/utf8>>},<<>>,\"ab\"}.\n";
        let binary = |text: &str| Term::Binary(text.into());
        let fields = vec![
            Term::Atom("r".into()),
            Term::Tuple(vec![binary("b. ob"), binary("bü")]),
            Term::Integer(-1),
            Term::Atom("A.b".into()),
            Term::Map(vec![(binary("k"), binary("ü"))]),
            binary(""),
            Term::List(vec![Term::Integer(97), Term::Integer(98)]),
        ];
        assert_eq!(all(text.as_bytes()), [Ok(Term::Tuple(fields))]);
        assert_eq!(field(b"<<\"\xfc\"/utf8>>"), Ok(binary("ü")), "a file in Latin-1");
        assert_eq!(field(b"<<\"b\\303\\274\\x{fc}\">>"), Ok(binary("büü")));
    }

    #[test]
    fn a_wrong_record_does_not_stop_the_next_ones() {
        let deep = format!("{{r,{}}}.\n", "{".repeat(100_000));
        let long = format!("{{r,<<\"{}\">>}}.\n", "x".repeat(MAX_ROW_BYTES));
        for (term, error) in [
            ("{r,a.\n", "the term ends too early at byte 4 of the term"),
            ("{r,<0.1.0>}.\n", "the term is malformed at byte 4 of the term"),
            ("{r,<<300>>}.\n", "a binary has a number that is not a byte at byte 8 of the term"),
            ("{r,a} b.\n", "expected the end of the term at byte 6 of the term"),
            ("{r,Variable}.\n", "a term of this kind is not understood at byte 3 of the term"),
            (&deep, "the term is nested too deeply at byte 35 of the term"),
            (&long, "the term is longer than 1048576 bytes"),
        ] {
            let read = all([term, "{r,1}.\n"].concat().as_bytes());
            let next = Term::Tuple(vec![Term::Atom("r".into()), Term::Integer(1)]);
            assert_eq!(read, [Err(error.to_owned()), Ok(next)]);
        }
        for cut in ["{r,\n", "{r,<<\"a.\n"] {
            assert_eq!(all(cut.as_bytes()), [Err("the text ends within a term".to_owned())]);
        }
    }
}
