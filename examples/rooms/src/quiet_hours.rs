//! The hours of each day in which a device is not notified.

const MINUTES_A_DAY: i64 = 24 * 60;

/// A range of minutes of the day, without its end. May span midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    start: i64,
    end: i64,
    /// The time zone, in minutes east of UTC.
    offset: i64,
}

impl QuietHours {
    /// Parses `HH:MM-HH:MM` and the offset from UTC, `+HH:MM` or `-HH:MM`. Returns `None` for any other text, because
    /// clients can send anything.
    pub fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.split_once('-')?;
        let (end, offset) = rest.split_at_checked(5)?;
        let sign = match offset.get(..1)? {
            "+" => 1,
            "-" => -1,
            _ => return None,
        };
        Some(Self { start: minutes(start)?, end: minutes(end)?, offset: sign * minutes(&offset[1..])? })
    }

    /// Returns whether the quiet hours contain a time in seconds since 1970. If the end is before the start, they span
    /// midnight.
    pub fn contain(self, timestamp: i64) -> bool {
        let Self { start, end, offset } = self;
        let now = (timestamp.div_euclid(60) + offset).rem_euclid(MINUTES_A_DAY);
        if start <= end { (start..end).contains(&now) } else { now >= start || now < end }
    }
}

fn minutes(clock: &str) -> Option<i64> {
    let (hours, minutes) = clock.split_once(':')?;
    Some(two_digits(hours, 24)? * 60 + two_digits(minutes, 60)?)
}

fn two_digits(text: &str, end: i64) -> Option<i64> {
    let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|number| *number < end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn contain(quiet_hours: &str, at: &str) -> bool {
        let at = OffsetDateTime::parse(&format!("2026-03-01T{at}"), &Rfc3339).unwrap();
        QuietHours::parse(quiet_hours).unwrap().contain(at.unix_timestamp())
    }

    #[test]
    fn the_end_is_no_longer_quiet() {
        assert!(contain("13:00-14:30+00:00", "13:00:00Z"));
        assert!(contain("13:00-14:30+00:00", "14:29:59Z"));
        assert!(!contain("13:00-14:30+00:00", "14:30:00Z"));
        assert!(!contain("13:00-14:30+00:00", "12:59:59Z"));
        assert!(!contain("13:00-13:00+00:00", "13:00:00Z"));
    }

    #[test]
    fn they_may_span_midnight() {
        for quiet in ["22:00:00Z", "23:59:59Z", "00:00:00Z", "06:59:59Z"] {
            assert!(contain("22:00-07:00+00:00", quiet), "{quiet}");
        }
        for loud in ["07:00:00Z", "12:00:00Z", "21:59:59Z"] {
            assert!(!contain("22:00-07:00+00:00", loud), "{loud}");
        }
    }

    #[test]
    fn they_are_by_the_clock_of_the_device() {
        assert!(contain("22:00-07:00+02:00", "20:00:00Z"));
        assert!(!contain("22:00-07:00+02:00", "05:00:00Z"));
        assert!(contain("22:00-07:00-05:30", "03:30:00Z"));
        assert!(!contain("22:00-07:00-05:30", "03:29:59Z"));
        assert!(contain("01:00-02:00+02:00", "23:30:00Z"));
        assert!(contain("22:00-23:00-02:00", "01:30:00+01:00"));
    }

    #[test]
    fn what_is_malformed_is_none() {
        for text in [
            "",
            "always",
            "22:00",
            "22:00-07:00",
            "22:00-07:00Z",
            "22:00-07:00+02",
            "22:00-07:00+02:00 ",
            "22-07+02:00",
            "24:00-07:00+02:00",
            "22:60-07:00+02:00",
            "+2:00-07:00+02:00",
            "22:00-07:0é+02:00",
        ] {
            assert_eq!(QuietHours::parse(text), None, "{text}");
        }
    }
}
