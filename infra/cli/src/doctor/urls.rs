//! Checks of the URLs in the settings, from this machine, and of its clock.

use std::time::Duration;

use pushlark_http_client::{HttpVersions, Tls};
use pushlark_settings::catalogue::{JWT_KEYS, MONGOOSEPUSH_URL, PUBSUB_URL, PUSH_SERVICE};
use pushlark_settings::{Environment, by_domain, without_credentials};
use reqwest::{Client, Url};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::Check;
use super::functions::readable_environment;
use crate::stack::{Function, Place, Stack};

/// The longest wait for an answer, which is also that of a worker.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest difference of clocks for signatures: of AWS ("Elements of an AWS API request signature"), of webhooks
/// and of Apple's tokens.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Asks each URL for any answer, and a JWK Set for its keys.
pub async fn check(stack: &Stack) -> Vec<Check> {
    let (Ok(worker), Ok(enable)) =
        (readable_environment(stack, Function::Worker).await, readable_environment(stack, Function::Enable).await)
    else {
        // Settings that cannot be read are reported before.
        return Vec::new();
    };
    let client = Tls::from_environment(&worker).map_err(anyhow::Error::from);
    let client = client.and_then(|tls| Ok(tls.http_client(HttpVersions::Http1).timeout(TIMEOUT).build()?));
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let remedy = "Set EXTRA_CA_FILE in this shell to the file of the private CA.";
            return vec![Check::failed("private CA", format!("{error:#}"), remedy)];
        }
    };
    let mut checks = Vec::new();
    for (setting, url) in urls(&worker) {
        checks.push(reachable(&client, setting, &url).await);
    }
    if let Some(url) = enable.text(JWT_KEYS.name).filter(|keys| keys.starts_with("http")) {
        checks.push(published_keys(&client, url).await);
    }
    checks.push(clock(&client, stack).await);
    checks
}

/// Returns the URLs to which the worker publishes, by the setting that has them.
fn urls(worker: &Environment) -> Vec<(&'static str, String)> {
    let push_service = worker.text(PUSH_SERVICE.name).unwrap_or("mongoosepush");
    let mut urls = Vec::new();
    match push_service {
        "mongoosepush" => {
            urls.extend(worker.text(MONGOOSEPUSH_URL.name).map(|url| (MONGOOSEPUSH_URL.name, url.to_owned())));
        }
        "direct" => {}
        url => urls.push((PUSH_SERVICE.name, url.to_owned())),
    }
    // A list that is not valid is reported with the settings.
    let pubsub = worker.text(PUBSUB_URL.name).and_then(|list| by_domain(list).ok()).unwrap_or_default();
    urls.extend(pubsub.into_iter().map(|(_, url)| (PUBSUB_URL.name, url.to_owned())));
    urls
}

async fn reachable(client: &Client, setting: &str, url: &str) -> Check {
    let Ok(parsed) = Url::parse(url) else {
        return Check::failed(format!("URL of {setting}"), "it is no URL", "Correct the setting.");
    };
    let name = format!("URL of {setting}");
    let shown = without_credentials(&parsed);
    match client.get(parsed).send().await {
        Ok(answer) => Check::ok(name, format!("{shown} answers ({})", answer.status().as_u16())),
        Err(error) => Check::failed(
            name,
            format!("{shown} does not answer from this machine: {:#}", anyhow::Error::from(error.without_url())),
            "Check its name, port, certificate and firewall; the functions call it from the Internet, this check does not.",
        ),
    }
}

async fn published_keys(client: &Client, url: &str) -> Check {
    let name = format!("URL of {}", JWT_KEYS.name);
    let remedy = "Publish a JWK Set (RFC 7517) at this URL.";
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let answer = match answer {
        Ok(answer) => answer.json::<Value>().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(keys) => match keys["keys"].as_array().map(Vec::len) {
            Some(count @ 1..) => Check::ok(name, format!("has {count} keys")),
            _ => Check::failed(name, "has no keys", remedy),
        },
        Err(error) => Check::failed(name, format!("{:#}", anyhow::Error::from(error.without_url())), remedy),
    }
}

/// Compares the clock with the `Date` of an answer of the queue's server: it answers anybody, if only with an error.
async fn clock(client: &Client, stack: &Stack) -> Check {
    let url = match &stack.place {
        Place::Aws { .. } => stack.queue_url.clone(),
        Place::Local { url, .. } => format!("{url}/lambda.env"),
    };
    let date = match client.get(url).send().await {
        Ok(answer) => answer.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned),
        Err(error) => {
            let detail = format!("no server gives the time: {:#}", anyhow::Error::from(error.without_url()));
            return Check::warning("clock", detail, "Compare the clock with another one.");
        }
    };
    let date = date.and_then(|date| OffsetDateTime::parse(&date, &Rfc2822).ok());
    let Some(date) = date else {
        return Check::warning("clock", "the server gives no time", "Compare the clock with another one.");
    };
    let skew = (OffsetDateTime::now_utc() - date).unsigned_abs();
    match skew > MAX_CLOCK_SKEW {
        true => Check::failed(
            "clock",
            format!("differs by {} seconds from the server's", skew.as_secs()),
            "Set the clock of this machine, such as by NTP: signatures fail after five minutes.",
        ),
        false => Check::ok("clock", format!("differs by {} seconds from the server's", skew.as_secs())),
    }
}
