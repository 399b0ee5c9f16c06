//! Reads the rows of a chat server's table in PostgreSQL, MySQL or SQLite, one after the other.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail, ensure};
use futures_util::TryStreamExt;
use mysql_async::prelude::Queryable;
use pushlark_http_client::Tls;
use pushlark_settings::Environment;
use pushlark_settings::catalogue::EXTRA_CA_FILE;
use rusqlite::OpenFlags;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use url::Url;

use super::dump::Columns;
use super::server::Server;
use super::source::Rows;

/// The quotes of names, and the type of texts, in a dialect of SQL.
struct Dialect {
    quote: char,
    text: &'static str,
}

const POSTGRESQL: Dialect = Dialect { quote: '"', text: "text" };
const MYSQL: Dialect = Dialect { quote: '`', text: "char" };
const SQLITE: Dialect = Dialect { quote: '"', text: "text" };

impl Dialect {
    /// Returns the query of all columns of the server's table as texts. `present` is all columns of the table.
    fn query(&self, server: Server, present: &[String]) -> anyhow::Result<(Vec<String>, String)> {
        let table = server.table();
        let Self { quote, text } = self;
        let has = |name: &str| present.iter().any(|column| column.eq_ignore_ascii_case(name));
        let is_new = server == Server::Ejabberd && has("server_host");
        let columns = server.columns(if is_new { 6 } else { 5 });
        let missing = columns.iter().find(|name| !has(name));
        ensure!(missing.is_none(), "the table {table} has no column {}", missing.map_or("", String::as_str));
        let name = |name: &str| format!("{quote}{name}{quote}");
        let selected: Vec<_> = columns.iter().map(|column| format!("cast({} as {text})", name(column))).collect();
        let order = server.order().iter().filter(|column| has(column)).map(|column| name(column));
        let store = if server == Server::Prosody {
            format!(" where {} = 'cloud_notify'", name("store"))
        } else {
            String::new()
        };
        let order: Vec<_> = order.collect();
        let query = format!("select {} from {}{store} order by {}", selected.join(", "), name(table), order.join(", "));
        Ok((columns, query))
    }

    fn all(&self, server: Server) -> String {
        let Self { quote, .. } = self;
        format!("select * from {quote}{}{quote}", server.table())
    }
}

fn named(columns: &[String], values: impl Iterator<Item = Option<String>>) -> Columns {
    columns.iter().cloned().zip(values).collect()
}

/// Reads a database in PostgreSQL. `sslmode` of the URL is `disable`, `prefer` (the default) or `require`. Where there is
/// TLS, the server's certificate must be valid for the host.
pub async fn postgres(url: &str, server: Server, host: Option<&str>, tls: &Tls, rows: &Rows) -> anyhow::Result<()> {
    let config: tokio_postgres::Config = url.parse().context("the URL of PostgreSQL is not valid")?;
    let (client, connection) =
        config.connect(PostgresTls(tls.config())).await.context("PostgreSQL does not accept the connection")?;
    let connection = tokio::spawn(connection);
    let read = async {
        let all = client.prepare(&POSTGRESQL.all(server)).await.context("the table cannot be read")?;
        let present: Vec<_> = all.columns().iter().map(|column| column.name().to_owned()).collect();
        let (columns, query) = POSTGRESQL.query(server, &present)?;
        let none: [&str; 0] = [];
        let mut found = pin!(client.query_raw(&query, none).await.context("the table cannot be read")?);
        while let Some(row) = found.try_next().await.context("a row cannot be read")? {
            let values: Result<Vec<_>, _> =
                (0..columns.len()).map(|index| row.try_get::<_, Option<String>>(index)).collect();
            let values = values.context("a column is not a text")?;
            if !rows.table_row(server, &named(&columns, values.into_iter()), host).await {
                break;
            }
        }
        Ok(())
    };
    let read = read.await;
    connection.abort();
    read
}

/// Reads a database in MySQL or MariaDB. The parameters of the URL are those of the library: with `require_ssl=true`, the
/// server's certificate must be valid for the host.
pub async fn mysql(url: &str, server: Server, host: Option<&str>, rows: &Rows) -> anyhow::Result<()> {
    let options = mysql_async::Opts::from_url(url).context("the URL of MySQL is not valid")?;
    let ca_file = Environment::of_process().text(EXTRA_CA_FILE.name).map(|path| PathBuf::from(path).into());
    let ssl = options.ssl_opts().cloned().map(|ssl| ssl.with_root_certs(ca_file.into_iter().collect()));
    let options = mysql_async::OptsBuilder::from_opts(options).ssl_opts(ssl);
    let mut connection = mysql_async::Conn::new(options).await.context("MySQL does not accept the connection")?;
    let all = connection.prep(MYSQL.all(server)).await.context("the table cannot be read")?;
    let present: Vec<_> = all.columns().iter().map(|column| column.name_str().into_owned()).collect();
    let (columns, query) = MYSQL.query(server, &present)?;
    let mut found = connection.query_iter(query).await.context("the table cannot be read")?;
    while let Some(row) = found.next().await.context("a row cannot be read")? {
        let values: Vec<mysql_async::Value> = row.unwrap();
        let values = values.into_iter().map(|value| match value {
            mysql_async::Value::Bytes(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        });
        if !rows.table_row(server, &named(&columns, values), host).await {
            break;
        }
    }
    Ok(())
}

/// Reads a database in a file of SQLite, on a thread that may block.
pub fn sqlite(path: &Path, server: Server, host: Option<&str>, rows: &Rows) -> anyhow::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(path, flags).context("the file cannot be opened")?;
    let all = database.prepare(&SQLITE.all(server)).context("the table cannot be read")?;
    let present: Vec<_> = all.column_names().into_iter().map(str::to_owned).collect();
    let (columns, query) = SQLITE.query(server, &present)?;
    let mut statement = database.prepare(&query).context("the table cannot be read")?;
    let mut found = statement.query([]).context("the table cannot be read")?;
    while let Some(row) = found.next().context("a row cannot be read")? {
        let value = |index| match row.get_ref(index) {
            Ok(rusqlite::types::ValueRef::Text(text)) => str::from_utf8(text).ok().map(str::to_owned),
            _ => None,
        };
        if !rows.blocking_table_row(server, &named(&columns, (0..columns.len()).map(value)), host) {
            break;
        }
    }
    Ok(())
}

/// Returns the URL without its password and parameters.
pub fn without_password(url: &str) -> anyhow::Result<String> {
    let Ok(mut url) = Url::parse(url) else { bail!("the URL of the database is not valid") };
    // An error means that the URL cannot have a password.
    let _ = url.set_password(None);
    url.set_query(None);
    Ok(url.into())
}

/// The TLS of PostgreSQL, with the root certificates of this process.
struct PostgresTls(Arc<ClientConfig>);

struct PostgresConnect {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

struct PostgresStream(tokio_rustls::client::TlsStream<tokio_postgres::Socket>);

impl MakeTlsConnect<tokio_postgres::Socket> for PostgresTls {
    type Stream = PostgresStream;
    type TlsConnect = PostgresConnect;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<PostgresConnect, Self::Error> {
        Ok(PostgresConnect { config: Arc::clone(&self.0), name: ServerName::try_from(host.to_owned())? })
    }
}

impl TlsConnect<tokio_postgres::Socket> for PostgresConnect {
    type Stream = PostgresStream;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<PostgresStream, std::io::Error>> + Send>>;

    fn connect(self, socket: tokio_postgres::Socket) -> Self::Future {
        Box::pin(async move {
            tokio_rustls::TlsConnector::from(self.config).connect(self.name, socket).await.map(PostgresStream)
        })
    }
}

impl TlsStream for PostgresStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for PostgresStream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        pin!(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PostgresStream {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        pin!(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pin!(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        pin!(&mut self.0).poll_shutdown(context)
    }
}
