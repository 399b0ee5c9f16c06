//! A proxy that adds TLS to a double, with a certificate of a private CA.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The file of the root certificate of the private CA. `openssl` made it, with the certificate of 127.0.0.1 and localhost
/// in the same folder; they are valid until 2124.
pub const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");

/// The proxy, which listens on a free loopback port.
pub struct TlsProxy {
    /// The base URL, such as `https://127.0.0.1:8443`.
    pub url: String,
    refused: Arc<AtomicUsize>,
}

impl TlsProxy {
    /// Starts a proxy to the double at `url`, such as `http://127.0.0.1:8080`.
    pub async fn to(url: &str) -> Self {
        let certificate = CertificateDer::from_pem_slice(include_bytes!("../tls/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url_of_proxy = format!("https://{}", listener.local_addr().unwrap());
        let proxy = Self { url: url_of_proxy, refused: Arc::default() };
        let (target, refused) = (url.strip_prefix("http://").unwrap().to_owned(), Arc::clone(&proxy.refused));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, target, refused) = (acceptor.clone(), target.clone(), Arc::clone(&refused));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        refused.fetch_add(1, Relaxed);
                        return;
                    };
                    let mut upstream = TcpStream::connect(target).await.unwrap();
                    // Both sides may close the connection at any time.
                    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
                });
            }
        });
        proxy
    }

    /// Returns the number of handshakes that clients ended, because they do not trust the certificate.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}
