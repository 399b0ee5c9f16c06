//! Requests to enable and to disable, as JSON and as IQs, and the envelope that requests come in. The first byte says
//! which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pushlark_access::Access;
use pushlark_delivery::Destinations;
use pushlark_events::{Sources, read};
use pushlark_fuzz::{at_once, caller, check_answer, check_events, chosen, post};
use pushlark_http::{CommandError, Invocation, Methods, Response, answer, command};
use pushlark_model::{Extensions, PublishOptions, Strictness};
use pushlark_settings::Environment;
use pushlark_xmpp::{Disable, Element, Enable, Iq, Jid, MAX_NODE_BYTES, PushRequestError, is_xml_text};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;

static OPEN: LazyLock<Access> = LazyLock::new(Access::open);
/// Nothing that is tried has the secret.
static CLOSED: LazyLock<Access> =
    LazyLock::new(|| Access::of_secrets("example.com=jYk3-pW0r_Tq81-zR7m").expect("a secret"));

static DESTINATIONS: LazyLock<Destinations> = LazyLock::new(|| {
    let settings = [("PUSH_SERVICE", "direct"), ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@")];
    Destinations::from_environment(&Environment::from_iter(settings)).expect("settings")
});

fuzz_target!(|data: &[u8]| {
    let Some((what, rest)) = chosen(data) else { return };
    match what {
        'E' => check_command("application/json", rest, enable),
        'e' => check_command("application/xml", rest, enable),
        'D' => check_command("application/json", rest, disable),
        'd' => check_command("application/xml", rest, disable),
        'I' => check_invocation(rest),
        _ => {}
    }
});

fn check_command<C>(media: &str, body: &[u8], act: fn(C) -> Result<Value, CommandError>)
where
    C: DeserializeOwned + for<'iq> TryFrom<&'iq Iq, Error = PushRequestError>,
{
    let acted = answer(&OPEN, Methods::Post, post(&[("content-type", media)], body), async |request| {
        command(request, async |asked| act(asked)).await
    });
    let acted = at_once(acted);
    let body = check_answer(&acted).expect("a body");
    if body.starts_with('<') {
        Element::parse(body).unwrap_or_else(|error| panic!("{body}: {error}"));
    } else {
        serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}

fn enable(Enable { user, jid, node, form, extensions }: Enable) -> Result<Value, CommandError> {
    check_parties(&user, Some(&node));
    assert!(form.iter().all(|(name, value)| is_xml_text(name) && is_xml_text(value)));
    let options = PublishOptions::new(form).map_err(|invalid| CommandError::BadRequest(invalid.to_string()))?;
    assert!(options.masked().iter().zip(options.fields()).all(|((a, _), (b, _))| a == b));
    let notice = DESTINATIONS.check(&user.to_bare(), &jid, &options);
    let notice = notice.map_err(|invalid| CommandError::BadRequest(invalid.to_string()))?;
    let lenient = Extensions::read(extensions.clone(), &options, Strictness::Lenient);
    let strict = Extensions::read(extensions, &options, Strictness::Strict);
    assert!(strict.is_err() || strict == lenient, "{strict:?} is not {lenient:?}");
    if let Ok(extensions) = lenient {
        let stored = json!([extensions.preferences, extensions.encryption]).to_string();
        assert!(is_xml_text(&stored), "{stored:?}");
        let again = serde_json::from_str(&stored).expect("as it was stored");
        assert_eq!((extensions.preferences, extensions.encryption), again);
    }
    Ok(json!({"node": node, "notice": notice.map(|notice| notice.to_string())}))
}

fn disable(Disable { user, node, .. }: Disable) -> Result<Value, CommandError> {
    check_parties(&user, node.as_deref());
    Err(CommandError::Forbidden(user.to_string()))
}

fn check_parties(user: &Jid, node: Option<&str>) {
    assert!(user.node().is_some(), "{user}");
    assert!(node.is_none_or(|node| (1..=MAX_NODE_BYTES).contains(&node.len()) && is_xml_text(node)), "{node:?}");
}

/// What has a context of a request is no direct call, and without the secret nobody is let in.
fn check_invocation(json: &[u8]) {
    let Ok(invocation) = serde_json::from_slice::<Invocation>(json) else { return };
    if matches!(invocation, Invocation::Direct(_)) {
        let value = serde_json::from_slice::<Value>(json).unwrap_or_default();
        assert!(value.get("requestContext").is_none(), "{value} is taken for a direct call");
    } else {
        let again = serde_json::from_slice(json).expect("as before");
        assert_eq!(at_once(caller(&CLOSED, again)), None);
    }
    let answer = answer(&OPEN, Methods::GetAndPost, invocation, async |request| {
        let events = read(&request, &Sources::default(), OffsetDateTime::now_utc())?;
        check_events(&events);
        Response::json(202, &json!({"accepted": events.len()}))
    });
    check_answer(&at_once(answer));
}
