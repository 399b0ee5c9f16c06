//! Operations on messages, alone or as a batch.

use std::collections::HashSet;

use rusqlite::Connection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::error::Error;
use super::operation::Operation;
use super::store::{QueueStore, StoredQueue, is_name};

/// The limit for all messages of a batch together, in bytes.
const MAX_BATCH_BYTES: usize = 1_048_576;

/// An operation on one message: alone, or as an entry of a batch.
pub(super) trait MessageOperation: DeserializeOwned {
    type Output: Serialize;

    /// Its size in bytes, for the limit of a batch.
    fn size(&self) -> usize {
        0
    }

    fn apply(self, queue: &StoredQueue, db: &Connection, clock: Clock) -> Result<Self::Output, Error>;
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SingleRequest<A> {
    queue_url: String,
    #[serde(flatten)]
    operation: A,
}

impl<A: MessageOperation> Operation for SingleRequest<A> {
    type Output = A::Output;

    fn run(self, store: &mut QueueStore, _host: &str) -> Result<A::Output, Error> {
        let clock = store.clock;
        store.transact(&self.queue_url, |queue, db| self.operation.apply(queue, db, clock))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchRequest<A> {
    queue_url: String,
    entries: Vec<Entry<A>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry<T> {
    id: String,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchResults<T> {
    successful: Vec<Entry<T>>,
    failed: Vec<Entry<BatchFailure>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchFailure {
    code: &'static str,
    message: String,
    sender_fault: bool,
}

impl<A: MessageOperation> Operation for BatchRequest<A> {
    type Output = BatchResults<A::Output>;

    fn run(self, store: &mut QueueStore, _host: &str) -> Result<Self::Output, Error> {
        let clock = store.clock;
        check_batch(&self.entries)?;
        store.transact(&self.queue_url, |queue, db| {
            let (mut successful, mut failed) = (Vec::new(), Vec::new());
            for Entry { id, content } in self.entries {
                match content.apply(queue, db, clock) {
                    Ok(content) => successful.push(Entry { id, content }),
                    Err(error) if error.is_internal() => return Err(error),
                    Err(error) => {
                        let content =
                            BatchFailure { code: error.code(), message: error.to_string(), sender_fault: true };
                        failed.push(Entry { id, content });
                    }
                }
            }
            Ok(BatchResults { successful, failed })
        })
    }
}

fn check_batch<A: MessageOperation>(entries: &[Entry<A>]) -> Result<(), Error> {
    if entries.is_empty() {
        return Err(Error::EmptyBatchRequest);
    }
    if entries.len() > 10 {
        return Err(Error::TooManyEntriesInBatchRequest(entries.len()));
    }
    let mut ids = HashSet::new();
    for Entry { id, .. } in entries {
        if !is_name(id) {
            return Err(Error::InvalidBatchEntryId);
        }
        if !ids.insert(id) {
            return Err(Error::BatchEntryIdsNotDistinct(id.clone()));
        }
    }
    let size = entries.iter().map(|entry| entry.content.size()).sum();
    if size > MAX_BATCH_BYTES {
        return Err(Error::BatchRequestTooLong(size));
    }
    Ok(())
}
