//! Strict parsing of JSON from callers.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The maximum nesting depth of objects and arrays. No document that the functions read is nested so deeply.
const MAX_JSON_DEPTH: usize = 32;

/// Reads a JSON object. The error names the path of the invalid field, and never quotes its value.
///
/// A repeated name in any object is an error, since two parsers may use different values of it.
pub fn read_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    // Serde would also accept an array, with the fields' values in order.
    if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err("expected a JSON object".into());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.path().to_string() {
            path if path == "." => without_value(error.inner()),
            path => format!("{path}: {}", without_value(error.inner())),
        })?;
    check(json)?;
    Ok(value)
}

/// Reads a value of an object that [`read_json`] has read. The error begins with `path`, the path of the value, and never
/// quotes the value.
pub fn read_value<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let reason = without_value(error.inner());
        match error.path().to_string() {
            inner if inner == "." => format!("{path}: {reason}"),
            inner if inner.starts_with('[') => format!("{path}{inner}: {reason}"),
            inner => format!("{path}.{inner}: {reason}"),
        }
    })
}

/// The error's text without the value that was found, which may be a token or a message's text.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((found, expected)) if !found.starts_with("unknown field ") => format!("expected {expected}"),
        _ => text,
    }
}

/// Checks the whole document, including the parts that the target type ignores, for nesting depth, repeated names and
/// trailing text.
fn check(json: &[u8]) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Strict { depth: 0 }.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_JSON_DEPTH {
            return Err(E::custom(format_args!("objects and arrays are nested deeper than {MAX_JSON_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        while items.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("{name:?} is given twice")));
            }
            fields.next_value_seed(inside)?;
            names.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_repeated_name_is_refused_at_any_depth() {
        for (json, named) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "\"a\" is given twice"),
            (r#"{"x": [{"form": {"b": 1, "\u0062": 2}}]}"#, "\"b\" is given twice"),
        ] {
            let error = read_json::<Value>(json.as_bytes()).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        read_json::<Value>(br#"{"a": {"a": [{"a": 1}, {"a": -1.5e3}, null, true, "a"]}}"#).unwrap();
    }

    #[test]
    fn nesting_over_the_limit_is_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        read_json::<Value>(nested(MAX_JSON_DEPTH).as_bytes()).unwrap();
        for (depth, named) in [(MAX_JSON_DEPTH + 1, "deeper than 32"), (100_000, "recursion limit")] {
            let error = read_json::<Value>(nested(depth).as_bytes()).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_error_does_not_quote_the_value() {
        let error = read_json::<HashMap<String, u8>>(br#"{"a": "a text, expected nowhere"}"#).unwrap_err();
        assert_eq!(error, "a: expected u8 at line 1 column 32");
    }

    #[test]
    fn the_error_of_a_value_begins_with_its_path_and_does_not_quote_it() {
        type Lists = HashMap<String, Vec<u8>>;
        let error = |value: Value| read_value::<Lists>("x", value).unwrap_err();
        assert_eq!(error(Value::from("a text")), "x: expected a map");
        assert_eq!(error(serde_json::json!({"a": [1, "a text"]})), "x.a[1]: expected u8");
        let error = read_value::<Vec<u8>>("x", serde_json::json!([1, 256])).unwrap_err();
        assert_eq!(error, "x[1]: expected u8");
        assert_eq!(read_value("x", serde_json::json!([1, 2])), Ok(vec![1, 2]));
    }

    #[test]
    fn only_a_single_object_is_accepted() {
        read_json::<Value>(b"{} {}").unwrap_err();
        read_json::<Value>(b"[]").unwrap_err();
        read_json::<Value>(b"").unwrap_err();
    }
}
