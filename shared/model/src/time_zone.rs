//! Time zones of the IANA database, which is compiled in.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset};

/// A time zone of the IANA database, such as `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(jiff::tz::TimeZone);

/// A name that is not one of the IANA time zone database. The client must correct it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of an IANA time zone, such as Europe/Berlin")]
pub struct UnknownTimeZone;

impl TimeZone {
    /// Converts a time to the local time of this zone.
    pub fn local(&self, at: OffsetDateTime) -> OffsetDateTime {
        // Every time of an event is in the range of jiff, and every offset of a zone in the range of time.
        let Ok(timestamp) = Timestamp::from_second(at.unix_timestamp()) else { return at };
        let offset = UtcOffset::from_whole_seconds(self.0.to_offset(timestamp).seconds());
        offset.map_or(at, |offset| at.to_offset(offset))
    }
}

impl FromStr for TimeZone {
    type Err = UnknownTimeZone;

    fn from_str(name: &str) -> Result<Self, UnknownTimeZone> {
        let zone = TimeZoneDatabase::bundled().get(name).ok().filter(|zone| !zone.is_unknown());
        zone.map(Self).ok_or(UnknownTimeZone)
    }
}

impl TryFrom<String> for TimeZone {
    type Error = UnknownTimeZone;

    fn try_from(name: String) -> Result<Self, UnknownTimeZone> {
        name.parse()
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.to_string()
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or_default())
    }
}
