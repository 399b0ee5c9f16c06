//! What is fetched from elsewhere when it is first needed, and then kept.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an error is taken for an answer: whoever waited for the same does not ask again.
const ERROR_LIFETIME: Duration = Duration::from_secs(1);

/// One value for all who need it. Only one of them fetches at a time.
pub struct Cached<T, E>(Mutex<State<T, E>>);

enum State<T, E> {
    Nothing,
    Got(T),
    Failed(E, Instant),
}

impl<T, E> Default for Cached<T, E> {
    fn default() -> Self {
        Self(Mutex::new(State::Nothing))
    }
}

impl<T: Clone, E: Clone> Cached<T, E> {
    /// The value that is kept, while it `is_good`, or else what `fetch` gives.
    pub async fn get(&self, is_good: impl Fn(&T) -> bool, fetch: impl AsyncFnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut state = self.0.lock().await;
        match &*state {
            State::Got(value) if is_good(value) => return Ok(value.clone()),
            State::Failed(error, at) if at.elapsed() < ERROR_LIFETIME => return Err(error.clone()),
            _ => {}
        }
        let fetched = fetch().await;
        *state = match &fetched {
            Ok(value) => State::Got(value.clone()),
            Err(error) => State::Failed(error.clone(), Instant::now()),
        };
        fetched
    }
}
