//! A value that is fetched at its first use, and then cached.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// The time for which an error is cached: callers that waited for the same fetch do not start another one.
const ERROR_LIFETIME: Duration = Duration::from_secs(1);

/// One value for all callers. Only one of them fetches it at a time; the others wait.
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
    /// Returns the cached value while it `is_good`, or else the result of `fetch`.
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
