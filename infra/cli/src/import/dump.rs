//! Reads the rows of a table in an SQL dump: `COPY` blocks of pg_dump, and `INSERT` statements of pg_dump, mysqldump and
//! others.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::record::MAX_ROW_BYTES;

/// The values of a row by the names of the columns, in lower case; `None` for NULL.
pub type Columns = BTreeMap<String, Option<String>>;

/// The most columns of a table.
const MAX_COLUMNS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word without quotes, such as a keyword, a number or a name; in lower case.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A text; an error if it is too long or not UTF-8.
    Text(Result<String, &'static str>),
    Symbol(u8),
    End,
}

/// A reader of the rows of one table.
pub struct Dump<R> {
    input: R,
    table: &'static str,
    /// The names of the columns in the order of `CREATE TABLE`, or the usual ones.
    order: Vec<String>,
    /// Whether a backslash is an escape in a text, as in MySQL.
    has_escapes: bool,
    state: State,
    pushed_back: Option<Token>,
    has_table: bool,
}

enum State {
    /// Between statements.
    Statements,
    /// Within the rows of an `INSERT` with these columns.
    Values(Vec<String>),
    /// Within a block of `COPY` with these columns.
    Copy(Vec<String>),
}

impl<R: BufRead> Dump<R> {
    /// `usual` is the names of the columns of a table whose `CREATE TABLE` is not in the dump, by their number.
    pub fn new(input: R, table: &'static str) -> Self {
        Self {
            input,
            table,
            order: Vec::new(),
            has_escapes: false,
            state: State::Statements,
            pushed_back: None,
            has_table: false,
        }
    }

    /// Returns whether a statement about the table was read.
    pub fn has_table(&self) -> bool {
        self.has_table
    }

    /// Reads the next row; `None` at the end. The inner error is about this row alone.
    pub fn next(&mut self, usual: impl Fn(usize) -> Vec<String>) -> io::Result<Option<Result<Columns, String>>> {
        loop {
            match &self.state {
                State::Statements => {
                    if !self.statement()? {
                        return Ok(None);
                    }
                }
                State::Values(columns) => {
                    let columns = columns.clone();
                    match self.values()? {
                        Some(values) => return Ok(Some(values.and_then(|values| self.named(columns, values, &usual)))),
                        None => self.state = State::Statements,
                    }
                }
                State::Copy(columns) => {
                    let columns = columns.clone();
                    match self.copied()? {
                        Some(values) => return Ok(Some(values.and_then(|values| self.named(columns, values, &usual)))),
                        None => self.state = State::Statements,
                    }
                }
            }
        }
    }

    fn named(
        &self,
        mut columns: Vec<String>,
        values: Vec<Option<String>>,
        usual: impl Fn(usize) -> Vec<String>,
    ) -> Result<Columns, String> {
        if columns.is_empty() {
            columns = if self.order.is_empty() { usual(values.len()) } else { self.order.clone() };
        }
        match columns.len() == values.len() {
            true => Ok(columns.into_iter().zip(values).collect()),
            false => Err(format!("the row has {} values for {} columns", values.len(), columns.len())),
        }
    }

    /// Reads one statement, up to the rows of one about the table. Returns false at the end.
    fn statement(&mut self) -> io::Result<bool> {
        let keyword = match self.token()? {
            Token::End => return Ok(false),
            Token::Word(word) => word,
            Token::Symbol(b';') => return Ok(true),
            _ => return self.skip(),
        };
        match keyword.as_str() {
            "insert" | "replace" => {
                while let Token::Word(word) = self.token()? {
                    if word == "into" {
                        break;
                    }
                }
                if !self.is_table()? {
                    return self.skip();
                }
                let columns = self.names()?;
                if self.token()? != Token::Word("values".into()) {
                    return self.skip();
                }
                self.state = State::Values(columns);
            }
            "copy" => {
                if !self.is_table()? {
                    return self.skip_copy();
                }
                let columns = self.names()?;
                if self.end_of_copy()? {
                    self.state = State::Copy(columns);
                }
            }
            "create" => {
                if self.token()? != Token::Word("table".into()) {
                    return self.skip();
                }
                let mut next = self.token()?;
                while matches!(&next, Token::Word(word) if ["if", "not", "exists"].contains(&word.as_str())) {
                    next = self.token()?;
                }
                self.pushed_back = Some(next);
                if self.is_table()? {
                    self.order = self.definitions()?;
                }
                return self.skip();
            }
            _ => return self.skip(),
        }
        Ok(true)
    }

    /// Reads the name of a table, with its schema. Returns whether it is the table.
    fn is_table(&mut self) -> io::Result<bool> {
        let mut name = self.token()?;
        loop {
            match self.token()? {
                Token::Symbol(b'.') => name = self.token()?,
                other => {
                    self.pushed_back = Some(other);
                    break;
                }
            }
        }
        // A word may contain the schema.
        let is_table = match name {
            Token::Name(name) | Token::Word(name) => name.rsplit('.').next() == Some(self.table),
            _ => false,
        };
        self.has_table |= is_table;
        Ok(is_table)
    }

    /// Reads the names in parentheses, if they follow.
    fn names(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        match self.token()? {
            Token::Symbol(b'(') => {}
            other => {
                self.pushed_back = Some(other);
                return Ok(names);
            }
        }
        loop {
            match self.token()? {
                Token::Word(name) | Token::Name(name) if names.len() < MAX_COLUMNS => names.push(name.to_lowercase()),
                Token::Symbol(b',') => {}
                _ => return Ok(names),
            }
        }
    }

    /// Reads the definitions of a table's columns, and returns their names.
    fn definitions(&mut self) -> io::Result<Vec<String>> {
        const OTHERS: [&str; 8] = ["primary", "key", "unique", "constraint", "index", "foreign", "check", "fulltext"];
        let (mut names, mut depth, mut is_first) = (Vec::new(), 0, false);
        loop {
            match self.token()? {
                Token::Symbol(b'(') => {
                    depth += 1;
                    is_first = depth == 1;
                    continue;
                }
                Token::Symbol(b')') => depth -= 1,
                Token::Symbol(b',') if depth == 1 => {
                    is_first = true;
                    continue;
                }
                Token::Word(name) if is_first && OTHERS.contains(&name.as_str()) => {}
                Token::Word(name) | Token::Name(name) if is_first && names.len() < MAX_COLUMNS => {
                    names.push(name.to_lowercase());
                }
                token @ (Token::End | Token::Symbol(b';')) => {
                    self.pushed_back = Some(token);
                    return Ok(names);
                }
                _ => {}
            }
            is_first = false;
            if depth == 0 {
                return Ok(names);
            }
        }
    }

    /// Reads the next `(…)` of an `INSERT`; `None` at its end.
    fn values(&mut self) -> io::Result<Option<Result<Vec<Option<String>>, String>>> {
        loop {
            match self.token()? {
                Token::Symbol(b'(') => break,
                Token::Symbol(b',') => {}
                Token::Symbol(b';') | Token::End => return Ok(None),
                other => {
                    self.pushed_back = Some(other);
                    self.skip()?;
                    return Ok(None);
                }
            }
        }
        let (mut values, mut error, mut depth) = (Vec::new(), None, 0);
        let mut value = None;
        loop {
            match self.token()? {
                Token::Text(Ok(text)) if depth == 0 => value = Some(Some(text)),
                Token::Text(Err(wrong)) => error = Some(wrong.to_owned()),
                // The types of MySQL's texts, such as _binary or _utf8mb4.
                Token::Word(word) if word.starts_with('_') => {}
                Token::Word(word) if word == "null" => value = Some(None),
                Token::Word(word) => value = Some(Some(word)),
                Token::Symbol(b'(') => {
                    depth += 1;
                    error = Some("a value is an expression".to_owned());
                }
                Token::Symbol(b')') if depth > 0 => depth -= 1,
                Token::Symbol(end @ (b',' | b')')) if depth == 0 => {
                    match value.take() {
                        Some(value) if values.len() < MAX_COLUMNS => values.push(value),
                        _ => error = error.or(Some("a value is missing".to_owned())),
                    }
                    if end == b')' {
                        return Ok(Some(error.map_or(Ok(values), Err)));
                    }
                }
                Token::Symbol(b';') | Token::End => return Ok(Some(Err("the row ends too early".into()))),
                _ => {}
            }
        }
    }

    /// Reads the next line of a `COPY` block; `None` at its end.
    fn copied(&mut self) -> io::Result<Option<Result<Vec<Option<String>>, String>>> {
        let Some(line) = self.line()? else { return Ok(None) };
        let line = match line {
            Ok(line) if line == b"\\." => return Ok(None),
            Ok(line) => line,
            Err(error) => return Ok(Some(Err(error.into()))),
        };
        let values = line.split(|byte| *byte == b'\t').take(MAX_COLUMNS).map(|value| match value {
            b"\\N" => Ok(None),
            value => String::from_utf8(unescaped(value)).map(Some).map_err(|_| "a value is not UTF-8".to_owned()),
        });
        Ok(Some(values.collect()))
    }

    /// Reads the rest of `COPY … FROM stdin;` with its line break. Returns false for another statement.
    fn end_of_copy(&mut self) -> io::Result<bool> {
        let mut is_stdin = false;
        loop {
            match self.token()? {
                Token::Word(word) => is_stdin |= word == "stdin",
                Token::Symbol(b';') | Token::End => break,
                _ => {}
            }
        }
        if is_stdin {
            self.line()?;
        }
        Ok(is_stdin)
    }

    fn skip_copy(&mut self) -> io::Result<bool> {
        if self.end_of_copy()? {
            while self.line()?.is_some_and(|line| line != Ok(b"\\.".to_vec())) {}
        }
        Ok(true)
    }

    /// Skips the rest of a statement.
    fn skip(&mut self) -> io::Result<bool> {
        loop {
            match self.token()? {
                Token::Symbol(b';') => return Ok(true),
                Token::End => return Ok(false),
                _ => {}
            }
        }
    }

    /// Reads a line without its line break; `None` at the end.
    fn line(&mut self) -> io::Result<Option<Result<Vec<u8>, &'static str>>> {
        let mut line = Vec::new();
        let (mut is_too_long, mut is_end) = (false, true);
        while let Some(byte) = self.byte()? {
            is_end = false;
            match byte {
                b'\n' => break,
                _ if line.len() == MAX_ROW_BYTES => is_too_long = true,
                _ => line.push(byte),
            }
        }
        Ok((!is_end).then(|| {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if is_too_long { Err("the row is too long") } else { Ok(line) }
        }))
    }

    fn token(&mut self) -> io::Result<Token> {
        if let Some(token) = self.pushed_back.take() {
            return Ok(token);
        }
        loop {
            let Some(byte) = self.byte()? else { return Ok(Token::End) };
            return Ok(match byte {
                byte if byte.is_ascii_whitespace() => continue,
                b'-' if self.peek()? == Some(b'-') => {
                    let comment = self.line()?.and_then(Result::ok).unwrap_or_default();
                    let is_mysql = [&b"- MySQL dump"[..], b"- MariaDB dump"];
                    self.has_escapes |= is_mysql.iter().any(|header| comment.starts_with(header));
                    continue;
                }
                b'/' if self.peek()? == Some(b'*') => {
                    let mut last = 0;
                    while let Some(byte) = self.byte()? {
                        if last == b'*' && byte == b'/' {
                            break;
                        }
                        last = byte;
                    }
                    continue;
                }
                b'\'' => Token::Text(self.quoted(b'\'', self.has_escapes)?),
                b'"' => Token::Name(self.quoted(b'"', false)?.unwrap_or_default()),
                b'`' => {
                    self.has_escapes = true;
                    Token::Name(self.quoted(b'`', false)?.unwrap_or_default())
                }
                b'E' | b'e' if self.peek()? == Some(b'\'') => {
                    self.byte()?;
                    Token::Text(self.quoted(b'\'', true)?)
                }
                b'$' => {
                    self.dollar_quoted()?;
                    Token::Text(Err("a value is quoted by $"))
                }
                byte if is_of_word(byte) => {
                    let mut word = vec![byte];
                    while let Some(byte) = self.peek()?.filter(|byte| is_of_word(*byte)) {
                        self.byte()?;
                        if word.len() < MAX_ROW_BYTES {
                            word.push(byte);
                        }
                    }
                    Token::Word(String::from_utf8_lossy(&word).to_lowercase())
                }
                byte => Token::Symbol(byte),
            });
        }
    }

    /// Reads a text or a name up to its second quote.
    fn quoted(&mut self, quote: u8, has_escapes: bool) -> io::Result<Result<String, &'static str>> {
        let (mut text, mut is_too_long) = (Vec::new(), false);
        loop {
            let byte = match self.byte()? {
                None => return Ok(Err("a text has no end")),
                Some(byte) if byte == quote => match self.peek()? {
                    Some(next) if next == quote => self.byte()?.unwrap_or(quote),
                    _ => break,
                },
                Some(b'\\') if has_escapes => match self.byte()? {
                    Some(escaped) => unescaped_byte(escaped),
                    None => continue,
                },
                Some(byte) => byte,
            };
            if text.len() < MAX_ROW_BYTES {
                text.push(byte);
            } else {
                is_too_long = true;
            }
        }
        Ok(match is_too_long {
            true => Err("the row is too long"),
            false => String::from_utf8(text).map_err(|_| "a value is not UTF-8"),
        })
    }

    /// Skips a text of PostgreSQL such as `$$…$$` or `$tag$…$tag$`, if this is one.
    fn dollar_quoted(&mut self) -> io::Result<()> {
        let mut tag = vec![b'$'];
        while let Some(byte) = self.peek()?.filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            self.byte()?;
            tag.push(byte);
            if tag.len() > 64 {
                return Ok(());
            }
        }
        if self.peek()? != Some(b'$') {
            return Ok(());
        }
        self.byte()?;
        tag.push(b'$');
        let mut last = Vec::with_capacity(tag.len());
        while let Some(byte) = self.byte()? {
            if last.len() == tag.len() {
                last.remove(0);
            }
            last.push(byte);
            if last == tag {
                break;
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.input.consume(1);
        }
        Ok(byte)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.input.fill_buf()?.first().copied())
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte) || !byte.is_ascii()
}

/// Removes the escapes of a value of `COPY` ("COPY", Text Format).
fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.iter();
    let mut text = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'v') => 11,
                Some(b'f') => 12,
                Some(escaped) => unescaped_byte(*escaped),
                None => b'\\',
            },
            byte => *byte,
        });
    }
    text
}

fn unescaped_byte(escaped: u8) -> u8 {
    match escaped {
        b'0' => 0,
        b'b' => 8,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'Z' => 26,
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Row = Result<Vec<(String, Option<String>)>, String>;

    fn rows(dump: impl AsRef<[u8]>) -> Vec<Row> {
        let mut dump = Dump::new(dump.as_ref(), "t");
        let usual = |count| ["a", "b", "c"].map(String::from).into_iter().take(count).collect();
        let rows = std::iter::from_fn(|| dump.next(usual).unwrap());
        rows.map(|row| row.map(|columns| columns.into_iter().collect())).collect()
    }

    fn row(values: [(&str, Option<&str>); 2]) -> Row {
        Ok(values.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into())
    }

    #[test]
    fn rows_of_copy_and_insert_are_the_same() {
        let copy = "-- PostgreSQL database dump\nCREATE FUNCTION f() AS $_$ it's; COPY t $_$;\n\
                    COPY public.other (a) FROM stdin;\nCOPY t (a) FROM stdin;\n\\.\n\
                    COPY public.t (b, a) FROM stdin;\nx\\ty'\\\\\t\\N\nü\t2\n\\.\nSELECT 1;\n";
        let expected = [row([("a", None), ("b", Some("x\ty'\\"))]), row([("a", Some("2")), ("b", Some("ü"))])];
        assert_eq!(rows(copy), expected);
        let insert =
            "INSERT INTO public.t (b, a) VALUES (E'x\\ty''\\\\', NULL);\ninsert into \"t\" (\"b\", a) values ('ü',2);";
        assert_eq!(rows(insert), expected);
        let mysql = "/*!40101 SET NAMES utf8mb4 */;\nCREATE TABLE `t` (\n  `b` text NOT NULL COMMENT 'x, (y',\n  `a` bigint(20) \
                     DEFAULT NULL,\n  PRIMARY KEY (`b`(191),`a`)\n) ENGINE=InnoDB;\nINSERT INTO `u` VALUES ('\\'',1);\n\
                     INSERT INTO `t` VALUES (_binary 'x\\ty\\'\\\\',NULL),('ü',2);\n";
        assert_eq!(rows(mysql), expected);
        let short = "INSERT INTO t VALUES ('1','\\');INSERT INTO t VALUES ('1', '\\');";
        assert_eq!(rows(short), vec![row([("a", Some("1")), ("b", Some("\\"))]); 2], "the usual columns");
    }

    #[test]
    fn a_wrong_row_does_not_stop_the_next_ones() {
        let good = row([("a", Some("1")), ("b", Some("2"))]);
        let long = format!("'{}', 2", "x".repeat(MAX_ROW_BYTES + 1));
        let deep = format!("{}1{}, 2", "(".repeat(100_000), ")".repeat(100_000));
        for (values, error) in [
            ("1, replace('a', 'b', char(10))", "a value is an expression"),
            ("1", "the row has 1 values for 2 columns"),
            ("1,", "a value is missing"),
            ("1, 2, 3", "the row has 3 values for 2 columns"),
            (&long, "the row is too long"),
            (&deep, "a value is an expression"),
        ] {
            let dump = format!("INSERT INTO t (a, b) VALUES ({values}), (1, 2);");
            assert_eq!(rows(dump), [Err(error.to_owned()), good.clone()]);
        }
        let latin = [&b"COPY t (a, b) FROM stdin;\n\xfc\t2\n1\t2\n"[..], &vec![b'x'; MAX_ROW_BYTES + 1], b"\n\\.\n"];
        let errors = ["a value is not UTF-8", "the row is too long"].map(|error| Err(error.to_owned()));
        assert_eq!(rows(latin.concat()), [errors[0].clone(), good, errors[1].clone()]);
        for cut in ["INSERT INTO t VALUES (1, 'a", "INSERT INTO t VALUES (1, ", "INSERT INTO t VALUES ("] {
            assert_eq!(rows(cut), [Err("the row ends too early".to_owned())], "{cut}");
        }
        for none in
            ["", "INSERT", "INSERT INTO t", "COPY t (a) FROM stdin;", "CREATE TABLE t (a", "$$", "/*", "\0\u{ff}"]
        {
            assert_eq!(rows(none), [], "{none}");
        }
    }
}
