//! An example of a plugin: shows the names of rooms, and respects quiet hours of devices. Uses the defaults otherwise.

mod quiet_hours;

use std::collections::HashMap;

use pushlark_plugin::xmpp::{BareJid, MessageType};
use pushlark_plugin::{Choice, Defaults, Event, Payload, Plugin, Recipient, Registration, Rule};
use pushlark_settings::{Environment, SettingError};

use quiet_hours::QuietHours;

/// The field of a registration's form with its quiet hours, such as `22:00-07:00+02:00`.
const QUIET_HOURS: &str = "quiet_hours";

/// The plugin, with the names of rooms.
#[derive(Debug, Clone, Default)]
pub struct Rooms {
    names: HashMap<BareJid, String>,
}

impl Rooms {
    /// Reads `ROOM_NAMES`, a JSON object with room JIDs as keys, such as `{"team@muc.example.com": "Team"}`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let names = environment.text("ROOM_NAMES").unwrap_or("{}");
        let names = serde_json::from_str(names).map_err(|error| SettingError::invalid("ROOM_NAMES", error))?;
        Ok(Self { names })
    }

    /// Returns the room's name and the speaker's nick: `Team (alice)`.
    fn title(&self, event: &Event) -> String {
        let room = event.from.to_bare();
        let localpart = || room.node().map_or(room.domain().as_str(), |node| node.as_str());
        let name = self.names.get(&room).map_or_else(localpart, String::as_str);
        match event.from.resource() {
            Some(nick) => format!("{name} ({nick})"),
            None => name.into(),
        }
    }
}

impl Plugin for Rooms {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        let payload = Defaults.prepare_notification(event)?;
        let tells_sender = payload.get(Payload::LAST_MESSAGE_SENDER).is_some();
        if event.message.kind() != MessageType::Groupchat || !tells_sender {
            return Ok(payload);
        }
        Ok(payload.with(Payload::LAST_MESSAGE_SENDER, self.title(event)))
    }

    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        let Choice { publish, mut left_out } = Defaults.should_publish(event, recipient, registrations);
        let mut choice = Choice::by(publish, |registration| {
            let is_quiet = !event.message.is_urgent()
                && registration
                    .options
                    .get(QUIET_HOURS)
                    .and_then(QuietHours::parse)
                    .is_some_and(|quiet_hours| quiet_hours.contain(event.at.unix_timestamp()));
            is_quiet.then(|| Rule::new("rooms", "the device has quiet hours").with_code("quiet-hours"))
        });
        choice.left_out.append(&mut left_out);
        choice
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_of_rooms_are_refused_by_the_setting() {
        for names in ["Team", r#"{"team@muc.example.com": 1}"#, r#"{"team@muc.example.com/alice": "Team"}"#] {
            let refused = Rooms::from_environment(&Environment::from_iter([("ROOM_NAMES", names)])).unwrap_err();
            assert!(refused.to_string().starts_with("ROOM_NAMES: "), "{refused}");
        }
        Rooms::from_environment(&Environment::default()).unwrap();
    }
}
