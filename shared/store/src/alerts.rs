//! The last alerts of a user that made a sound, so that further messages of a conversation are quiet for a while.
//!
//! The item `sent-alerts` of a user has an attribute for each device and conversation: the time of the alert and the
//! hash of its message. The item lies in the range of the recipient's other items, so that the same query reads it. An
//! attribute whose interval is over is removed by the next write.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use pushlark_model::Registration;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::attributes::EXPIRES_AT;
use crate::item::{Item, number, text};
use crate::{Snapshot, Store, StoreError, keys, write};

/// The most alerts of a user that are remembered: the item has at most 3 KB, and an expression at most 300 operators
/// ("Service, account, and table quotas in Amazon DynamoDB"). The devices of others get a sound too often.
const MAX_ALERTS: usize = 50;

/// A message that alerts devices of a user.
#[derive(Debug, Clone, Copy)]
pub struct Alert<'a> {
    /// The bare JID of the user.
    pub user: &'a BareJid,
    /// The bare JID of the other user or of the room.
    pub conversation: &'a BareJid,
    /// The id of the message, the same at every retry.
    pub message_id: &'a str,
    /// Whether it mentions the user: it makes a sound even if another message made one within the interval.
    pub is_mention: bool,
    /// The present time.
    pub now: OffsetDateTime,
    /// The time for which further messages of the conversation make no sound.
    pub interval: Duration,
}

/// The alerts of a user that made a sound, by the name of their attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SentAlerts(BTreeMap<String, SentAlert>);

/// An alert that made a sound.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SentAlert {
    /// The time, in seconds since 1970.
    at: u64,
    /// The hash of the message.
    message: String,
}

impl Alert<'_> {
    fn attribute(&self, registration: &Registration) -> String {
        keys::alert_attribute(self.conversation, registration)
    }

    fn seconds(&self) -> u64 {
        self.now.unix_timestamp().unsigned_abs()
    }

    /// Returns the time since which an alert is within the interval, in seconds since 1970.
    fn first_second(&self) -> u64 {
        (self.seconds() + 1).saturating_sub(self.interval.as_secs())
    }
}

impl SentAlert {
    /// Reads the value of an attribute: `<seconds> <hash>`.
    fn read(value: &str) -> Option<Self> {
        let (at, message) = value.split_once(' ')?;
        Some(Self { at: at.parse().ok()?, message: message.to_owned() })
    }
}

/// Returns a time as the beginning of an attribute's value. It has the same order as a text.
fn padded(seconds: u64) -> String {
    format!("{seconds:010}")
}

impl SentAlerts {
    pub(crate) fn read(item: &Item) -> Self {
        let alerts = item.iter().filter(|(name, _)| name.starts_with(keys::ALERT_PREFIX));
        let alerts = alerts.filter_map(|(name, value)| Some((name.clone(), SentAlert::read(value.as_s().ok()?)?)));
        Self(alerts.collect())
    }

    /// Returns the alert of a device within the interval.
    fn recent(&self, alert: &Alert<'_>, attribute: &str) -> Option<&SentAlert> {
        self.0.get(attribute).filter(|sent| sent.at >= alert.first_second())
    }

    fn is_quiet(&self, alert: &Alert<'_>, attribute: &str) -> bool {
        let message = keys::alert_message(alert.message_id);
        !alert.is_mention && self.recent(alert, attribute).is_some_and(|sent| sent.message != message)
    }

    /// Returns whether an alert begins an interval: not if it is quiet, or a retry.
    fn is_first(&self, alert: &Alert<'_>, attribute: &str) -> bool {
        let message = keys::alert_message(alert.message_id);
        self.recent(alert, attribute).is_none_or(|sent| alert.is_mention && sent.message != message)
    }

    /// Returns the attributes to remove when `added` are written: those whose interval is over, and the oldest ones
    /// beyond [`MAX_ALERTS`].
    fn surplus(&self, alert: &Alert<'_>, added: &[String]) -> Vec<&String> {
        let others = self.0.iter().filter(|(name, _)| !added.contains(name));
        let (mut recent, mut surplus): (Vec<_>, Vec<_>) = others.partition(|(_, sent)| sent.at >= alert.first_second());
        recent.sort_by_key(|(_, sent)| std::cmp::Reverse(sent.at));
        surplus.extend(recent.into_iter().skip(MAX_ALERTS.saturating_sub(added.len())));
        surplus.into_iter().map(|(name, _)| name).collect()
    }
}

impl Snapshot {
    /// Returns whether an alert makes no sound on a device: another message of the conversation made one within the
    /// interval.
    pub fn is_quiet(&self, alert: &Alert<'_>, registration: &Registration) -> bool {
        self.sent_alerts.is_quiet(alert, &alert.attribute(registration))
    }
}

impl Store {
    /// Records that an alert makes a sound on the devices of `registrations`, by one write; none if it is quiet on all of
    /// them, or a retry. Returns for each whether it is quiet there, which may have changed since the snapshot.
    pub async fn note_alert(
        &self,
        alert: &Alert<'_>,
        registrations: &[&Registration],
        snapshot: &Snapshot,
    ) -> Result<Vec<bool>, StoreError> {
        let attributes: Vec<_> = registrations.iter().map(|registration| alert.attribute(registration)).collect();
        let mut sent = Cow::Borrowed(&snapshot.sent_alerts);
        // Each write that fails shows one more alert of another worker.
        for _ in 0..=attributes.len() {
            let mut first: Vec<_> =
                attributes.iter().filter(|attribute| sent.is_first(alert, attribute)).cloned().collect();
            first.sort_unstable();
            first.dedup();
            first.truncate(MAX_ALERTS);
            if first.is_empty() {
                break;
            }
            match self.write_alert(alert, &first, &sent).await? {
                None => break,
                Some(present) => sent = Cow::Owned(present),
            }
        }
        Ok(attributes.iter().map(|attribute| sent.is_quiet(alert, attribute)).collect())
    }

    /// Writes the attributes of an alert, unless one of them is within the interval; a mention is always written.
    /// Returns the present alerts if nothing is written.
    async fn write_alert(
        &self,
        alert: &Alert<'_>,
        attributes: &[String],
        sent: &SentAlerts,
    ) -> Result<Option<SentAlerts>, StoreError> {
        let value = format!("{} {}", padded(alert.seconds()), keys::alert_message(alert.message_id));
        let mut update = self.update(alert.user, keys::SENT_ALERTS);
        let mut sets = vec![format!("{EXPIRES_AT} = :expires_at")];
        let mut conditions = Vec::new();
        for (index, attribute) in attributes.iter().enumerate() {
            sets.push(format!("#a{index} = :alert"));
            conditions.push(format!("NOT #a{index} >= :first"));
            update = update.expression_attribute_names(format!("#a{index}"), attribute);
        }
        let surplus = sent.surplus(alert, attributes);
        for (index, attribute) in surplus.iter().enumerate() {
            update = update.expression_attribute_names(format!("#r{index}"), *attribute);
        }
        let removes: Vec<_> = (0..surplus.len()).map(|index| format!("#r{index}")).collect();
        let mut expression = format!("SET {}", sets.join(", "));
        if !removes.is_empty() {
            expression += &format!(" REMOVE {}", removes.join(", "));
        }
        if !alert.is_mention {
            update = update
                .condition_expression(conditions.join(" AND "))
                .expression_attribute_values(":first", text(padded(alert.first_second())));
        }
        let update = update
            .update_expression(expression)
            .expression_attribute_values(":alert", text(value))
            .expression_attribute_values(":expires_at", number(alert.seconds() + alert.interval.as_secs()));
        let written = write("record an alert", update).await?;
        Ok(written.err().map(|present| SentAlerts::read(&present)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_model::PublishOptions;

    use super::*;

    fn jid(name: &str) -> BareJid {
        BareJid::new(&format!("{name}@example.com")).unwrap()
    }

    fn sent(alerts: impl IntoIterator<Item = (String, u64, &'static str)>) -> SentAlerts {
        let value = |at, message| text(format!("{} {}", padded(at), keys::alert_message(message)));
        SentAlerts::read(&alerts.into_iter().map(|(name, at, message)| (name, value(at, message))).collect())
    }

    #[test]
    fn another_message_is_quiet_until_the_interval_is_over() {
        let (user, conversation) = (jid("bob"), jid("alice"));
        let registration = Registration::new(jid("push"), "phone".into(), PublishOptions::default(), 0);
        let attribute = keys::alert_attribute(&conversation, &registration);
        let alerts = sent([(attribute.clone(), 1_000, "m1")]);
        for (message_id, is_mention, now, is_quiet, is_first) in [
            ("m2", false, 1_000, true, false),
            ("m2", false, 1_059, true, false),
            ("m2", false, 1_060, false, true),
            ("m2", true, 1_059, false, true),
            // A retry of the message that made the sound.
            ("m1", false, 1_059, false, false),
            ("m1", true, 1_059, false, false),
            ("m1", false, 1_060, false, true),
        ] {
            let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
            let interval = Duration::from_secs(60);
            let (user, conversation) = (&user, &conversation);
            let alert = Alert { user, conversation, message_id, is_mention, now, interval };
            let got = (alerts.is_quiet(&alert, &attribute), alerts.is_first(&alert, &attribute));
            assert_eq!(got, (is_quiet, is_first), "{alert:?}");
            let carol = Alert { conversation: &jid("carol"), ..alert };
            assert!(!alerts.is_quiet(&carol, &carol.attribute(&registration)), "another conversation");
        }
    }

    #[test]
    fn alerts_whose_interval_is_over_and_the_oldest_of_too_many_are_removed() {
        let (user, conversation) = (jid("bob"), jid("alice"));
        let (now, interval) = (OffsetDateTime::from_unix_timestamp(10_000).unwrap(), Duration::from_secs(1_000));
        let (user, conversation) = (&user, &conversation);
        let alert = Alert { user, conversation, message_id: "m", is_mention: false, now, interval };
        let name = |number: u64| format!("{}{number:02}", keys::ALERT_PREFIX);
        let alerts = sent((0..60).map(|number| (name(number), 9_000 + number, "m1")));
        // The alert of second 9,000 is over, and the two attributes that are written need a place.
        let surplus = alerts.surplus(&alert, &[name(59), "a:new".into()]);
        let expected: Vec<_> = (0..=10).map(name).collect();
        let mut surplus: Vec<_> = surplus.into_iter().cloned().collect();
        surplus.sort();
        assert_eq!(surplus, expected);
    }

    #[test]
    fn attributes_that_cannot_be_read_are_ignored() {
        let item = Item::from([
            ("a:1".to_owned(), text("no number")),
            ("a:2".to_owned(), number(1)),
            ("a:3".to_owned(), text("")),
            (EXPIRES_AT.to_owned(), number(1)),
        ]);
        assert_eq!(SentAlerts::read(&item), SentAlerts::default());
    }
}
