//! Settings that are comma-separated lists, some with items for single domains.

use pushlark_xmpp::DomainPart;

/// A list with an empty item. Contains the number of the item, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("number {0} of the list is empty")]
pub struct EmptyItemError(usize);

/// Returns the items of a comma-separated list, at least one, without surrounding white space.
pub fn items(list: &str) -> Result<Vec<&str>, EmptyItemError> {
    let items = list.split(',').map(str::trim).enumerate();
    items.map(|(index, item)| if item.is_empty() { Err(EmptyItemError(index + 1)) } else { Ok(item) }).collect()
}

/// Returns the items of a list, each with its domain if it has the form `example.com=value`.
pub fn by_domain(list: &str) -> Result<Vec<(Option<DomainPart>, &str)>, EmptyItemError> {
    let of = |value: &'_ str| {
        let (domain, rest) = value.split_once('=')?;
        // A token may end in the padding of base64.
        let is_value = !rest.trim_matches('=').is_empty();
        is_value.then(|| Some((DomainPart::new(domain.trim()).ok()?.into_owned(), value.len() - rest.len())))?
    };
    let split = |value| of(value).map_or((None, value), |(domain, at)| (Some(domain), value[at..].trim()));
    Ok(items(list)?.into_iter().map(split).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(list: &str) -> Vec<(Option<String>, &str)> {
        let values = by_domain(list).unwrap().into_iter();
        values.map(|(domain, value)| (domain.map(|domain| domain.to_string()), value)).collect()
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
    }

    #[test]
    fn an_empty_item_is_refused() {
        for (list, empty) in [("", 1), (",", 1), (" , ", 1), ("a,", 2), ("a, ,b", 2), ("a,b,,", 3)] {
            assert_eq!(items(list), Err(EmptyItemError(empty)), "{list}");
        }
        assert_eq!(items(" a ,b"), Ok(vec!["a", "b"]));
    }
}
