//! TLS for the doubles.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{DEFAULT_VERSIONS, ServerConfig};

/// The file of the root certificate of a private CA, which a client must trust to call a double with TLS. `openssl` made
/// it, with the certificate of 127.0.0.1 and localhost in the same folder; they are valid until 2124.
pub const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");

/// Accepts TLS on 127.0.0.1 and localhost, with HTTP/1.1 and HTTP/2.
pub fn tls_acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../tls/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(DEFAULT_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}
