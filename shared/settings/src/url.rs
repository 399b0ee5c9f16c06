//! Settings that are URLs with the scheme `http` or `https`.

use std::str::FromStr;

use url::Url;

/// A URL with the scheme `http` or `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(pub Url);

/// A text that is not such a URL. The error does not quote it, since it may contain a password or a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no URL such as https://push.example.com")]
pub struct UrlError;

/// Returns the origin and path of a URL, for logs: without user, password and query.
pub fn without_credentials(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.filter(|_| !text.contains(char::is_whitespace)).map(Self).ok_or(UrlError)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_log_shows_no_credentials_of_a_url() {
        let url = Url::parse("https://user:password@example.com:8443/events?token=t#f").unwrap();
        assert_eq!(without_credentials(&url), "https://example.com:8443/events");
    }

    #[test]
    fn a_url_has_the_scheme_of_http() {
        for fine in ["https://push.example.com", "http://127.0.0.1:8080/a?b=c", "HTTPS://user:password@example.com/"] {
            assert!(fine.parse::<HttpUrl>().is_ok(), "{fine}");
        }
        for bad in [
            "",
            "push.example.com",
            "push.example.com:443",
            "ftp://example.com",
            "https://",
            "https://a b/",
            "https://a/b c",
        ] {
            assert_eq!(bad.parse::<HttpUrl>(), Err(UrlError), "{bad}");
        }
    }
}
