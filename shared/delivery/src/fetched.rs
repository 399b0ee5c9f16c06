//! What is fetched from elsewhere when it is first needed, and then kept.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::outcome::Failure;

/// How long a failure is taken for an answer: whoever waited for the same does not ask again.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// One value for all who need it. Only one of them fetches at a time.
pub struct Fetched<T>(Mutex<State<T>>);

enum State<T> {
    Nothing,
    Got(T),
    Failed(Failure, Instant),
}

impl<T> Default for Fetched<T> {
    fn default() -> Self {
        Self(Mutex::new(State::Nothing))
    }
}

impl<T: Clone> Fetched<T> {
    /// The value that is kept, while it `is_good`, or else what `fetch` gives.
    pub async fn get(
        &self,
        is_good: impl Fn(&T) -> bool,
        fetch: impl AsyncFnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut state = self.0.lock().await;
        match &*state {
            State::Got(value) if is_good(value) => return Ok(value.clone()),
            State::Failed(failure, at) if at.elapsed() < FAILURE_LIFETIME => return Err(failure.clone()),
            _ => {}
        }
        let fetched = fetch().await;
        *state = match &fetched {
            Ok(value) => State::Got(value.clone()),
            Err(failure) => State::Failed(failure.clone(), Instant::now()),
        };
        fetched
    }
}
