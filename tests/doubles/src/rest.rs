//! A chat server that accepts stanzas over HTTP, as Prosody's `mod_rest` does.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use pushlark_xmpp::{Element, ns};

use crate::{Answer, Double, Request};

/// The double. A device is the node to which an IQ publishes.
#[derive(Clone)]
pub struct Rest {
    double: Double,
    errors: Arc<Mutex<Errors>>,
}

/// By node: the type and the condition of the error that it answers.
type Errors = HashMap<String, (String, String)>;

impl Deref for Rest {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Rest {
    /// Listens on a free port, and accepts this bearer token.
    pub async fn start(token: &'static str) -> Self {
        let errors: Arc<Mutex<Errors>> = Arc::default();
        let of_nodes = Arc::clone(&errors);
        let double = Double::start(1_000, move |_, request| check(token, &of_nodes.lock().unwrap(), request)).await;
        Self { double, errors }
    }

    /// Answers all later publishes to a node with this error.
    pub fn node_fails(&self, node: &str, error_type: &str, condition: &str) {
        self.errors.lock().unwrap().insert(node.into(), (error_type.into(), condition.into()));
    }

    /// Accepts publishes to a node again.
    pub fn node_recovers(&self, node: &str) {
        self.errors.lock().unwrap().remove(node);
    }

    /// Returns the publish IQs for a node, accepted or not.
    pub fn published(&self, node: &str) -> Vec<Element> {
        let requests = self.requests().into_iter().filter(|request| request.device == node);
        requests.map(|request| parse(&request.body).unwrap()).collect()
    }
}

fn check(token: &str, errors: &Errors, request: &Request) -> (String, Answer) {
    let refused = |status| (String::new(), Answer::text(status, ""));
    match request.header("authorization") {
        "" => return refused(401),
        given if given != format!("Bearer {token}") => return refused(403),
        _ => {}
    }
    if request.header("content-type") != "application/xmpp+xml" {
        return refused(415);
    }
    let Some(iq) = parse(&request.body) else { return refused(400) };
    if !iq.namespace().is_empty() || iq.children().count() != 1 || request.path != "/rest" {
        return refused(422);
    }
    let [id, from, to] = ["id", "from", "to"].map(|name| iq.attribute(name).unwrap().to_owned());
    let pubsub = iq.child("pubsub", ns::PUBSUB).unwrap();
    let node = pubsub.child("publish", ns::PUBSUB).unwrap().attribute("node").unwrap().to_owned();
    // The error text of a chat server may repeat the values of the request.
    let xml = pubsub.to_string();
    let values: String = xml.split("<value>").skip(1).filter_map(|value| value.split("</").next()).collect();
    let reply = match errors.get(&node) {
        None => format!("<iq id='{id}' type='result' to='{from}' from='{to}'/>"),
        Some((kind, condition)) => format!(
            "<iq id='{id}' type='error' to='{from}' from='{to}'>{pubsub}<error type='{kind}'>\
             <{condition} xmlns='{errors}'/><text xmlns='{errors}'>not accepted: {values}</text></error></iq>",
            errors = ns::STANZA_ERRORS,
        ),
    };
    (node, Answer::text(200, &reply).with("content-type", "application/xmpp+xml"))
}

fn parse(body: &Bytes) -> Option<Element> {
    Element::parse(std::str::from_utf8(body).ok()?).ok()
}
