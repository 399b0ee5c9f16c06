//! Writes registrations in the forms that `import` and chat servers read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use pushlark_xmpp::{Element, ns};

use super::ExportFormat;
use crate::import::record::{CSV_COLUMNS, FORM_COLUMN, Record};
use crate::private_file;

/// The longest user, PubSub service or node in MongooseIM's table, in characters.
const MAX_MONGOOSEIM: usize = 250;
/// The longest name of a file or a folder, in bytes (`NAME_MAX` of Linux).
const MAX_FILE_NAME: usize = 255;

/// The first statement of SQL: MySQL reads a backslash in a text as an escape otherwise. Other databases read a comment.
const NO_ESCAPES: &str = "/*!40101 SET SESSION sql_mode=CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES') */;";

/// The result for one registration.
#[derive(Debug)]
pub enum Written {
    /// It is in the output, without these parts, which the form cannot carry.
    Without(Vec<&'static str>),
    /// It is left out, for this reason.
    LeftOut(&'static str),
}

/// A writer of registrations.
pub enum Writer {
    JsonLines(Box<dyn Write>),
    /// The columns are known at the end, so the rows wait in a file.
    Csv {
        output: Box<dyn Write>,
        rows: BufWriter<File>,
        /// The fields that have a value in any form.
        fields: BTreeSet<String>,
        /// Whether any form has a field without a value.
        has_empty: bool,
    },
    MongooseIm(Box<dyn Write>),
    Ejabberd(Box<dyn Write>),
    /// The rows of one user wait for the next user.
    Prosody {
        folder: PathBuf,
        user: Vec<Record>,
    },
}

impl Writer {
    /// Creates the output: a new file or folder, or standard output.
    pub fn new(format: ExportFormat, output: Option<&Path>) -> anyhow::Result<Self> {
        Ok(match format {
            ExportFormat::Jsonl => Self::JsonLines(create(output)?),
            ExportFormat::Csv => {
                // Before the output, which an error would leave empty.
                let rows = BufWriter::new(temporary()?);
                Self::Csv { output: create(output)?, rows, fields: BTreeSet::new(), has_empty: false }
            }
            ExportFormat::Mongooseim => {
                let mut output = create(output)?;
                writeln!(output, "{NO_ESCAPES}")?;
                Self::MongooseIm(output)
            }
            ExportFormat::Ejabberd => {
                let mut output = create(output)?;
                writeln!(output, "{NO_ESCAPES}")?;
                Self::Ejabberd(output)
            }
            ExportFormat::Prosody => {
                let folder = output.context("give --output FOLDER for Prosody")?;
                let mut private = DirBuilder::new();
                #[cfg(unix)]
                std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
                let created = private.create(folder);
                created.with_context(|| format!("the folder {} cannot be created", folder.display()))?;
                Self::Prosody { folder: folder.to_owned(), user: Vec::new() }
            }
        })
    }

    /// Writes a registration. All of one user follow each other.
    pub fn write(&mut self, record: Record) -> anyhow::Result<Written> {
        let mut lost = Vec::new();
        if !matches!(self, Self::JsonLines(_) | Self::Csv { .. }) {
            if record.encrypt.is_some() {
                // Without the key, the push service would read what only the device may.
                return Ok(Written::LeftOut("the registration, which is for encrypted notifications"));
            }
            if record.preferences.is_some() {
                lost.push("preferences");
            }
        }
        match self {
            Self::JsonLines(output) => writeln!(output, "{}", serde_json::to_string(&record)?)?,
            Self::Csv { rows, fields, has_empty, .. } => {
                *has_empty |= record.form.values().any(String::is_empty);
                fields.extend(record.form.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.clone()));
                writeln!(rows, "{}", serde_json::to_string(&record)?)?;
            }
            Self::MongooseIm(output) => {
                let Record { user, jid, node, enabled_at, form, .. } = record;
                if [&user, &jid, &node].iter().any(|text| text.chars().count() > MAX_MONGOOSEIM) {
                    return Ok(Written::LeftOut("the registration: a column has at most 250 characters"));
                }
                writeln!(
                    output,
                    "INSERT INTO event_pusher_push_subscription (owner_jid, node, pubsub_jid, form, created_at) VALUES \
                     ({}, {}, {}, {}, {});",
                    sql(&user),
                    sql(&node),
                    sql(&jid),
                    sql(&serde_json::to_string(&form)?),
                    enabled_at.unwrap_or(0)
                )?;
            }
            Self::Ejabberd(output) => {
                let Record { user, jid, node, enabled_at, form, .. } = record;
                let (name, host) = user.split_once('@').context("a user has no localpart")?;
                let xml = if form.is_empty() { String::new() } else { publish_options(&form).to_string() };
                writeln!(
                    output,
                    "INSERT INTO push_session (username, server_host, timestamp, service, node, xml) VALUES \
                     ({}, {}, {}, {}, {}, {});",
                    sql(name),
                    sql(host),
                    enabled_at.unwrap_or(0),
                    sql(&jid),
                    sql(&node),
                    sql(&xml)
                )?;
            }
            Self::Prosody { folder, user } => {
                if prosody_names(&record.user)?.iter().any(|name| name.len() > MAX_FILE_NAME) {
                    return Ok(Written::LeftOut("the registration: the name of its file has more than 255 bytes"));
                }
                lost.push("the time of the enable request below a second");
                if user.first().is_some_and(|first| first.user != record.user) {
                    write_prosody(folder, user)?;
                    user.clear();
                }
                user.push(record);
            }
        }
        Ok(Written::Without(lost))
    }

    /// Writes the rest.
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::JsonLines(mut output) | Self::MongooseIm(mut output) | Self::Ejabberd(mut output) => {
                output.flush()?
            }
            Self::Csv { output, rows, fields, has_empty } => write_csv(output, rows, &fields, has_empty)?,
            Self::Prosody { folder, user } => write_prosody(&folder, &user)?,
        }
        Ok(())
    }
}

/// Creates the output: a new file, or standard output.
fn create(output: Option<&Path>) -> anyhow::Result<Box<dyn Write>> {
    let Some(path) = output else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    let file = private_file::create_new(path).with_context(|| format!("{} cannot be created", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Creates a file without a name. It stays readable until it is closed.
fn temporary() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join(format!("pushlark-export-{}", std::process::id()));
    let file = private_file::create_new(&path).with_context(|| format!("{} cannot be created", path.display()))?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn write_csv(
    output: Box<dyn Write>,
    rows: BufWriter<File>,
    fields: &BTreeSet<String>,
    has_empty: bool,
) -> anyhow::Result<()> {
    let mut file = rows.into_inner().map_err(|error| error.into_error())?;
    file.rewind()?;
    let mut output = csv::Writer::from_writer(output);
    let fixed = CSV_COLUMNS.into_iter().map(str::to_owned);
    let header = fixed.chain(fields.iter().map(|field| format!("{FORM_COLUMN}.{field}")));
    output.write_record(header.chain(has_empty.then(|| FORM_COLUMN.to_owned()))).map_err(csv_error)?;
    for line in BufReader::new(file).lines() {
        let row: serde_json::Value = serde_json::from_str(&line?)?;
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let form = &row["form"];
        let empty = || {
            let fields = form.as_object().into_iter().flatten().filter(|(_, value)| *value == "");
            let fields: serde_json::Map<_, _> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
            if fields.is_empty() { String::new() } else { serde_json::Value::from(fields).to_string() }
        };
        let fixed = CSV_COLUMNS.into_iter().map(|name| text(&row[name]));
        let values = fixed.chain(fields.iter().map(|field| text(&form[field])));
        output.write_record(values.chain(has_empty.then(empty))).map_err(csv_error)?;
    }
    Ok(output.flush()?)
}

/// Returns the error of the output, as other formats return it.
fn csv_error(error: csv::Error) -> anyhow::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => anyhow!("{other:?}"),
    }
}

/// Returns the names of a user's folder and file.
fn prosody_names(user: &str) -> anyhow::Result<[String; 2]> {
    let (name, host) = user.split_once('@').context("a user has no localpart")?;
    Ok([file_name(host), format!("{}.dat", file_name(name))])
}

/// Writes `<host>/cloud_notify/<user>.dat`.
fn write_prosody(folder: &Path, records: &[Record]) -> anyhow::Result<()> {
    let Some(first) = records.first() else { return Ok(()) };
    let [host, name] = prosody_names(&first.user)?;
    let folder = folder.join(host).join("cloud_notify");
    fs::create_dir_all(&folder)?;
    let mut text = "return {\n".to_owned();
    for Record { jid, node, enabled_at, form, .. } in records {
        write!(
            text,
            "\t[{}] = {{ [\"jid\"] = {}; [\"node\"] = {}; ",
            lua(&format!("{jid}<{node}")),
            lua(jid),
            lua(node)
        )?;
        if !form.is_empty() {
            let typed = ("FORM_TYPE", ns::PUBLISH_OPTIONS);
            let fields = form.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            text.push_str("[\"options\"] = { [\"name\"] = \"x\"; ");
            write!(text, "[\"attr\"] = {{ [\"xmlns\"] = \"{}\"; [\"type\"] = \"submit\"; }}; ", ns::DATA_FORMS)?;
            for (index, (name, value)) in [typed].into_iter().chain(fields).enumerate() {
                let attributes = format!("[\"attr\"] = {{ [\"var\"] = {}; }}", lua(name));
                let value = format!("[\"name\"] = \"value\"; [\"attr\"] = {{}}; [1] = {};", lua(value));
                write!(text, "[{}] = {{ [\"name\"] = \"field\"; {attributes}; [1] = {{ {value} }}; }}; ", index + 1)?;
            }
            text.push_str("}; ");
        }
        writeln!(text, "[\"timestamp\"] = {}; }};", enabled_at.unwrap_or(0) / 1_000_000)?;
    }
    text.push_str("};\n");
    Ok(private_file::create_new(&folder.join(name))?.write_all(text.as_bytes())?)
}

fn publish_options(form: &std::collections::BTreeMap<String, String>) -> Element {
    let field = |name: &str, value: &str| {
        let value = Element::new("value", ns::DATA_FORMS).with_text(value);
        Element::new("field", ns::DATA_FORMS).with_attribute("var", name).with_child(value)
    };
    let x = Element::new("x", ns::DATA_FORMS).with_attribute("type", "submit");
    let x = x.with_child(field("FORM_TYPE", ns::PUBLISH_OPTIONS).with_attribute("type", "hidden"));
    form.iter().fold(x, |x, (name, value)| x.with_child(field(name, value)))
}

/// Returns a text in SQL, without escapes.
fn sql(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns a text in Lua.
fn lua(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_ascii_control() => quoted.push_str(&format!("\\{:03}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns the name of a file as Prosody writes it: `%xx` for other bytes than letters and digits.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            byte => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}
