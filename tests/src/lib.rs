//! Support for the tests from outside: a local stack with an HTTP client, builders of events and requests, and proxies
//! that count or cut connections. The log and the answers of Pushlark are checked for secrets in every test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod call_counter;
mod chaos_proxy;
#[macro_use]
mod json_builder;

mod event;
mod isolated_worker;
mod providers;
mod push_request;
mod pushlark;
mod secrecy;
pub mod stanza;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Command;
use std::time::Duration;
use std::{env, io};

use doubles::contains_canary;
use futures_util::FutureExt;
use local::Options;
use local::sqs::Clock;
use pushlark_settings::Environment;
use pushlark_telemetry::{Format, start_to};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep};

pub use call_counter::{CallCounter, Units};
pub use chaos_proxy::{ChaosProxy, refusing_address};
pub use event::{Event, Work};
pub use isolated_worker::IsolatedWorker;
pub use providers::{IPHONE, Providers, VAPID_KEY, answered, credentials, iphone};
pub use push_request::{PushRequest, registration};
pub use pushlark::{Pushlark, Reply, send};

/// The usual sender, at one of her sessions.
pub const ALICES_PC: &str = "alice@example.com/pc";
/// The bare JID of the usual sender.
pub const ALICE: &str = "alice@example.com";
/// The bare JID of the usual recipient.
pub const BOB: &str = "bob@example.com";
/// The session of Bob that enables push.
pub const BOBS_PHONE: &str = "bob@example.com/phone";
/// The full JID of another session of Bob.
pub const BOBS_PC: &str = "bob@example.com/pc";
/// The bare JID of another recipient.
pub const CAROL: &str = "carol@example.com";
/// The full JID of the occupant who sends group messages.
pub const ROOM_OCCUPANT: &str = "room@muc.example.com/alice";
/// The virtual PubSub host of [`BOB`]'s domain.
pub const PUSH_HOST: &str = "push.example.com";
/// The media type of stanzas.
pub const XMPP: &str = "application/xmpp+xml";

/// The time after which a test fails if a condition is not met. It is long, since the machine may compile beside the
/// tests.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Options of a stack whose SQS clock is `factor` times as fast. The visibility timeout is SQS's maximum, 12 hours on
/// that clock: as on Lambda, it is longer than any invocation.
pub fn with_fast_sqs(factor: u32) -> Options {
    Options { clock: Clock::scaled(factor), visibility_timeout: 43_200, ..Options::default() }
}

/// Runs a test within one of the minutes for which requests are counted. A run that fails after its minute is repeated.
pub async fn within_a_minute(test: impl AsyncFn()) {
    let minute = || OffsetDateTime::now_utc().unix_timestamp() / 60;
    loop {
        let begin = minute();
        match AssertUnwindSafe(test()).catch_unwind().await {
            Err(_) if minute() > begin => {}
            Err(panic) => resume_unwind(panic),
            Ok(()) => return,
        }
    }
}

/// Returns the time `seconds` ago, in RFC 3339. A negative number is a time in the future.
pub fn ago(seconds: i64) -> String {
    (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

/// Returns the JSON log lines of a test, given by its full name, from a run of this test alone in a separate
/// process. Inside that process it starts the log and returns `None`, and the test causes the lines.
pub fn logged(test: &str) -> Option<Vec<Value>> {
    const INSIDE: &str = "PUSHLARK_TEST_LOG";
    if env::var_os(INSIDE).is_some() {
        start_to(io::stdout, Format::Json, &Environment::default()).unwrap();
        return None;
    }
    let run = Command::new(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "").output();
    let run = run.unwrap();
    let (lines, errors) = (String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap());
    assert!(run.status.success(), "{lines}\n{errors}");
    assert!(!contains_canary(&lines) && !contains_canary(&errors), "a secret is in the log: {lines}\n{errors}");
    Some(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Waits until `condition` returns a value, and returns it. Fails after [`TEST_TIMEOUT`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timeout while waiting for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
