//! Settings that differ between domains.

use pushlark_xmpp::DomainPart;

/// Values by the domain that stands before each, `example.com=value`, comma-separated.
pub fn by_domain(setting: &str) -> Vec<(Option<DomainPart>, &str)> {
    let values = setting.split(',').map(str::trim).filter(|value| !value.is_empty());
    let of = |value: &'_ str| {
        let (domain, rest) = value.split_once('=')?;
        // A token may end in the padding of base64.
        let is_value = !rest.trim_matches('=').is_empty();
        is_value.then(|| Some((DomainPart::new(domain.trim()).ok()?.into_owned(), value.len() - rest.len())))?
    };
    values.map(|value| of(value).map_or((None, value), |(domain, at)| (Some(domain), value[at..].trim()))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(setting: &str) -> Vec<(Option<String>, &str)> {
        by_domain(setting).into_iter().map(|(domain, value)| (domain.map(|domain| domain.to_string()), value)).collect()
    }

    #[test]
    fn a_value_is_of_the_domain_before_it_or_of_all_others() {
        let of = |domain: &str| Some(domain.to_owned());
        assert_eq!(read("token"), [(None, "token")]);
        assert_eq!(read("dG9rZW4=, b3RoZXI=="), [(None, "dG9rZW4="), (None, "b3RoZXI==")]);
        assert_eq!(
            read("Example.com=https://a/rest?x=1, https://b/rest"),
            [(of("example.com"), "https://a/rest?x=1"), (None, "https://b/rest")]
        );
        assert_eq!(read("https://b/rest?x=1"), [(None, "https://b/rest?x=1")]);
        assert_eq!(read(""), []);
    }
}
