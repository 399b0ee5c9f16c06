//! The IQs that were sent to the chat server and have no answer yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushlark_xmpp::{DomainPart, Element, Iq, Jid, parse_jid};
use tokio::sync::oneshot;

/// The pending IQs of all components, by IQ id. They are shared because ejabberd may send a stanza for one component of
/// a listener on the stream of another one, unless its option `global_routes` is off.
#[derive(Clone, Default)]
pub struct PendingIqs(Arc<Mutex<HashMap<String, PendingIq>>>);

struct PendingIq {
    component: DomainPart,
    /// The recipient of the IQ: only its answer counts.
    recipient: Option<Jid>,
    answer: oneshot::Sender<Element>,
}

impl PendingIqs {
    /// Adds an IQ that `component` sends with this id. It stays pending until it is answered or the guard is dropped.
    pub fn add(&self, id: String, component: DomainPart, iq: &Iq) -> (PendingGuard<'_>, oneshot::Receiver<Element>) {
        let recipient = iq.to().and_then(|to| parse_jid(to).ok());
        let (answer, answered) = oneshot::channel();
        self.lock().insert(id.clone(), PendingIq { component, recipient, answer });
        (PendingGuard { pending: self, id }, answered)
    }

    pub fn contains(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Passes an answer on, if it is from the recipient of the IQ.
    pub fn resolve(&self, answer: &Iq) {
        let from = answer.from().and_then(|from| parse_jid(from).ok());
        let mut pending = self.lock();
        if pending.get(answer.id()).is_some_and(|iq| iq.recipient == from)
            && let Some(iq) = pending.remove(answer.id())
        {
            // The caller may have given up.
            let _ = iq.answer.send(answer.element().clone());
        }
    }

    /// Removes the IQs of a component whose stream has ended: they get no answer.
    pub fn remove_component(&self, component: &DomainPart) {
        self.lock().retain(|_, iq| iq.component != *component);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, PendingIq>> {
        // Each change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Removes its IQ when dropped, because a caller of `/rest` may disconnect before the answer.
pub struct PendingGuard<'p> {
    pending: &'p PendingIqs,
    id: String,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.id);
    }
}
