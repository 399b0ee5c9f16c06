//! Concurrency that is shared fairly: a recipient whose devices do not answer leaves room for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Above so many names, those that nobody uses are forgotten.
const REMEMBERED: usize = 1_000;

/// Permits, of which each name holds a quarter at most.
pub struct Shares {
    all: Arc<Semaphore>,
    of_each: usize,
    by_name: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A permit.
pub struct Share(#[expect(dead_code, reason = "permits are held")] Vec<OwnedSemaphorePermit>);

impl Shares {
    /// So many permits.
    pub fn new(permits: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(permits)), of_each: (permits / 4).max(1), by_name: Mutex::default() }
    }

    /// Waits for a permit of each of these names, and then for one of all. Callers give names of the same kinds in the same
    /// order, so that none waits for another in a circle.
    pub async fn acquire(&self, names: &[&str]) -> Share {
        let semaphores = names.iter().map(|name| self.of(name)).chain([Arc::clone(&self.all)]);
        let mut permits = Vec::with_capacity(names.len() + 1);
        for semaphore in semaphores.collect::<Vec<_>>() {
            // No semaphore here is ever closed.
            permits.extend(semaphore.acquire_owned().await.ok());
        }
        Share(permits)
    }

    fn of(&self, name: &str) -> Arc<Semaphore> {
        // Each change is complete in itself.
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = by_name.get(name).and_then(Weak::upgrade) {
            return semaphore;
        }
        if by_name.len() >= REMEMBERED {
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
    async fn a_name_holds_a_quarter_at_most() {
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
    async fn few_permits_leave_each_name_one() {
        let shares = Shares::new(1);
        let held = shares.acquire(&["bob"]).await;
        assert!(shares.acquire(&["carol"]).now_or_never().is_none());
        drop(held);
        assert!(shares.acquire(&["carol"]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn names_that_nobody_uses_are_forgotten() {
        let shares = Shares::new(4);
        let _held = shares.acquire(&["held"]).await;
        for name in 0..3 * REMEMBERED {
            drop(shares.acquire(&[&name.to_string()]).await);
        }
        assert!(shares.by_name.lock().unwrap_or_else(PoisonError::into_inner).len() <= REMEMBERED + 1);
        assert!(shares.acquire(&["held"]).now_or_never().is_none());
    }
}
