//! Packs events into records, so that all events of one user are in one record and stay in order. The recipients of a
//! message whose claims are in the same item of the table are together, so that the worker can write them at once.

use std::collections::{BTreeMap, HashMap};
use std::io;

use pushlark_model::claim_slot;
use serde::Serialize;

use crate::record::{Record, Work, WorkKind};

/// The most different users in one record. The worker handles them concurrently.
pub const MAX_RECIPIENTS: usize = 25;
/// The most tasks in a record of several users, so that several workers share the events of a busy room.
const MAX_TASKS: usize = 250;
/// The size in bytes from which a record gets no further events of users whose events it does not have yet. SQS bills
/// up to 64 KB as one request.
const FULL_RECORD_BYTES: usize = 60 * 1024;
/// The largest message, in bytes ("Amazon SQS message quotas").
const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// More than the bytes of a record without events.
const RECORD_OVERHEAD: usize = 64;
/// The most bytes of a character of one byte in JSON: `\u0001`.
const MAX_ESCAPED_BYTES: usize = 6;
/// More than the bytes of the JSON of a message without its texts and recipients.
const MESSAGE_OVERHEAD: usize = 400;

/// One recipient of an event: the worker makes a task of it.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// The index of the event.
    event: usize,
    /// The index of the recipient in the event.
    recipient: usize,
    /// The size of the recipient in JSON.
    bytes: usize,
}

/// A user of the events, or a removed domain.
struct User<'a> {
    /// The bare JID.
    jid: &'a str,
    parts: Vec<Part>,
}

/// A record whose events are not copied yet.
struct Draft {
    users: usize,
    tasks: usize,
    bytes: usize,
    /// The indices of the events, each with those of its recipients.
    events: BTreeMap<usize, Vec<usize>>,
}

impl Record {
    /// Packs events into few records. The events of one user are in one record, in order, as long as they fit into one
    /// message of SQS; the next record has the rest. Other users are distributed over as many records as the limits
    /// require.
    ///
    /// An event is copied into a record when the iterator gets there, since all records together may be many times
    /// larger than the events. One whose recipients are all in one record is moved.
    pub fn pack(work: impl IntoIterator<Item = Work>) -> impl Iterator<Item = Self> + Send {
        Self::packed(work, false)
    }

    /// Packs events like [`pack`](Self::pack). With `is_by_domain`, no record has users of several domains.
    pub(crate) fn packed(
        work: impl IntoIterator<Item = Work>,
        is_by_domain: bool,
    ) -> impl Iterator<Item = Self> + Send {
        let work: Vec<Work> = work.into_iter().collect();
        let sizes = sizes(&work);
        let groups = if is_by_domain { by_domain(by_user(&work)) } else { vec![by_user(&work)] };
        let drafts: Vec<Draft> = groups.into_iter().flat_map(|users| drafts(users, &sizes)).collect();
        let mut work: Vec<Option<Work>> = work.into_iter().map(Some).collect();
        drafts.into_iter().map(move |draft| {
            let events = draft.events.iter().filter_map(|(event, recipients)| {
                let event = work.get_mut(*event)?;
                match event {
                    Some(whole) if whole.kind.recipients().count() == recipients.len() => event.take(),
                    part => part.as_ref().map(|event| event.part(recipients)),
                }
            });
            Self::new(events.collect())
        })
    }
}

/// Distributes users over drafts of records. `sizes` are those of the events in JSON.
fn drafts(users: Vec<User<'_>>, sizes: &[usize]) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let size = |event: usize| sizes.get(event).copied().unwrap_or(0);
    for parts in by_slot(users) {
        let has_room = |draft: &Draft| {
            let new = parts.iter().filter(|part| !draft.events.contains_key(&part.event));
            let new: usize = new.map(|part| size(part.event)).sum();
            draft.users < MAX_RECIPIENTS
                && draft.tasks + parts.len() <= MAX_TASKS
                && (new == 0 || draft.bytes + new <= FULL_RECORD_BYTES)
        };
        if !drafts.last().is_some_and(has_room) {
            drafts.push(Draft::new());
        }
        let mut is_counted = false;
        for part in parts {
            let bytes = |draft: &Draft| match draft.events.contains_key(&part.event) {
                true => part.bytes,
                false => size(part.event) + part.bytes,
            };
            let fits = |draft: &&mut Draft| draft.tasks == 0 || draft.bytes + bytes(draft) <= MAX_RECORD_BYTES;
            if drafts.last_mut().filter(fits).is_none() {
                drafts.push(Draft::new());
                is_counted = false;
            }
            let Some(draft) = drafts.last_mut() else { continue };
            draft.bytes += bytes(draft);
            draft.tasks += 1;
            draft.users += usize::from(!is_counted);
            draft.events.entry(part.event).or_default().push(part.recipient);
            is_counted = true;
        }
    }
    drafts
}

/// Returns the users of each domain, in the order of the first of them.
fn by_domain(users: Vec<User<'_>>) -> Vec<Vec<User<'_>>> {
    let mut domains: Vec<Vec<User<'_>>> = Vec::new();
    let mut indices = HashMap::new();
    for user in users {
        let index = *indices.entry(domain(user.jid)).or_insert(domains.len());
        match domains.get_mut(index) {
            Some(users) => users.push(user),
            None => domains.push(vec![user]),
        }
    }
    domains
}

/// Returns the domain of a user or session, or a domain itself. Neither a localpart nor a domain has an at sign or a
/// slash (RFC 7622, section 3.1).
pub(crate) fn domain(jid: &str) -> &str {
    let bare = jid.split('/').next().unwrap_or(jid);
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}

/// Returns the parts of the users. Those with the same first event are in the order of their claim slots, unless one
/// record has room for all.
fn by_slot(mut users: Vec<User<'_>>) -> impl Iterator<Item = Vec<Part>> {
    if users.len() > MAX_RECIPIENTS {
        let first = |user: &User<'_>| user.parts.first().map(|part| part.event);
        for users in users.chunk_by_mut(|user, next| first(user) == first(next)) {
            users.sort_by_cached_key(|user| claim_slot(user.jid));
        }
    }
    users.into_iter().map(|user| user.parts)
}

/// Returns the users, in the order of their first parts.
fn by_user(work: &[Work]) -> Vec<User<'_>> {
    let mut users: Vec<User<'_>> = Vec::new();
    let mut indices = HashMap::new();
    for (event, work) in work.iter().enumerate() {
        for (recipient, jid) in work.kind.recipients().enumerate() {
            // Two quotation marks and a comma.
            let part = Part { event, recipient, bytes: text_size(jid) + 3 };
            // A bare JID and a domain have no slash, and a resource follows the first one (RFC 7622, section 3.1).
            let jid = jid.split('/').next().unwrap_or(jid);
            let index = *indices.entry(jid).or_insert(users.len());
            match users.get_mut(index) {
                Some(user) => user.parts.push(part),
                None => users.push(User { jid, parts: vec![part] }),
            }
        }
    }
    users
}

/// Returns the sizes of events in JSON, each without its recipients. A single event needs none: it always fits into
/// each of its records.
fn sizes(work: &[Work]) -> Vec<usize> {
    if let [_] = work {
        return Vec::new();
    }
    // Only near the limit of SQS does it matter which characters are escaped.
    let lengths: Vec<_> = work.iter().map(|work| size(work, str::len)).collect();
    let recipients: usize = work.iter().flat_map(|work| work.kind.recipients()).map(str::len).sum();
    if (lengths.iter().sum::<usize>() + recipients).saturating_mul(MAX_ESCAPED_BYTES) <= MAX_RECORD_BYTES {
        return lengths;
    }
    work.iter().map(|work| size(work, text_size)).collect()
}

/// Returns the size of an event in JSON without its recipients and with a comma, or a little more: to write each message
/// twice would cost more than to read it. `text_size` returns the size of a text within a JSON string.
fn size(work: &Work, text_size: fn(&str) -> usize) -> usize {
    match &work.kind {
        WorkKind::Message { from, stanza, recipient, context, .. }
        | WorkKind::Unacknowledged { from, stanza, recipient, context, .. } => {
            let given = [&recipient.nick, &context.sender_name, &context.room_name];
            let texts = [work.id.as_str(), from.as_str(), stanza]
                .into_iter()
                .chain(given.into_iter().flatten().map(String::as_str));
            let retry = work.retry.as_ref().map_or(0, size_in_json);
            MESSAGE_OVERHEAD + texts.map(text_size).sum::<usize>() + retry
        }
        WorkKind::Subscription { .. }
        | WorkKind::Read { .. }
        | WorkKind::Notification(_)
        | WorkKind::UserRemoved { .. }
        | WorkKind::DomainRemoved { .. } => size_in_json(work) + 1,
    }
}

/// Returns the size of a text within a JSON string, in bytes, or more: some control characters need only two.
fn text_size(text: &str) -> usize {
    let size = |byte| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => MAX_ESCAPED_BYTES,
        _ => 1,
    };
    text.bytes().map(size).sum()
}

/// Returns the number of bytes of a value in JSON.
fn size_in_json(value: &impl Serialize) -> usize {
    struct Counter(usize);

    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter(0);
    // It cannot fail: an event is JSON, and the counter accepts all bytes.
    _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

impl Draft {
    fn new() -> Self {
        Self { users: 0, tasks: 0, bytes: RECORD_OVERHEAD, events: BTreeMap::new() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::ops::Range;

    use pushlark_model::{CLAIM_SLOTS, ClientState};
    use pushlark_xmpp::{BareJid, parse_jid};
    use time::OffsetDateTime;

    use super::*;
    use crate::record::{MessageContext, RegistrationKey, ReportedRecipient, Retry};

    fn message(id: usize, users: Range<usize>, bytes: usize) -> Work {
        let to = users.map(|user| BareJid::new(&format!("u{user}@example.com")).unwrap()).collect();
        let from = parse_jid("room@muc.example.com/alice").unwrap();
        let (recipient, context) = (ReportedRecipient::default(), MessageContext::default());
        let kind = WorkKind::Message { from, to, stanza: "x".repeat(bytes), recipient, context };
        Work::new(format!("m{id}"), OffsetDateTime::UNIX_EPOCH, kind)
    }

    fn packed(work: impl IntoIterator<Item = Work>) -> Vec<Record> {
        let records: Vec<_> = Record::pack(work).collect();
        for record in &records {
            assert!(size_in_json(record) <= MAX_RECORD_BYTES);
            let users: HashSet<_> = record.work.iter().flat_map(|work| work.kind.recipients()).collect();
            assert!((1..=MAX_RECIPIENTS).contains(&users.len()), "{} users", users.len());
        }
        records
    }

    /// Returns the index of the record and the id of each event of a user.
    fn of_user(records: &[Record], user: usize) -> Vec<(usize, String)> {
        let user = format!("u{user}@example.com");
        let of_record = |(index, record): (usize, &Record)| -> Vec<(usize, String)> {
            let own = record.work.iter().filter(|work| work.kind.recipients().any(|to| to == user));
            own.map(|work| (index, work.id.clone())).collect()
        };
        records.iter().enumerate().flat_map(of_record).collect()
    }

    #[test]
    fn the_size_of_a_message_is_at_least_that_of_its_json() {
        let mut work = message(0, 0..0, 0);
        let recipient = ReportedRecipient {
            exists: Some(false),
            online: Some(false),
            unread_count: Some(u32::MAX),
            client_state: Some(ClientState::Inactive),
            unread_total: Some(u32::MAX),
            nick: Some("\u{1}\"\\\n".into()),
            sender_known: Some(false),
        };
        let context = MessageContext {
            sender_name: Some("\"".into()),
            room_name: Some("\\".into()),
            members: Some(u32::MAX),
            is_reply: true,
        };
        let from = parse_jid("room@muc.example.com/\\").unwrap();
        work.kind =
            WorkKind::Unacknowledged { from, to: Vec::new(), stanza: "<é a=\"\"/>\t".into(), recipient, context };
        work.at = OffsetDateTime::from_unix_timestamp_nanos(1_795_840_200_123_456_789).unwrap();
        let registration = RegistrationKey { jid: BareJid::new("push.example.com").unwrap(), node: "n".into() };
        work.retry = Some(Retry {
            not_before: Some(work.at),
            registration: Some(registration),
            unread_count: Some(u32::MAX),
            ..Retry::first("queue-message.1".into())
        });
        let bytes = size_in_json(&work) + 1;
        let assumed = size(&work, text_size);
        assert!((bytes..bytes + 100).contains(&assumed), "{bytes} bytes, and {assumed} are assumed");
    }

    #[test]
    fn many_recipients_are_distributed_and_none_is_lost() {
        let records = packed([message(0, 0..1_000, 100), message(1, 1_000..1_001, 100)]);
        assert_eq!(records.len(), 41);
        for user in 0..1_001 {
            assert_eq!(of_user(&records, user).len(), 1, "{user}");
        }
    }

    #[test]
    fn the_recipients_of_a_message_are_together_by_their_claim_slots() {
        let slots = |record: &Record| -> BTreeSet<u8> {
            record.work.iter().flat_map(|work| work.kind.recipients()).map(claim_slot).collect()
        };
        // Each record after the first one may share a slot with the record before it.
        for (users, records) in [(100, 4), (1_000, 40)] {
            let packed = packed([message(0, 0..users, 100)]);
            assert_eq!(packed.len(), records);
            let writes: usize = packed.iter().map(|record| slots(record).len()).sum();
            assert!(writes < usize::from(CLAIM_SLOTS) + records, "{writes} writes for {users} users");
        }
        // Users of different messages stay in the order of their messages.
        let of_each = packed((0..100).map(|id| message(id, id..id + 1, 100)));
        let ids: Vec<_> = of_each.iter().flat_map(|record| &record.work).map(|work| work.id.clone()).collect();
        assert_eq!(ids, (0..100).map(|id| format!("m{id}")).collect::<Vec<_>>());
    }

    #[test]
    fn users_with_shared_events_stay_in_one_record_and_other_users_do_not() {
        assert_eq!(packed((0..25).map(|id| message(id, id..id + 1, 200))).len(), 1);
        assert_eq!(packed((0..26).map(|id| message(id, id..id + 1, 200))).len(), 2);
        assert_eq!(packed((0..3).map(|id| message(id, id..id + 1, 50_000))).len(), 3);
        assert_eq!(packed((0..3).map(|id| message(id, 0..1, 50_000))).len(), 1);
        assert_eq!(packed([message(0, 0..25, 200_000), message(1, 25..26, 10)]).len(), 2);
        assert!(packed([]).is_empty());
    }

    #[test]
    fn the_events_of_each_member_of_a_room_are_together_and_in_order() {
        let others = message(2, 500..1_500, 100);
        let records = packed([message(0, 0..1_000, 100), message(1, 0..1_000, 100), others, message(3, 0..3, 100)]);
        assert!((60..=70).contains(&records.len()), "{}", records.len());
        for user in 0..1_500 {
            let events = of_user(&records, user);
            let ids: Vec<_> = events.iter().map(|(_, id)| id.as_str()).collect();
            let expected: &[_] = match user {
                0..3 => &["m0", "m1", "m3"],
                3..500 => &["m0", "m1"],
                500..1_000 => &["m0", "m1", "m2"],
                _ => &["m2"],
            };
            assert_eq!(ids, expected, "{user}");
            assert!(events.iter().all(|(record, _)| *record == events[0].0), "{user}: {events:?}");
        }
    }

    #[test]
    fn the_events_of_a_busy_room_are_distributed_over_several_records() {
        let records = packed((0..100).map(|id| message(id, 0..25, 100)));
        assert_eq!(records.len(), 13);
        for user in 0..25 {
            let events = of_user(&records, user);
            assert_eq!(events.len(), 100);
            assert!(events.iter().all(|(record, _)| *record == events[0].0));
        }
    }

    #[test]
    fn events_beyond_the_largest_message_of_sqs_follow_in_the_next_record() {
        // Each quotation mark needs two bytes in JSON.
        let quoted = |id: usize| {
            let mut work = message(id, 0..1, 0);
            let WorkKind::Message { stanza, .. } = &mut work.kind else { unreachable!() };
            *stanza = "\"".repeat(100_000);
            work
        };
        let records = packed((0..12).map(quoted));
        let events = of_user(&records, 0);
        let records: Vec<_> = events.iter().map(|(record, _)| *record).collect();
        assert_eq!(records, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
        assert!(events.iter().enumerate().all(|(index, (_, id))| *id == format!("m{index}")));
    }

    #[test]
    fn the_time_of_packing_grows_with_the_number_of_tasks_only() {
        // A quarter of a million tasks: a square of it would take an hour.
        let records = Record::pack((0..500).map(|id| message(id, 0..500, 1)));
        assert_eq!(records.map(|record| record.work.len()).sum::<usize>(), 500 * 500);
    }
}
