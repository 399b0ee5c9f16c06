//! The order of the tasks of one record: those for the same user begin one after the other, and so do their publishes
//! to the same device. Nobody else waits for them.
//!
//! A place is left when it is dropped, so a task that fails, panics or is cancelled lets the next one begin. A place
//! waits only for earlier places, so no two of them wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pushlark_model::Registration;
use pushlark_queue::RegistrationKey;
use pushlark_store::{ClaimItem, ClaimUpdate, Store};
use pushlark_xmpp::BareJid;
use tokio::sync::oneshot;

use crate::claims::{ClaimError, Member};
use crate::shares::Share;

/// The users of one record, each with a line of tasks.
#[derive(Default)]
pub struct Order(HashMap<BareJid, UserLine>);

/// The tasks of one user.
#[derive(Default)]
struct UserLine {
    tasks: Line,
    devices: Arc<Devices>,
}

/// The publishes to each device of a user, by PubSub service and node.
type Devices = Mutex<HashMap<(BareJid, String), Line>>;

/// A line in which each place comes to its turn when the place before it is left.
#[derive(Default)]
struct Line(Option<oneshot::Receiver<()>>);

/// A place in a line. It is left on drop.
pub struct Place {
    before: Option<oneshot::Receiver<()>>,
    _left: oneshot::Sender<()>,
}

/// The place of a task among the tasks of its record for the same user, before its turn.
pub struct Ticket {
    place: Option<Place>,
    devices: Arc<Devices>,
    /// The place at the only device of the task, if the device is known from the beginning.
    device: Option<Place>,
    member: Member,
}

/// The turn of a task, in which it counts, decides and claims. On drop, the next task begins.
pub struct Turn {
    ticket: Ticket,
    /// The permit, until the turn waits for the claims of other recipients.
    share: Option<Share>,
}

impl Order {
    /// Returns the ticket of the next task for `user`, which claims as `member`; without a user, the task waits for no
    /// other. The order is that of these calls.
    pub fn next(&mut self, user: Option<&BareJid>, member: Member) -> Ticket {
        let Some(user) = user else { return Ticket { place: None, devices: Arc::default(), device: None, member } };
        let UserLine { tasks, devices } = self.0.entry(user.clone()).or_default();
        Ticket { place: Some(tasks.join()), devices: Arc::clone(devices), device: None, member }
    }
}

impl Ticket {
    /// Waits until the earlier tasks of the user have passed. A task for one device alone takes its place there at
    /// once, and lets the next task begin.
    pub async fn comes(&mut self, device: Option<&RegistrationKey>) {
        if let Some(place) = &mut self.place {
            place.comes().await;
        }
        if let Some(RegistrationKey { jid, node }) = device {
            self.device = Some(join(&self.devices, (jid.clone(), node.clone())));
            self.place = None;
        }
    }

    /// Begins the turn, with a permit for it.
    pub fn begin(self, share: Share) -> Turn {
        Turn { ticket: self, share: Some(share) }
    }
}

impl Turn {
    /// Claims the registrations of the task. Returns whether it holds each of them.
    pub async fn claim(
        &mut self,
        store: &Store,
        item: &ClaimItem,
        update: ClaimUpdate,
    ) -> Result<Vec<bool>, ClaimError> {
        if self.ticket.member.waits() {
            // The other recipients may need the permit.
            self.share = None;
        }
        self.ticket.member.claim(store, item, update).await
    }

    /// Takes a place at the device of a registration.
    pub fn join(&mut self, registration: &Registration) -> Place {
        let Ticket { devices, device, .. } = &mut self.ticket;
        device.take().unwrap_or_else(|| join(devices, (registration.jid.clone(), registration.node.clone())))
    }
}

fn join(devices: &Devices, device: (BareJid, String)) -> Place {
    // A panic leaves no change half done, so a poisoned lock is safe to use.
    devices.lock().unwrap_or_else(PoisonError::into_inner).entry(device).or_default().join()
}

impl Line {
    fn join(&mut self) -> Place {
        let (left, after) = oneshot::channel();
        Place { before: self.0.replace(after), _left: left }
    }
}

impl Place {
    /// Waits until the place before this one is left.
    pub async fn comes(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is sent: the end of waiting is the drop of the sender.
            _ = before.await;
            self.before = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;
    use pushlark_model::PublishOptions;

    use super::*;
    use crate::shares::Shares;

    fn registration(node: &str) -> Registration {
        let options = PublishOptions::new(BTreeMap::new()).unwrap();
        Registration::new(user("push"), node.into(), options, 0)
    }

    fn user(name: &str) -> BareJid {
        BareJid::new(&format!("{name}@example.com")).unwrap()
    }

    fn has_come(place: &mut Place) -> bool {
        place.comes().now_or_never().is_some()
    }

    fn has_turn(ticket: &mut Ticket) -> bool {
        ticket.comes(None).now_or_never().is_some()
    }

    async fn pass(ticket: Ticket, registrations: &[Registration]) -> Vec<Place> {
        let mut turn = ticket.begin(Shares::new(1).acquire(&[]).await);
        registrations.iter().map(|registration| turn.join(registration)).collect()
    }

    #[tokio::test]
    async fn tasks_of_one_user_come_one_after_the_other_and_other_users_do_not_wait() {
        let (bob, carol) = (user("bob"), user("carol"));
        let mut order = Order::default();
        let [mut first, mut second, mut third] = [(); 3].map(|()| order.next(Some(&bob), Member::default()));
        let (mut other, mut removal) =
            (order.next(Some(&carol), Member::default()), order.next(None, Member::default()));
        assert!(has_turn(&mut other) && has_turn(&mut removal) && has_turn(&mut first));
        assert!(!has_turn(&mut second) && !has_turn(&mut third));
        assert!(pass(first, &[]).await.is_empty());
        assert!(has_turn(&mut second) && !has_turn(&mut third));
        drop(second);
        assert!(has_turn(&mut third));
        assert!(has_turn(&mut Order::default().next(Some(&bob), Member::default())), "another record");
    }

    #[tokio::test]
    async fn a_publish_waits_for_the_same_device_only() {
        let bob = user("bob");
        let mut order = Order::default();
        let [first, mut second, mut third] = [(); 3].map(|()| order.next(Some(&bob), Member::default()));
        let both = [registration("phone"), registration("tablet")];
        let mut of_first = pass(first, &both).await;
        assert!(of_first.iter_mut().all(has_come));
        assert!(has_turn(&mut second));
        let mut of_second = pass(second, &both).await;
        assert!(has_turn(&mut third));
        let mut of_third = pass(third, &both[..1]).await;
        drop(of_first.pop());
        assert!(has_come(&mut of_second[1]), "the tablet has answered");
        assert!(!has_come(&mut of_second[0]) && !has_come(&mut of_third[0]));
        drop(of_first);
        assert!(has_come(&mut of_second[0]) && !has_come(&mut of_third[0]));
        drop(of_second);
        assert!(has_come(&mut of_third[0]));
    }

    #[tokio::test]
    async fn the_retry_of_one_device_lets_the_next_task_begin_but_keeps_its_place_at_the_device() {
        let bob = user("bob");
        let mut order = Order::default();
        let [mut retry, mut second] = [(); 2].map(|()| order.next(Some(&bob), Member::default()));
        let both = [registration("phone"), registration("tablet")];
        assert!(!has_turn(&mut second));
        assert!(retry.comes(Some(&(&both[0]).into())).now_or_never().is_some());
        assert!(has_turn(&mut second));
        let mut of_second = pass(second, &both).await;
        assert!(!has_come(&mut of_second[0]) && has_come(&mut of_second[1]));
        let mut of_retry = pass(retry, &both[..1]).await;
        assert!(has_come(&mut of_retry[0]) && !has_come(&mut of_second[0]));
        drop(of_retry);
        assert!(has_come(&mut of_second[0]));
    }

    #[tokio::test]
    async fn a_task_that_panics_or_is_cancelled_lets_the_next_one_begin() {
        let bob = user("bob");
        let mut order = Order::default();
        let [mut panics, mut waits, mut last] = [(); 3].map(|()| order.next(Some(&bob), Member::default()));
        let panicked = tokio::spawn(async move {
            panics.comes(None).await;
            panic!("a task panics");
        });
        assert!(panicked.await.is_err());
        assert!(has_turn(&mut waits) && !has_turn(&mut last));
        let waiting = tokio::spawn(async move {
            let _waits = waits;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        assert!(!has_turn(&mut last));
        waiting.abort();
        assert!(waiting.await.is_err());
        assert!(has_turn(&mut last));
    }
}
