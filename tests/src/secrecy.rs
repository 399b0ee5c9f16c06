//! A watch over all that the tests have Pushlark log and answer: the first secret in it ends the run.

use std::io::{self, Write};
use std::process::abort;
use std::sync::Once;

use doubles::is_planted;
use pushlark_settings::Environment;
use pushlark_telemetry::{Format, start_to};
use pushlark_xmpp::Element;

use crate::Reply;

/// Where the log goes: nowhere, once each line was looked at.
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

/// Watches the log of this process, at the level that it has by default.
pub fn watch_log() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| start_to(|| Log, Format::Json, &Environment::default()).unwrap());
}

/// Looks at an answer that tells of an error. What an IQ's answer repeats of the request is the asker's own (RFC 6120,
/// section 8.3.1); what is said of it is not.
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

/// Whichever test is at fault, and whichever task: none can pass after this.
fn check(what: &str, text: &str) {
    if is_planted(text) {
        // Past what libtest captures of a test's output, which is lost.
        let _ = writeln!(io::stderr(), "\na secret is in {what}: {text}");
        abort();
    }
}
