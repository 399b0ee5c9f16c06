//! The source of an import: a database, a dump, a folder or a file.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use pushlark_http_client::Tls;
use pushlark_json::{read_json, read_value};
use pushlark_settings::Environment;
use tokio::sync::mpsc;

use super::database;
use super::dump::{Columns, Dump};
use super::erlang;
use super::lua;
use super::record::{CSV_COLUMNS, FORM_COLUMN, LeftOut, MAX_ROW_BYTES, Record, Row};
use super::server::{Server, prosody_store};

/// The form of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// MongooseIM's table event_pusher_push_subscription, or a text export of Mnesia.
    Mongooseim,
    /// ejabberd's table push_session, or a text export of Mnesia.
    Ejabberd,
    /// Prosody's store cloud_notify, in a folder or a database.
    Prosody,
    /// CSV with a header.
    Csv,
    /// JSON lines.
    Jsonl,
}

/// A source whose form is known.
#[derive(Debug, Clone)]
pub struct Source {
    form: Form,
    /// The domain of the users of a table without domains.
    host: Option<String>,
}

#[derive(Debug, Clone)]
enum Form {
    Postgres(String, Server),
    MySql(String, Server),
    Sqlite(PathBuf, Server),
    Dump(PathBuf, Server),
    Terms(PathBuf, Server),
    ProsodyFolder(PathBuf),
    Csv(PathBuf),
    JsonLines(PathBuf),
}

/// The rows of a source, in its order.
pub struct Rows(mpsc::Sender<Row>);

impl Rows {
    /// Sends the rows in a row of a table. Returns false if nobody waits for more.
    pub async fn table_row(&self, server: Server, columns: &Columns, host: Option<&str>) -> bool {
        for row in server.rows(columns, host) {
            if self.0.send(row).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The same, on a thread that may block.
    pub fn blocking_table_row(&self, server: Server, columns: &Columns, host: Option<&str>) -> bool {
        server.rows(columns, host).into_iter().all(|row| self.send(row))
    }

    fn send(&self, row: Row) -> bool {
        self.0.blocking_send(row).is_ok()
    }
}

impl Source {
    /// Finds the form of a source: a URL, a folder or a file. A file is recognized by its first bytes.
    pub fn find(from: Origin, source: &str, host: Option<String>) -> anyhow::Result<Self> {
        let server = match from {
            Origin::Mongooseim => Some(Server::MongooseIm),
            Origin::Ejabberd => Some(Server::Ejabberd),
            Origin::Prosody => Some(Server::Prosody),
            Origin::Csv | Origin::Jsonl => None,
        };
        let path = PathBuf::from(source);
        let scheme = source.split_once("://").map(|(scheme, _)| scheme);
        let form = match (scheme, server) {
            (Some("postgres" | "postgresql"), Some(server)) => Form::Postgres(source.to_owned(), server),
            (Some("mysql" | "mariadb"), Some(server)) => {
                Form::MySql(format!("mysql://{}", source.split_once("://").map_or("", |(_, rest)| rest)), server)
            }
            (Some(scheme), Some(_)) => bail!("the scheme {scheme} is not known: give postgres:// or mysql://"),
            (Some("postgres" | "postgresql" | "mysql" | "mariadb"), None) => {
                bail!("a database has the form of a server: give --from mongooseim, ejabberd or prosody")
            }
            (_, None) if path.is_dir() => bail!("{source} is a folder: give a file"),
            _ if path.exists() && !path.is_file() && !path.is_dir() => {
                bail!("{source} is no regular file: the import reads it several times")
            }
            (_, None) if from == Origin::Csv => Form::Csv(path),
            (_, None) => Form::JsonLines(path),
            (None, Some(server)) if path.is_dir() => {
                ensure!(server == Server::Prosody, "{source} is a folder: give a dump or the URL of a database");
                Form::ProsodyFolder(path)
            }
            (None, Some(server)) => {
                let mut first = Vec::new();
                open(&path)?.take(4096).read_to_end(&mut first).with_context(|| format!("{source} cannot be read"))?;
                let is_terms = first.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|b| b"{%".contains(b));
                if first.starts_with(b"SQLite format 3\0") {
                    Form::Sqlite(path, server)
                } else if first.starts_with(b"PGDMP") {
                    bail!("{source} is a dump in PostgreSQL's own format: write it with pg_dump --format=plain")
                } else if is_terms && server != Server::Prosody {
                    Form::Terms(path, server)
                } else {
                    Form::Dump(path, server)
                }
            }
        };
        if let Form::Csv(path) | Form::JsonLines(path) = &form {
            File::open(path).with_context(|| format!("{source} cannot be opened"))?;
        }
        Ok(Self { form, host })
    }

    /// Returns the name of the source, without a password.
    pub fn name(&self) -> anyhow::Result<String> {
        match &self.form {
            Form::Postgres(url, _) | Form::MySql(url, _) => database::without_password(url),
            Form::Sqlite(path, _) | Form::Dump(path, _) | Form::Terms(path, _) => Ok(path.display().to_string()),
            Form::ProsodyFolder(path) | Form::Csv(path) | Form::JsonLines(path) => Ok(path.display().to_string()),
        }
    }

    /// Returns whether this is the file of the source, also by a link.
    pub fn is_at(&self, path: &Path) -> bool {
        let source = match &self.form {
            Form::Postgres(..) | Form::MySql(..) | Form::ProsodyFolder(_) => return false,
            Form::Sqlite(source, _) | Form::Dump(source, _) | Form::Terms(source, _) => source,
            Form::Csv(source) | Form::JsonLines(source) => source,
        };
        let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        inode(path).is_some_and(|file| inode(source) == Some(file))
    }

    /// Returns the time at which a registration without a time was enabled at the latest: that of the file.
    pub fn modified(&self) -> SystemTime {
        let time = match &self.form {
            Form::Postgres(..) | Form::MySql(..) | Form::ProsodyFolder(_) => None,
            Form::Sqlite(path, _) | Form::Dump(path, _) | Form::Terms(path, _) => Some(path),
            Form::Csv(path) | Form::JsonLines(path) => Some(path),
        };
        let time = time.and_then(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
        time.unwrap_or_else(SystemTime::now)
    }

    /// Reads the source in a task of its own, a few rows ahead of the receiver. The task ends with an error if the
    /// source as a whole cannot be read, and otherwise returns whether it is right even if it has no row.
    pub fn read(&self) -> (mpsc::Receiver<Row>, tokio::task::JoinHandle<anyhow::Result<bool>>) {
        let (sender, receiver) = mpsc::channel(256);
        let (Self { form, host }, rows) = (self.clone(), Rows(sender));
        let task = match form {
            Form::Postgres(url, server) => tokio::spawn(async move {
                let tls = Tls::from_environment(&Environment::of_process())?;
                database::postgres(&url, server, host.as_deref(), &tls, &rows).await.map(|()| true)
            }),
            Form::MySql(url, server) => {
                tokio::spawn(async move { database::mysql(&url, server, host.as_deref(), &rows).await.map(|()| true) })
            }
            form => tokio::task::spawn_blocking(move || read_files(&form, host.as_deref(), &rows)),
        };
        (receiver, task)
    }
}

/// Reads a file or a folder. Returns whether it is right even if it has no row.
fn read_files(form: &Form, host: Option<&str>, rows: &Rows) -> anyhow::Result<bool> {
    match form {
        Form::Sqlite(path, server) => database::sqlite(path, *server, host, rows)?,
        Form::Dump(path, server) => {
            let mut dump = Dump::new(open(path)?, server.table());
            while let Some(row) = dump.next(|count| server.columns(count))? {
                let goes_on = match row {
                    Ok(columns) => rows.blocking_table_row(*server, &columns, host),
                    Err(error) => rows.send(Err(LeftOut::unreadable(format!("a row of {}", server.table()), error))),
                };
                if !goes_on {
                    break;
                }
            }
            return Ok(dump.has_table());
        }
        Form::Terms(path, server) => {
            let mut input = open(path)?;
            let mut number = 0;
            while let Some(term) = erlang::next(&mut input, server.record())? {
                number += 1;
                let row = match term {
                    Ok(term) => server.term(&term),
                    Err(error) => Some(Err(LeftOut::unreadable(format!("record {number}"), error))),
                };
                if row.is_some_and(|row| !rows.send(row)) {
                    break;
                }
            }
            // Any text without a record looks like this.
            return Ok(false);
        }
        Form::ProsodyFolder(path) => prosody_folder(path, rows)?,
        Form::Csv(path) => csv(path, rows)?,
        Form::JsonLines(path) => json_lines(path, rows)?,
        Form::Postgres(..) | Form::MySql(..) => {}
    }
    Ok(true)
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let mut file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let mut mark = [0; 3];
    // Some editors begin a file with a byte order mark.
    let has_mark = file.read_exact(&mut mark).is_ok() && mark == *b"\xef\xbb\xbf";
    if !has_mark {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(BufReader::with_capacity(64 * 1024, file))
}

/// Reads `<host>/cloud_notify/<user>.dat` in Prosody's `data_path`. Names have `%xx` for other characters than letters
/// and digits.
fn prosody_folder(path: &Path, rows: &Rows) -> anyhow::Result<()> {
    let mut is_found = false;
    for host in sorted(path)? {
        for store in ["cloud_notify", "cloud%5fnotify"] {
            let folder = host.join(store);
            if !folder.is_dir() {
                continue;
            }
            is_found = true;
            for file in sorted(&folder)?.into_iter().filter(|file| file.extension().is_some_and(|end| end == "dat")) {
                let read = || {
                    let user = format!("{}@{}", decoded(file.file_stem())?, decoded(host.file_name())?);
                    // A pipe would wait for its writer.
                    if !file.is_file() {
                        return Err("it is no regular file".to_owned());
                    }
                    let mut text = Vec::new();
                    let input = open(&file).map_err(|error| format!("{error:#}"))?;
                    let read = input.take(MAX_ROW_BYTES as u64 + 1).read_to_end(&mut text);
                    read.map_err(|error| error.to_string())?;
                    if text.len() > MAX_ROW_BYTES {
                        return Err(format!("the file is longer than {MAX_ROW_BYTES} bytes"));
                    }
                    Ok(prosody_store(&user, &lua::read(&text)?))
                };
                let unreadable = |error| vec![Err(LeftOut::unreadable(file.display().to_string(), error))];
                if !read().unwrap_or_else(unreadable).into_iter().all(|row| rows.send(row)) {
                    return Ok(());
                }
            }
        }
    }
    ensure!(is_found, "{} has no folder HOST/cloud_notify: give Prosody's data_path", path.display());
    Ok(())
}

fn sorted(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let entries = fs::read_dir(folder).with_context(unreadable)?;
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().with_context(unreadable)?;
    paths.sort();
    Ok(paths)
}

/// Decodes `%xx` in a file name.
fn decoded(name: Option<&std::ffi::OsStr>) -> Result<String, String> {
    let invalid = || "the name of the file is not one of Prosody's".to_owned();
    let mut bytes = name.and_then(|name| name.to_str()).ok_or_else(invalid)?.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits =
                    [bytes.next(), bytes.next()].map(|digit| digit.map(char::from).and_then(|d| d.to_digit(16)));
                let [Some(high), Some(low)] = digits else { return Err(invalid()) };
                u8::try_from(high * 16 + low).map_err(|_| invalid())?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| invalid())
}

/// A CSV of which a row may have a limited length: without its second quote, a value has no end.
struct LimitedRows<R> {
    input: R,
    /// The bytes that may still be read for a row.
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for LimitedRows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        let Some(left) = self.left.get().checked_sub(length) else {
            let error = format!("a row is longer than {MAX_ROW_BYTES} bytes: a quote may have no end");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        };
        self.left.set(left);
        Ok(length)
    }
}

fn csv(path: &Path, rows: &Rows) -> anyhow::Result<()> {
    let left = Rc::new(Cell::new(MAX_ROW_BYTES));
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(LimitedRows { input: open(path)?, left: Rc::clone(&left) });
    let header = reader.headers().context("the header of the CSV cannot be read")?.clone();
    for name in ["user", "jid", "node"] {
        ensure!(header.iter().any(|column| column == name), "the CSV has no column {name}");
    }
    let mut names = BTreeSet::new();
    let repeated = header.iter().find(|name| !names.insert(*name));
    ensure!(repeated.is_none(), "the CSV has the column {:?} twice", repeated.unwrap_or_default());
    let is_known = |name: &&str| CSV_COLUMNS.contains(name) || *name == FORM_COLUMN || name.starts_with("form.");
    let unknown = header.iter().find(|name| !is_known(name));
    ensure!(unknown.is_none(), "the CSV has an unknown column {:?}", unknown.unwrap_or_default());
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        left.set(MAX_ROW_BYTES);
        let row = match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                csv_row(&header, &record).map_err(|error| match record.iter().any(|value| value.contains('\n')) {
                    true => format!("{error}, and a value has several lines: a quote may have no end"),
                    false => error,
                })
            }
            Err(error) if matches!(error.kind(), csv::ErrorKind::Io(_)) => {
                return Err(error).with_context(|| format!("the row in line {line} cannot be read"));
            }
            Err(_) => Err("the row is not UTF-8".to_owned()),
        };
        if !rows.send(row.map_err(|error| LeftOut::unreadable(format!("line {line}"), error))) {
            return Ok(());
        }
    }
}

fn csv_row(header: &csv::StringRecord, values: &csv::StringRecord) -> Result<Record, String> {
    if header.len() != values.len() {
        return Err(format!("the row has {} values for {} columns", values.len(), header.len()));
    }
    let mut json = serde_json::Map::from_iter([("form".to_owned(), serde_json::json!({}))]);
    for (name, value) in header.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
        let object = || serde_json::from_str::<serde_json::Value>(value).map_err(|_| format!("{name} is not JSON"));
        match name.strip_prefix("form.") {
            Some(field) => json["form"][field] = value.into(),
            None if name == FORM_COLUMN => match (object()?, &mut json["form"]) {
                (serde_json::Value::Object(fields), serde_json::Value::Object(form)) => form.extend(fields),
                _ => return Err(format!("{name} is not a JSON object")),
            },
            None if ["preferences", "encrypt"].contains(&name) => drop(json.insert(name.to_owned(), object()?)),
            None => drop(json.insert(name.to_owned(), value.into())),
        }
    }
    read_value("row", json.into())
}

fn json_lines(path: &Path, rows: &Rows) -> anyhow::Result<()> {
    let mut input = open(path)?;
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        let length = input.by_ref().take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        let row = if length > MAX_ROW_BYTES {
            while !line.ends_with(b"\n") && length > 0 {
                line.clear();
                if input.by_ref().take(MAX_ROW_BYTES as u64).read_until(b'\n', &mut line)? == 0 {
                    break;
                }
            }
            Err(format!("the line is longer than {MAX_ROW_BYTES} bytes"))
        } else if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        } else {
            read_json(&line)
        };
        if !rows.send(row.map_err(|error| LeftOut::unreadable(format!("line {number}"), error))) {
            return Ok(());
        }
    }
}
