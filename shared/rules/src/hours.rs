//! Times of the day in conditions.

use pushlark_model::time::read_time_of_day;
use pushlark_model::{Registration, TimeZone, UnknownTimeZone};
use serde::Deserialize;
use time::{OffsetDateTime, Time};

/// The hours of a day: `"22:00-07:00"`, or a table with `from`, `to` and `tz`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "HoursText")]
pub struct Hours {
    /// The start, which is in the hours.
    from: Time,
    /// The end, which is not in the hours. If it is not after `from`, it is on the next day.
    to: Time,
    /// The time zone of devices whose form has no `tz`; `None` for UTC.
    tz: Option<TimeZone>,
}

/// The forms of hours in TOML.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected hours such as \"22:00-07:00\", or a table with from, to and tz")]
enum HoursText {
    Range(String),
    Table(HoursTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoursTable {
    from: String,
    to: String,
    tz: Option<String>,
}

/// Hours that cannot be read. The operator must correct them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    /// The text is not a range of two times.
    #[error("expected hours such as 22:00-07:00")]
    NotARange,
    /// `from` or `to` is not a time.
    #[error("expected a time such as 22:00")]
    NotATime,
    /// `tz` is not a time zone.
    #[error("tz: {0}")]
    UnknownTimeZone(#[from] UnknownTimeZone),
}

impl Hours {
    /// Returns whether a time is in the hours where the device is: in the time zone of the form's field `tz`, if it has
    /// one that is known.
    pub fn contain(&self, at: OffsetDateTime, registration: &Registration) -> bool {
        let device_tz = registration.options.time_zone().ok().flatten();
        let local = device_tz.as_ref().or(self.tz.as_ref()).map_or(at, |tz| tz.local(at)).time();
        if self.from < self.to { self.from <= local && local < self.to } else { self.from <= local || local < self.to }
    }
}

impl TryFrom<HoursText> for Hours {
    type Error = HoursError;

    fn try_from(text: HoursText) -> Result<Self, HoursError> {
        let (from, to, tz) = match &text {
            HoursText::Range(range) => {
                let (from, to) = range.split_once('-').ok_or(HoursError::NotARange)?;
                (from.trim(), to.trim(), None)
            }
            HoursText::Table(HoursTable { from, to, tz }) => (from.as_str(), to.as_str(), tz.as_deref()),
        };
        let tz = tz.map(str::parse).transpose()?;
        let time = |text| read_time_of_day(text).ok_or(HoursError::NotATime);
        Ok(Self { from: time(from)?, to: time(to)?, tz })
    }
}
