//! The one log line of an event, with its results for all its recipients in a record.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pushlark_xmpp::BareJid;

use crate::decision::Reason;
use crate::notify::TaskOutcome;
use crate::task::{Action, Task};

/// The events that have a line (`LOG_EVENTS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEvents {
    /// Every event.
    All,
    /// Events of which a notification failed, was refused or will be retried.
    Errors,
    /// None.
    Off,
}

/// The results of an event for one recipient, or for several together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Results {
    /// The notifications that a push service accepted.
    pub delivered: usize,
    /// Those of `delivered` that make no sound because of `ALERT_INTERVAL`.
    pub quiet: usize,
    /// The notifications that a push service did not accept, and that are not retried.
    pub undelivered: usize,
    /// Whether a rule should notify, but cannot.
    pub is_failure: bool,
    /// The number of registrations or recipients that are not notified, by the code of the reason.
    left_out: BTreeMap<Cow<'static, str>, usize>,
}

/// The lines of a batch. A line is written when the last task of its event has ended.
#[derive(Default)]
pub struct EventLines(Vec<EventLine>);

/// The line of one event in one record.
struct EventLine {
    /// The index of the queue message in the batch.
    message: usize,
    id: String,
    kind: &'static str,
    /// The first recipient.
    to: BareJid,
    /// The other user or the room, if the event is a message.
    from: Option<BareJid>,
    recipients: usize,
    /// The tasks that have not ended.
    open: usize,
    results: Results,
    retried: usize,
}

/// The kind of most events, which their lines leave out.
const MESSAGE: &str = "message";
/// The kind of a read mark.
const READ: &str = "read";
/// The kind of a notification of the push node.
const NODE: &str = "node";

impl Results {
    /// Adds a registration that is not notified, or a recipient of whom none is.
    pub fn leave_out(&mut self, reason: &Reason) {
        self.is_failure |= matches!(reason, Reason::Rule(rule) if rule.is_failure());
        *self.left_out.entry(reason.code()).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.quiet += other.quiet;
        self.undelivered += other.undelivered;
        self.is_failure |= other.is_failure;
        for (code, count) in &other.left_out {
            *self.left_out.entry(code.clone()).or_default() += count;
        }
    }
}

impl EventLines {
    /// Adds a task of a queue message, and returns the index of its event's line. The removal of a user or a domain
    /// has lines of its own.
    pub fn open(&mut self, message: usize, task: &Task) -> Option<usize> {
        let (kind, to, from) = match &task.action {
            Action::Notify { event, .. } => (event.kind.as_str(), event.recipient(), Some(event.from.to_bare())),
            Action::NotifyDevice(push) => (NODE, push.owner.clone(), None),
            Action::Clear(read) => (READ, read.user.clone(), None),
            Action::RemoveUser(_) | Action::RemoveDomain(_) => return None,
        };
        let id = task.attempt.id();
        let mut of_message = self.0.iter().enumerate().rev().take_while(|(_, line)| line.message == message);
        let found = of_message.find(|(_, line)| line.kind == kind && line.id == id).map(|(index, _)| index);
        let index = found.unwrap_or_else(|| {
            let (id, results) = (id.to_owned(), Results::default());
            self.0.push(EventLine { message, id, kind, to, from, recipients: 0, open: 0, results, retried: 0 });
            self.0.len() - 1
        });
        self.0[index].recipients += 1;
        self.0[index].open += 1;
        Some(index)
    }

    /// Adds the outcome of a task, and writes the line after the last one of the event.
    pub fn close(&mut self, line: Option<usize>, outcome: &TaskOutcome, log_events: LogEvents) {
        let Some(line) = line.and_then(|index| self.0.get_mut(index)) else { return };
        line.results.add(&outcome.results);
        line.retried += outcome.unfinished.len();
        line.open -= 1;
        if line.open == 0 && log_events.include(line) {
            line.write();
        }
    }
}

impl LogEvents {
    fn include(self, EventLine { results, retried, .. }: &EventLine) -> bool {
        match self {
            Self::All => true,
            Self::Errors => *retried > 0 || results.undelivered > 0 || results.is_failure,
            Self::Off => false,
        }
    }
}

impl EventLine {
    fn write(&self) {
        let Self { id, kind, to, from, recipients, results, retried, .. } = self;
        let is_one = *recipients == 1;
        let some = |count: usize| (count > 0).then_some(count);
        let why: Vec<_> = results
            .left_out
            .iter()
            .map(|(code, count)| match is_one {
                true => code.to_string(),
                false => format!("{code}={count}"),
            })
            .collect();
        tracing::info!(
            id,
            kind = Some(*kind).filter(|kind| ![MESSAGE, READ].contains(kind)),
            to = is_one.then_some(to.as_str()),
            from = from.as_ref().filter(|_| !is_one).map(|from| from.as_str()),
            recipients = (!is_one).then_some(*recipients),
            delivered = some(results.delivered),
            quiet = some(results.quiet),
            undelivered = some(results.undelivered),
            retried = some(*retried),
            why = (!why.is_empty()).then(|| why.join(",")),
            "{}",
            match (*kind == READ, results.delivered > 0) {
                (false, true) => "notified",
                (false, false) => "not notified",
                (true, true) => "cleared",
                (true, false) => "not cleared",
            }
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::iter::successors;

    use pushlark_delivery::RouteError;
    use pushlark_plugin::xmpp::NoContent;
    use pushlark_plugin::{Reason as PluginReason, Rule};

    use super::*;
    use crate::preferences::Preference;

    /// Returns the reason after another one. The compiler refuses a reason without a successor.
    fn after(reason: &Reason) -> Option<Reason> {
        Some(match reason {
            Reason::Rule(_) => Reason::NotChosen,
            Reason::NotChosen => Reason::Preference(Preference::Muted),
            Reason::Preference(preference) => match preference {
                Preference::Muted => Reason::Preference(Preference::Room),
                Preference::Room => Reason::Preference(Preference::NoMention),
                Preference::NoMention => Reason::Preference(Preference::UnknownSender),
                Preference::UnknownSender => Reason::Preference(Preference::QuietHours),
                Preference::QuietHours => Reason::Preference(Preference::Online),
                Preference::Online => Reason::TooLate,
            },
            Reason::TooLate => Reason::Unroutable(RouteError::NoUrl),
            Reason::Unroutable(_) => Reason::Claimed,
            Reason::Claimed => Reason::EnabledLater,
            Reason::EnabledLater => Reason::CallsAlone,
            Reason::CallsAlone => Reason::Connected,
            Reason::Connected => Reason::RingsByPushKit,
            Reason::RingsByPushKit => Reason::NoCallEnd,
            Reason::NoCallEnd => Reason::NotRinging,
            Reason::NotRinging => Reason::Read,
            Reason::Read => Reason::NoRegistration,
            Reason::NoRegistration => Reason::DeviceGone,
            Reason::DeviceGone => Reason::NotShown,
            Reason::NotShown => return None,
        })
    }

    fn after_content(reason: &NoContent) -> Option<NoContent> {
        Some(match reason {
            NoContent::Type => NoContent::Carbon,
            NoContent::Carbon => NoContent::Call,
            NoContent::Call => NoContent::Correction,
            NoContent::Correction => NoContent::Reaction,
            NoContent::Reaction => NoContent::Retraction,
            NoContent::Retraction => NoContent::Fastening,
            NoContent::Fastening => NoContent::KeyTransport,
            NoContent::KeyTransport => NoContent::NoBody,
            NoContent::NoBody => NoContent::NoText,
            NoContent::NoText => return None,
        })
    }

    #[test]
    fn each_reason_has_a_short_code_of_its_own_that_the_documentation_lists() {
        let first = Reason::Rule(Rule::new("rules", "no rule matches").with_code("no-rule"));
        let of_worker = successors(Some(first), after).map(|reason| reason.code().into_owned());
        let of_plugins = PluginReason::ALL.into_iter().map(|reason| reason.rule().code().to_string());
        let of_contents = successors(Some(NoContent::Type), after_content).map(|reason| reason.code().to_owned());
        let codes: Vec<_> = of_worker.chain(of_plugins).chain(of_contents).collect();
        assert!(codes.len() > 35, "{codes:?}");
        let page = include_str!("../../../docs/logs.md");
        let table = page.split("| `why` | reason |").nth(1).unwrap().split("\n\n").next().unwrap();
        let listed: BTreeSet<_> = table.lines().skip(2).filter_map(|row| row.split('`').nth(1)).collect();
        for code in &codes {
            assert!(code.len() <= 20 && code.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{code}");
            assert!(listed.contains(code.as_str()), "{code} is not in docs/logs.md");
        }
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len(), "a code has two meanings: {codes:?}");
        let operators = BTreeSet::from(["lambda", "rule-NAME"]);
        assert_eq!(listed.len(), codes.len() + operators.len(), "{listed:?}");
    }

    #[test]
    fn a_rule_without_a_code_has_the_name_of_its_plugin() {
        assert_eq!(Reason::Rule(Rule::new("rooms", "the device has quiet hours")).code(), "rooms");
    }
}
