//! TLS and HTTP clients: one TLS configuration for AWS, push services and all other servers.

mod aws;
mod tls;

pub use aws::{aws_config, aws_http_client};
pub use tls::{CaFileError, HttpVersions, Tls};
