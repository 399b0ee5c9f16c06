//! Requests to enable and to disable notifications (XEP-0357, sections 5 and 6).

use std::collections::BTreeMap;

use jid::BareJid;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::address::{Jid, parse_jid};
use crate::element::{Element, is_xml_text};
use crate::form::DataForm;
use crate::ns;
use crate::stanza::Iq;

/// The longest node, in bytes of UTF-8.
pub const MAX_NODE_BYTES: usize = 512;

/// A valid request to enable notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enable {
    /// The user to notify. With a resource, the registration is tied to this session.
    pub user: Jid,
    /// The PubSub service to which notifications are published.
    pub jid: BareJid,
    /// The node at the service, 1 to [`MAX_NODE_BYTES`] bytes.
    pub node: String,
    /// The fields of the publish options, without FORM_TYPE. Empty if there is no form.
    pub form: BTreeMap<String, String>,
    /// The extensions of the request.
    pub extensions: EnableExtensions,
}

/// The extensions of a request to enable notifications, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnableExtensions {
    /// The request has none.
    None,
    /// The fields of a request in JSON.
    Json {
        /// The field `preferences`.
        preferences: Option<Map<String, Value>>,
        /// The field `encrypt`.
        encrypt: Option<Map<String, Value>>,
    },
    /// The extensions of Tigase in the `<enable/>` of an IQ.
    Tigase {
        /// The attribute `away`.
        away: Option<String>,
        /// The child elements in namespaces that begin with [`ns::TIGASE_PUSH`], and any `<encrypt/>`.
        elements: Vec<Element>,
    },
}

/// A valid request to disable notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disable {
    /// The user whose notifications are disabled.
    pub user: Jid,
    /// The PubSub service, a bare JID.
    pub jid: BareJid,
    /// The node at the service. `None` means all of the user's nodes at this service.
    pub node: Option<String>,
}

/// An invalid request. The text names the field; the stanza error is `bad-request`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PushRequestError(String);

/// The fields of a request in JSON or in an IQ, not yet checked.
#[derive(Debug, Deserialize)]
struct RequestFields {
    /// The command, in JSON. With it, a signature of the body is valid for this command only.
    r#type: Option<String>,
    user: Option<String>,
    jid: Option<String>,
    node: Option<String>,
    #[serde(default, deserialize_with = "distinct")]
    form: Option<BTreeMap<String, String>>,
    preferences: Option<Map<String, Value>>,
    encrypt: Option<Map<String, Value>>,
}

impl<'de> Deserialize<'de> for Enable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RequestFields::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Disable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RequestFields::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl TryFrom<&Iq> for Enable {
    type Error = PushRequestError;

    fn try_from(iq: &Iq) -> Result<Self, PushRequestError> {
        let enable = command(iq, "enable")?;
        let mut forms = enable.children().filter(|child| child.is("x", ns::DATA_FORMS));
        let form = match (forms.next(), forms.next()) {
            (None, _) => None,
            (Some(x), None) => {
                let DataForm { form_type, mut fields } =
                    DataForm::from_element(x).map_err(|error| PushRequestError(error.to_string()))?;
                fields.insert("FORM_TYPE".into(), form_type);
                Some(fields)
            }
            _ => return Err(PushRequestError("<enable/> has more than one form".into())),
        };
        let away = enable.attribute("away").map(Into::into);
        let is_extension =
            |child: &&Element| child.namespace().starts_with(ns::TIGASE_PUSH) || child.name() == "encrypt";
        let elements: Vec<_> = enable.children().filter(is_extension).cloned().collect();
        let is_given = away.is_some() || !elements.is_empty();
        let extensions = if is_given { EnableExtensions::Tigase { away, elements } } else { EnableExtensions::None };
        Ok(Self { extensions, ..RequestFields { form, ..RequestFields::of(iq, enable) }.try_into()? })
    }
}

impl TryFrom<&Iq> for Disable {
    type Error = PushRequestError;

    fn try_from(iq: &Iq) -> Result<Self, PushRequestError> {
        RequestFields::of(iq, command(iq, "disable")?).try_into()
    }
}

impl TryFrom<RequestFields> for Enable {
    type Error = PushRequestError;

    fn try_from(fields: RequestFields) -> Result<Self, PushRequestError> {
        fields.check_type("enable")?;
        let (user, jid) = (fields.user()?, fields.service()?);
        if user.to_bare() == jid {
            return Err(PushRequestError("jid is the user's own bare JID, which is not a PubSub service".into()));
        }
        let node = fields.node.ok_or_else(|| PushRequestError("node is missing".into()))?;
        let mut form = fields.form.unwrap_or_default();
        if form.remove("FORM_TYPE").is_some_and(|form_type| form_type.trim() != ns::PUBLISH_OPTIONS) {
            return Err(PushRequestError(format!("the form's FORM_TYPE must be {}", ns::PUBLISH_OPTIONS)));
        }
        if let Some(name) = form.iter().find(|(name, value)| !is_xml_text(name) || !is_xml_text(value)).map(|f| f.0) {
            return Err(PushRequestError(format!("the form's field {name:?} has a character that XML does not allow")));
        }
        let extensions = match (fields.preferences, fields.encrypt) {
            (None, None) => EnableExtensions::None,
            (preferences, encrypt) => EnableExtensions::Json { preferences, encrypt },
        };
        Ok(Self { user, jid, node: check_node(node)?, form, extensions })
    }
}

impl TryFrom<RequestFields> for Disable {
    type Error = PushRequestError;

    fn try_from(fields: RequestFields) -> Result<Self, PushRequestError> {
        fields.check_type("disable")?;
        for (name, is_given) in [
            ("form", fields.form.is_some()),
            ("preferences", fields.preferences.is_some()),
            ("encrypt", fields.encrypt.is_some()),
        ] {
            if is_given {
                return Err(PushRequestError(format!("{name} is allowed only in a request to enable")));
            }
        }
        let (user, jid) = (fields.user()?, fields.service()?);
        Ok(Self { user, jid, node: fields.node.map(check_node).transpose()? })
    }
}

impl RequestFields {
    fn of(iq: &Iq, command: &Element) -> Self {
        Self {
            r#type: None,
            user: iq.from().map(Into::into),
            jid: command.attribute("jid").map(Into::into),
            node: command.attribute("node").map(Into::into),
            form: None,
            preferences: None,
            encrypt: None,
        }
    }

    fn check_type(&self, command: &str) -> Result<(), PushRequestError> {
        match self.r#type.as_deref() {
            Some(other) if other != command => Err(PushRequestError(format!("type: {other:?} is not {command:?}"))),
            _ => Ok(()),
        }
    }

    fn user(&self) -> Result<Jid, PushRequestError> {
        let user = jid_of("user (an IQ's from)", self.user.as_deref())?;
        if user.node().is_none() {
            return Err(PushRequestError("user (an IQ's from) must be a user's JID, with a localpart".into()));
        }
        Ok(user)
    }

    fn service(&self) -> Result<BareJid, PushRequestError> {
        jid_of("jid", self.jid.as_deref()).map(Jid::into_bare)
    }
}

fn command<'i>(iq: &'i Iq, name: &str) -> Result<&'i Element, PushRequestError> {
    iq.payload()
        .filter(|payload| payload.is(name, ns::PUSH))
        .ok_or_else(|| PushRequestError(format!("expected <{name} xmlns='{}'/>", ns::PUSH)))
}

fn jid_of(field: &str, jid: Option<&str>) -> Result<Jid, PushRequestError> {
    match jid {
        None => Err(PushRequestError(format!("{field} is missing"))),
        Some("") => Err(PushRequestError(format!("{field} is empty"))),
        Some(jid) => parse_jid(jid).map_err(|error| PushRequestError(format!("{field} is {error}"))),
    }
}

fn check_node(node: String) -> Result<String, PushRequestError> {
    match node.len() {
        0 => Err(PushRequestError("node is empty".into())),
        length if length > MAX_NODE_BYTES => {
            Err(PushRequestError(format!("node has {length} bytes, {MAX_NODE_BYTES} are allowed")))
        }
        _ if !is_xml_text(&node) => Err(PushRequestError("node has a character that XML does not allow".into())),
        _ => Ok(node),
    }
}

/// Reads a map (or null, for none) and refuses a duplicate key.
fn distinct<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Distinct;

    impl<'de> Visitor<'de> for Distinct {
        type Value = Option<BTreeMap<String, String>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                if fields.contains_key(&name) {
                    return Err(A::Error::custom(format!("the form's field {name:?} must have exactly one value")));
                }
                fields.insert(name, value);
            }
            Ok(Some(fields))
        }
    }

    deserializer.deserialize_any(Distinct)
}
