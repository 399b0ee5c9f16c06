//! Limits concurrency fairly: a recipient whose devices do not answer leaves permits for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The number of names above which unused ones are removed.
const MAX_NAMES: usize = 1_000;

/// Permits of which one name holds at most a quarter.
pub struct Shares {
    all: Arc<Semaphore>,
    of_each: usize,
    by_name: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A permit of a name, or of several. It is returned on drop.
pub struct Share(#[expect(dead_code, reason = "permits are held")] Vec<OwnedSemaphorePermit>);

impl Shares {
    /// Creates `permits` permits. Each name can hold a quarter of them, and at least one.
    pub fn new(permits: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(permits)), of_each: (permits / 4).max(1), by_name: Mutex::default() }
    }

    /// Waits for a permit of each name, and then for one of all permits. Callers must pass the kinds of names in the
    /// same order, to avoid a deadlock.
    pub async fn acquire(&self, names: &[&str]) -> Share {
        let semaphores = names.iter().map(|name| self.of(name)).chain([Arc::clone(&self.all)]);
        let mut permits = Vec::with_capacity(names.len() + 1);
        for semaphore in semaphores.collect::<Vec<_>>() {
            // These semaphores are never closed.
            permits.extend(semaphore.acquire_owned().await.ok());
        }
        Share(permits)
    }

    fn of(&self, name: &str) -> Arc<Semaphore> {
        // A panic leaves no change half done, so a poisoned lock is safe to use.
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = by_name.get(name).and_then(Weak::upgrade) {
            return semaphore;
        }
        if by_name.len() >= MAX_NAMES {
            by_name.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(self.of_each));
        by_name.insert(name.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_name_holds_at_most_a_quarter() {
        let shares = Shares::new(16);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(shares.acquire(&["bob"]).await);
        }
        assert!(shares.acquire(&["bob"]).now_or_never().is_none());
        for _ in 0..4 {
            held.push(shares.acquire(&["carol", "origin"]).await);
        }
        assert!(shares.acquire(&["dave", "origin"]).now_or_never().is_none(), "the origin has its quarter");
        held.push(shares.acquire(&["dave"]).await);
        held.clear();
        held.push(shares.acquire(&["bob", "origin"]).await);
    }

    #[tokio::test]
    async fn a_name_can_hold_one_of_few_permits() {
        let shares = Shares::new(1);
        let held = shares.acquire(&["bob"]).await;
        assert!(shares.acquire(&["carol"]).now_or_never().is_none());
        drop(held);
        assert!(shares.acquire(&["carol"]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn unused_names_are_removed() {
        let shares = Shares::new(4);
        let _held = shares.acquire(&["held"]).await;
        for name in 0..3 * MAX_NAMES {
            drop(shares.acquire(&[&name.to_string()]).await);
        }
        assert!(shares.by_name.lock().unwrap_or_else(PoisonError::into_inner).len() <= MAX_NAMES + 1);
        assert!(shares.acquire(&["held"]).now_or_never().is_none());
    }
}
