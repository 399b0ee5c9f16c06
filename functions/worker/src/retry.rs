//! When something is tried again.

use std::time::Duration;

use pushlark_model::Registration;
use pushlark_queue::{MAX_TIMER, Retry};
use time::OffsetDateTime;

/// The longest wait between two tries that no push service asks for.
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// The longest wait that a push service may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(12);

/// What is left to do of a recipient's turn.
#[derive(Debug)]
pub struct Unfinished {
    /// The service that it concerns; `None` for all of the recipient's.
    pub registration: Option<Registration>,
    /// Why it is left.
    pub cause: RetryCause,
}

/// Why something is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// The time did not suffice for a try.
    NotTried,
    /// A push service asked not to be tried yet.
    TooEarly,
    /// The try failed.
    Failed {
        /// How long the push service asks not to be tried, if it does.
        retry_after: Option<Duration>,
        /// Whether it may never succeed.
        is_doubtful: bool,
    },
}

impl RetryCause {
    /// A failure of something else than a push service.
    pub const FAILED: Self = Self::Failed { retry_after: None, is_doubtful: false };
}

impl Unfinished {
    /// All of a recipient's turn.
    pub fn all(cause: RetryCause) -> Self {
        Self { registration: None, cause }
    }

    /// The next try after `retry`, and how long SQS is to delay it, in whole seconds.
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
                let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
                let delay = backoff(next.tries).max(asked);
                next.not_before = (delay > MAX_TIMER).then(|| now + delay);
                delay
            }
        };
        (next, delay.min(MAX_TIMER))
    }
}

/// Whether a push service asked for more time than SQS has delayed this try.
pub fn is_too_early(retry: &Retry) -> bool {
    until(retry.not_before, OffsetDateTime::now_utc()) > Duration::ZERO
}

/// The time that is left until then, in whole seconds.
fn until(not_before: Option<OffsetDateTime>, now: OffsetDateTime) -> Duration {
    let unfinished: Duration = not_before.map_or(Duration::ZERO, |then| (then - now).try_into().unwrap_or_default());
    Duration::from_secs(unfinished.as_secs() + u64::from(unfinished.subsec_nanos() > 0))
}

/// One second, doubling to a quarter of an hour with the number of tries, less up to a quarter so that many failures do
/// not return at once.
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
    fn tries_are_a_second_apart_and_then_longer_to_a_quarter_of_an_hour() {
        assert_eq!(backoff(1), Duration::from_secs(1));
        for (tries, longest) in [(2, 2), (4, 8), (10, 512), (11, 900), (100, 900), (u32::MAX, 900)] {
            let delay = backoff(tries).as_secs();
            assert!(delay <= longest && delay >= longest - longest / 4, "{tries}: {delay}");
        }
    }

    #[test]
    fn a_push_service_makes_the_delay_longer_and_never_shorter() {
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
    fn a_delay_that_sqs_cannot_have_is_kept_by_early_tries() {
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
        assert_eq!(retry.not_before, Some(now + MAX_RETRY_AFTER));
    }

    #[test]
    fn what_was_not_tried_is_tried_at_once_and_costs_no_try() {
        let (retry, delay) = Unfinished::all(RetryCause::NotTried).next(&first(), None);
        assert_eq!((retry.generation, retry.tries, delay), (1, 0, Duration::ZERO));
    }
}
