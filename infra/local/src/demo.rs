//! A demonstration: webhooks in each format become notifications, and a device that is gone is disabled.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pushlark_store::Store;
use pushlark_xmpp::BareJid;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{Options, Stack};

/// The time within which a notification must arrive.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A chat message from alice to bob in each webhook format: the content type, the text, and the body of the webhook.
const WEBHOOKS: [(&str, &str, &str); 4] = [
    (
        "application/json",
        "Hi from JSON",
        r#"{"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": "Hi from JSON"}"#,
    ),
    (
        "application/x-ndjson",
        "Hi from NDJSON",
        r#"{"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "stanza": "<message type='chat'><body>Hi from NDJSON</body></message>"}"#,
    ),
    (
        "application/xml",
        "Hi from XML",
        "<message xmlns='jabber:client' from='alice@example.com/pc' to='bob@example.com' type='chat' id='c1'>\
         <body>Hi from XML</body></message>",
    ),
    (
        "application/x-www-form-urlencoded",
        "Hi from a form",
        "author=alice&server=example.com&receiver=bob&message=Hi+from+a+form",
    ),
];

/// Runs the demonstration with a new stack in memory. An error names the wrong result.
pub async fn demo() -> anyhow::Result<()> {
    let stack = Stack::start(Options::default()).await?;
    let store = Store::from_environment(stack.dynamodb.clone(), &stack.environment)?;
    let demo = Demo { http: Client::new(), url: stack.url.clone(), store };
    let result = demo.run().await;
    stack.stop().await;
    result
}

struct Demo {
    http: Client,
    url: String,
    store: Store,
}

impl Demo {
    async fn run(&self) -> anyhow::Result<()> {
        println!("bob enables two devices with the IQ of XEP-0357:");
        for (node, service, device_id) in [("phone", "fcm", "PHONE"), ("tablet", "apns", "TABLET")] {
            let reply = self.post("/enable", "application/xmpp+xml", &enable(node, service, device_id)).await?;
            ensure!(reply.contains("type=\"result\""), "the answer to enable is {reply}");
            println!("  {reply}");
        }
        for (content_type, text, body) in WEBHOOKS {
            println!("a chat message is posted as {content_type}:");
            self.post("/events", content_type, body).await?;
            for device_id in ["PHONE", "TABLET"] {
                let notification = self.notification(device_id, text).await?;
                let alert = json!({"body": text, "title": "alice@example.com", "tag": "alice@example.com", "badge": 1});
                ensure!(notification["notification"]["alert"] == alert, "wrong notification: {notification}");
                ensure!(
                    notification["status"] == 200,
                    "the push service did not accept the notification: {notification}"
                );
            }
        }
        println!("the push service answers 410 for the tablet from now on, so the next message disables the tablet:");
        let gone = json!({"status": 410, "body": {"reason": "unregistered"}});
        let response = self.http.put(format!("{}/sink/devices/TABLET", self.url)).json(&gone).send().await?;
        ensure!(response.status() == StatusCode::NO_CONTENT, "the sink answered {}", response.status());
        self.send("To both").await?;
        self.notification("PHONE", "To both").await?;
        let refused = self.notification("TABLET", "To both").await?;
        ensure!(refused["status"] == 410, "the push service did not answer 410: {refused}");
        self.until_disabled().await?;
        println!("the next message is notified only to the phone:");
        self.send("To the phone").await?;
        self.notification("PHONE", "To the phone").await?;
        ensure!(self.received("TABLET", "To the phone").await?.is_none(), "the disabled tablet was notified");
        println!("all results are as expected");
        Ok(())
    }

    async fn until_disabled(&self) -> anyhow::Result<()> {
        let bob = BareJid::new("bob@example.com")?;
        let deadline = Instant::now() + NOTIFICATION_TIMEOUT;
        while self.store.snapshot(&bob).await?.registrations.iter().any(|registration| registration.node == "tablet") {
            ensure!(Instant::now() < deadline, "the tablet was not disabled");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn send(&self, text: &str) -> anyhow::Result<()> {
        let event = json!({"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat",
            "body": text});
        self.post("/events", "application/json", &event.to_string()).await.map(drop)
    }

    async fn post(&self, path: &str, content_type: &'static str, body: &str) -> anyhow::Result<String> {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", content_type);
        let response = request.body(body.to_owned()).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(text)
    }

    async fn notification(&self, device_id: &str, text: &str) -> anyhow::Result<Value> {
        let deadline = Instant::now() + NOTIFICATION_TIMEOUT;
        loop {
            if let Some(notification) = self.received(device_id, text).await? {
                return Ok(notification);
            }
            if Instant::now() > deadline {
                bail!("{device_id} was not notified of {text:?} within {NOTIFICATION_TIMEOUT:?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn received(&self, device_id: &str, text: &str) -> anyhow::Result<Option<Value>> {
        let url = format!("{}/sink/notifications?device_id={device_id}", self.url);
        let all: Vec<Value> = self.http.get(url).send().await?.json().await.context("the sink's answer")?;
        Ok(all.into_iter().find(|notification| notification["notification"]["alert"]["body"] == text))
    }
}

fn enable(node: &str, service: &str, device_id: &str) -> String {
    format!(
        "<iq xmlns='jabber:client' type='set' from='bob@example.com/{node}' id='{node}-1'>\
         <enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='{node}'>\
         <x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
         <field var='service'><value>{service}</value></field>\
         <field var='device_id'><value>{device_id}</value></field></x></enable></iq>"
    )
}
