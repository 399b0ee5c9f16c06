//! The speed of SQS's time.

use std::time::{SystemTime, UNIX_EPOCH};

/// How fast SQS's time passes. Timestamps are always the wall clock's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    factor: u32,
}

impl Clock {
    /// SQS's seconds are the wall clock's.
    #[must_use]
    pub const fn real() -> Self {
        Self::scaled(1)
    }

    /// Visibility timeouts, delays, retention and long polls pass `factor` times as fast as the wall clock, so that a
    /// test can live through an hour. A factor of 0 counts as 1.
    #[must_use]
    pub const fn scaled(factor: u32) -> Self {
        Self { factor: if factor == 0 { 1 } else { factor } }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now(self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the wall-clock milliseconds of a number of SQS seconds, rounded up: 0 only for 0 seconds.
    pub(super) fn millis(self, seconds: u32) -> i64 {
        let factor = i64::from(self.factor);
        (i64::from(seconds) * 1000 + factor - 1) / factor
    }
}
