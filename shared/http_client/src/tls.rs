//! The TLS configuration of all connections to servers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use pushlark_settings::catalogue::EXTRA_CA_FILE;
use pushlark_settings::{Environment, SettingError};
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use webpki_roots::TLS_SERVER_ROOTS;

/// The configuration with Mozilla's root certificates alone. They are constants, so that nothing is read or parsed at
/// the start.
static BUILT_IN: LazyLock<Tls> = LazyLock::new(|| Tls::new(RootCertStore { roots: TLS_SERVER_ROOTS.to_vec() }));

/// A TLS configuration: Mozilla's root certificates, and those of the operator. Clones share TLS sessions.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ClientConfig>);

/// The versions of HTTP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, if the server supports it, or HTTP/1.1.
    Http2OrHttp1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
}

/// A file of root certificates that cannot be used. The operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file does not exist, or a permission is missing.
    #[error("the file {} cannot be read: {source}", path.display())]
    Unread {
        /// The path of the file.
        path: PathBuf,
        /// The failed read.
        source: io::Error,
    },
    /// The file has no PEM section `CERTIFICATE`.
    #[error("the file {} has no certificate in PEM (-----BEGIN CERTIFICATE-----)", .0.display())]
    Empty(PathBuf),
    /// A certificate is not valid PEM, or not a valid certificate.
    #[error("certificate {number} in the file {} is not valid: {reason}", path.display())]
    Invalid {
        /// The path of the file.
        path: PathBuf,
        /// The number of the certificate in the file, from 1.
        number: usize,
        /// The reason.
        reason: String,
    },
}

impl Default for Tls {
    /// Returns the configuration with Mozilla's root certificates alone.
    fn default() -> Self {
        BUILT_IN.clone()
    }
}

impl Tls {
    /// Returns the configuration with the root certificates in `EXTRA_CA_FILE`, if it is set.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        match environment.value(&EXTRA_CA_FILE)? {
            Some(path) => Self::with_ca_file(Path::new(path)).map_err(|unusable| EXTRA_CA_FILE.invalid(unusable)),
            None => Ok(Self::default()),
        }
    }

    /// Returns the configuration with the root certificates in a PEM file, in addition to those of Mozilla.
    pub fn with_ca_file(path: &Path) -> Result<Self, CaFileError> {
        let pem = fs::read(path).map_err(|source| CaFileError::Unread { path: path.into(), source })?;
        let mut roots = RootCertStore { roots: TLS_SERVER_ROOTS.to_vec() };
        for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let invalid = |reason| CaFileError::Invalid { path: path.into(), number: index + 1, reason };
            let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
        if roots.len() == TLS_SERVER_ROOTS.len() {
            return Err(CaFileError::Empty(path.into()));
        }
        Ok(Self::new(roots))
    }

    fn new(roots: RootCertStore) -> Self {
        Self(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
    }

    /// Returns the configuration for connections that are not HTTP.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Returns the builder of an HTTP client that speaks these versions and follows no redirects.
    pub fn http_client(&self, versions: HttpVersions) -> ClientBuilder {
        let mut config = ClientConfig::clone(&self.0);
        let protocols: &[&str] = match versions {
            HttpVersions::Http1 => &["http/1.1"],
            HttpVersions::Http2OrHttp1 => &["h2", "http/1.1"],
            HttpVersions::Http2 => &["h2"],
        };
        config.alpn_protocols = protocols.iter().map(|protocol| (*protocol).into()).collect();
        let client = ClientBuilder::new().tls_backend_preconfigured(config).redirect(Policy::none());
        match versions {
            HttpVersions::Http1 => client.http1_only(),
            HttpVersions::Http2OrHttp1 => client,
            HttpVersions::Http2 => client.http2_prior_knowledge(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(name: &str, content: &str) -> String {
        let path = std::env::temp_dir().join(format!("pushlark-ca-{name}-{}.pem", std::process::id()));
        fs::write(&path, content).unwrap();
        let environment = Environment::from_iter([("EXTRA_CA_FILE", path.to_str().unwrap())]);
        let error = Tls::from_environment(&environment).err().map(|error| error.to_string());
        fs::remove_file(&path).unwrap();
        error.unwrap_or_default().replace(path.to_str().unwrap(), "CA.pem")
    }

    #[test]
    fn a_file_without_a_valid_certificate_is_refused() {
        let certificate = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let none = "EXTRA_CA_FILE: the file CA.pem has no certificate in PEM (-----BEGIN CERTIFICATE-----)";
        for (name, content) in [("empty", ""), ("text", "certificate"), ("key", key)] {
            assert_eq!(refusal(name, content), none, "{name}");
        }
        let invalid = "EXTRA_CA_FILE: certificate 1 in the file CA.pem is not valid: ";
        for (name, content) in [
            ("der", certificate("AAAA")),
            ("base64", certificate("!")),
            ("cut", "-----BEGIN CERTIFICATE-----\n".into()),
        ] {
            assert!(refusal(name, &content).starts_with(invalid), "{name}: {}", refusal(name, &content));
        }
        let missing = Environment::from_iter([("EXTRA_CA_FILE", "/none/ca.pem")]);
        assert_eq!(
            Tls::from_environment(&missing).err().unwrap().to_string(),
            "EXTRA_CA_FILE: the file /none/ca.pem cannot be read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn clients_without_a_file_share_one_configuration() {
        let none = Tls::from_environment(&Environment::default()).unwrap();
        assert!(Arc::ptr_eq(&none.config(), &Tls::default().config()));
    }
}
