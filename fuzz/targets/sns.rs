//! Messages of SNS, their signatures, and the certificates that these are checked by. The first byte says what the rest
//! is: a message, a certificate as it is published, or the inside of one.
#![no_main]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;
use pushlark_access::{Access, Caller};
use pushlark_events::{Sources, read};
use pushlark_fuzz::{admitted, check_events, chosen, post, settings};
use pushlark_http::{Media, Request};
use pushlark_sns::{SnsMessage, Topics};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::runtime::{Builder, Runtime};

const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:user_message_sent-dev-1";
const SIGNED: &str = include_str!("../../tests/fixtures/sns/sns-signed-by-sha1.json");
const CERTIFICATE: &[u8] = include_bytes!("../../tests/fixtures/sns/sns.pem");

/// The same topic for each of the kinds of messages.
static TOPICS: LazyLock<[Topics; 3]> = LazyLock::new(|| {
    ["SNS_PRESENCE_TOPIC", "SNS_PM_TOPIC", "SNS_MUC_TOPIC"]
        .map(|setting| settings(Topics::from_environment, &[(setting, TOPIC)]))
});
static ACCESS: LazyLock<Access> = LazyLock::new(|| {
    let endpoint = publish();
    let topics =
        settings(Topics::from_environment, &[("SNS_PM_TOPIC", TOPIC), ("AWS_ENDPOINT_URL_SNS", endpoint.as_str())]);
    Access::of_secrets("").expect("no secrets").with_topics(topics)
});
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
/// What is published at every URL.
static PUBLISHED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Certificates are kept by their URL.
static URLS: AtomicU64 = AtomicU64::new(2);

fuzz_target!(
    init: {
        publish_next(CERTIFICATE.to_vec());
        assert!(taken(SIGNED.as_bytes()).is_some(), "what is right is refused");
    },
    |data: &[u8]| match chosen(data) {
        Some(('M', body)) => check_message(body),
        Some(('P', pem)) => check_certificate(pem.to_vec()),
        Some(('D', der)) => {
            let lines = BASE64_STANDARD.encode(der);
            check_certificate(
                format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n").into_bytes(),
            );
        }
        _ => {}
    }
);

fn check_message(body: &[u8]) {
    for topics in TOPICS.iter() {
        let mut request = Request::new(Caller::Operator, Media::Json, Vec::new()).expect("an empty body");
        request.sns = delivered(topics, body).unwrap_or_default();
        if !request.sns.is_empty()
            && let Ok(events) = read(&request, &Sources::default(), OffsetDateTime::UNIX_EPOCH)
        {
            check_events(&events);
        }
    }
    publish_next(CERTIFICATE.to_vec());
    if let Some(message) = taken(body) {
        assert_eq!(Some(message), taken(SIGNED.as_bytes()), "it is not signed");
    }
}

/// The notifications of an invocation by SNS itself.
fn delivered(topics: &Topics, body: &[u8]) -> Option<Vec<SnsMessage>> {
    let event = format!(r#"{{"Records":[{{"EventSource":"aws:sns","Sns":{}}}]}}"#, std::str::from_utf8(body).ok()?);
    topics.delivered(&RawValue::from_string(event).ok()?)?.ok()
}

/// A certificate is somebody's who may publish it, but it must be one.
fn check_certificate(pem: Vec<u8>) {
    publish_next(pem);
    let url = format!("Service-{}.pem", URLS.fetch_add(1, Ordering::Relaxed));
    taken(SIGNED.replace("Service-1.pem", &url).as_bytes());
}

fn taken(body: &[u8]) -> Option<SnsMessage> {
    let request = post(&[("x-amz-sns-message-type", "Notification")], body);
    RUNTIME.block_on(admitted(&ACCESS, request)).map(|request| request.sns.into_iter().next().expect("an SNS message"))
}

fn publish_next(document: Vec<u8>) {
    *PUBLISHED.lock().expect("nothing panics meanwhile") = document;
}

/// Publishes by HTTP on this machine, and gives the URL.
fn publish() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    url
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut request = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).ok().filter(|length| *length > 0)?;
        request.extend_from_slice(&bytes[..length]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let document = PUBLISHED.lock().ok()?.clone();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", document.len());
            stream.write_all(&[head.as_bytes(), &document].concat()).ok()?;
        }
    }
}
