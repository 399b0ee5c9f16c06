//! Claims the notifications of an event for several recipients by one write: for those whose claims are in the same item
//! of the table.
//!
//! The tasks for these recipients are members of a group from the moment that their record is read. A member that comes
//! to its claim waits until each other one has come to it or has left; then one of them writes for all. A member leaves
//! on drop, so a task that is skipped, fails, panics or is cancelled does not hold up the others.
//!
//! No members wait for each other: a waiting member holds no permit, and waits only for tasks of the same event. These
//! wait only for earlier events of their users, and, of several sessions of one user, for the earlier ones. Sessions of
//! one user are in different groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushlark_store::{ClaimItem, ClaimUpdate, Store, StoreError};
use pushlark_xmpp::BareJid;
use tokio::sync::oneshot;

use crate::task::Task;

/// A task's place in its group, which it leaves on drop. A task alone is in no group.
#[derive(Debug, Default)]
pub struct Member(Option<Arc<Group>>);

#[derive(Debug, Default)]
struct Group(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of members that have neither come to their claim nor left.
    expected: usize,
    waiting: Vec<Waiting>,
}

/// The claim of a member that waits for its result.
#[derive(Debug)]
struct Waiting {
    update: ClaimUpdate,
    reply: oneshot::Sender<Reply>,
}

#[derive(Debug)]
enum Reply {
    /// The member writes its own claim and those of the others.
    Write(ClaimUpdate, Vec<Waiting>),
    /// Another member has written: whether this one holds each registration.
    Written(Result<Vec<bool>, Arc<StoreError>>),
}

/// The reason why it is not known whether a claim is written. The caller must retry.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The table did not answer.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The task that writes for the group has ended before.
    #[error("the task that claims for several recipients was cancelled")]
    Cancelled,
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Returns the members for the tasks of one record.
pub fn members(tasks: &[Task]) -> Vec<Member> {
    let mut members = Vec::with_capacity(tasks.len());
    for of_event in tasks.chunk_by(|task, next| task.attempt.has_same_event(&next.attempt)) {
        if let [_] = of_event {
            members.push(Member::default());
            continue;
        }
        let mut sessions: HashMap<BareJid, usize> = HashMap::new();
        let keys = of_event.iter().map(|task| {
            let user = task.user()?;
            let item = task.attempt.claim_item(&user);
            let session = sessions.entry(user).or_default();
            *session += 1;
            Some((*session, item))
        });
        let keys: Vec<Option<(usize, ClaimItem)>> = keys.collect();
        let mut groups: BTreeMap<_, Arc<Group>> = BTreeMap::new();
        for key in keys.iter().flatten() {
            groups.entry(key).or_default().state().expected += 1;
        }
        let group = |key| groups.get(key).filter(|group| group.state().expected > 1).cloned();
        members.extend(keys.iter().map(|key| Member(key.as_ref().and_then(group))));
    }
    members
}

impl Member {
    /// Returns whether the member is in a group, so that its claim may wait.
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }

    /// Claims for this member together with the others of its group. Returns whether it holds each registration.
    pub async fn claim(
        &mut self,
        store: &Store,
        item: &ClaimItem,
        update: ClaimUpdate,
    ) -> Result<Vec<bool>, ClaimError> {
        let Some(group) = self.0.take() else { return write(store, item, update, Vec::new()).await };
        let (reply, written) = oneshot::channel();
        group.arrive(Some(Waiting { update, reply }));
        match written.await {
            Ok(Reply::Write(update, others)) => write(store, item, update, others).await,
            Ok(Reply::Written(held)) => Ok(held?),
            Err(_) => Err(ClaimError::Cancelled),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            group.arrive(None);
        }
    }
}

impl Group {
    /// Notes that a member has come to its claim, or has left. After the last one, a waiting member writes.
    fn arrive(&self, waiting: Option<Waiting>) {
        let mut state = self.state();
        state.expected = state.expected.saturating_sub(1);
        state.waiting.extend(waiting);
        if state.expected > 0 {
            return;
        }
        let mut others = std::mem::take(&mut state.waiting);
        drop(state);
        while let Some(Waiting { update, reply }) = others.pop() {
            match reply.send(Reply::Write(update, others)) {
                // The task was cancelled, so another one writes.
                Err(Reply::Write(_, rest)) => others = rest,
                Ok(()) | Err(Reply::Written(_)) => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves no change half done, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a claim and those of other members, and tells them the result.
async fn write(
    store: &Store,
    item: &ClaimItem,
    update: ClaimUpdate,
    mut others: Vec<Waiting>,
) -> Result<Vec<bool>, ClaimError> {
    // A task that was cancelled must not claim: it is put back.
    others.retain(|other| !other.reply.is_closed());
    let (mut updates, replies): (Vec<_>, Vec<_>) =
        others.into_iter().map(|Waiting { update, reply }| (update, reply)).unzip();
    updates.push(update);
    match store.claim(item, &updates).await {
        Ok(mut held) => {
            let own = held.pop().unwrap_or_default();
            for (reply, held) in replies.into_iter().zip(held) {
                // A failure to send means that the task was cancelled.
                _ = reply.send(Reply::Written(Ok(held)));
            }
            Ok(own)
        }
        Err(error) => {
            let error = Arc::new(error);
            for reply in replies {
                _ = reply.send(Reply::Written(Err(Arc::clone(&error))));
            }
            Err(error.into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn group(expected: usize) -> Arc<Group> {
        Arc::new(Group(Mutex::new(State { expected, waiting: Vec::new() })))
    }

    /// Lets a member come to its claim.
    fn arrive(group: &Group, name: &str) -> oneshot::Receiver<Reply> {
        let (reply, written) = oneshot::channel();
        let user = BareJid::new("bob@example.com").unwrap();
        let update = pushlark_store::Claimant { user: &user, name, generation: 0, counted: None }.claim(&[]);
        group.arrive(Some(Waiting { update, reply }));
        written
    }

    /// Returns the number of members for which this one writes, if it does.
    fn others(written: &mut oneshot::Receiver<Reply>) -> Option<usize> {
        match written.now_or_never()?.ok()? {
            Reply::Write(_, others) => Some(others.len()),
            Reply::Written(_) => None,
        }
    }

    #[test]
    fn the_last_member_that_comes_writes_for_all() {
        let group = group(3);
        let [mut first, mut second] = ["a", "b"].map(|name| arrive(&group, name));
        assert_eq!((others(&mut first), others(&mut second)), (None, None));
        assert_eq!(others(&mut arrive(&group, "c")), Some(2));
    }

    #[test]
    fn a_waiting_member_writes_when_the_others_have_left() {
        let group = group(3);
        let [gone, panicked] = [(); 2].map(|()| Member(Some(Arc::clone(&group))));
        let mut waiting = arrive(&group, "a");
        drop(gone);
        assert_eq!(others(&mut waiting), None);
        drop(std::panic::catch_unwind(move || {
            let _panicked = panicked;
            panic!("a task panics");
        }));
        assert_eq!(others(&mut waiting), Some(0));
    }

    #[test]
    fn another_member_writes_in_place_of_a_cancelled_one() {
        let group = group(3);
        let (mut first, cancelled) = (arrive(&group, "a"), arrive(&group, "b"));
        drop(cancelled);
        group.arrive(None);
        assert_eq!(others(&mut first), Some(0));
    }
}
