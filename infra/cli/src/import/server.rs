//! The tables and records in which chat servers store registrations.

use std::collections::BTreeMap;

use pushlark_xmpp::Element;
use serde_json::Value;

use super::dump::Columns;
use super::erlang::Term;
use super::record::{LeftOut, MAX_DEPTH, Record, Row, form_of};

/// A chat server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    MongooseIm,
    Ejabberd,
    Prosody,
}

impl Server {
    /// The table in SQL.
    pub fn table(self) -> &'static str {
        match self {
            Self::MongooseIm => "event_pusher_push_subscription",
            Self::Ejabberd => "push_session",
            Self::Prosody => "prosody",
        }
    }

    /// The columns of a table with this number of columns, in the order of the server's own schema.
    pub fn columns(self, count: usize) -> Vec<String> {
        let columns: &[&str] = match (self, count) {
            (Self::MongooseIm, _) => &["owner_jid", "node", "pubsub_jid", "form", "created_at"],
            (Self::Ejabberd, 6) => &["username", "server_host", "timestamp", "service", "node", "xml"],
            (Self::Ejabberd, _) => &["username", "timestamp", "service", "node", "xml"],
            (Self::Prosody, _) => &["host", "user", "store", "key", "type", "value"],
        };
        columns.iter().map(|column| (*column).to_owned()).collect()
    }

    /// The columns by which a query sorts, so that the rows of a user follow each other.
    pub fn order(self) -> &'static [&'static str] {
        match self {
            Self::MongooseIm => &["owner_jid", "pubsub_jid", "node"],
            Self::Ejabberd => &["server_host", "username", "service", "node"],
            Self::Prosody => &["host", "user", "key"],
        }
    }

    /// Reads a row of the table; none if it is not about push. `host` is the domain of a table without one.
    pub fn rows(self, columns: &Columns, host: Option<&str>) -> Vec<Row> {
        match self {
            Self::MongooseIm => vec![mongooseim(columns)],
            Self::Ejabberd => vec![ejabberd(columns, host)],
            Self::Prosody => prosody(columns),
        }
    }

    /// The name of the records in Mnesia.
    pub fn record(self) -> &'static str {
        match self {
            Self::MongooseIm => "push_subscription",
            Self::Ejabberd | Self::Prosody => "push_session",
        }
    }

    /// Reads a record of Mnesia; `None` if it is of another table.
    pub fn term(self, term: &Term) -> Option<Row> {
        let fields = term.record(self.record())?;
        Some(match self {
            Self::MongooseIm => mongooseim_record(fields),
            Self::Ejabberd | Self::Prosody => ejabberd_record(fields),
        })
    }
}

/// Returns the value of a column. A column that is missing is an error.
fn column<'c>(columns: &'c Columns, name: &str) -> Result<&'c str, String> {
    columns.get(name).and_then(Option::as_deref).ok_or_else(|| format!("the column {name} is missing or NULL"))
}

fn named(columns: &Columns, names: [&str; 3], read: Result<Record, String>) -> Row {
    let name = names.map(|name| column(columns, name).unwrap_or("?")).join(" ");
    read.map_err(|error| LeftOut::unreadable(name, error))
}

fn mongooseim(columns: &Columns) -> Row {
    let read = || {
        let form: Value = serde_json::from_str(column(columns, "form")?)
            .map_err(|error| format!("the form is not JSON: {}", json_error(&error)))?;
        let Value::Object(fields) = form else { return Err("the form is not a JSON object".to_owned()) };
        let field = |(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            _ => Err(format!("the form's field {name:?} is not a text")),
        };
        Ok(Record {
            user: column(columns, "owner_jid")?.to_owned(),
            jid: column(columns, "pubsub_jid")?.to_owned(),
            node: column(columns, "node")?.to_owned(),
            enabled_at: Some(number(column(columns, "created_at")?)?),
            form: fields.into_iter().map(field).collect::<Result<_, _>>()?,
            ..Record::default()
        })
    };
    named(columns, ["owner_jid", "pubsub_jid", "node"], read())
}

fn ejabberd(columns: &Columns, host: Option<&str>) -> Row {
    let read = || {
        let host = columns.get("server_host").and_then(Option::as_deref).filter(|host| !host.is_empty()).or(host);
        let host = host.ok_or("the table has no column server_host: give --host")?;
        let form = match column(columns, "xml")? {
            "" => BTreeMap::new(),
            xml => form_of(&Element::parse(xml).map_err(|error| error.to_string())?)?,
        };
        Ok(Record {
            user: format!("{}@{host}", column(columns, "username")?),
            jid: column(columns, "service")?.to_owned(),
            node: column(columns, "node")?.to_owned(),
            enabled_at: Some(number(column(columns, "timestamp")?)?),
            form,
            ..Record::default()
        })
    };
    named(columns, ["username", "service", "node"], read())
}

fn prosody(columns: &Columns) -> Vec<Row> {
    if column(columns, "store") != Ok("cloud_notify") {
        return Vec::new();
    }
    let user = match (column(columns, "user"), column(columns, "host")) {
        (Ok(user), Ok(host)) => format!("{user}@{host}"),
        (Err(error), _) | (_, Err(error)) => return vec![Err(LeftOut::unreadable("?", error))],
    };
    let value = column(columns, "value").and_then(|value| {
        serde_json::from_str::<Value>(value).map_err(|error| format!("the value is not JSON: {}", json_error(&error)))
    });
    let key = column(columns, "key").unwrap_or_default();
    match (key, value) {
        (_, Err(error)) => vec![Err(LeftOut::unreadable(format!("{user} {key}"), error))],
        ("", Ok(value)) => prosody_store(&user, &value),
        (key, Ok(value)) => vec![prosody_service(&user, key, &value)],
    }
}

/// Reads the store `cloud_notify` of a user: a table of push services by `jid<node`.
pub fn prosody_store(user: &str, store: &Value) -> Vec<Row> {
    match store.as_object() {
        Some(services) => services.iter().map(|(key, service)| prosody_service(user, key, service)).collect(),
        None => vec![Err(LeftOut::unreadable(user, "the store is not a table"))],
    }
}

fn prosody_service(user: &str, key: &str, service: &Value) -> Row {
    let (key_jid, key_node) = key.split_once('<').unwrap_or((key, ""));
    let text = |name: &str| service[name].as_str();
    let form = match &service["options"] {
        Value::Null => Ok(BTreeMap::new()),
        options => element(options, 0).and_then(|x| form_of(&x)),
    };
    let (jid, node) = (text("jid").unwrap_or(key_jid).to_owned(), text("node").unwrap_or(key_node).to_owned());
    let seconds = service["timestamp"].as_u64().or_else(|| service["timestamp"].as_f64().map(|seconds| seconds as u64));
    let enabled_at = seconds.map(|seconds| seconds.saturating_mul(1_000_000));
    match form {
        Ok(form) => Ok(Record { user: user.to_owned(), jid, node, enabled_at, form, ..Record::default() }),
        Err(error) => Err(LeftOut::unreadable(format!("{user} {jid} {node}"), error)),
    }
}

/// Reads an element as `util.stanza.preserialize` leaves it. A child inherits the namespace.
fn element(stanza: &Value, depth: usize) -> Result<Element, String> {
    fn read(stanza: &Value, inherited: &str, depth: usize) -> Result<Element, String> {
        if depth > MAX_DEPTH {
            return Err("the form is nested too deeply".into());
        }
        let name = stanza["name"].as_str().ok_or("the form has an element without a name")?;
        let attributes = stanza["attr"].as_object();
        let namespace = stanza["attr"]["xmlns"].as_str().unwrap_or(inherited);
        let mut element = Element::new(name, namespace);
        for (name, value) in attributes.into_iter().flatten().filter(|(name, _)| *name != "xmlns") {
            element = element.with_attribute(name, value.as_str().unwrap_or_default());
        }
        for child in stanza["__array"].as_array().into_iter().flatten() {
            element = match child {
                Value::String(text) => element.with_text(text),
                child => element.with_child(read(child, namespace, depth + 1)?),
            };
        }
        Ok(element)
    }
    read(stanza, "", depth)
}

fn mongooseim_record(fields: &[Term]) -> Row {
    let read = || {
        let [user, pubsub, node, form] = fields else { return Err("the record has other fields") };
        let Term::Tuple(user) = user else { return Err("user_jid is not a tuple") };
        let user = texts(user);
        let Some([user, host]) = user.as_deref() else { return Err("user_jid is not a pair of UTF-8 texts") };
        // Up to MongooseIM 5, a JID also has the parts before they are normalized, and a form is a list.
        let parts: Option<Vec<_>> = pubsub.record("jid").map(|parts| parts.iter().map_while(Term::text).collect());
        let jid = match parts.as_deref() {
            Some([local, domain, _] | [_, _, _, local, domain, _]) => join(local, domain),
            _ => return Err("pubsub_jid is not a JID"),
        };
        let pairs: Vec<_> = match form {
            Term::Map(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
            Term::List(pairs) => pairs.iter().filter_map(pair).collect(),
            _ => return Err("the form is neither a map nor a list"),
        };
        let fields = pairs.into_iter().map(|(name, value)| Some((name.text()?.to_owned(), value.text()?.to_owned())));
        Ok(Record {
            user: join(user, host),
            jid,
            node: node.text().ok_or("the node is not a UTF-8 text")?.to_owned(),
            form: fields.collect::<Option<_>>().ok_or("the form has a value that is not a UTF-8 text")?,
            ..Record::default()
        })
    };
    read().map_err(|error| LeftOut::unreadable("a record push_subscription", error))
}

fn ejabberd_record(fields: &[Term]) -> Row {
    let read = || {
        let [Term::Tuple(us), Term::Tuple(at), Term::Tuple(service), node, xml] = fields else {
            return Err("the record has other fields".to_owned());
        };
        let (us, service) = (texts(us), texts(service));
        let Some([user, host]) = us.as_deref() else { return Err("us is not a pair of UTF-8 texts".into()) };
        let Some([local, domain, _]) = service.as_deref() else { return Err("service is not a JID".into()) };
        let [Term::Integer(mega), Term::Integer(seconds), Term::Integer(micros)] = at[..] else {
            return Err("timestamp is not a time".into());
        };
        let micros = i128::from(mega) * 1_000_000_000_000 + i128::from(seconds) * 1_000_000 + i128::from(micros);
        let form = match xml {
            Term::Atom(none) if none == "undefined" => BTreeMap::new(),
            xml => form_of(&xmlel(xml, "")?)?,
        };
        Ok(Record {
            user: join(user, host),
            jid: join(local, domain),
            node: node.text().ok_or("the node is not a UTF-8 text")?.to_owned(),
            enabled_at: Some(micros.try_into().map_err(|_| "timestamp is not a time")?),
            form,
            ..Record::default()
        })
    };
    read().map_err(|error| LeftOut::unreadable("a record push_session", error))
}

fn xmlel(term: &Term, inherited: &str) -> Result<Element, String> {
    let Some([name, Term::List(attributes), Term::List(children)]) = term.record("xmlel") else {
        return Err("the form is not an element".into());
    };
    let attributes: Option<Vec<_>> = attributes
        .iter()
        .map(|attribute| pair(attribute).and_then(|(name, value)| name.text().zip(value.text())))
        .collect();
    let (Some(name), Some(attributes)) = (name.text(), attributes) else {
        return Err("the form has a text that is not UTF-8".into());
    };
    let namespace = attributes.iter().find(|(name, _)| *name == "xmlns").map_or(inherited, |(_, value)| value);
    let mut element = Element::new(name, namespace);
    for (name, value) in attributes.iter().filter(|(name, _)| *name != "xmlns") {
        element = element.with_attribute(name, *value);
    }
    for child in children {
        element = match child.record("xmlcdata") {
            Some([text]) => element.with_text(text.text().ok_or("the form has a text that is not UTF-8")?),
            // The parser of terms has bounded the depth.
            _ => element.with_child(xmlel(child, namespace)?),
        };
    }
    Ok(element)
}

fn pair(term: &Term) -> Option<(&Term, &Term)> {
    match term {
        Term::Tuple(fields) => match &fields[..] {
            [name, value] => Some((name, value)),
            _ => None,
        },
        _ => None,
    }
}

/// Returns texts of binaries that are all UTF-8.
fn texts(terms: &[Term]) -> Option<Vec<&str>> {
    terms.iter().map(Term::text).collect()
}

fn join(local: &str, domain: &str) -> String {
    if local.is_empty() { domain.to_owned() } else { format!("{local}@{domain}") }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "the time is not a number".to_owned())
}

/// Returns the place of an error in JSON. Its whole text may quote a value.
fn json_error(error: &serde_json::Error) -> String {
    format!("column {}", error.column())
}
