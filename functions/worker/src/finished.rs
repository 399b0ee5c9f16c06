//! Publications that need nothing more: noted in their claims where SQS may deliver their message again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pushlark_model::Registration;
use pushlark_store::{Claimant, Store};
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::task::Attempt;

/// How many notes are written side by side.
const WRITES: usize = 16;
/// How long a publication that needs nothing more may wait for the rest of its batch before it is noted: a worker that dies
/// meanwhile would repeat it.
const HELD_UP: Duration = Duration::from_millis(500);

/// Those of a batch that are not noted yet.
#[derive(Default)]
pub struct Finished {
    notes: Mutex<Notes>,
    added: Notify,
}

/// What is to be noted, by the name of the claimant.
pub type Notes = BTreeMap<String, Note>;

/// What is to be noted in one claim.
pub struct Note {
    user: BareJid,
    attempt: Attempt,
    counted: Option<u32>,
    finished: Vec<Registration>,
    /// Those that the next try holds.
    pub put_back: Vec<Registration>,
}

impl Note {
    /// Nothing yet.
    pub fn new(attempt: Attempt, user: BareJid, counted: Option<u32>) -> Self {
        Self { user, attempt, counted, finished: Vec::new(), put_back: Vec::new() }
    }

    /// Whether it is of a try after the first one.
    pub fn is_of_later_try(&self) -> bool {
        self.attempt.retry.generation > 0
    }

    /// Whether it says anything of a service.
    pub fn is_worth_writing(&self) -> bool {
        !self.finished.is_empty() || !self.put_back.is_empty()
    }
}

impl Finished {
    /// Adds services that need nothing more, and the message's number.
    pub fn add(
        &self,
        attempt: &Attempt,
        user: &BareJid,
        counted: Option<u32>,
        registrations: impl IntoIterator<Item = Registration>,
    ) {
        // Each change is complete in itself.
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.is_empty() {
            self.added.notify_one();
        }
        let note = match notes.get_mut(&attempt.retry.claimant) {
            Some(note) => note,
            None => {
                let note = Note::new(attempt.clone(), user.clone(), counted);
                notes.entry(attempt.retry.claimant.clone()).or_insert(note)
            }
        };
        note.finished.extend(registrations);
    }

    /// Waits until something was added, and then so long that it is to be noted.
    pub async fn held_up(&self) {
        self.added.notified().await;
        sleep(HELD_UP).await;
    }

    /// Gives all that was added since this was asked last.
    pub fn take(&self) -> Notes {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes notes into their claims. One that cannot be written costs a repeated notification at most.
pub async fn write(store: &Store, notes: impl IntoIterator<Item = Note>) {
    let writes = notes.into_iter().map(async |note| {
        let Note { user, attempt, counted, finished, put_back } = note;
        let claimant: Claimant<'_> = attempt.claimant(&user, counted);
        let (finished, put_back): (Vec<_>, Vec<_>) = (finished.iter().collect(), put_back.iter().collect());
        if let Err(error) = store.finish(claimant, &finished, &put_back).await {
            tracing::error!(id = claimant.id, error = %Causes(&error), "a notification may be repeated");
        }
    });
    stream::iter(writes).buffer_unordered(WRITES).collect::<()>().await;
}
