//! Writes registrations in the forms that `import` and chat servers read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pushlark_xmpp::{Element, ns};

use super::ExportFormat;
use crate::import::record::{CSV_COLUMNS, Record};
use crate::private_file;

/// The longest user, PubSub service or node in MongooseIM's table, in characters.
const MAX_MONGOOSEIM: usize = 250;

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
        fields: BTreeSet<String>,
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
        if format == ExportFormat::Prosody {
            let folder = output.context("give --output FOLDER for Prosody")?;
            let mut private = DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
            let created = private.create(folder);
            created.with_context(|| format!("the folder {} cannot be created", folder.display()))?;
            return Ok(Self::Prosody { folder: folder.to_owned(), user: Vec::new() });
        }
        let mut written: Box<dyn Write> = match output {
            None => Box::new(BufWriter::new(io::stdout())),
            Some(path) => {
                let file =
                    private_file::create_new(path).with_context(|| format!("{} cannot be created", path.display()))?;
                Box::new(BufWriter::new(file))
            }
        };
        Ok(match format {
            ExportFormat::Jsonl | ExportFormat::Prosody => Self::JsonLines(written),
            ExportFormat::Csv => {
                let path = std::env::temp_dir().join(format!("pushlark-export-{}", std::process::id()));
                let rows =
                    private_file::create_new(&path).with_context(|| format!("{} cannot be created", path.display()))?;
                // It stays readable until it is closed.
                fs::remove_file(&path)?;
                Self::Csv { output: written, rows: BufWriter::new(rows), fields: BTreeSet::new() }
            }
            ExportFormat::Mongooseim => {
                writeln!(written, "{NO_ESCAPES}")?;
                Self::MongooseIm(written)
            }
            ExportFormat::Ejabberd => {
                writeln!(written, "{NO_ESCAPES}")?;
                Self::Ejabberd(written)
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
            Self::Csv { rows, fields, .. } => {
                fields.extend(record.form.keys().cloned());
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
            Self::Csv { output, rows, fields } => write_csv(output, rows, &fields)?,
            Self::Prosody { folder, user } => write_prosody(&folder, &user)?,
        }
        Ok(())
    }
}

fn write_csv(output: Box<dyn Write>, rows: BufWriter<File>, fields: &BTreeSet<String>) -> anyhow::Result<()> {
    let mut file = rows.into_inner().map_err(|error| error.into_error())?;
    file.rewind()?;
    let mut output = csv::Writer::from_writer(output);
    let fixed = CSV_COLUMNS.map(str::to_owned);
    output.write_record(fixed.into_iter().chain(fields.iter().map(|field| format!("form.{field}"))))?;
    for line in BufReader::new(file).lines() {
        let row: serde_json::Value = serde_json::from_str(&line?)?;
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let fixed = CSV_COLUMNS.map(|name| text(&row[name]));
        output.write_record(fixed.into_iter().chain(fields.iter().map(|field| text(&row["form"][field]))))?;
    }
    Ok(output.flush()?)
}

/// Writes `<host>/cloud_notify/<user>.dat`.
fn write_prosody(folder: &Path, records: &[Record]) -> anyhow::Result<()> {
    let Some(first) = records.first() else { return Ok(()) };
    let (name, host) = first.user.split_once('@').context("a user has no localpart")?;
    let folder = folder.join(file_name(host)).join("cloud_notify");
    fs::create_dir_all(&folder)?;
    let name = format!("{}.dat", file_name(name));
    ensure!(name.len() <= 255, "the name of the file of {} is too long", first.user);
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
