//! The check of a registration of a source, as `enable` checks a request.

use std::cell::RefCell;
use std::collections::BTreeSet;

use pushlark_delivery::Destinations;
use pushlark_model::{Extensions, PublishOptions, Registration, Strictness};
use pushlark_xmpp::{BareJid, Enable};
use serde_json::json;

use super::map_host::MapHost;
use super::record::{LeftOut, Record};

/// The settings with which registrations are checked.
pub struct Check {
    pub destinations: Destinations,
    pub hosts: Vec<MapHost>,
    /// The places in `hosts` of the pairs that have moved a registration.
    pub used_hosts: RefCell<BTreeSet<usize>>,
    /// The time of a registration without a time, in microseconds since 1970.
    pub enabled_at: u64,
    /// The present time, in microseconds since 1970. No registration is later.
    pub now: u64,
}

/// A registration that `enable` would accept.
pub struct Checked {
    pub user: BareJid,
    pub registration: Registration,
    /// The reason why no notification is sent with the present settings.
    pub notice: Option<String>,
}

impl Check {
    /// Returns the registration with the host of the map, or the reason why it is left out.
    pub fn check(&self, record: Record) -> Result<Checked, LeftOut> {
        let row = record.name();
        let left_out = |reason| {
            let row = row.clone();
            move |detail: String| LeftOut { row, reason, detail }
        };
        let Record { user, jid, node, enabled_at, form, preferences, encrypt } = record;
        let request = json!({"user": user, "jid": jid, "node": node, "form": form,
            "preferences": preferences, "encrypt": encrypt});
        let request = serde_json::from_value(request).map_err(|error| error.to_string());
        let Enable { user, jid, node, form, extensions } =
            request.map_err(left_out("the user, the PubSub service, the node or the form is not valid"))?;
        let user = user.into_bare();
        let mut pairs = self.hosts.iter().enumerate();
        let jid = match pairs.find_map(|(index, pair)| Some((index, pair.apply(&user, &jid)?))) {
            Some((index, moved)) => {
                self.used_hosts.borrow_mut().insert(index);
                moved
            }
            None => jid,
        };
        if user == jid {
            return Err(left_out("the PubSub service is the user")(String::new()));
        }
        let options = PublishOptions::new(form);
        let options = options.map_err(|error| left_out("the form is too large")(error.to_string()))?;
        let notice = self.destinations.check(&user, &jid, &options);
        let notice = notice.map_err(|error| left_out("no notification could reach the device")(error.to_string()))?;
        let is_virtual = self.destinations.is_virtual(&user, &jid);
        let strictness = if is_virtual { Strictness::Strict } else { Strictness::Lenient };
        let extensions = Extensions::read(extensions, &options, strictness);
        let Extensions { preferences, encryption } =
            extensions.map_err(|error| left_out("the preferences or the key are not valid")(error.to_string()))?;
        let created_at = enabled_at.unwrap_or(self.enabled_at).min(self.now);
        let registration = Registration { jid, node, options, preferences, encryption, created_at };
        Ok(Checked { user, registration, notice: notice.map(|notice| notice.to_string()) })
    }

    /// Returns the pairs that have moved no registration.
    pub fn unused_hosts(&self) -> Vec<String> {
        let used = self.used_hosts.borrow();
        let unused = self.hosts.iter().enumerate().filter(|(index, _)| !used.contains(index));
        unused.map(|(_, pair)| pair.to_string()).collect()
    }
}
