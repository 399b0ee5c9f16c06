//! Clients that enable and disable push themselves, with tokens (JWT).

use axum::http::Method;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use doubles::{APNS_KEY, APNS_NEW_KEY, DocumentServer, GOOGLE_KEY, GOOGLE_NEW_KEY};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tests::{
    BOB, BOBS_PC, BOBS_PHONE, CAROL, Event, PUSH_HOST, PushRequest, Pushlark, Reply, XMPP, send, stanza,
    within_a_minute,
};
use time::OffsetDateTime;

const ISSUER: &str = "https://id.example.com";
const AUDIENCE: &str = "pushlark";
const SECRET: &[u8] = b"canary-secret-of-thirty-two-bytes";

struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    id: Option<&'static str>,
}

impl Signer {
    fn of(algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::HS256 => EncodingKey::from_secret(SECRET),
            Algorithm::RS256 => EncodingKey::from_rsa_pem(GOOGLE_KEY.as_bytes()).unwrap(),
            Algorithm::ES256 => EncodingKey::from_ec_pem(APNS_KEY.as_bytes()).unwrap(),
            other => panic!("{other:?}"),
        };
        Self { algorithm, key, id: None }
    }

    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        if let Some(id) = self.id {
            jwk["kid"] = id.into();
        }
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: self.id.map(Into::into), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }

    fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("JWT_ALGORITHM", format!("{:?}", self.algorithm)),
            ("JWT_KEYS", json!({"keys": [self.jwk()]}).to_string()),
            ("JWT_ISSUER", ISSUER.into()),
            ("JWT_AUDIENCE", AUDIENCE.into()),
        ]
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn claims(user: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "exp": now() + 300, "sub": user})
}

async fn with_settings(settings: &[(&'static str, String)]) -> Pushlark {
    let secret = ("WEBHOOK_SECRET", "canary-server-secret".to_owned());
    let all: Vec<_> = settings.iter().cloned().chain([secret]).collect();
    Pushlark::with_settings(all.iter().map(|(name, value)| (*name, value.as_str()))).await
}

fn registration(user: &str, node: &str) -> Value {
    PushRequest::new(user, node).device(&format!("token-of-{node}")).options(json!({"priority": "high"})).into()
}

async fn post(pushlark: &Pushlark, token: &str, path: &str, body: &Value) -> Reply {
    pushlark.json_as(token, path, body).await
}

fn disabling(user: &str, node: &str) -> Value {
    PushRequest::new(user, node).into()
}

async fn list(pushlark: &Pushlark, token: &str, query: &[(&str, &str)]) -> Reply {
    let url = format!("{}/enable", pushlark.stack.url);
    send(pushlark.http.request(Method::GET, url).query(query).bearer_auth(token)).await
}

/// Returns the nodes of a user, in the order of their names.
async fn nodes(pushlark: &Pushlark, user: &str) -> Vec<String> {
    let reply = list(pushlark, "canary-server-secret", &[("user", user)]).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let json = reply.json();
    json["registrations"].as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_client_token_is_valid_for_its_own_user_only() {
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256] {
        let signer = Signer::of(algorithm);
        let pushlark = with_settings(&signer.settings()).await;
        let bobs = signer.sign(&claims("Bob@Example.com"));
        for user in [BOB, BOBS_PHONE] {
            assert_eq!(post(&pushlark, &bobs, "/enable", &registration(user, "phone")).await.status, 200);
        }
        let iq = stanza::iq("set", BOBS_PC, BOB, &stanza::enable(PUSH_HOST, "pc", ""));
        let enable = |token: &str| pushlark.request("/enable", XMPP, iq.clone()).bearer_auth(token);
        assert!(send(enable(&bobs)).await.body.contains("type=\"result\""));

        let eves = signer.sign(&claims("eve@example.com"));
        post(&pushlark, &eves, "/enable", &registration(BOB, "eves")).await.problem(403);
        post(&pushlark, &eves, "/disable", &disabling(BOB, "phone")).await.problem(403);
        list(&pushlark, &eves, &[("user", BOB)]).await.problem(403);
        assert!(send(enable(&eves)).await.body.contains("<forbidden "));
        assert_eq!(list(&pushlark, &eves, &[]).await.json()["registrations"], json!([]));

        let listed = list(&pushlark, &bobs, &[]).await;
        assert_eq!((listed.status, listed.content_type()), (200, "application/json"));
        assert_eq!(listed.json()["user"], BOB);
        let [pc, phone] = listed.json()["registrations"].as_array().unwrap().clone().try_into().unwrap();
        assert_eq!((&pc["jid"], &pc["node"], &pc["form"]), (&json!("push.example.com"), &json!("pc"), &json!({})));
        assert_eq!(phone["form"], json!({"service": "fcm", "device_id": "…hone", "priority": "high"}));
        assert!(phone["enabled_at"].as_str().unwrap().starts_with("20"), "{phone}");
        assert!(!listed.body.contains("canary"), "{}", listed.body);

        assert_eq!(post(&pushlark, &bobs, "/disable", &disabling(BOB, "phone")).await.status, 200);
        assert_eq!(nodes(&pushlark, BOB).await, ["pc"]);
        // The token is valid at these two paths only.
        for path in ["/events", "/pubsub", "/explain"] {
            post(&pushlark, &bobs, path, &json!({})).await.problem(401);
        }
    }
}

#[tokio::test]
async fn a_token_with_wrong_claims_or_a_wrong_signature_is_refused() {
    let signer = Signer::of(Algorithm::RS256);
    let pushlark = with_settings(&signer.settings()).await;
    let with = |name: &str, value: Value| {
        let mut claims = claims(BOB);
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims(BOB);
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let signed = |claims: Value| signer.sign(&claims);
    let good = signed(claims(BOB));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let base64 = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let eve = base64(&claims("eve@example.com").to_string());
    let public = Signer {
        key: EncodingKey::from_secret(signer.jwk()["n"].as_str().unwrap().as_bytes()),
        ..Signer::of(Algorithm::HS256)
    };
    let pem = include_str!("../../fixtures/keys/google.pub");
    let confused = Signer { key: EncodingKey::from_secret(pem.as_bytes()), ..Signer::of(Algorithm::HS256) };
    let other_key =
        Signer { key: EncodingKey::from_rsa_pem(GOOGLE_NEW_KEY.as_bytes()).unwrap(), ..Signer::of(Algorithm::RS256) };
    for (name, token, named) in [
        ("expired", signed(with("exp", json!(now() - 60))), "expired"),
        ("expired, as a text", signed(with("exp", json!((now() + 300).to_string()))), ""),
        ("not yet", signed(with("nbf", json!(now() + 300))), "yet"),
        ("another issuer", signed(with("iss", json!("https://id.example.org"))), "iss"),
        ("another audience", signed(with("aud", json!(["other"]))), "aud"),
        ("no exp", signed(without("exp")), "exp"),
        ("no iss", signed(without("iss")), "iss"),
        ("no aud", signed(without("aud")), "aud"),
        ("no sub", signed(without("sub")), ""),
        ("sub with a resource", signed(with("sub", json!(BOBS_PHONE))), "sub"),
        ("sub without a localpart", signed(with("sub", json!("example.com"))), "sub"),
        ("sub that is a number", signed(with("sub", json!(5))), ""),
        ("HS256 by the modulus", public.sign(&claims(BOB)), "alg"),
        ("HS256 by the public key", confused.sign(&claims(BOB)), "alg"),
        ("none", format!("{}.{payload}.", base64("{\"alg\":\"none\"}")), ""),
        ("no signature", format!("{header}.{payload}."), ""),
        ("another payload", format!("{header}.{eve}.{signature}"), "none of the keys"),
        ("another key", other_key.sign(&claims(BOB)), "none of the keys"),
        (
            "critical",
            format!("{}.{payload}.{signature}", base64("{\"alg\":\"RS256\",\"crit\":[\"b64\"],\"b64\":false}")),
            "critical",
        ),
        ("too long", format!("{good}{}", "A".repeat(9_000)), "too long"),
        ("cut", good[..good.len() - 4].to_owned(), ""),
        ("no token", "canary".to_owned(), ""),
    ] {
        for path in ["/enable", "/disable"] {
            let reply = post(&pushlark, &token, path, &registration(BOB, "phone")).await;
            assert_eq!(reply.status, 401, "{name}: {}", reply.body);
            assert!(reply.problem(401).contains(named), "{name}: {}", reply.body);
        }
    }
    assert!(nodes(&pushlark, BOB).await.is_empty());
    let one_of_several = signed(with("aud", json!(["other", AUDIENCE])));
    assert_eq!(post(&pushlark, &one_of_several, "/enable", &registration(BOB, "n")).await.status, 200);
}

#[tokio::test]
async fn a_key_set_is_fetched_at_first_use_and_when_a_key_is_unknown() {
    let key_server = DocumentServer::start().await;
    let old = Signer { id: Some("old"), ..Signer::of(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(APNS_NEW_KEY.as_bytes()).unwrap();
    let new = Signer { id: Some("new"), key, ..Signer::of(Algorithm::ES256) };
    let mut settings = old.settings();
    settings[1].1 = format!("{}/jwks.json", key_server.url);
    let pushlark = with_settings(&settings).await;
    let enable = async |signer: &Signer| {
        let token = signer.sign(&claims(BOB));
        post(&pushlark, &token, "/enable", &registration(BOB, "n")).await
    };
    // A request with a secret needs no keys.
    let request = registration(BOB, "n");
    assert_eq!(post(&pushlark, "canary-server-secret", "/enable", &request).await.status, 200);
    assert_eq!(key_server.requests().len(), 0);
    let other = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    key_server.set(200, &json!({"keys": [other, {"kty": "new"}, old.jwk()]}).to_string());
    assert_eq!(enable(&old).await.status, 200);
    let fetched = key_server.requests().len();
    assert_eq!(enable(&old).await.status, 200);
    assert_eq!(key_server.requests().len(), fetched, "the keys are cached");
    // An unknown key causes one more fetch, but not one for each request.
    enable(&new).await.problem(401);
    enable(&new).await.problem(401);
    assert!(key_server.requests().len() <= fetched + 1);
}

#[tokio::test]
async fn simultaneous_requests_share_a_failed_fetch_of_the_key_set() {
    let key_server = DocumentServer::start().await;
    key_server.set(503, "");
    let signer = Signer { id: Some("kept"), ..Signer::of(Algorithm::ES256) };
    let mut settings = signer.settings();
    settings[1].1 = format!("{}/jwks.json", key_server.url);
    let pushlark = with_settings(&settings).await;
    let token = signer.sign(&claims(BOB));
    let request = registration(BOB, "n");
    let at_once = (0..20).map(|_| post(&pushlark, &token, "/enable", &request));
    for reply in futures_util::future::join_all(at_once).await {
        reply.problem(503);
        assert!(reply.headers.contains_key("retry-after"));
    }
    post(&pushlark, &token, "/enable", &request).await.problem(503);
    assert_eq!(key_server.requests().len(), 1);
}

#[tokio::test]
async fn a_changed_key_set_in_a_file_is_read_again() {
    let file = std::env::temp_dir().join(format!("pushlark-jwks-{}", std::process::id()));
    let old = Signer { id: Some("old"), ..Signer::of(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(APNS_NEW_KEY.as_bytes()).unwrap();
    let new = Signer { id: Some("new"), key, ..Signer::of(Algorithm::ES256) };
    let write = |signer: &Signer| std::fs::write(&file, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    write(&old);
    let mut settings = old.settings();
    settings[1].1 = format!("file:{}", file.display());
    let pushlark = with_settings(&settings).await;
    let enable = async |signer: &Signer| {
        let token = signer.sign(&claims(BOB));
        post(&pushlark, &token, "/enable", &registration(BOB, "n")).await
    };
    assert_eq!(enable(&old).await.status, 200);
    write(&new);
    assert_eq!(enable(&new).await.status, 200);
    enable(&old).await.problem(401);
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn unsafe_settings_stop_the_start() {
    let rs256 = Signer::of(Algorithm::RS256);
    let hs256 = Signer::of(Algorithm::HS256);
    let short = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode("canary-too-short")}).to_string();
    let with = |signer: &Signer, changes: &[(&'static str, &str)]| {
        let mut settings = signer.settings().to_vec();
        settings.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings
    };
    for (settings, named) in [
        (with(&rs256, &[("JWT_ALGORITHM", "none")]), "JWT_ALGORITHM"),
        (with(&rs256, &[("JWT_ALGORITHM", "")]), "JWT_ALGORITHM"),
        (with(&rs256, &[("JWT_ALGORITHM", "HS256")]), "JWT_KEYS"),
        (with(&rs256, &[("JWT_ISSUER", "")]), "JWT_ISSUER"),
        (with(&rs256, &[("JWT_AUDIENCE", "")]), "JWT_AUDIENCE"),
        (with(&rs256, &[("JWT_KEYS", "http://id.example.com/jwks.json")]), "https"),
        (with(&hs256, &[("JWT_KEYS", "https://id.example.com/jwks.json")]), "secret"),
        (with(&hs256, &[("JWT_KEYS", &short)]), "JWT_KEYS"),
        (with(&hs256, &[("JWT_KEYS", "canary-secret-key")]), "JWT_KEYS"),
        (with(&hs256, &[("WEBHOOK_SECRET", "example.com=")]), "WEBHOOK_SECRET"),
        (with(&hs256, &[("WEBHOOK_SECRET", "canary")]), "WEBHOOK_SECRET"),
        (with(&hs256, &[("WEBHOOK_SECRET", "whsec_")]), "WEBHOOK_SECRET"),
        (with(&hs256, &[("WEBHOOK_SECRET", "example.com=whsec_canary-and-not-base64")]), "WEBHOOK_SECRET"),
        (with(&hs256, &[("MUC_LIGHT_HOSTS", "a b")]), "MUC_LIGHT_HOSTS"),
        (with(&hs256, &[("PUBSUB_HOSTS", "a b")]), "PUBSUB_HOSTS"),
        (with(&hs256, &[("SNS_PM_TOPIC", "messages")]), "SNS_PM_TOPIC"),
        (with(&hs256, &[("MUC_HOSTS", "a b")]), "MUC_HOSTS"),
        (with(&hs256, &[("MAX_NODES", "0")]), "MAX_NODES"),
        (with(&hs256, &[("MAX_NODES_REACHED", "panic")]), "MAX_NODES_REACHED"),
        (with(&hs256, &[("RATE_LIMIT", "-1")]), "RATE_LIMIT"),
    ] {
        let environment = settings.iter().cloned().collect();
        let options = local::Options { environment, ..local::Options::default() };
        let error = format!("{:#}", local::Stack::start(options).await.unwrap_err());
        assert!(error.contains(named) && !error.contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn the_requests_of_a_client_count_for_its_own_user_only() {
    within_a_minute(ask_too_often).await;
}

async fn ask_too_often() {
    let signer = Signer::of(Algorithm::HS256);
    let settings: Vec<_> = signer.settings().into_iter().chain([("RATE_LIMIT", "2".into())]).collect();
    let pushlark = with_settings(&settings).await;
    let bobs = signer.sign(&claims(BOB));
    for _ in 0..2 {
        assert_eq!(post(&pushlark, &bobs, "/enable", &registration(BOB, "phone")).await.status, 200);
    }
    for path in ["/enable", "/disable"] {
        let detail = post(&pushlark, &bobs, path, &disabling(BOB, "phone")).await.problem(429);
        assert!(detail.contains(BOB), "{detail}");
    }
    list(&pushlark, &bobs, &[]).await.problem(429);
    let carols = signer.sign(&claims(CAROL));
    assert_eq!(post(&pushlark, &carols, "/enable", &registration(CAROL, "phone")).await.status, 200);
    let message = Event::message(BOB, "Hi").from("a@b/c");
    assert_eq!(pushlark.json_as("canary-server-secret", "/events", &message).await.status, 202);
}

#[tokio::test]
async fn the_oldest_node_is_replaced_at_max_nodes() {
    let pushlark = with_settings(&[("MAX_NODES", "3".into())]).await;
    let enable = async |user: &str, node: &str| {
        let reply = post(&pushlark, "canary-server-secret", "/enable", &registration(user, node)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    for node in ["a", "b", "c", "a", "d"] {
        enable(BOBS_PHONE, node).await;
    }
    assert_eq!(nodes(&pushlark, BOB).await, ["a", "c", "d"], "a is newer than b");
    enable(CAROL, "a").await;
    assert_eq!(nodes(&pushlark, CAROL).await, ["a"]);
    // Simultaneous requests.
    let all: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    futures_util::future::join_all(all.iter().map(|node| enable(BOB, node))).await;
    assert_eq!(nodes(&pushlark, BOB).await.len(), 3);
}

#[tokio::test]
async fn the_newest_node_is_refused_at_max_nodes_if_the_setting_says_so() {
    let pushlark = with_settings(&[("MAX_NODES", "3".into()), ("MAX_NODES_REACHED", "refuse-newest".into())]).await;
    let enable = async |node: &str| post(&pushlark, "canary-server-secret", "/enable", &registration(BOB, node)).await;
    for node in ["a", "b", "c", "a"] {
        assert_eq!(enable(node).await.status, 200);
    }
    let detail = enable("d").await.problem(409);
    assert!(detail.contains("3 nodes"), "{detail}");
    assert_eq!(enable("a").await.status, 200);
    assert_eq!(nodes(&pushlark, BOB).await, ["a", "b", "c"]);
    let iq = stanza::iq("set", BOB, BOB, &stanza::enable(PUSH_HOST, "e", ""));
    let reply = send(pushlark.request("/enable", XMPP, iq).bearer_auth("canary-server-secret")).await;
    assert!(reply.body.contains("<error type=\"cancel\"><not-allowed "), "{}", reply.body);
    let gone = post(&pushlark, "canary-server-secret", "/disable", &disabling(BOB, "b")).await;
    assert_eq!(gone.status, 200);
    let all: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    futures_util::future::join_all(all.iter().map(|node| enable(node))).await;
    assert!(nodes(&pushlark, BOB).await.len() <= 3);
}

#[tokio::test]
async fn max_nodes_limits_the_push_nodes_of_a_user() {
    let pushlark = with_settings(&[("MAX_NODES", "2".into())]).await;
    let ask = async |payload: &str| {
        let iq = stanza::iq("set", "bob@example.com/x", PUSH_HOST, payload);
        send(pushlark.request("/pubsub", XMPP, iq).bearer_auth("canary-server-secret")).await.body
    };
    assert!(ask(&stanza::create_node("a")).await.contains("type=\"result\""));
    assert!(ask(&stanza::create_node("b")).await.contains("type=\"result\""));
    assert!(ask(&stanza::create_node("c")).await.contains("<not-allowed "));
    let enable = |node: &str| {
        stanza::enable(PUSH_HOST, node, &stanza::publish_options(&[("service", "fcm"), ("device_id", "canary")]))
    };
    assert!(ask(&enable("c")).await.contains("<not-allowed "));
    assert!(ask(&enable("a")).await.contains("type=\"result\""));
}
