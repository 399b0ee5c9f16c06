//! Notifications of calls (XEP-0353).

use pushlark_model::Payload;
use pushlark_xmpp::{BareJid, Call, CallStep, parse_jid};

use crate::event::{Event, Rule};
use crate::reason::Reason;

impl Event {
    /// Returns the payload of a step of a call: of a call that starts, and of one that ends for the recipient's
    /// devices. The other steps are skipped. A body beside the step is a fallback.
    pub fn call(&self, call: &Call<'_>) -> Result<Payload, Rule> {
        let skip = |reason: Reason| Err(reason.rule());
        let is_own = self.from.to_bare() == self.recipient();
        match call.step {
            CallStep::Propose if is_own => skip(Reason::OwnCall),
            CallStep::Propose => Ok(self.ring(call)),
            CallStep::Ringing => skip(Reason::Ringing),
            CallStep::Proceed | CallStep::Accept | CallStep::Reject if !is_own => skip(Reason::OtherAnswers),
            CallStep::Retract | CallStep::Finish if is_own => skip(Reason::OwnCallEnd),
            _ if !self.content_policy.call_end => skip(Reason::CallEndOff),
            _ => {
                let payload = Payload::default().with(Payload::TYPE, Payload::CALL_END);
                Ok(payload.with(Payload::CALL_SID, call.sid))
            }
        }
    }

    /// Returns the bare JID of the user who calls; `None` if an answer to the call does not name the caller.
    pub fn caller(&self, call: &Call<'_>) -> Option<BareJid> {
        match call.step {
            step if step.is_answer() => Some(parse_jid(self.message.element().attribute("to")?).ok()?.to_bare()),
            _ => Some(self.from.to_bare()),
        }
    }

    /// Returns the caller and the id of the call that the event ends; `None` if it ends no call to the recipient, or
    /// does not name the caller.
    pub fn ended_call(&self) -> Option<(BareJid, &str)> {
        let call = self.message.call()?;
        let is_end = matches!(call.step, CallStep::Retract | CallStep::Finish) || call.step.is_answer();
        let caller = self.caller(&call).filter(|caller| is_end && *caller != self.recipient())?;
        Some((caller, call.sid))
    }

    /// Returns the payload of a call: the fields of MongooseIM 6.10, and the media.
    fn ring(&self, call: &Call<'_>) -> Payload {
        let mut payload = Payload::default().with(Payload::TYPE, Payload::CALL).with(Payload::CALL_SID, call.sid);
        if self.content_policy.sender {
            payload = payload.with(Payload::CALL_FROM, self.from.as_str());
        }
        match call.media() {
            media if media.is_empty() => payload,
            media => payload.with(Payload::CALL_MEDIA, media.join(",")),
        }
    }
}
