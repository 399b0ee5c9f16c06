//! A server with a certificate of a private CA is trusted only if `EXTRA_CA_FILE` has the root certificate of the CA.

use doubles::{Apns, CA_FILE, Fcm, Gateway, TlsProxy};
use local::Options;
use pushlark_settings::Environment;
use serde_json::json;
use tests::{BOB, CallCounter, IPHONE, Pushlark, credentials, eventually};

#[tokio::test]
async fn a_push_service_with_a_private_ca_gets_notifications_if_the_ca_is_trusted() {
    for ca_file in ["", CA_FILE] {
        let gateway = Gateway::mongoosepush().await;
        let proxy = TlsProxy::to(&gateway.url).await;
        let settings = [("MONGOOSEPUSH_URL", proxy.url.as_str()), ("EXTRA_CA_FILE", ca_file)];
        let pushlark = Pushlark::with_settings(settings).await;
        pushlark.enable(BOB, "phone").await;
        pushlark.message(BOB, "canary Hi").await;
        if ca_file.is_empty() {
            eventually("a refused handshake", async || (proxy.refused() > 0).then_some(())).await;
            assert_eq!(gateway.arrived(), 0);
        } else {
            eventually("a notification", async || gateway.accepted("phone").pop()).await;
            assert_eq!(proxy.refused(), 0);
        }
    }
}

#[tokio::test]
async fn apns_is_reached_by_http2_through_a_private_ca() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let proxy = TlsProxy::to(&apns.url).await;
    let mut credentials = credentials(&apns, &fcm);
    credentials["default"]["apns"]["url"] = proxy.url.as_str().into();
    let credentials = credentials.to_string();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("EXTRA_CA_FILE", CA_FILE)];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable_with(BOB, IPHONE, json!({"service": "apns"})).await;
    pushlark.message(BOB, "canary Hi").await;
    eventually("a notification", async || apns.accepted(IPHONE).pop()).await;
}

#[tokio::test]
async fn aws_with_a_private_ca_is_called_if_the_ca_is_trusted() {
    for (ca_file, status) in [("", 503), (CA_FILE, 200)] {
        let counter = CallCounter::start().await;
        let proxy = TlsProxy::to(&counter.url).await;
        let environment = Environment::from_iter([("EXTRA_CA_FILE", ca_file)]);
        let options = Options { dynamodb_endpoint: Some(proxy.url.clone()), environment, ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        counter.connect(&pushlark.stack.dynamodb_url);
        let request = json!({"user": BOB, "jid": "push.example.com", "node": "phone",
            "form": {"service": "fcm", "device_id": "phone"}});
        assert_eq!(pushlark.json("/enable", request).await.status, status);
        assert_eq!(proxy.refused() > 0, ca_file.is_empty());
    }
}
