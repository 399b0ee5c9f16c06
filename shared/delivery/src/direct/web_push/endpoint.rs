//! The endpoints of Web Push that are called. An endpoint is user input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use pushlark_settings::{EmptyItemError, Environment, HttpUrl, SettingError, catalogue, items};
use reqwest::Url;

/// The origins that are called although they are not public, use another port or no TLS: the setting
/// `WEB_PUSH_TRUSTED_ORIGINS`, comma-separated, such as `https://ntfy.internal:8443`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedOrigins(Vec<Url>);

/// A setting that is not a list of origins. The operator must correct it. It may contain a password, and is not quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// An item is empty; contains its number.
    #[error(transparent)]
    Empty(#[from] EmptyItemError),
    /// The item with this number, from 1, is not a URL, or contains more than an origin.
    #[error("number {0} is not an origin such as https://push.example.com:8443")]
    NotOrigin(usize),
}

/// An endpoint that is not called. The client must enable notifications with another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The endpoint is not a URL.
    #[error("it must be a URL")]
    NotUrl,
    /// The scheme is not `https`: the call would have no TLS.
    #[error("it must begin with https://")]
    NotHttps,
    /// The URL contains a user or a password.
    #[error("it must hold no user and no password")]
    Credentials,
    /// The port is not 443, the port of `https`.
    #[error("its port must be 443")]
    Port,
    /// The host is an address that is not public.
    #[error(transparent)]
    NotPublic(#[from] NotPublicError),
}

/// An IP address that is not public, or a host name without a public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its host must have a public address")]
pub struct NotPublicError;

impl TrustedOrigins {
    /// Reads `WEB_PUSH_TRUSTED_ORIGINS`; without it, no origin is trusted.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(environment.get(&catalogue::WEB_PUSH_TRUSTED_ORIGINS)?.unwrap_or_default())
    }

    /// Returns whether the scheme, host and port of `url` are one of these origins.
    pub fn has(&self, url: &Url) -> bool {
        self.0.iter().any(|trusted| trusted.origin() == url.origin())
    }

    /// Parses an endpoint, and checks that it may be called. The addresses of its host name are checked at each call.
    pub fn endpoint(&self, url: &str) -> Result<Url, EndpointError> {
        let url = Url::parse(url).map_err(|_| EndpointError::NotUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::Credentials);
        }
        if self.has(&url) {
            return Ok(url);
        }
        if url.scheme() != "https" {
            return Err(EndpointError::NotHttps);
        }
        // `Url::port` is `None` for the default port of the scheme.
        if url.port().is_some() {
            return Err(EndpointError::Port);
        }
        let host = url.host_str().unwrap_or_default();
        let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        if address.is_some_and(|address| !is_public(address)) || host.is_empty() {
            return Err(NotPublicError.into());
        }
        Ok(url)
    }
}

impl FromStr for TrustedOrigins {
    type Err = OriginError;

    fn from_str(origins: &str) -> Result<Self, OriginError> {
        let origin = |(index, origin): (usize, &str)| {
            let HttpUrl(url) = origin.parse().map_err(|_| OriginError::NotOrigin(index + 1))?;
            let is_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
            let has_user = !url.username().is_empty() || url.password().is_some();
            if is_more || has_user { Err(OriginError::NotOrigin(index + 1)) } else { Ok(url) }
        };
        items(origins)?.into_iter().enumerate().map(origin).collect::<Result<_, _>>().map(Self)
    }
}

/// The IPv4 blocks that are not public, with the lengths of their prefixes ("IANA IPv4 Special-Purpose Address
/// Registry"), and multicast.
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The only IPv6 block from which public addresses are assigned, with the length of its prefix.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// The parts of `GLOBAL_V6` that are not public, or that represent IPv4 addresses ("IANA IPv6 Special-Purpose Address
/// Registry").
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Returns whether an address is public: reachable from the whole Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let is_in = |(block, prefix): &(Ipv4Addr, u32)| (address.to_bits() ^ block.to_bits()) >> (32 - prefix) == 0;
            !SPECIAL_V4.iter().any(is_in)
        }
        IpAddr::V6(address) => {
            let is_in =
                |(block, prefix): &(Ipv6Addr, u32)| (address.to_bits() ^ block.to_bits()) >> (128 - prefix) == 0;
            is_in(&GLOBAL_V6) && !SPECIAL_V6.iter().any(is_in)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_must_be_public_and_use_https() {
        let none = TrustedOrigins::default();
        for fine in [
            "https://updates.push.services.mozilla.com/wpush/v2/abc",
            "https://ntfy.example:443/up?x=1",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/",
            "https://xn--bcher-kva.example/",
        ] {
            none.endpoint(fine).unwrap();
        }
        for (bad, why) in [
            ("ntfy.example/up", EndpointError::NotUrl),
            ("", EndpointError::NotUrl),
            ("http://ntfy.example/up", EndpointError::NotHttps),
            ("ftp://ntfy.example/up", EndpointError::NotHttps),
            ("https://ntfy.example:8443/up", EndpointError::Port),
            ("https://ntfy.example:22/", EndpointError::Port),
            ("https://user@ntfy.example/", EndpointError::Credentials),
            ("https://:pass@ntfy.example/", EndpointError::Credentials),
            ("https://127.0.0.1/", EndpointError::NotPublic(NotPublicError)),
            ("https://2130706433/", EndpointError::NotPublic(NotPublicError)),
            ("https://0x7f.1/", EndpointError::NotPublic(NotPublicError)),
            ("https://169.254.169.254/latest/meta-data", EndpointError::NotPublic(NotPublicError)),
            ("https://[::1]/", EndpointError::NotPublic(NotPublicError)),
            ("https://[::ffff:10.0.0.1]/", EndpointError::NotPublic(NotPublicError)),
            ("https://[64:ff9b::a00:1]/", EndpointError::NotPublic(NotPublicError)),
            ("https://[fd00::1]/", EndpointError::NotPublic(NotPublicError)),
            ("https://[fe80::1]/", EndpointError::NotPublic(NotPublicError)),
        ] {
            assert_eq!(none.endpoint(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_of_a_trusted_origin_may_be_private() {
        let trusted: TrustedOrigins = "https://ntfy.internal:8443, http://127.0.0.1:8080".parse().unwrap();
        trusted.endpoint("https://ntfy.internal:8443/up").unwrap();
        trusted.endpoint("http://127.0.0.1:8080/up").unwrap();
        assert_eq!(trusted.endpoint("https://ntfy.internal:8444/up"), Err(EndpointError::Port));
        assert_eq!(trusted.endpoint("http://127.0.0.1:8081/up"), Err(EndpointError::NotHttps));
        assert_eq!(trusted.endpoint("http://x@127.0.0.1:8080/up"), Err(EndpointError::Credentials));
        for bad in
            ["ntfy.internal", "https://ntfy.internal/path", "ftp://ntfy.internal", "https://a@ntfy.internal", "", ","]
        {
            assert!(bad.parse::<TrustedOrigins>().is_err(), "{bad}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_not_public() {
        for public in ["1.1.1.1", "100.63.255.255", "172.32.0.1", "198.20.0.1", "223.255.255.255", "2a00::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.1.1.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::1",
            "100::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
