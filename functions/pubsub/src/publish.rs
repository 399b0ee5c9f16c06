//! Publishing to a node: checks the request, and queues the notification.

use std::collections::BTreeMap;

use pushlark_model::{Payload, PublishOptions, Registration};
use pushlark_queue::{EncryptedNotification, NodeNotification, Work, WorkKind};
use pushlark_settings::{Environment, RoomHosts, SettingError, catalogue};
use pushlark_store::{DeviceStatus, Node};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::{
    Affiliation, BareJid, Condition, Element, EncryptedContent, GivenOptions, Iq, Jid, NotificationPriority,
    PublishModel, PublishedItem, ns, parse_jid,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Function, PushNodeError};

/// The options that address a device, except with Web Push.
const MANDATORY: [&str; 2] = ["service", "device_id"];
/// The option of a Web Push device instead of `device_id`.
const ENDPOINT: &str = "endpoint";
/// The option that selects an app's credentials in enable requests to a chat server. At a push node, the service
/// determines the app.
const APP: &str = "app";

/// The interpretation of what other servers publish.
#[derive(Debug, Clone)]
pub struct Summaries {
    /// The hosts of rooms, whose occupants are shown with their nicks.
    rooms: RoomHosts,
    /// Whether a publication that has no field for a text is data (`PUSH_NODE_EMPTY`).
    empty_is_data: bool,
}

impl Summaries {
    /// Reads `PUSH_NODE_EMPTY` and the settings of [`RoomHosts`].
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            rooms: RoomHosts::from_environment(environment)?,
            empty_is_data: environment.choice(&catalogue::PUSH_NODE_EMPTY, [false, true])?,
        })
    }

    /// Returns whether the item has nothing to show. A server that gives the field for the text no value tells that
    /// there is none (Prosody: chat states and markers). A server that leaves the field out may also hide a text.
    fn is_background(&self, item: &PublishedItem) -> bool {
        let is_body = |name: &String| name == Payload::LAST_MESSAGE_BODY;
        if item.summary.iter().any(|(name, _)| is_body(name)) {
            return false;
        }
        self.empty_is_data || item.without_value.iter().any(is_body)
    }

    /// Returns the fields of a summary, with the sender as it is shown to `owner`.
    fn shown_to(&self, owner: &BareJid, summary: Vec<(String, String)>) -> Vec<(String, String)> {
        let fields = summary.into_iter().map(|(name, value)| match name.as_str() {
            Payload::LAST_MESSAGE_SENDER => (name, self.sender(owner, value)),
            _ => (name, value),
        });
        fields.collect()
    }

    /// Returns the bare JID of a user, who is shown without a resource. The JID of a room's occupant stays, and so does
    /// a text that is not a JID.
    fn sender(&self, owner: &BareJid, sender: String) -> String {
        let is_user = |jid: &Jid| jid.node().is_some() || jid.domain().as_str().contains('.');
        match parse_jid(&sender) {
            Ok(jid) if jid.is_full() && is_user(&jid) && !self.rooms.is_room(owner, &jid) => {
                jid.into_bare().to_string()
            }
            _ => sender,
        }
    }
}

impl Function {
    /// Queues the notification in `iq`, and returns the `<pubsub/>` of the result (XEP-0060, section 7.1.2). The id of
    /// the message consists of the publisher, the IQ's id and a digest of the IQ's content, so that a repeated publish
    /// notifies once, and a new one notifies even if it reuses an IQ id.
    pub(crate) async fn publish(
        &self,
        publisher: &BareJid,
        iq: &Iq,
        node: Node,
        item: PublishedItem,
        options: GivenOptions,
    ) -> Result<Element, PushNodeError> {
        check_publisher(&node, publisher)?;
        let options = match (options, &node.device) {
            (GivenOptions::Submitted(fields), _) if is_complete(&fields) => {
                let device = device(fields)?;
                let checked = self.destinations.check_published_device(&device);
                checked.map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
                device
            }
            (_, Some(known)) => known.clone(),
            (GivenOptions::NotSubmitted, None) => {
                let text = format!(
                    "the publish options must be a form of type submit with the FORM_TYPE {}",
                    ns::PUBLISH_OPTIONS
                );
                return Err(PushNodeError::new(Condition::PreconditionNotMet, text));
            }
            _ => {
                let text = "the publish options must have device_id and service";
                return Err(PushNodeError::new(Condition::PreconditionNotMet, text));
            }
        };
        check_summary(&item, options.silent().unwrap_or(false))?;
        let registration = node.registration(options);
        if self.store.device(&registration).await? == DeviceStatus::Gone {
            return Err(PushNodeError::new(Condition::DeviceNotRegistered, "the device is not registered any more"));
        }
        let item_id = item.id.clone().unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        let Registration { jid, node: name, options, preferences, encryption, created_at } = registration;
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let published = pubsub("publish").with_attribute("node", &name);
        let published = published.with_child(pubsub("item").with_attribute("id", item_id));
        let background = self.summaries.is_background(&item);
        let is_low = item.priority == Some(NotificationPriority::Low);
        let encrypted = item.encrypted.map(|encrypted| {
            let EncryptedContent { ciphertext, iv, is_call } = encrypted;
            EncryptedNotification { ciphertext, iv, is_call, is_low }
        });
        let notification = NodeNotification {
            background,
            summary: self.summaries.shown_to(&node.owner, item.summary),
            jid,
            node: name,
            owner: node.owner,
            created_at,
            options: options.fields().clone(),
            preferences,
            encryption,
            encrypted,
        };
        let id = format!("{publisher}/{}/{}", iq.id(), digest(iq));
        let kind = WorkKind::Notification(Box::new(notification));
        let work = Work::new(id.clone(), OffsetDateTime::now_utc(), kind);
        self.queue.send(vec![work]).await.map_err(|error| {
            tracing::error!(id, error = %Causes(&error), "not queued");
            PushNodeError::unavailable()
        })?;
        count(Metric::EventsAccepted);
        Ok(pubsub("pubsub").with_child(published))
    }
}

/// Reads the publish options of a device, without the option `app`, which a user must not select here.
pub fn device(mut fields: BTreeMap<String, String>) -> Result<PublishOptions, PushNodeError> {
    fields.remove(APP);
    if !is_complete(&fields) {
        return Err(PushNodeError::bad_request("the form must have service, and device_id or endpoint"));
    }
    let options = PublishOptions::new(fields).map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
    options.check().map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
    Ok(options)
}

fn is_complete(options: &BTreeMap<String, String>) -> bool {
    let has = |name: &str| options.get(name).is_some_and(|value| !value.trim().is_empty());
    MANDATORY.into_iter().all(has) || has("service") && has(ENDPOINT)
}

/// Returns a digest of the IQ's content, in 16 hexadecimal digits.
fn digest(iq: &Iq) -> String {
    let content = iq.payload().map(Element::to_string).unwrap_or_default();
    Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn check_publisher(node: &Node, publisher: &BareJid) -> Result<(), PushNodeError> {
    let may = match node.affiliation(publisher) {
        Some(Affiliation::Owner | Affiliation::Publisher | Affiliation::PublishOnly) => true,
        Some(Affiliation::Outcast) => false,
        Some(Affiliation::Member) | None => node.publish_model == PublishModel::Open,
    };
    if may {
        Ok(())
    } else {
        Err(PushNodeError::new(Condition::Forbidden, format!("{publisher} may not publish here")))
    }
}

/// Checks that an alert of counted messages with a text has a field for the sender, as MongooseIM requires. A field
/// without a value is valid, since Prosody omits only the value of a sender that it does not send.
fn check_summary(item: &PublishedItem, is_silent: bool) -> Result<(), PushNodeError> {
    let has = |name| item.summary.iter().any(|(field, _)| field == name);
    let names = |name| has(name) || item.without_value.iter().any(|field| field == name);
    let needs_sender = has(Payload::MESSAGE_COUNT) && has(Payload::LAST_MESSAGE_BODY) && !is_silent;
    match needs_sender && !names(Payload::LAST_MESSAGE_SENDER) {
        true => {
            let text = format!("the notification has a {} and no sender", Payload::LAST_MESSAGE_BODY);
            Err(PushNodeError::new(Condition::InvalidPayload, text))
        }
        false => Ok(()),
    }
}
