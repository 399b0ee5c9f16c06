//! The messages that were counted, with their claims: each is counted once, and published once to each registration.
//!
//! The write that counts a message also stores its name, and the claim of the registrations to which it is published.
//! Therefore a message that is notified costs one write. A repeated message is found by its name:
//!
//! - in the counter of its conversation, which is read with the recipient;
//! - in the item `read/<conversation>`, to which a counter without unread messages is copied;
//! - in its own item `counted/<digest>`, if one of these two items was full and has forgotten it.
//!
//! Few messages need one of the two reads. A counter with [`IS_FIRST`] was created when there was no
//! `read/<conversation>`, and [`HAS_MOVED`] in one of the two items says that there are items of single messages.
//!
//! A claim in a counter never changes. The later state of the registrations (complete, or put back) is in the
//! message's claim item ([`crate::Claimant`]), which an attempt that finds its own claim in the counter uses.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use pushlark_model::Registration;
use pushlark_model::time::to_micros;
use pushlark_xmpp::BareJid;

use crate::attributes::{COUNTED_CLAIM, COUNTED_TOTAL, EXPIRES_AT, HAS_MOVED, IS_FIRST, PK, READ_AT, SK, UNREAD};
use crate::claim::{CLAIM_LIFETIME, Claimant};
use crate::item::{self, Item, number, text};
use crate::unread::{CountedMessage, unread, was_all_read};
use crate::{Store, StoreError, expiry, keys, seconds_now};

/// The largest item with names, in bytes: DynamoDB bills a kilobyte as one write.
const MAX_BYTES: usize = 1_024;
/// The most bytes by which one message or one read mark enlarges a counter.
const MAX_GROWTH_BYTES: usize = 184;
/// The size to which an item shrinks when it forgets its oldest messages.
const KEPT_BYTES: usize = 600;
/// The number of messages whose names stay, even if long JIDs alone are larger than [`KEPT_BYTES`].
const MIN_NAMED_MESSAGES: usize = 4;
/// The most registrations that a claim in a counter has. A message to more has a claim item.
const MAX_CLAIMED: usize = 8;

/// The unread counters of a user, from the view of one conversation.
#[derive(Debug, Clone)]
pub struct Counters {
    key: String,
    /// The counter of the conversation; empty if there is none.
    pub(crate) own: Item,
    /// The number of unread messages in all other conversations that were read.
    pub elsewhere: u32,
}

/// The registrations that the first attempt for a message has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterClaim {
    holder: [u8; 4],
    registrations: Vec<[u8; 3]>,
}

/// A message that was counted before, or that was read before it could be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedBefore {
    /// The unread count, at least 1.
    pub unread_count: u32,
    /// The claim that was stored when it was counted.
    pub claim: Option<CounterClaim>,
    /// Whether it is known that the user has read it.
    pub is_read: bool,
}

/// The result of [`Store::count`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// The message is counted now, and the claim is stored: its unread count, including itself.
    Now(u32),
    /// The message is not counted again. The claim is not stored.
    Before(CountedBefore),
}

/// The search for a message that was counted before.
pub(crate) enum Search {
    Found(CountedBefore),
    /// It is new. `is_first` is whether the table knows no other message of the conversation.
    New {
        is_first: bool,
    },
}

impl Counters {
    pub(crate) fn new(conversation: &BareJid) -> Self {
        Self { key: keys::unread(conversation), own: Item::new(), elsewhere: 0 }
    }

    pub(crate) fn add(&mut self, item: Item) {
        // DynamoDB deletes an expired item with a delay.
        let is_expired = |item: &Item| item::number_of(item, EXPIRES_AT).is_some_and(|at| at <= seconds_now());
        match item::text_of(&item, SK) {
            Some(key) if key == self.key => self.own = item,
            Some(key) if key.starts_with(keys::UNREAD_PREFIX) && !is_expired(&item) => {
                self.elsewhere = self.elsewhere.saturating_add(unread(&item, COUNTED_TOTAL));
            }
            _ => {}
        }
    }

    /// Returns the number of unread messages of the conversation.
    pub fn unread(&self) -> u32 {
        unread(&self.own, COUNTED_TOTAL)
    }

    /// Returns the unread count that the message with this id has, or gets if it is counted next.
    pub fn unread_with(&self, id: &str) -> u32 {
        CountedBefore::find(&self.own, id).map_or(self.unread().saturating_add(1), |before| before.unread_count)
    }
}

impl CounterClaim {
    /// Returns the claim of `registrations` by an attempt; `None` if there are none, or too many for a counter.
    pub fn new(claimant: &Claimant<'_>, registrations: &[&Registration]) -> Option<Self> {
        let holder = keys::holder_digest(claimant.name, claimant.generation);
        let mut registrations: Vec<_> = registrations.iter().map(|one| keys::registration_digest(one)).collect();
        // A plugin may publish several notifications to one registration.
        registrations.sort_unstable();
        registrations.dedup();
        (1..=MAX_CLAIMED).contains(&registrations.len()).then_some(Self { holder, registrations })
    }

    /// Returns whether it has a registration.
    pub fn has(&self, registration: &Registration) -> bool {
        self.registrations.contains(&keys::registration_digest(registration))
    }

    /// Returns whether an attempt or an earlier one of the same name holds it.
    pub fn is_of(&self, claimant: &Claimant<'_>) -> bool {
        (0..=claimant.generation).any(|generation| keys::holder_digest(claimant.name, generation) == self.holder)
    }

    pub(crate) fn value(&self) -> AttributeValue {
        AttributeValue::B(Blob::new([&self.holder[..], &self.registrations.concat()].concat()))
    }

    fn read(value: &AttributeValue) -> Option<Self> {
        let (holder, registrations) = value.as_b().ok()?.as_ref().split_first_chunk()?;
        let registrations = registrations.chunks_exact(3).filter_map(|digest| digest.try_into().ok()).collect();
        Some(Self { holder: *holder, registrations })
    }
}

impl CountedBefore {
    /// Finds a message in a counter.
    pub(crate) fn find(counter: &Item, id: &str) -> Option<Self> {
        let name = keys::counted_message(id);
        counter.contains_key(&name).then(|| Self {
            unread_count: unread(counter, &name).max(1),
            claim: counter.get(&keys::message_claim(&name)).and_then(CounterClaim::read),
            is_read: unread(counter, &name) == 0,
        })
    }
}

impl Store {
    /// Reads the unread counters of a user, by one query. It reads 1 MB, which is more than a thousand conversations:
    /// others are not in the number, so that strangers who fill a user's table make no notification more expensive than
    /// that.
    pub async fn counters(&self, user: &BareJid, conversation: &BareJid) -> Result<Counters, StoreError> {
        let page = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND begins_with({SK}, :prefix)"))
            .expression_attribute_values(":pk", text(user))
            .expression_attribute_values(":prefix", text(keys::UNREAD_PREFIX))
            .send()
            .await
            .map_err(StoreError::during("look up unread counts"))?;
        let mut counters = Counters::new(conversation);
        page.items.unwrap_or_default().into_iter().for_each(|item| counters.add(item));
        if page.last_evaluated_key.is_some() && counters.own.is_empty() {
            counters.own = self.counter(user, conversation).await?.own;
        }
        Ok(counters)
    }

    /// Reads the counter of one conversation.
    pub async fn counter(&self, user: &BareJid, conversation: &BareJid) -> Result<Counters, StoreError> {
        let counters = Counters::new(conversation);
        let own = self.get("look up an unread count", user, &counters.key).await?;
        Ok(Counters { own, ..counters })
    }

    /// Returns what is known of a message that was counted before, or that is older than the last read mark. `counters`
    /// are those that were read for it. Writes nothing.
    pub async fn counted_before(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
        counters: &Counters,
    ) -> Result<Option<CountedBefore>, StoreError> {
        Ok(match self.search(user, conversation, message, &counters.own).await? {
            Search::Found(before) => Some(before),
            Search::New { .. } => None,
        })
    }

    pub(crate) async fn search(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
        counter: &Item,
    ) -> Result<Search, StoreError> {
        if let Some(before) = CountedBefore::find(counter, message.id) {
            return Ok(Search::Found(before));
        }
        let read = match counter.contains_key(IS_FIRST) {
            true => Item::new(),
            false => self.get("look up a read mark", user, &keys::read(conversation)).await?,
        };
        if let Some(CountedBefore { claim, .. }) = CountedBefore::find(&read, message.id) {
            return Ok(Search::Found(CountedBefore { unread_count: 1, claim, is_read: true }));
        }
        if counter.contains_key(HAS_MOVED) || read.contains_key(HAS_MOVED) {
            let key = keys::counted(&keys::counted_message(message.id));
            let moved = self.get("look up a counted message", user, &key).await?;
            if let Some(count) = item::number_of(&moved, UNREAD) {
                let unread_count = count.try_into().unwrap_or(u32::MAX);
                let claim = moved.get(COUNTED_CLAIM).and_then(CounterClaim::read);
                return Ok(Search::Found(CountedBefore { unread_count, claim, is_read: false }));
            }
        }
        let was_read = item::number_of(&read, READ_AT).is_some_and(|read_at| to_micros(message.at) <= read_at);
        if was_read {
            return Ok(Search::Found(CountedBefore {
                unread_count: unread(counter, COUNTED_TOTAL).max(1),
                claim: None,
                is_read: was_all_read(&read, message.at),
            }));
        }
        Ok(Search::New { is_first: counter.is_empty() && read.is_empty() })
    }

    /// Writes items of their own for the messages of `counter` among `names`, which it is about to forget, with the
    /// unread count that `unread_count` returns for a name. It returns `None` for a message that needs no item. Returns
    /// whether there is an item.
    pub(crate) async fn move_messages(
        &self,
        user: &BareJid,
        counter: &Item,
        names: &[String],
        unread_count: impl Fn(&str) -> Option<u32>,
    ) -> Result<bool, StoreError> {
        let messages = names.iter().filter(|name| keys::is_counted_message(name));
        let messages: Vec<_> = messages.filter_map(|name| Some((name, unread_count(name)?))).collect();
        let updates = messages.iter().map(|(name, unread_count)| {
            let mut update = self.update(user, &keys::counted(name));
            let mut sets = format!("SET {UNREAD} = :unread, {EXPIRES_AT} = :expires_at");
            if let Some(claim) = counter.get(&keys::message_claim(name)) {
                sets += &format!(", {COUNTED_CLAIM} = :claim");
                update = update.expression_attribute_values(":claim", claim.clone());
            }
            update
                .update_expression(sets)
                .expression_attribute_values(":unread", number((*unread_count).into()))
                .expression_attribute_values(":expires_at", number(expiry(CLAIM_LIFETIME)))
                .send()
        });
        // At most a kilobyte of names is forgotten at once.
        try_join_all(updates).await.map_err(StoreError::during("move a counted message"))?;
        Ok(!messages.is_empty())
    }
}

/// Returns the names of the oldest messages and their claims, without which the item has [`KEPT_BYTES`]; none if the
/// item is small enough for another message and a read mark.
pub(crate) fn surplus_names(counter: &Item) -> Vec<String> {
    let mut size = item::bytes(counter);
    if size + MAX_GROWTH_BYTES <= MAX_BYTES {
        return Vec::new();
    }
    let names = counter.keys().filter(|name| keys::is_message_name(name));
    let mut names: Vec<(u64, &String)> =
        names.map(|name| (item::number_of(counter, name).unwrap_or(0), name)).collect();
    names.sort_unstable();
    let mut numbers: Vec<u64> = names.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    let oldest_kept = numbers.iter().rev().nth(MIN_NAMED_MESSAGES - 1).copied().unwrap_or(0);
    let mut surplus = Vec::new();
    let mut last = None;
    for (number, name) in names {
        // The names of one message are dropped together.
        if number >= oldest_kept || size <= KEPT_BYTES && last != Some(number) {
            break;
        }
        last = Some(number);
        let claim = Some(keys::message_claim(name)).filter(|_| keys::is_counted_message(name));
        for name in [Some(name.clone()), claim].into_iter().flatten() {
            if let Some(value) = counter.get(&name) {
                size -= item::attribute_bytes(&name, value);
                surplus.push(name);
            }
        }
    }
    surplus
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_model::PublishOptions;

    use super::*;
    use crate::attributes::{COUNTED_AT, READ_ALL_BEFORE, READ_TOTAL};
    use crate::unread::MAX_REFERENCES;

    fn counter(jid_bytes: usize, messages: u64, references: usize, claim: Option<&CounterClaim>) -> Item {
        let mut counter = Item::from([
            (PK.to_owned(), text("u".repeat(jid_bytes))),
            (SK.to_owned(), text(format!("unread/{}", "c".repeat(jid_bytes.min(1_000))))),
        ]);
        for name in [COUNTED_AT, READ_AT] {
            counter.insert(name.to_owned(), number(1_795_814_756_794_525));
        }
        counter.insert(EXPIRES_AT.to_owned(), number(1_803_590_756));
        counter.insert(COUNTED_TOTAL.to_owned(), number(messages));
        for message in 1..=messages {
            counter.insert(keys::counted_message(&message.to_string()), number(message));
            if let Some(claim) = claim {
                counter.insert(keys::message_claim(&keys::counted_message(&message.to_string())), claim.value());
            }
            for reference in 0..references {
                counter.insert(keys::message_reference(&format!("{message} {reference}")), number(message));
            }
        }
        counter
    }

    #[test]
    fn one_message_or_read_mark_enlarges_a_counter_by_at_most_the_reserved_bytes() {
        let large = |name: &str| item::attribute_bytes(name, &number(u32::MAX.into()));
        let name = keys::counted_message("m");
        let claim = CounterClaim { holder: [0; 4], registrations: vec![[0; 3]; MAX_CLAIMED] };
        let claim = item::attribute_bytes(&keys::message_claim(&name), &claim.value());
        let message = large(&name) + claim + MAX_REFERENCES * large(&keys::message_reference("r"));
        let times = [READ_AT, READ_ALL_BEFORE].map(|name| item::attribute_bytes(name, &number(u64::MAX)));
        let mark = large(READ_TOTAL) + times.iter().sum::<usize>();
        assert!(message.max(mark) + 16 <= MAX_GROWTH_BYTES, "{message} {mark}");
    }

    #[test]
    fn a_counter_drops_whole_messages_and_the_oldest_first() {
        let claim = CounterClaim { holder: [0; 4], registrations: vec![[0; 3]; 2] };
        assert!(surplus_names(&counter(40, 5, 2, Some(&claim))).is_empty());
        let full = counter(40, 20, 2, Some(&claim));
        let surplus = surplus_names(&full);
        assert_eq!(surplus.len() % 4, 0, "{surplus:?}");
        let dropped = surplus.len() as u64 / 4;
        assert!((1..20).contains(&dropped));
        for message in 1..=20_u64 {
            let name = keys::counted_message(&message.to_string());
            assert_eq!(surplus.contains(&name), message <= dropped, "{message}");
        }
    }

    #[test]
    fn the_names_of_the_last_messages_stay_even_with_the_longest_jids() {
        let full = counter(2_047, 20, 5, None);
        assert_eq!(surplus_names(&full).len(), (20 - MIN_NAMED_MESSAGES) * 6);
        assert!(surplus_names(&counter(2_047, 4, 5, None)).is_empty());
    }

    #[test]
    fn a_claim_in_a_counter_has_its_registrations_and_is_of_its_attempt_and_later_ones() {
        let user = BareJid::new("bob@example.com").unwrap();
        let claimant = |name, generation| Claimant { user: &user, name, generation, counted: None };
        let registration = |node: &str| {
            let jid = BareJid::new("push.example.com").unwrap();
            Registration::new(jid, node.into(), PublishOptions::default(), 1)
        };
        let [phone, tablet, watch] = ["phone", "tablet", "watch"].map(registration);
        let claim = CounterClaim::new(&claimant("q.1", 2), &[&phone, &tablet, &phone]).unwrap();
        let read = CounterClaim::read(&claim.value()).unwrap();
        assert_eq!(read, claim);
        assert_eq!([&phone, &tablet, &watch].map(|one| read.has(one)), [true, true, false]);
        for (name, generation, is_held) in [("q.1", 1, false), ("q.1", 2, true), ("q.1", 3, true), ("q.2", 3, false)] {
            assert_eq!(read.is_of(&claimant(name, generation)), is_held, "{name} {generation}");
        }
        let many: Vec<_> = (0..9).map(|number| registration(&number.to_string())).collect();
        let many: Vec<_> = many.iter().collect();
        assert!(CounterClaim::new(&claimant("q.1", 0), &many[..8]).is_some());
        assert_eq!(CounterClaim::new(&claimant("q.1", 0), &many), None);
        assert_eq!(CounterClaim::new(&claimant("q.1", 0), &[]), None);
    }
}
