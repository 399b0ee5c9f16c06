//! The credentials of apps: which app a device belongs to, and changes of keys.

use std::path::PathBuf;

use doubles::{APNS_KEY_SEC1, APNS_NEW_KEY, Apns, Fcm, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, canary};
use serde_json::{Value, json};
use tests::{
    BOB, IPHONE, IsolatedWorker, PUSH_HOST, Providers, PushRequest, Pushlark, XMPP, credentials, eventually, stanza,
};

/// Starts a stack with credentials in a temporary file, which the test may replace.
async fn with_credentials_in_a_file(name: &str, credentials: &Value) -> (Pushlark, PathBuf) {
    let file = std::env::temp_dir().join(format!("pushlark-{name}-{}.json", std::process::id()));
    std::fs::write(&file, credentials.to_string()).unwrap();
    let path = format!("file:{}", file.display());
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", path.as_str())];
    (Pushlark::with_settings(settings).await, file)
}

#[tokio::test]
async fn changed_credentials_are_read_again() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    let (pushlark, file) = with_credentials_in_a_file("credentials", &credentials).await;
    pushlark.enable_with(BOB, IPHONE, json!({"service": "apns", "device_id": IPHONE})).await;
    pushlark.enable(BOB, "android").await;
    pushlark.message(BOB, "one").await;
    pushlark.settled().await;
    credentials["default"]["apns"]["key"] = APNS_NEW_KEY.into();
    credentials["default"]["fcm"]["private_key"] = GOOGLE_NEW_KEY.into();
    std::fs::write(&file, credentials.to_string()).unwrap();
    apns.change_key();
    fcm.change_key();
    pushlark.message(BOB, "two").await;
    pushlark.settled().await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!((apns.accepted(IPHONE).len(), fcm.accepted("android").len()), (2, 2));
}

/// The host of the push node chooses the credentials, not the options of a user or a chat server.
#[tokio::test]
async fn publish_options_at_the_push_node_do_not_choose_the_app() {
    let (apns, fcm, other) = (Apns::start().await, Fcm::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    credentials["other"] = json!({"fcm": other.service_account()});
    let credentials = credentials.to_string();
    let providers = Providers::with_settings(&[("PUSH_CREDENTIALS", credentials.as_str())]).await;
    let known = stanza::publish_options(&[("service", "fcm"), ("device_id", &canary("known")), ("app", "other")]);
    let given = [("service", "fcm"), ("device_id", &canary("given")), ("app", "other")];
    let notification = stanza::notification("");
    for (id, payload) in [
        ("1", stanza::enable(PUSH_HOST, "n", &known)),
        ("2", stanza::publish("n", &notification, &[])),
        ("3", stanza::publish("n", &notification, &given)),
    ] {
        let iq = stanza::iq_with_id("set", BOB, PUSH_HOST, id, &payload);
        providers.pushlark.post("/pubsub", XMPP, iq).await.assert_result();
    }
    providers.pushlark.settled().await;
    assert_eq!((fcm.accepted("known").len(), fcm.accepted("given").len(), other.count()), (1, 1, 0));
}

#[tokio::test]
async fn the_form_or_the_host_chooses_the_app() {
    let (apns, fcm, other) = (Apns::start().await, Fcm::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    credentials["other"] = json!({"hosts": ["other.@HOST@"], "fcm": other.service_account()});
    // APNs does not know the key of this app.
    let mut unknown_key = credentials["default"]["apns"].clone();
    unknown_key["key_id"] = "OTHER12345".into();
    credentials["stranger"] = json!({"apns": unknown_key});
    // This app is wrong for FCM only.
    credentials["broken"] = json!({"fcm": {"project_id": "x"}, "apns": credentials["default"]["apns"]});
    let credentials = credentials.to_string();
    let hosts = "push.@HOST@,other.@HOST@";
    let settings =
        [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("VIRTUAL_PUBSUB_HOSTS", hosts)];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "default").await;
    pushlark.enable_with(BOB, "named", json!({"app": "other"})).await;
    let at_host = PushRequest::new(BOB, "by-host").at("other.example.com").device("by-host");
    assert_eq!(pushlark.json("/enable", at_host).await.status, 200);
    pushlark.enable_with(BOB, "broken", json!({"app": "broken"})).await;
    pushlark.enable_with(BOB, "unknown", json!({"app": "unknown"})).await;
    pushlark.enable_with(BOB, IPHONE, json!({"app": "broken", "service": "apns"})).await;
    pushlark.enable_with(BOB, "012363616e617279", json!({"app": "stranger", "service": "apns"})).await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    let devices_of = |double: &Fcm| {
        let mut devices: Vec<_> = double.requests().into_iter().map(|request| request.device).collect();
        devices.sort();
        devices
    };
    assert_eq!(
        (devices_of(&fcm), devices_of(&other)),
        (vec!["default".into()], vec!["by-host".into(), "named".into()])
    );
    assert_eq!(apns.accepted(IPHONE).len(), 1);
    let requests = apns.requests();
    let stranger = requests.iter().find(|request| request.device == "012363616e617279").unwrap();
    let phone = requests.iter().find(|request| request.device == IPHONE).unwrap();
    assert_eq!(stranger.status, 403);
    assert_ne!(stranger.connection, phone.connection, "each app has its own connection");
}

#[tokio::test]
async fn private_keys_in_older_formats_and_on_one_line_are_accepted() {
    let one_line = |pem: &str| pem.replace('\n', "\\n");
    for write in [str::to_owned as fn(&str) -> String, one_line] {
        let (apns, fcm) = (Apns::start().await, Fcm::start().await);
        for older in [false, true] {
            let mut credentials = credentials(&apns, &fcm);
            let keys = [("apns", "key", APNS_KEY_SEC1), ("fcm", "private_key", GOOGLE_KEY_PKCS1)];
            for (provider, field, key) in keys {
                let own = credentials["default"][provider][field].as_str().unwrap().to_owned();
                credentials["default"][provider][field] = write(if older { key } else { &own }).into();
            }
            let credentials = credentials.to_string();
            let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
            let pushlark = Pushlark::with_settings(settings).await;
            pushlark.enable_with(BOB, IPHONE, json!({"service": "apns", "device_id": IPHONE})).await;
            pushlark.enable(BOB, "android").await;
            pushlark.message(BOB, "canary Hi").await;
            pushlark.settled().await;
        }
        assert_eq!((apns.accepted(IPHONE).len(), fcm.accepted("android").len()), (2, 2));
    }
}

#[tokio::test]
async fn a_notification_waits_until_the_credentials_have_the_new_key() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    let (pushlark, file) = with_credentials_in_a_file("changed-key", &credentials).await;
    pushlark.enable(BOB, "android").await;
    fcm.change_key();
    pushlark.message(BOB, "canary").await;
    // The worker has read the credentials again, and they have not changed.
    eventually("a refusal", async || (fcm.refused() >= 1).then_some(())).await;
    credentials["default"]["fcm"]["private_key"] = Value::from(GOOGLE_NEW_KEY);
    std::fs::write(&file, credentials.to_string()).unwrap();
    pushlark.settled().await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(fcm.accepted("android").len(), 1);
}

#[tokio::test]
async fn the_warm_up_opens_connections_and_gets_tokens() {
    let providers = Providers::start().await;
    let isolated = IsolatedWorker::beside(providers.pushlark).await;
    isolated.worker.warm_up().await;
    assert_eq!((providers.apns.connections(), providers.fcm.connections(), providers.fcm.granted()), (1, 1, 1));
}
