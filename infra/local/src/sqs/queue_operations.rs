//! Operations on queues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attributes::QueueAttributes;
use super::error::Error;
use super::operation::{Empty, Operation, within};
use super::store::QueueStore;

fn url(host: &str, name: &str) -> String {
    format!("http://{host}/000000000000/{name}")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueUrl {
    queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Operation for CreateQueue {
    type Output = QueueUrl;

    fn run(self, store: &mut QueueStore, host: &str) -> Result<QueueUrl, Error> {
        let name = self.queue_name;
        let existing = store.queues.get(&name).map(|queue| &queue.attributes);
        let mut wanted = existing.cloned().unwrap_or_default();
        for (attribute, value) in &self.attributes {
            wanted.set(attribute, value)?;
        }
        match existing {
            None => store.put_queue(&name, wanted)?,
            Some(existing) => {
                let differs = |attribute: &&String| existing.get(attribute) != wanted.get(attribute);
                if let Some(attribute) = self.attributes.keys().find(differs) {
                    return Err(Error::QueueNameExists(attribute.clone()));
                }
            }
        }
        Ok(QueueUrl { queue_url: url(host, &name) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueUrl {
    queue_name: String,
}

impl Operation for GetQueueUrl {
    type Output = QueueUrl;

    fn run(self, store: &mut QueueStore, host: &str) -> Result<QueueUrl, Error> {
        let queue = store.queues.get(&self.queue_name).ok_or(Error::QueueDoesNotExist)?;
        Ok(QueueUrl { queue_url: url(host, &queue.name) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attributes {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'static str, String>,
}

impl Operation for GetQueueAttributes {
    type Output = Attributes;

    fn run(self, store: &mut QueueStore, _host: &str) -> Result<Attributes, Error> {
        let now = store.clock.now();
        let mut attributes = store.transact(&self.queue_url, |queue, db| {
            let [visible, in_flight, delayed] = db
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE visible_at <= ?2),
                            count(*) FILTER (WHERE visible_at > ?2 AND receive_count > 0),
                            count(*) FILTER (WHERE visible_at > ?2 AND receive_count = 0)
                     FROM messages WHERE queue = ?1",
                )?
                .query_row((&queue.name, now), |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?]))?;
            let mut attributes = BTreeMap::from([
                ("QueueArn", queue.arn()),
                ("CreatedTimestamp", (queue.created_at / 1000).to_string()),
                ("LastModifiedTimestamp", (queue.modified_at / 1000).to_string()),
                ("ApproximateNumberOfMessages", visible.to_string()),
                ("ApproximateNumberOfMessagesNotVisible", in_flight.to_string()),
                ("ApproximateNumberOfMessagesDelayed", delayed.to_string()),
            ]);
            for name in QueueAttributes::NAMES {
                if let Some(value) = queue.attributes.get(name) {
                    attributes.insert(name, value);
                }
            }
            Ok(attributes)
        })?;
        let known =
            |name: &str| name == "All" || attributes.contains_key(name) || QueueAttributes::NAMES.contains(&name);
        if let Some(unknown) = self.attribute_names.iter().find(|name| !known(name)) {
            return Err(Error::InvalidAttributeName(unknown.clone()));
        }
        let asked = |name: &str| self.attribute_names.iter().any(|a| a == name || a == "All");
        attributes.retain(|name, _| asked(name));
        Ok(Attributes { attributes })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetQueueAttributes {
    queue_url: String,
    attributes: BTreeMap<String, String>,
}

impl Operation for SetQueueAttributes {
    type Output = Empty;

    fn run(self, store: &mut QueueStore, _host: &str) -> Result<Empty, Error> {
        let queue = store.queue(&self.queue_url)?;
        let (name, mut attributes) = (queue.name.clone(), queue.attributes.clone());
        for (attribute, value) in &self.attributes {
            attributes.set(attribute, value)?;
        }
        store.put_queue(&name, attributes)?;
        Ok(Empty {})
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListQueues {
    queue_name_prefix: String,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueUrls {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

impl Operation for ListQueues {
    type Output = QueueUrls;

    fn run(self, store: &mut QueueStore, host: &str) -> Result<QueueUrls, Error> {
        let page = match self.max_results {
            Some(asked) => within("MaxResults", asked, 1..=1000)? as usize,
            None => 1000,
        };
        // The token is the last name of the page before.
        let after = self.next_token.unwrap_or_default();
        let mut names = store
            .queues
            .keys()
            .filter(|name| name.starts_with(&self.queue_name_prefix) && (after.is_empty() || **name > after));
        let listed: Vec<_> = names.by_ref().take(page).collect();
        let more = self.max_results.is_some() && names.next().is_some();
        Ok(QueueUrls {
            queue_urls: listed.iter().map(|name| url(host, name)).collect(),
            next_token: listed.last().filter(|_| more).map(|name| (*name).clone()),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PurgeQueue {
    queue_url: String,
}

impl Operation for PurgeQueue {
    type Output = Empty;

    fn run(self, store: &mut QueueStore, _host: &str) -> Result<Empty, Error> {
        store.transact(&self.queue_url, |queue, db| {
            db.execute("DELETE FROM messages WHERE queue = ?1", [&queue.name])?;
            Ok(Empty {})
        })
    }
}
