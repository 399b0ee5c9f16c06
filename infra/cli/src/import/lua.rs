//! Reads tables that Prosody has serialized (`util.serialization`). It is not an interpreter: there are only constants.
//!
//! A table becomes JSON as Prosody's `util.json` writes it: the values without a key are the field `__array`.

use serde_json::{Map, Number, Value};

use super::cursor::Cursor;
use super::record::MAX_DEPTH;

const ARRAY: &str = "__array";

/// Reads `return {…}`. The error says what is not understood, and at which byte; it quotes nothing.
pub fn read(text: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { text: Cursor::new(text) };
    let read = reader.document();
    read.map_err(|error| format!("{error} at byte {}", reader.text.at))
}

struct Reader<'t> {
    text: Cursor<'t>,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Value, &'static str> {
        if self.text.rest().starts_with(b"\x1bLua") {
            return Err("it is compiled Lua");
        }
        self.space();
        if self.word() != b"return" {
            return Err("expected return");
        }
        let value = self.value(0)?;
        while self.accept(b';') {}
        self.space();
        match self.text.rest().is_empty() {
            true => Ok(value),
            false => Err("expected the end"),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, &'static str> {
        self.space();
        match self.text.peek() {
            Some(b'{') if depth == MAX_DEPTH => Err("tables are nested too deeply"),
            Some(b'{') => self.table(depth + 1),
            Some(b'"' | b'\'') => self.string().map(Value::String),
            Some(b'-' | b'.' | b'0'..=b'9') => self.number(),
            Some(_) => match self.word() {
                b"true" => Ok(true.into()),
                b"false" => Ok(false.into()),
                b"nil" => Ok(Value::Null),
                _ => Err("expected a value"),
            },
            None => Err("the text ends too early"),
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, &'static str> {
        self.text.at += 1;
        let (mut fields, mut array) = (Map::new(), Vec::new());
        while !self.accept(b'}') {
            if self.accept(b'[') {
                let key = self.value(depth)?;
                self.expect(b']')?;
                self.expect(b'=')?;
                let value = self.value(depth)?;
                match key {
                    Value::String(key) => drop(fields.insert(key, value)),
                    // The explicit index of an array.
                    Value::Number(_) => array.push(value),
                    _ => return Err("a key is neither a text nor a number"),
                }
            } else {
                let begin = self.text.at;
                let name = self.word().to_vec();
                if !name.is_empty() && self.accept(b'=') {
                    let name = String::from_utf8(name).map_err(|_| "a key is not UTF-8")?;
                    let value = self.value(depth)?;
                    fields.insert(name, value);
                } else {
                    self.text.at = begin;
                    array.push(self.value(depth)?);
                }
            }
            if !self.accept(b';') && !self.accept(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if !array.is_empty() {
            fields.insert(ARRAY.into(), array.into());
        }
        Ok(fields.into())
    }

    fn string(&mut self) -> Result<String, &'static str> {
        let quote = self.next()?;
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                byte if byte == quote => break,
                b'\\' => self.escape(&mut bytes)?,
                byte => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| "a text is not UTF-8")
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), &'static str> {
        const UNKNOWN: &str = "an escape is not understood";
        match self.next()? {
            b'a' => bytes.push(7),
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'v' => bytes.push(11),
            b'z' => self.space(),
            b'x' => {
                let digits = [self.next()?, self.next()?];
                let digits = str::from_utf8(&digits).map_err(|_| UNKNOWN)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UNKNOWN)?);
            }
            first @ b'0'..=b'9' => bytes.push(self.text.code(first, 10).ok_or(UNKNOWN)?),
            byte @ (b'\\' | b'"' | b'\'' | b'\n') => bytes.push(byte),
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, &'static str> {
        let digits = self.text.take(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let digits = str::from_utf8(digits).unwrap_or_default();
        let number = match digits.parse::<i64>() {
            Ok(number) => Some(number.into()),
            Err(_) => digits.parse::<f64>().ok().and_then(Number::from_f64),
        };
        number.map(Value::Number).ok_or("a number is not understood")
    }

    fn word(&mut self) -> &[u8] {
        self.text.take(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        match self.accept(byte) {
            true => Ok(()),
            false => Err(if self.text.rest().is_empty() { "the text ends too early" } else { "a table is malformed" }),
        }
    }

    /// Skips white space, and this byte, if it follows.
    fn accept(&mut self, byte: u8) -> bool {
        self.space();
        self.text.accept(byte)
    }

    /// Skips white space and comments.
    fn space(&mut self) {
        loop {
            self.text.take(|byte| byte.is_ascii_whitespace());
            if !self.text.rest().starts_with(b"--") {
                return;
            }
            self.text.take(|byte| byte != b'\n');
        }
    }

    fn next(&mut self) -> Result<u8, &'static str> {
        self.text.next().ok_or("the text ends too early")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_become_json_as_prosody_writes_it() {
        let text = br#"return { ["a<b"] = { name = "x"; 1; { "two\10\"\
q" }, n = -1.5; [3] = true; }; ["t"] = 1700000000; } ; -- end"#;
        let expected = json!({
            "a<b": {"name": "x", "n": -1.5, "__array": [1, {"__array": ["two\n\"\nq"]}, true]}, "t": 1_700_000_000,
        });
        assert_eq!(read(text), Ok(expected));
        assert_eq!(read(b"return {};"), Ok(json!({})));
        assert_eq!(read("return { \"b\\195\\188cher ü\" }".as_bytes()), Ok(json!({"__array": ["bücher ü"]})));
    }

    #[test]
    fn other_texts_are_refused() {
        let deep = [b"return ".to_vec(), vec![b'{'; 100_000]].concat();
        for (text, error) in [
            (&b""[..], "expected return at byte 0"),
            (b"\x1bLuaR", "it is compiled Lua at byte 0"),
            (b"return os.exit()", "expected a value at byte 9"),
            (b"return { f() }", "expected a value at byte 10"),
            (b"return { [\"a\"] = ", "the text ends too early at byte 17"),
            (b"return { \"a", "the text ends too early at byte 11"),
            (b"return { \"\\300\" }", "an escape is not understood at byte 14"),
            (b"return { \"\\255\" }", "a text is not UTF-8 at byte 15"),
            (b"return { 0x }", "a number is not understood at byte 11"),
            (b"return {} os.exit()", "expected the end at byte 10"),
            (&deep, "tables are nested too deeply at byte 39"),
        ] {
            assert_eq!(read(text), Err(error.to_owned()), "{}", String::from_utf8_lossy(&text[..text.len().min(40)]));
        }
    }
}
