//! The extensions of an enable request: the preferences of the user, and the encryption of notifications.

use std::collections::BTreeSet;

use pushlark_json::read_value;
use pushlark_xmpp::{BareJid, Element, EnableExtensions, Jid, ns, parse_jid};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::preferences::given_nick;
use crate::{
    AllowedMessages, Encryption, MAX_OPTIONS_BYTES, Mute, Preferences, PublishOptions, RoomPreference, Rooms,
    UnknownSenders, WhileOnline,
};

/// The start of the namespaces in which a client asks for encrypted notifications.
const ENCRYPT_NAMESPACES: &str = "tigase:push:encrypt:";

/// The extensions of an enable request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// The preferences of the user for the device; `None` if they change nothing.
    pub preferences: Option<Box<Preferences>>,
    /// The encryption of the notifications; `None` for none.
    pub encryption: Option<Box<Encryption>>,
}

/// The treatment of preferences that are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// They are refused: at a virtual host, only Pushlark can apply them.
    Strict,
    /// They are ignored: at a real PubSub host, they may be for the push service.
    Lenient,
}

/// Extensions with which a device is not enabled. The client must correct them; the request is answered with
/// `bad-request`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionsError {
    /// A preference is not understood. The text names it.
    #[error("{0}")]
    Preferences(String),
    /// The key for the encryption cannot be used. Without it, the texts would not be secret, so this is an error at
    /// every host.
    #[error("{0}")]
    Encryption(String),
    /// The form, the preferences and the key have this number of bytes, more than [`MAX_OPTIONS_BYTES`].
    #[error("the form, the preferences and the key have {0} bytes, {MAX_OPTIONS_BYTES} are allowed")]
    TooLarge(usize),
}

impl Extensions {
    /// Reads the extensions of a request with the form `options`, with which they share [`MAX_OPTIONS_BYTES`]. They
    /// count by their JSON.
    pub fn read(
        given: EnableExtensions,
        options: &PublishOptions,
        strictness: Strictness,
    ) -> Result<Self, ExtensionsError> {
        let (preferences, encryption) = match given {
            EnableExtensions::None => return Ok(Self::default()),
            EnableExtensions::Json { preferences, encrypt } => {
                let encryption = encrypt.map(|fields| read_value("encrypt", without_nulls(fields.into())));
                (from_json(preferences.unwrap_or_default(), strictness), encryption.transpose())
            }
            EnableExtensions::Tigase { away, elements } => {
                // A key in a wrong namespace is a key that cannot be used.
                let is_key = |element: &&Element| {
                    element.namespace().starts_with(ENCRYPT_NAMESPACES) || element.name() == "encrypt"
                };
                let (keys, others): (Vec<_>, Vec<_>) = elements.iter().partition(is_key);
                (from_elements(away.as_deref(), &others, strictness), encryption(&keys))
            }
        };
        let encryption = encryption.map_err(ExtensionsError::Encryption)?.map(Box::new);
        let preferences = preferences.and_then(|preferences| distinct(preferences, strictness));
        let preferences = preferences.map_err(ExtensionsError::Preferences)?;
        let preferences = Some(preferences).filter(|given| *given != Preferences::default()).map(Box::new);
        let bytes = options.bytes() + json_bytes(preferences.as_ref()) + json_bytes(encryption.as_ref());
        if bytes > MAX_OPTIONS_BYTES {
            return Err(ExtensionsError::TooLarge(bytes));
        }
        Ok(Self { preferences, encryption })
    }
}

impl Strictness {
    /// Returns the value, or `None` for an error that is ignored.
    fn tolerate<T>(self, read: Result<T, String>) -> Result<Option<T>, String> {
        match self {
            Self::Strict => read.map(Some),
            Self::Lenient => Ok(read.ok()),
        }
    }
}

/// Reads preferences in JSON. What is ignored is a field, or an entry of a list.
fn from_json(fields: Map<String, Value>, strictness: Strictness) -> Result<Preferences, String> {
    let read = |fields: Map<String, Value>| {
        // Serde would also accept an array, with the fields' values in order.
        if let Some(name) = fields.iter().find(|(_, value)| has_array(value)).map(|(name, _)| name) {
            return Err(format!("preferences.{name}: expected a list of objects"));
        }
        read_value::<Preferences>("preferences", fields.into())
    };
    let Value::Object(mut fields) = without_nulls(fields.into()) else { return Ok(Preferences::default()) };
    if strictness == Strictness::Lenient {
        let is_understood = |name: &str, value: Value| read(Map::from_iter([(name.to_owned(), value)])).is_ok();
        fields.retain(|name, value| {
            if let Value::Array(entries) = value {
                entries.retain(|entry| is_understood(name, vec![entry.clone()].into()));
            }
            is_understood(name, value.clone())
        });
    }
    read(fields)
}

fn has_array(list: &Value) -> bool {
    list.as_array().is_some_and(|entries| entries.iter().any(Value::is_array))
}

/// Removes all fields that are null, which count as missing.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(|value| *value = without_nulls(value.take()));
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| *entry = without_nulls(entry.take())),
        _ => {}
    }
    value
}

/// Reads preferences of Tigase. What is ignored is the attribute, an element, or an entry of a list.
fn from_elements(away: Option<&str>, elements: &[&Element], strictness: Strictness) -> Result<Preferences, String> {
    let mut preferences = Preferences::default();
    let while_online = strictness.tolerate(away.map(while_online).transpose())?.flatten();
    preferences.while_online = while_online.unwrap_or_default();
    let mut namespaces = BTreeSet::new();
    for element in elements {
        let read = match namespaces.insert(element.namespace()) {
            true => add(&mut preferences, element, strictness),
            false => Err(format!("<{} xmlns='{}'/> is given twice", element.name(), element.namespace())),
        };
        strictness.tolerate(read)?;
    }
    Ok(preferences)
}

/// Reads the attribute `away`, a boolean (XEP-0004, section 3.3).
fn while_online(away: &str) -> Result<WhileOnline, String> {
    match away.trim() {
        "true" | "1" => Ok(WhileOnline::Away),
        "false" | "0" => Ok(WhileOnline::default()),
        _ => Err("away must be true or false".into()),
    }
}

fn add(preferences: &mut Preferences, element: &Element, strictness: Strictness) -> Result<(), String> {
    match (element.name(), element.namespace()) {
        ("muted", ns::TIGASE_MUTED) => preferences.mute = entries(element, "item", mute, strictness)?,
        ("groupchat", ns::TIGASE_GROUPCHAT) => {
            preferences.rooms = Rooms::Listed(entries(element, "room", room, strictness)?);
        }
        ("ignore-unknown", ns::TIGASE_IGNORE_UNKNOWN) => preferences.unknown = UnknownSenders::Ignore,
        ("priority", ns::TIGASE_PRIORITY) => preferences.priority = true,
        ("jingle", ns::TIGASE_JINGLE) => preferences.jingle = true,
        (name, namespace) => return Err(format!("<{name} xmlns='{namespace}'/> is not a known preference")),
    }
    Ok(())
}

/// Reads the children of a list. The error names the list and the number of the child.
fn entries<T>(
    list: &Element,
    name: &str,
    read: fn(&Element) -> Result<T, String>,
    strictness: Strictness,
) -> Result<Vec<T>, String> {
    let read = |(index, child): (usize, &Element)| {
        let read = if child.is(name, list.namespace()) { read(child) } else { Err(format!("expected <{name}/>")) };
        let read = read.map_err(|error| format!("<{}/>, child {}: {error}", list.name(), index + 1));
        strictness.tolerate(read).transpose()
    };
    list.children().enumerate().filter_map(read).collect()
}

fn mute(item: &Element) -> Result<Mute, String> {
    Ok(Mute { jid: jid(item)?, until: None, calls: false })
}

fn room(room: &Element) -> Result<RoomPreference, String> {
    let allow = match room.attribute("allow") {
        Some("always") => AllowedMessages::Always,
        Some("mentioned") => AllowedMessages::Mentions,
        Some("never") => AllowedMessages::Never,
        _ => return Err("allow must be always, mentioned or never".into()),
    };
    Ok(RoomPreference { jid: jid(room)?, allow, nick: room.attribute("nick").and_then(given_nick) })
}

fn jid(entry: &Element) -> Result<BareJid, String> {
    let jid = entry.attribute("jid").ok_or("jid is missing")?;
    parse_jid(jid).map(Jid::into_bare).map_err(|error| format!("jid is {error}"))
}

fn encryption(keys: &[&Element]) -> Result<Option<Encryption>, String> {
    match keys {
        [] => Ok(None),
        [encrypt] if encrypt.is("encrypt", ns::TIGASE_ENCRYPT) => Encryption::from_element(encrypt).map(Some),
        [other] => Err(format!("<{} xmlns='{}'/> is not a known encryption", other.name(), other.namespace())),
        _ => Err("<encrypt/> is given twice".into()),
    }
}

/// Sorts conversations and rooms, and removes repeated ones. Of two different entries of a room, the second is not
/// understood.
fn distinct(mut preferences: Preferences, strictness: Strictness) -> Result<Preferences, String> {
    preferences.mute.sort();
    preferences.mute.dedup();
    if let Rooms::Listed(rooms) = &mut preferences.rooms {
        rooms.sort_by(|one, other| one.jid.cmp(&other.jid));
        rooms.dedup();
        let is_distinct = rooms.is_sorted_by(|one, next| one.jid < next.jid);
        let checked = is_distinct.then_some(()).ok_or_else(|| "rooms: a room has two different entries".into());
        strictness.tolerate(checked)?;
        rooms.dedup_by(|next, one| next.jid == one.jid);
    }
    Ok(preferences)
}

fn json_bytes<T: Serialize>(value: Option<&T>) -> usize {
    value.map_or(0, |value| serde_json::to_string(value).unwrap_or_default().len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{Algorithm, Show};

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

    fn json(preferences: Value, encrypt: Value) -> EnableExtensions {
        let object = |value: Value| value.as_object().cloned();
        EnableExtensions::Json { preferences: object(preferences), encrypt: object(encrypt) }
    }

    fn tigase(attribute: &str, content: &str) -> EnableExtensions {
        let enable = Element::parse(&format!("<enable {attribute}>{content}</enable>")).unwrap();
        EnableExtensions::Tigase {
            away: enable.attribute("away").map(Into::into),
            elements: enable.children().cloned().collect(),
        }
    }

    fn read(given: EnableExtensions, strictness: Strictness) -> Result<Extensions, ExtensionsError> {
        Extensions::read(given, &PublishOptions::default(), strictness)
    }

    fn muted(items: &str) -> String {
        format!("<muted xmlns='tigase:push:filter:muted:0'>{items}</muted>")
    }

    fn groupchat(rooms: &str) -> String {
        format!("<groupchat xmlns='tigase:push:filter:groupchat:0'>{rooms}</groupchat>")
    }

    fn encrypt(attributes: &str, key: &str) -> String {
        format!("<encrypt xmlns='tigase:push:encrypt:0' {attributes}>{key}</encrypt>")
    }

    #[test]
    fn elements_of_tigase_are_the_same_preferences_as_json() {
        for (attribute, content, preferences) in [
            ("", String::new(), json!({})),
            ("away='true'", String::new(), json!({"while_online": "away"})),
            ("away='1'", String::new(), json!({"while_online": "away"})),
            ("away='false'", String::new(), json!({"while_online": "inactive"})),
            ("away=' 0 '", String::new(), json!({"while_online": null})),
            (
                "",
                muted("<item jid='B@Example.org/pc'/> <item jid='a@bücher.example.'/><item jid='b@example.org'/>"),
                json!({"mute": [{"jid": "a@BÜCHER.example"}, {"jid": "b@example.org/x", "until": null}]}),
            ),
            ("", muted(""), json!({"mute": []})),
            (
                "",
                groupchat(
                    "<room jid='r@muc.example' allow='mentioned' nick=' Wren '/>\
                     <room jid='q@muc.example' allow='mentioned' nick=' '/>\
                     <room jid='o@muc.example/x' allow='always'/><room jid='n@muc.example' allow='never'/>\
                     <room jid='o@muc.example' allow='always'/>",
                ),
                json!({"rooms": [
                    {"jid": "n@muc.example", "allow": "never"},
                    {"jid": "r@muc.example", "allow": "mentions", "nick": "Wren"},
                    {"jid": "q@muc.example", "allow": "mentions", "nick": ""},
                    {"jid": "o@muc.example", "allow": "always", "nick": null},
                ]}),
            ),
            ("", groupchat(""), json!({"rooms": []})),
            (
                "",
                "<ignore-unknown xmlns='tigase:push:filter:ignore-unknown:0'/><priority xmlns='tigase:push:priority:0'/>\
                 <jingle xmlns='tigase:push:jingle:0'/>"
                    .into(),
                json!({"unknown": "ignore", "priority": true, "jingle": true}),
            ),
        ] {
            let from_elements = read(tigase(attribute, &content), Strictness::Strict).unwrap();
            assert_eq!(from_elements, read(json(preferences.clone(), Value::Null), Strictness::Strict).unwrap());
            assert_eq!(from_elements, read(tigase(attribute, &content), Strictness::Lenient).unwrap());
            let is_default = ["", "away='false'", "away=' 0 '"].contains(&attribute)
                && ["", &muted("")].contains(&content.as_str());
            assert_eq!(from_elements.preferences.is_none(), is_default, "{attribute} {content}");
            // The table has them as JSON.
            if let Some(preferences) = from_elements.preferences {
                let stored = serde_json::to_string(&preferences).unwrap();
                assert_eq!(serde_json::from_str::<Preferences>(&stored).unwrap(), *preferences, "{stored}");
            }
        }
    }

    #[test]
    fn a_preference_that_is_not_understood_is_named_or_ignored() {
        let rule = |rule: &str| format!("preferences.{rule}");
        for (preferences, expected) in [
            (json!({"silence": true}), rule("silence: unknown field `silence`, expected one of `mute`, ")),
            (json!({"mute": "a@b"}), rule("mute: expected a sequence")),
            (json!({"mute": [{}]}), rule("mute[0]: missing field `jid`")),
            (json!({"mute": [{"jid": "a@b"}, {"jid": "@b"}]}), rule("mute[1].jid: not a JID")),
            (json!({"mute": [{"jid": "a@b", "until": "tomorrow"}]}), rule("mute[0].until: expected a time such as 2")),
            (json!({"mute": [{"jid": "a@b", "until": "2026-12-24T18:00:00"}]}), rule("mute[0].until: expected a")),
            (json!({"mute": [{"jid": "a@b", "from": "x"}]}), rule("mute[0].from: unknown field `from`")),
            (json!({"mute": [{"jid": "a@b", "calls": "yes"}]}), rule("mute[0].calls: expected a boolean")),
            (json!({"mute": [null]}), rule("mute[0]: expected an object")),
            (json!({"rooms": "mentioned"}), rule("rooms: expected always, mentions, never or a list of rooms")),
            (json!({"mute": [["a@b"]]}), rule("mute: expected a list of objects")),
            (json!({"rooms": [["r@muc", "always"]]}), rule("rooms: expected a list of objects")),
            (json!({"rooms": 5}), rule("rooms: expected always, mentions, never or a list of rooms")),
            (json!({"rooms": {}}), rule("rooms: expected always, mentions, never or a list of rooms")),
            (json!({"rooms": [{"jid": "r@muc"}]}), rule("rooms[0]: missing field `allow`")),
            (json!({"rooms": [{"jid": "r@muc", "allow": "mentioned"}]}), rule("rooms[0].allow: expected one of `alw")),
            (
                json!({"rooms": [{"jid": "r@muc", "allow": "mentions", "nick": "a\u{1}"}]}),
                rule("rooms[0].nick: it has a character that XML does not allow"),
            ),
            (
                json!({"rooms": [{"jid": "r@muc", "allow": "always"}, {"jid": "R@muc", "allow": "never"}]}),
                "rooms: a room has two different entries".into(),
            ),
            (json!({"unknown": "allow"}), rule("unknown: expected `notify` or `ignore`")),
            (json!({"quiet_hours": [{"from": "22:00", "to": "7:00", "tz": "UTC"}]}), rule("quiet_hours[0].to: expec")),
            (json!({"quiet_hours": [{"from": "24:00", "to": "07:00", "tz": "UTC"}]}), rule("quiet_hours[0].from: ex")),
            (json!({"quiet_hours": [{"from": "22:00", "to": "07:00"}]}), rule("quiet_hours[0]: missing field `tz`")),
            (
                json!({"quiet_hours": [{"from": "22:00", "to": "07:00", "tz": "Mars/Base"}]}),
                rule("quiet_hours[0].tz: expected the name of an IANA time zone"),
            ),
            (
                json!({"quiet_hours": [{"from": "22:00", "to": "07:00", "tz": "UTC", "days": ["mon", "Tue"]}]}),
                rule("quiet_hours[0].days[1]: expected one of `mon`"),
            ),
            (json!({"while_online": true}), rule("while_online: ")),
            (json!({"show": "some"}), rule("show: expected one of `all`, `sender`, `nothing`")),
            (json!({"calls": 1}), rule("calls: expected a boolean")),
        ] {
            let given = json(preferences.clone(), Value::Null);
            let Err(ExtensionsError::Preferences(error)) = read(given.clone(), Strictness::Strict) else {
                panic!("{preferences} is not refused");
            };
            assert!(error.starts_with(&expected), "{preferences}: {error}");
            read(given, Strictness::Lenient).unwrap();
        }
    }

    #[test]
    fn an_element_that_is_not_understood_is_named_or_ignored() {
        for (attribute, content, expected) in [
            ("away='yes'", String::new(), "away must be true or false"),
            ("away=''", String::new(), "away must be true or false"),
            ("", muted("<item/>"), "<muted/>, child 1: jid is missing"),
            ("", muted("<item jid='a@b'/><item jid=''/>"), "<muted/>, child 2: jid is not a JID"),
            ("", muted("<room jid='a@b'/>"), "<muted/>, child 1: expected <item/>"),
            ("", muted("<item xmlns='x' jid='a@b'/>"), "<muted/>, child 1: expected <item/>"),
            ("", muted("") + &muted(""), "<muted xmlns='tigase:push:filter:muted:0'/> is given twice"),
            ("", groupchat("<room jid='r@muc'/>"), "<groupchat/>, child 1: allow must be always, mentioned or never"),
            ("", groupchat("<room jid='r@muc' allow='mentions'/>"), "<groupchat/>, child 1: allow must be"),
            (
                "",
                groupchat("<room jid='r@muc' allow='always'/><room jid='r@muc' allow='never'/>"),
                "rooms: a room has two different entries",
            ),
            (
                "",
                "<muted xmlns='tigase:push:filter:muted:1'/>".into(),
                "<muted xmlns='tigase:push:filter:muted:1'/> is",
            ),
            ("", "<meet xmlns='tigase:push:meet:0'/>".into(), "<meet xmlns='tigase:push:meet:0'/> is not a known"),
        ] {
            let given = tigase(attribute, &content);
            let Err(ExtensionsError::Preferences(error)) = read(given.clone(), Strictness::Strict) else {
                panic!("{content} is not refused");
            };
            assert!(error.starts_with(expected), "{content}: {error}");
            read(given, Strictness::Lenient).unwrap();
        }
    }

    #[test]
    fn what_is_understood_beside_an_ignored_preference_is_kept() {
        let kept = |given| *read(given, Strictness::Lenient).unwrap().preferences.unwrap();
        let one_mute = Preferences {
            mute: vec![Mute { jid: BareJid::new("a@b").unwrap(), until: None, calls: false }],
            show: Show::Sender,
            ..Preferences::default()
        };
        let given = json!({"mute": [{"jid": "@b"}, {"jid": "a@b"}], "rooms": 5, "show": "sender", "other": [1]});
        assert_eq!(kept(json(given, Value::Null)), one_mute);
        let content = muted("<item jid='@b'/><item jid='a@b'/><other/>") + &muted("") + "<x xmlns='tigase:push:x:0'/>";
        assert_eq!(kept(tigase("away='?'", &content)), Preferences { show: Show::All, ..one_mute });
        let rooms = "<room jid='r@muc' allow='always'/><room jid='r@muc' allow='never'/>";
        let Rooms::Listed(rooms) = kept(tigase("", &groupchat(rooms))).rooms else { panic!("no list") };
        assert_eq!(rooms.iter().map(|room| room.allow).collect::<Vec<_>>(), [AllowedMessages::Always]);
    }

    #[test]
    fn a_key_is_read_from_json_and_from_an_element() {
        let key = std::array::from_fn(|index| u8::try_from(index).unwrap());
        for (given, max_size) in [
            (json(Value::Null, json!({"alg": "aes-128-gcm", "key": KEY, "max_size": 2800})), Some(2800)),
            (json(Value::Null, json!({"alg": "aes-128-gcm", "key": KEY, "max_size": null})), None),
            (tigase("", &encrypt("alg='aes-128-gcm' max-size='2800'", KEY)), Some(2800)),
            (tigase("", &encrypt("alg='aes-128-gcm' max-size=' 256 '", &format!("\n {KEY}\n"))), Some(256)),
            (tigase("", &encrypt("alg='aes-128-gcm'", KEY)), None),
        ] {
            let encryption = *read(given, Strictness::Strict).unwrap().encryption.unwrap();
            assert_eq!(encryption, Encryption { alg: Algorithm::Aes128Gcm, key, max_size });
            let stored = serde_json::to_string(&encryption).unwrap();
            assert_eq!(serde_json::from_str::<Encryption>(&stored).unwrap(), encryption, "{stored}");
            assert!(!format!("{encryption:?} {}", encryption.masked()).contains(KEY));
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused_at_every_host() {
        let with = |name: &str, value: Value| {
            let mut fields = json!({"alg": "aes-128-gcm", "key": KEY});
            fields[name] = value;
            json(Value::Null, fields)
        };
        let element = |attributes: &str, key: &str| tigase("", &encrypt(attributes, key));
        let aes = "alg='aes-128-gcm'";
        for (given, named) in [
            (with("alg", json!("aes-256-gcm")), "encrypt.alg"),
            (with("alg", Value::Null), "`alg`"),
            (with("key", Value::Null), "`key`"),
            (with("key", json!(5)), "encrypt.key"),
            (with("key", json!("")), "encrypt.key"),
            (with("key", json!("no base64!")), "encrypt.key"),
            (with("key", json!("AAECAwQFBgcICQoLDA0O")), "encrypt.key"),
            (with("key", json!(format!("{KEY}{KEY}"))), "encrypt.key"),
            (with("max_size", json!(255)), "encrypt.max_size"),
            (with("max_size", json!("2800")), "encrypt.max_size"),
            (with("max_size", json!(-1)), "encrypt.max_size"),
            (with("iv", json!("x")), "`iv`"),
            (element("", KEY), "alg"),
            (element("alg='AES-128-CBC'", KEY), "alg"),
            (element(aes, ""), "key"),
            (element(aes, "AAEC"), "key"),
            (element(&format!("{aes} max-size='255'"), KEY), "max-size"),
            (element(&format!("{aes} max-size='many'"), KEY), "max-size"),
            (element(&format!("{aes} max-size=''"), KEY), "max-size"),
            (tigase("", &(encrypt(aes, KEY) + &encrypt(aes, KEY))), "twice"),
            (tigase("", "<encrypt xmlns='tigase:push:encrypt:omemo:0'/>"), "tigase:push:encrypt:omemo:0"),
            (tigase("", "<encrypt xmlns='tigase:push:encrypt:1'/>"), "tigase:push:encrypt:1"),
            (tigase("", "<key xmlns='tigase:push:encrypt:0'/>"), "<key "),
            (tigase("", "<encrypt xmlns='urn:xmpp:push:0'/>"), "<encrypt xmlns='urn:xmpp:push:0'/> is not a known"),
        ] {
            for strictness in [Strictness::Strict, Strictness::Lenient] {
                let Err(ExtensionsError::Encryption(error)) = read(given.clone(), strictness) else {
                    panic!("{given:?} is not refused");
                };
                assert!(error.contains(named), "{given:?}: {error}");
            }
        }
    }

    #[test]
    fn form_preferences_and_key_share_the_limit() {
        let options =
            |bytes: usize| PublishOptions::new(BTreeMap::from([("x".into(), "y".repeat(bytes - 1))])).unwrap();
        let given = json(json!({"show": "sender"}), json!({"alg": "aes-128-gcm", "key": KEY}));
        let own = r#"{"show":"sender"}{"alg":"aes-128-gcm","key":"AAECAwQFBgcICQoLDA0ODw=="}"#.len();
        for strictness in [Strictness::Strict, Strictness::Lenient] {
            Extensions::read(given.clone(), &options(MAX_OPTIONS_BYTES - own), strictness).unwrap();
            let error = Extensions::read(given.clone(), &options(MAX_OPTIONS_BYTES - own + 1), strictness).unwrap_err();
            assert_eq!(error.to_string(), "the form, the preferences and the key have 8193 bytes, 8192 are allowed");
        }
        Extensions::read(json(json!({}), Value::Null), &options(MAX_OPTIONS_BYTES), Strictness::Strict).unwrap();
    }

    #[test]
    fn jids_and_nicks_are_masked() {
        let given = json!({
            "mute": [{"jid": "finch@example.org", "until": "2026-12-24T18:00:00Z"}, {"jid": "a@b"}],
            "rooms": [{"jid": "birds@rooms.example", "allow": "mentions", "nick": "Wren"}],
            "quiet_hours": [{"from": "22:00", "to": "07:00", "tz": "europe/berlin", "days": ["sun", "mon", "sun"]}],
        });
        let preferences = read(json(given, Value::Null), Strictness::Strict).unwrap().preferences.unwrap();
        let shown = json!({
            "mute": [{"jid": "…"}, {"jid": "….org", "until": "2026-12-24T18:00:00Z"}],
            "rooms": [{"jid": "…mple", "allow": "mentions", "nick": "…"}],
            "quiet_hours": [{"from": "22:00", "to": "07:00", "tz": "Europe/Berlin", "days": ["mon", "sun"]}],
        });
        assert_eq!(preferences.masked(), shown);
        let all = Preferences { rooms: Rooms::All(AllowedMessages::Never), ..Preferences::default() };
        assert_eq!(all.masked(), json!({"rooms": "never"}));
    }

    #[test]
    fn a_push_node_keeps_the_preferences_that_it_can_apply() {
        let given = json!({
            "mute": [{"jid": "a@b"}], "rooms": "never", "unknown": "ignore", "while_online": "always", "show": "nothing",
            "calls": true, "priority": true, "jingle": true,
            "quiet_hours": [{"from": "00:00", "to": "00:00", "tz": "UTC"}],
        });
        let preferences = |given: Value| {
            let extensions = read(json(given, Value::Null), Strictness::Strict).unwrap();
            extensions.preferences.and_then(|preferences| preferences.at_push_node())
        };
        let known = serde_json::to_value(preferences(given)).unwrap();
        let known: Vec<_> = known.as_object().unwrap().keys().collect();
        assert_eq!(known, ["calls", "mute", "quiet_hours", "show"]);
        assert_eq!(preferences(json!({"rooms": "never", "while_online": "always"})), None);
    }
}
