//! Tokens and the keys that they are checked by. The first byte says what the rest is: a token for one of three
//! algorithms, a token's header and claims to be signed, or a JWK Set.
#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use pushlark_access::{Access, Caller, ClientTokens};
use pushlark_fuzz::{at_once, caller, chosen, post};
use pushlark_xmpp::parse_jid;
use serde_json::Value;

const KEYS: &str = include_str!("../seeds/jwt/keys.json");
const ISSUER: &str = "https://id.example.com";
const AUDIENCE: &str = "pushlark";
const ALGORITHMS: [&str; 3] = ["HS256", "RS256", "ES256"];
/// A token of each, and two that are of none: without a signature, and signed by the text of a public key.
const TOKENS: [(&str, &str); 5] = [
    ("HS256", include_str!("../seeds/jwt/hs256.txt")),
    ("RS256", include_str!("../seeds/jwt/rs256.txt")),
    ("ES256", include_str!("../seeds/jwt/es256.txt")),
    ("none", include_str!("../seeds/jwt/none.txt")),
    ("RS256 as HS256", include_str!("../seeds/jwt/confused.txt")),
];

static ACCESSES: LazyLock<[Access; 3]> =
    LazyLock::new(|| ALGORITHMS.map(|algorithm| access(KEYS, algorithm).expect("keys of each algorithm")));
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(KEYS).expect("a JWK Set"));

fuzz_target!(
    init: {
        for (access, (_, token)) in ACCESSES.iter().zip(TOKENS) {
            assert!(client(access, token).is_some(), "what is right is refused");
        }
    },
    |data: &[u8]| {
        let Some((what, rest)) = chosen(data) else { return };
        let Ok(text) = std::str::from_utf8(rest) else { return };
        match what {
            'H' => check_token(0, text),
            'R' => check_token(1, text),
            'E' => check_token(2, text),
            'S' => {
                let Some((header, claims)) = text.split_once('\n') else { return };
                let encoded = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
                let signature = hmac::sign(&hmac_key(), encoded.as_bytes());
                check_token(0, &format!("{encoded}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
            }
            'K' => check_keys(text),
            _ => {}
        }
    }
);

/// What stands in a setting for keys themselves, and not for the place where they are.
fn access(keys: &str, algorithm: &str) -> Option<Access> {
    if ["arn:", "file:", "http://", "https://"].into_iter().any(|place| keys.trim().starts_with(place)) {
        return None;
    }
    let settings =
        [("JWT_KEYS", keys), ("JWT_ALGORITHM", algorithm), ("JWT_ISSUER", ISSUER), ("JWT_AUDIENCE", AUDIENCE)];
    let (environment, aws) = (settings.into_iter().collect(), SdkConfig::builder().build());
    let clients = at_once(ClientTokens::from_environment(&environment, &aws)).ok()?;
    Some(Access::of_secrets("").expect("no secrets").with_clients(Some(clients?)))
}

fn client(access: &Access, token: &str) -> Option<Caller> {
    at_once(caller(access, post(&[("authorization", &format!("Bearer {token}"))], b"{}")))
}

/// A token that is taken is signed by the key, and says what it must.
fn check_token(algorithm: usize, token: &str) {
    let Some(caller) = client(&ACCESSES[algorithm], token) else { return };
    let (signed, signature) = token.trim().rsplit_once('.').expect("a signature");
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64");
    assert!(is_signed(algorithm, signed.as_bytes(), &signature), "{token} is not signed");
    let [header, claims] = [0, 1].map(|at| {
        let part = signed.split('.').nth(at).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok()).expect("base64");
        serde_json::from_slice::<Value>(&part).expect("JSON")
    });
    assert!(header["alg"] == ALGORITHMS[algorithm] && header["crit"].is_null(), "{header}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64();
    let is_or_has = |claim: &Value, text: &str| {
        claim == text || claim.as_array().is_some_and(|several| several.iter().any(|one| one == text))
    };
    assert!(is_or_has(&claims["iss"], ISSUER) && is_or_has(&claims["aud"], AUDIENCE), "{claims}");
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp > now - 10.0), "{claims}");
    assert!(claims["nbf"].as_f64().is_none_or(|nbf| nbf < now + 10.0), "{claims}");
    let subject = claims["sub"].as_str().and_then(|sub| parse_jid(sub).ok()).expect("a JID");
    assert!(subject.is_bare() && subject.node().is_some(), "{subject}");
    assert_eq!(caller, Caller::Client(subject.into_bare()));
}

/// Whatever keys there are, a token of another algorithm is none of theirs.
fn check_keys(keys: &str) {
    for algorithm in ALGORITHMS {
        let Some(access) = access(keys, algorithm) else { continue };
        for (of, token) in TOKENS {
            assert!(client(&access, token).is_none() || of == algorithm, "{keys} takes {token} for {algorithm}");
        }
    }
}

fn part(key: usize, name: &str) -> Vec<u8> {
    let part = DOCUMENT["keys"][key][name].as_str().expect("a part of a key");
    BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")
}

fn hmac_key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &part(0, "k"))
}

fn is_signed(algorithm: usize, signed: &[u8], signature: &[u8]) -> bool {
    match algorithm {
        0 => hmac::verify(&hmac_key(), signed, signature).is_ok(),
        1 => RsaPublicKeyComponents { n: part(1, "n"), e: part(1, "e") }
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
            .is_ok(),
        _ => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [vec![4], part(2, "x"), part(2, "y")].concat())
            .verify(signed, signature)
            .is_ok(),
    }
}
