//! A publish to a node: what it must be, and what is queued of it.

use std::collections::BTreeMap;

use pushlark_plugin::{Payload, PublishOptions, PublishService};
use pushlark_queue::{NodeNotification, Record, Subject, Work};
use pushlark_store::{Device, Node};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::{Affiliation, BareJid, Condition, Element, GivenOptions, PublishModel, PublishedItem, ns};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Function, Refusal};

/// The options without which a push service cannot be told of a device.
const MANDATORY: [&str; 2] = ["service", "device_id"];
/// What a Web Push device has instead of a `device_id`.
const ENDPOINT: &str = "endpoint";
/// The option that chooses an app's credentials where users enable by their own server. Here the service that is
/// published to is the app's.
const APP: &str = "app";

impl Function {
    /// Queues what `publisher` publishes, and answers as XEP-0060, section 7.1.2 has it. The IQ's id and the publisher name
    /// the message: a publish that is repeated notifies once.
    pub(crate) async fn publish(
        &self,
        publisher: &BareJid,
        iq_id: &str,
        node: Node,
        item: PublishedItem,
        options: GivenOptions,
    ) -> Result<Element, Refusal> {
        check_publisher(&node, publisher)?;
        let options = match (options, &node.device) {
            (GivenOptions::Submitted(options), _) if is_complete(&options) => {
                let options =
                    PublishOptions::new(options).map_err(|invalid| Refusal::bad_request(invalid.to_string()))?;
                device(options)?
            }
            (_, Some(known)) => known.clone(),
            (GivenOptions::Malformed(why), None) => return Err(Refusal::new(Condition::PreconditionNotMet, why)),
            _ => {
                let text = "the publish options must have device_id and service";
                return Err(Refusal::new(Condition::PreconditionNotMet, text));
            }
        };
        options.check().map_err(|invalid| Refusal::bad_request(invalid.to_string()))?;
        check_summary(&item, options.silent().unwrap_or(false))?;
        let service = node.service(options);
        if self.store.device(&service).await? == Device::Gone {
            return Err(Refusal::new(Condition::DeviceNotRegistered, "the device is not registered any more"));
        }
        let item_id = item.id.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        let PublishService { jid, node: name, options, created_at } = service;
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let published = pubsub("publish").with_attribute("node", &name);
        let published = published.with_child(pubsub("item").with_attribute("id", item_id));
        let notification = NodeNotification {
            jid,
            node: name,
            owner: node.owner,
            created_at,
            options: options.fields().clone(),
            summary: item.summary,
        };
        let id = format!("{publisher}/{iq_id}");
        let subject = Subject::Notification(Box::new(notification));
        let work = Work { id: id.clone(), at: OffsetDateTime::now_utc(), subject };
        self.queue.send(&Record::pack([work])).await.map_err(|error| {
            tracing::error!(id, error = %Causes(&error), "not queued");
            Refusal::unavailable()
        })?;
        count(Metric::EventsAccepted);
        Ok(pubsub("pubsub").with_child(published))
    }
}

/// Options as a device is told of by them: without a choice of the app, which is not the user's here.
pub fn device(options: PublishOptions) -> Result<PublishOptions, Refusal> {
    let mut fields = options.fields().clone();
    fields.remove(APP);
    if !is_complete(&fields) {
        let text = "the form must have service, and device_id or endpoint";
        return Err(Refusal::bad_request(text));
    }
    PublishOptions::new(fields).map_err(|invalid| Refusal::bad_request(invalid.to_string()))
}

fn is_complete(options: &BTreeMap<String, String>) -> bool {
    let has = |name: &str| options.get(name).is_some_and(|value| !value.is_empty());
    MANDATORY.into_iter().all(has) || has("service") && has(ENDPOINT)
}

fn check_publisher(node: &Node, publisher: &BareJid) -> Result<(), Refusal> {
    let may = match node.affiliation(publisher) {
        Some(Affiliation::Owner | Affiliation::Publisher | Affiliation::PublishOnly) => true,
        Some(Affiliation::Outcast) => false,
        Some(Affiliation::Member) | None => node.publish_model == PublishModel::Open,
    };
    if may { Ok(()) } else { Err(Refusal::new(Condition::Forbidden, format!("{publisher} may not publish here"))) }
}

/// MongooseIM tells the sender wherever it counts, unless the device is silent. Other servers leave out what they do not
/// tell: ejabberd the field, Prosody its value.
fn check_summary(item: &PublishedItem, is_silent: bool) -> Result<(), Refusal> {
    let has = |name| item.summary.iter().any(|(field, _)| field == name);
    let names = |name| has(name) || item.without_value.iter().any(|field| field == name);
    for field in [Payload::LAST_MESSAGE_SENDER, Payload::LAST_MESSAGE_BODY] {
        if has(Payload::MESSAGE_COUNT) && !is_silent && !names(field) {
            return Err(Refusal::bad_request(format!("the notification has no {field}")));
        }
    }
    Ok(())
}
