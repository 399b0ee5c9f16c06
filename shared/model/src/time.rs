//! Times as the table stores them: microseconds since 1970.

use time::OffsetDateTime;

/// Converts a time to microseconds since 1970; a time before 1970 becomes 0.
pub fn to_micros(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(0)
}

/// Converts microseconds since 1970 to a time; a number out of range becomes 1970.
pub fn from_micros(micros: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
