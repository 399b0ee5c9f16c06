//! The rules of calls (XEP-0353) that concern devices. They apply to the payloads of every plugin, and at push nodes.

use std::time::Duration;

use pushlark_delivery::{Ringing, asked_time_to_live};
use pushlark_model::{CallSignal, Payload, Presentation, PublishOptions, Registration};
use pushlark_plugin::{Event, EventKind};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_store::{ClaimItem, StoreError};
use pushlark_xmpp::{BareJid, Call, CallStep, parse_jid};
use time::OffsetDateTime;

use crate::decision::Reason;
use crate::task::Attempt;
use crate::worker::Worker;

/// The shortest time for which a notification is attempted. The event spends some time in the queue, so without a
/// minimum a `time_to_live` of 0 would never be delivered. It does not apply to calls.
const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// The time for which a notification is worth delivering.
#[derive(Debug, Clone, Copy)]
pub struct TimeToLive {
    /// The time of notifications whose registration sets none (`TIME_TO_LIVE`).
    pub default: Duration,
    /// The time of a call and its end (`CALL_TIME_TO_LIVE`), whatever the registration sets.
    pub call: Duration,
}

impl TimeToLive {
    /// Reads `TIME_TO_LIVE` and `CALL_TIME_TO_LIVE`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            default: Duration::from_secs(environment.number(&catalogue::TIME_TO_LIVE)?.into()),
            call: Duration::from_secs(environment.number(&catalogue::CALL_TIME_TO_LIVE)?.into()),
        })
    }

    /// Returns the time at which a notification of an event at `at` expires; `None` if it is too late for an attempt.
    pub fn expiry(
        self,
        at: OffsetDateTime,
        payload: &Payload,
        options: &PublishOptions,
        presentation: Option<&Presentation>,
    ) -> Option<OffsetDateTime> {
        let (time_to_live, attempted) = match payload.call() {
            Some(_) => (self.call, self.call),
            None => {
                let time_to_live = asked_time_to_live(options, presentation).unwrap_or(self.default);
                (time_to_live, time_to_live.max(MIN_TIME_TO_LIVE))
            }
        };
        (OffsetDateTime::now_utc() - at <= attempted).then(|| at + time_to_live)
    }

    /// Returns whether an event at `at` is older than the time of notifications whose registration sets none.
    pub fn is_over(self, at: OffsetDateTime) -> bool {
        OffsetDateTime::now_utc() - at > self.default.max(MIN_TIME_TO_LIVE)
    }
}

/// What is known of the other devices of a recipient.
#[derive(Debug, Clone, Copy, Default)]
pub struct OtherDevices<'d> {
    /// The registrations whose own session is online and active.
    pub connected: &'d [Registration],
    /// Whether one of the devices rings by PushKit.
    pub has_push_kit: bool,
}

/// The alert about a call, for a device that cannot ring.
#[derive(Debug, Clone, Copy)]
pub struct CallAlert<'a> {
    /// The text (`CALL_PLACEHOLDER`).
    pub text: &'a str,
    /// Whether the caller is an occupant of a room, who is shown with the nick.
    pub is_occupant: bool,
}

/// Returns the payload for one device, or the reason why the device does not get it.
pub fn for_device(
    payload: Payload,
    registration: &Registration,
    ringing: Ringing,
    others: OtherDevices<'_>,
    alert: CallAlert<'_>,
) -> Result<Payload, Reason> {
    match (payload.call(), ringing) {
        (None, Ringing::PushKit) => Err(Reason::CallsAlone),
        (None, _) => Ok(payload),
        (Some(_), _) if others.connected.contains(registration) => Err(Reason::Connected),
        (Some(CallSignal::End(_)), Ringing::App) => Ok(payload),
        (Some(CallSignal::End(_)), _) => Err(Reason::NoCallEnd),
        (Some(CallSignal::Ring(_)), Ringing::Alert | Ringing::Background) if others.has_push_kit => {
            Err(Reason::RingsByPushKit)
        }
        (Some(CallSignal::Ring(_)), Ringing::Alert) => Ok(alert.add_to(payload)),
        (Some(CallSignal::Ring(_)), _) => Ok(payload),
    }
}

impl CallAlert<'_> {
    /// Adds a title and the text to the payload of a call.
    fn add_to(self, payload: Payload) -> Payload {
        if payload.get(Payload::LAST_MESSAGE_BODY).is_some() {
            return payload;
        }
        let payload = match payload.get(Payload::CALL_FROM).and_then(|caller| parse_jid(caller).ok()) {
            Some(caller) if self.is_occupant => payload.with(Payload::LAST_MESSAGE_SENDER, caller.to_string()),
            Some(caller) => payload.with(Payload::LAST_MESSAGE_SENDER, caller.to_bare().to_string()),
            None => payload,
        };
        payload.with(Payload::LAST_MESSAGE_BODY, self.text)
    }
}

/// Returns the id under which a step of a call is claimed: each device rings once for a call, however often and under
/// which ids it is proposed, and gets its end once from each sender, since an answer may not name the caller. Of several
/// senders, the first one ends the ringing, see [`Worker::end_call`]. `from` is the bare JID of the sender.
pub fn claim_id(from: &BareJid, call: &Call<'_>) -> Option<String> {
    match call.step {
        CallStep::Propose => Some(claim_of_call(from, call.sid)),
        CallStep::Ringing => None,
        CallStep::Proceed | CallStep::Accept | CallStep::Reject | CallStep::Retract | CallStep::Finish => {
            Some(claim_of_end(from, call.sid))
        }
    }
}

fn claim_of_call(caller: &BareJid, sid: &str) -> String {
    own_claim("call", &format!("{caller}/{sid}"))
}

fn claim_of_end(from: &BareJid, sid: &str) -> String {
    own_claim("call-end", &format!("{from}/{sid}"))
}

/// Returns the id of a claim that no message has: the id of an event contains no control character. Otherwise, a message
/// whose sender or server chooses its id could suppress a notification of this kind.
pub fn own_claim(kind: &str, id: &str) -> String {
    format!("{kind}\n{id}")
}

/// Returns the id under which the call that `event` ends is claimed.
fn ended_call(event: &Event) -> Option<String> {
    event.ended_call().map(|(caller, sid)| claim_of_call(&caller, sid))
}

impl Worker {
    /// Ends the call that `event` ends: a device that has not rung yet, since its push service failed or the call
    /// overtook its end, does not ring any more. Returns the registrations where the call does not ring.
    pub(crate) async fn end_call(
        &self,
        event: &Event,
        attempt: &Attempt,
        registrations: &[Registration],
    ) -> Result<Vec<Registration>, StoreError> {
        // The attempt before the retry of one device has ended the call.
        let id = ended_call(event).filter(|_| attempt.retry.registration.is_none() && !registrations.is_empty());
        let Some(id) = id else { return Ok(Vec::new()) };
        let user = event.recipient();
        let end = attempt.claimant(&user, None).end(registrations);
        let rang = self.store.end_call(&ClaimItem::new(&id, &user), &end).await?;
        // An earlier attempt has ended the call, and perhaps told no device. A call rings without a notification in a
        // session that is online, which may be lost before the end.
        if attempt.is_repeat || matches!(event.kind, EventKind::Unacknowledged(_)) {
            return Ok(Vec::new());
        }
        let not_ringing = registrations.iter().zip(rang).filter(|(_, rang)| !rang);
        Ok(not_ringing.map(|(registration, _)| registration.clone()).collect())
    }

    /// Ends the call that `event` ends, although nobody is notified of its end.
    pub(crate) async fn end_call_silently(&self, event: &Event, attempt: &Attempt) -> Result<(), StoreError> {
        if ended_call(event).is_none() {
            return Ok(());
        }
        let snapshot = self.store.snapshot(&event.recipient()).await?;
        self.end_call(event, attempt, &snapshot.registrations).await.map(drop)
    }
}

/// Returns the id under which a published payload about a call is claimed; without a caller, it names the `service`
/// that the call was published to.
pub fn published_claim_id(payload: &Payload, service: &BareJid) -> Option<String> {
    let caller = payload.get(Payload::CALL_FROM).and_then(|caller| parse_jid(caller).ok());
    let from = caller.map_or_else(|| service.clone(), |caller| caller.to_bare());
    Some(match payload.call()? {
        CallSignal::Ring(sid) => claim_of_call(&from, sid),
        CallSignal::End(sid) => claim_of_end(&from, sid),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALERT: CallAlert<'_> = CallAlert { text: "Incoming call", is_occupant: false };

    fn registration(node: &str) -> Registration {
        let jid = BareJid::new("push.example.com").unwrap();
        Registration::new(jid, node.into(), PublishOptions::default(), 0)
    }

    fn payload(kind: &str) -> Payload {
        let payload = Payload::default().with(Payload::TYPE, kind).with(Payload::CALL_SID, "c1");
        payload.with(Payload::CALL_FROM, "alice@example.com/pc")
    }

    fn text() -> Payload {
        Payload::default().with(Payload::LAST_MESSAGE_BODY, "Hi")
    }

    #[test]
    fn each_kind_of_device_gets_what_it_can_use() {
        use Ringing::{Alert, App, Background, PushKit, PushKitToo};
        let no_others = OtherDevices::default();
        let beside_push_kit = OtherDevices { has_push_kit: true, ..no_others };
        let (call, end) = (payload("jmi"), payload("jmi-end"));
        let shown = call.clone().with(Payload::LAST_MESSAGE_SENDER, "alice@example.com");
        let shown = shown.with(Payload::LAST_MESSAGE_BODY, "Incoming call");
        for (payload, ringing, others, expected) in [
            (text(), PushKit, no_others, Err(Reason::CallsAlone)),
            (text(), PushKitToo, beside_push_kit, Ok(text())),
            (text(), Alert, beside_push_kit, Ok(text())),
            (text(), App, no_others, Ok(text())),
            (call.clone(), PushKit, beside_push_kit, Ok(call.clone())),
            (call.clone(), PushKitToo, beside_push_kit, Ok(call.clone())),
            (call.clone(), Alert, no_others, Ok(shown)),
            (call.clone(), Alert, beside_push_kit, Err(Reason::RingsByPushKit)),
            (call.clone(), Background, no_others, Ok(call.clone())),
            (call.clone(), Background, beside_push_kit, Err(Reason::RingsByPushKit)),
            (call.clone(), App, beside_push_kit, Ok(call.clone())),
            (end.clone(), App, beside_push_kit, Ok(end.clone())),
            (end.clone(), PushKit, no_others, Err(Reason::NoCallEnd)),
            (end.clone(), PushKitToo, no_others, Err(Reason::NoCallEnd)),
            (end.clone(), Alert, no_others, Err(Reason::NoCallEnd)),
            (end, Background, no_others, Err(Reason::NoCallEnd)),
        ] {
            let got = for_device(payload.clone(), &registration("n"), ringing, others, ALERT);
            assert_eq!(got, expected, "{payload:?} {ringing:?} {others:?}");
        }
    }

    #[test]
    fn a_device_whose_session_is_online_gets_messages_but_no_calls() {
        let connected = [registration("desktop")];
        let others = OtherDevices { connected: &connected, has_push_kit: false };
        let of = |payload, node| for_device(payload, &registration(node), Ringing::App, others, ALERT);
        assert_eq!(of(payload("jmi"), "desktop"), Err(Reason::Connected));
        assert_eq!(of(payload("jmi-end"), "desktop"), Err(Reason::Connected));
        assert_eq!(of(payload("jmi"), "phone"), Ok(payload("jmi")));
        assert_eq!(of(text(), "desktop"), Ok(text()));
    }

    #[test]
    fn a_call_expires_by_its_own_time_and_other_notifications_by_that_of_their_form() {
        let times = TimeToLive { default: Duration::from_hours(1), call: Duration::from_secs(10) };
        let with = |seconds: &str| {
            PublishOptions::new([("time_to_live".to_owned(), seconds.to_owned())].into_iter().collect()).unwrap()
        };
        let now = OffsetDateTime::now_utc();
        let presented = |seconds| {
            let time_to_live = Some(Duration::from_secs(seconds));
            Some(Presentation { time_to_live, ..Presentation::default() })
        };
        for (payload, options, presentation, age, expires_in) in [
            (payload("jmi"), PublishOptions::default(), None, 8, Some(2)),
            (payload("jmi"), with("3600"), None, 8, Some(2)),
            (payload("jmi"), with("0"), presented(3_600), 8, Some(2)),
            (payload("jmi"), with("3600"), None, 12, None),
            (payload("jmi-end"), with("3600"), presented(3_600), 12, None),
            (text(), PublishOptions::default(), None, 12, Some(3_588)),
            (text(), with("0"), None, 12, Some(-12)),
            (text(), with("0"), None, 31, None),
            (text(), with("0"), presented(60), 31, Some(29)),
            (text(), with("3600"), presented(60), 61, None),
            (text(), with("0"), presented(u64::MAX), 0, Some(u32::MAX.into())),
        ] {
            let expiry = times.expiry(now - Duration::from_secs(age), &payload, &options, presentation.as_ref());
            assert_eq!(expiry.map(|at| (at - now).whole_seconds()), expires_in, "{payload:?} {options:?} {age}");
        }
    }
}
