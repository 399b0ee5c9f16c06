//! Logs refused requests. Anybody can cause them, so their lines are rate-limited.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The minimum time between two lines with the same status and reason.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

static LINES: Mutex<LogLines> = Mutex::new(LogLines(BTreeMap::new()));

/// A request that is refused because of its credential. It contains nothing of the credential.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'r> {
    /// The HTTP status, 401 or 403.
    pub status: u16,
    /// One of a few fixed texts.
    pub reason: &'static str,
    /// The domain or user of the credential, if the credential is known.
    pub caller: Option<&'r str>,
    /// The refused access, such as a domain.
    pub detail: Option<&'r str>,
}

/// The last line of each status and reason.
struct LogLines(BTreeMap<(u16, &'static str), LogLine>);

struct LogLine {
    at: Instant,
    /// The refusals without a line since then.
    left_out: u64,
}

/// Logs a refused request, unless one with the same status and reason was logged in the last ten seconds. The next line
/// has the number of requests without a line as `left_out`.
pub fn log_refusal(Refusal { status, reason, caller, detail }: Refusal<'_>) {
    // Each change is complete in itself.
    let admitted = LINES.lock().unwrap_or_else(PoisonError::into_inner).admit(status, reason, Instant::now());
    if let Some(left_out) = admitted {
        tracing::warn!(status, reason, caller, detail, left_out, "a request is refused");
    }
}

impl LogLines {
    /// Returns the number of refusals without a line, if this one is to be logged.
    fn admit(&mut self, status: u16, reason: &'static str, now: Instant) -> Option<u64> {
        let Some(line) = self.0.get_mut(&(status, reason)) else {
            self.0.insert((status, reason), LogLine { at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(line.at) < LINE_INTERVAL {
            line.left_out += 1;
            return None;
        }
        line.at = now;
        Some(std::mem::take(&mut line.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_one_line_in_ten_seconds_with_the_number_of_omitted_ones() {
        let (mut lines, start) = (LogLines(BTreeMap::new()), Instant::now());
        let mut admit = |status, reason, seconds| lines.admit(status, reason, start + Duration::from_secs(seconds));
        assert_eq!((admit(401, "a", 0), admit(401, "b", 0), admit(403, "a", 0)), (Some(0), Some(0), Some(0)));
        assert_eq!((0..1_000).filter_map(|_| admit(401, "a", 9)).count(), 0);
        assert_eq!((admit(401, "a", 10), admit(401, "a", 19), admit(401, "b", 10)), (Some(1_000), None, Some(0)));
        assert_eq!(admit(401, "a", 20), Some(1));
    }
}
