//! Times as the table stores them (microseconds since 1970), and times of the day as users and operators write them.

use time::{OffsetDateTime, Time};

/// Converts a time to microseconds since 1970; a time before 1970 becomes 0.
pub fn to_micros(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(0)
}

/// Converts microseconds since 1970 to a time; a number out of range becomes 1970.
pub fn from_micros(micros: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Reads a time of the day as `HH:MM`, from `00:00` to `23:59`.
pub fn read_time_of_day(text: &str) -> Option<Time> {
    let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let (hour, minute) = text.split_once(':').filter(|(hour, minute)| is_number(hour) && is_number(minute))?;
    Time::from_hms(hour.parse().ok()?, minute.parse().ok()?, 0).ok()
}
