use std::io;
use std::net::SocketAddr;

/// A failed start of the bridge. The operator must correct the cause.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, or the certificate or key cannot be used.
    #[error("/rest cannot be served at {0}")]
    Rest(SocketAddr, #[source] io::Error),
    /// The settings of TLS or of a proxy cannot be used.
    #[error("the HTTP client cannot be created")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
