//! A proxy that adds TLS to a double, with a certificate of a private CA.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::tls::tls_acceptor;

/// The proxy, which listens on a free loopback port.
pub struct TlsProxy {
    /// The base URL, such as `https://127.0.0.1:8443`.
    pub url: String,
    refused: Arc<AtomicUsize>,
}

impl TlsProxy {
    /// Starts a proxy to the double at `url`, such as `http://127.0.0.1:8080`.
    pub async fn to(url: &str) -> Self {
        let acceptor = tls_acceptor();
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
