//! A watch over the log and the answers of Pushlark in all tests: the first secret in them ends the run.

use std::io::{self, Write};
use std::process::abort;
use std::sync::Once;

use doubles::contains_canary;
use pushlark_settings::Environment;
use pushlark_telemetry::{Format, start_to};
use pushlark_xmpp::Element;

use crate::Reply;

/// The writer of the log: it checks each line and discards it.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        check("the log", &String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Watches the log of this process, at the default level.
pub fn watch_log() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| start_to(|| Log, Format::Json, &Environment::default()).unwrap());
}

/// Checks an answer with an error. An error IQ repeats the payload of the request (RFC 6120, section 8.3.1), so only
/// its `<error/>` is checked.
pub fn watch_answer(reply: &Reply) {
    if reply.status >= 400 {
        check("an answer", &format!("{:?} {}", reply.headers, reply.body));
    }
    let json = serde_json::from_str(&reply.body).unwrap_or(serde_json::Value::Null);
    let iq = Element::parse(json["stanza"].as_str().unwrap_or(&reply.body)).ok();
    for error in iq.iter().flat_map(Element::children).filter(|child| child.name() == "error") {
        check("an IQ's answer", &error.to_string());
    }
}

/// Ends the process if a text contains a secret: a panic could end in a task whose result no test reads.
fn check(what: &str, text: &str) {
    if contains_canary(text) {
        // libtest captures the usual output of a test, and loses it at an abort.
        let _ = writeln!(io::stderr(), "\na secret is in {what}: {text}");
        abort();
    }
}
