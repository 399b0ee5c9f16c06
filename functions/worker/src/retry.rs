//! The reasons and the delays of retries.

use std::time::Duration;

use pushlark_model::Registration;
use pushlark_queue::{MAX_TIMER, Retry};
use time::OffsetDateTime;

/// The longest delay between two attempts, if no push service asks for a longer one.
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// The limit for the delay that a push service asks for: a longer one is shortened to it.
const MAX_ASKED_DELAY: Duration = Duration::from_hours(12);

/// A task, or one of its registrations, that must be retried.
#[derive(Debug)]
pub struct Unfinished {
    /// The registration to retry; `None` for the whole task.
    pub registration: Option<Registration>,
    /// Whether the registration has a claim, which the next attempt must hold.
    pub is_claimed: bool,
    /// The reason for the retry.
    pub cause: RetryCause,
}

/// The reason for a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// The deadline was too close for an attempt. It does not count as one.
    NotTried,
    /// The delay that a push service asked for is not over. SQS cannot delay a message for longer than 15 minutes.
    TooEarly,
    /// The attempt failed, and counts.
    Failed {
        /// The delay that the push service asks for, if any.
        retry_after: Option<Duration>,
        /// Whether the failure may be permanent.
        is_doubtful: bool,
    },
}

impl RetryCause {
    /// A failure of the table, the plugin, the queue or the worker itself.
    pub const FAILED: Self = Self::Failed { retry_after: None, is_doubtful: false };
}

impl Unfinished {
    /// Returns a whole task that must be retried.
    pub fn all(cause: RetryCause) -> Self {
        Self { registration: None, is_claimed: false, cause }
    }

    /// Returns the state of the attempt after `retry`, and its delay for SQS: whole seconds, at most `MAX_TIMER`.
    pub fn next(&self, retry: &Retry, counted: Option<u32>) -> (Retry, Duration) {
        self.next_at(retry, counted, OffsetDateTime::now_utc())
    }

    fn next_at(&self, retry: &Retry, counted: Option<u32>, now: OffsetDateTime) -> (Retry, Duration) {
        let mut next = Retry {
            registration: self.registration.as_ref().map(Into::into).or_else(|| retry.registration.clone()),
            unread_count: counted.or(retry.unread_count),
            ..retry.clone()
        };
        let delay = match self.cause {
            RetryCause::TooEarly => until(retry.not_before, now),
            RetryCause::NotTried => {
                next.generation += 1;
                Duration::ZERO
            }
            RetryCause::Failed { retry_after, is_doubtful } => {
                next.generation += 1;
                next.tries = retry.tries.saturating_add(1);
                next.doubtful += u32::from(is_doubtful);
                let asked = retry_after.unwrap_or_default().min(MAX_ASKED_DELAY);
                let delay = backoff(next.tries).max(asked);
                next.not_before = (delay > MAX_TIMER).then(|| now + delay);
                delay
            }
        };
        (next, delay.min(MAX_TIMER))
    }
}

/// Returns whether SQS delivered this attempt before the delay that a push service asked for is over.
pub fn is_too_early(retry: &Retry) -> bool {
    until(retry.not_before, OffsetDateTime::now_utc()) > Duration::ZERO
}

/// Returns the time until `not_before`, rounded up to whole seconds.
pub fn until(not_before: Option<OffsetDateTime>, now: OffsetDateTime) -> Duration {
    let remaining: Duration = not_before.map_or(Duration::ZERO, |then| (then - now).try_into().unwrap_or_default());
    Duration::from_secs(remaining.as_secs() + u64::from(remaining.subsec_nanos() > 0))
}

/// Returns the delay after `tries` failed attempts: 1 s after the first, then twice as long each time, at most 15
/// minutes. A random part of up to a quarter is subtracted, so that many failures do not return at the same time.
pub fn backoff(tries: u32) -> Duration {
    let seconds = 2_u64.saturating_pow(tries.saturating_sub(1)).min(MAX_BACKOFF.as_secs());
    Duration::from_secs(seconds - fastrand::u64(0..=seconds / 4))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn failed(retry_after: Option<u64>) -> Unfinished {
        Unfinished::all(RetryCause::Failed { retry_after: retry_after.map(Duration::from_secs), is_doubtful: false })
    }

    fn first() -> Retry {
        Retry::first("message.0".into())
    }

    #[test]
    fn the_delay_doubles_from_a_second_to_a_quarter_of_an_hour() {
        assert_eq!(backoff(1), Duration::from_secs(1));
        for (tries, longest) in [(2, 2), (4, 8), (10, 512), (11, 900), (100, 900), (u32::MAX, 900)] {
            let delay = backoff(tries).as_secs();
            assert!(delay <= longest && delay >= longest - longest / 4, "{tries}: {delay}");
        }
    }

    #[test]
    fn a_push_service_can_make_the_delay_longer_but_not_shorter() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (asked, expected) in [(None, 1), (Some(0), 1), (Some(60), 60), (Some(900), 900)] {
            let (retry, delay) = failed(asked).next_at(&first(), None, now);
            assert_eq!((retry.tries, retry.not_before, delay.as_secs()), (1, None, expected), "{asked:?}");
        }
        let later = Retry { tries: 9, ..first() };
        let (_, delay) = failed(Some(60)).next_at(&later, None, now);
        assert!(delay >= Duration::from_secs(384), "{delay:?}");
    }

    #[test]
    fn a_delay_that_is_too_long_for_sqs_is_split() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let (mut retry, mut delay) = failed(Some(2_000)).next_at(&first(), Some(7), now);
        let mut waited = delay;
        let mut times = 0;
        while until(retry.not_before, now + waited) > Duration::ZERO {
            let generation = retry.generation;
            (retry, delay) = Unfinished::all(RetryCause::TooEarly).next_at(&retry, None, now + waited);
            assert_eq!((retry.tries, retry.generation, retry.unread_count), (1, generation, Some(7)));
            waited += delay;
            times += 1;
        }
        assert_eq!((waited.as_secs(), times), (2_000, 2));
        let (retry, _) = failed(Some(10 * 86_400)).next_at(&first(), None, now);
        assert_eq!(retry.not_before, Some(now + MAX_ASKED_DELAY));
    }

    #[test]
    fn a_task_that_was_not_tried_is_retried_at_once_and_not_counted_as_a_try() {
        let (retry, delay) = Unfinished::all(RetryCause::NotTried).next(&first(), None);
        assert_eq!((retry.generation, retry.tries, delay), (1, 0, Duration::ZERO));
    }
}
