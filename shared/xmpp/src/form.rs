//! Submitted data forms (XEP-0004).

use std::collections::BTreeMap;

use crate::element::Element;
use crate::ns;

/// A form of type `submit` in which every field has exactly one value, such as publish options (XEP-0357, section 5;
/// MongooseIM requires the same).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataForm {
    /// The value of the field FORM_TYPE (XEP-0068), without surrounding white space.
    pub form_type: String,
    /// The other fields, by `var`.
    pub fields: BTreeMap<String, String>,
}

/// An invalid form. The sender must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The type is not `submit`.
    #[error("the form must be of type \"submit\"")]
    NotSubmitted,
    /// The field FORM_TYPE is missing.
    #[error("the form has no FORM_TYPE")]
    NoFormType,
    /// A field occurs twice, or has no value or several values.
    #[error("the form's field {0:?} must have exactly one value")]
    NotOneValue(String),
}

impl DataForm {
    /// Reads an `<x xmlns='jabber:x:data'/>`. Fields without a name, such as those of type `fixed`, are ignored.
    pub fn from_element(x: &Element) -> Result<Self, FormError> {
        if x.attribute("type") != Some("submit") {
            return Err(FormError::NotSubmitted);
        }
        let mut fields = BTreeMap::new();
        for (name, field) in named_fields(x) {
            let name = name.to_owned();
            let mut values = field.children().filter(|child| child.is("value", ns::DATA_FORMS));
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err(FormError::NotOneValue(name));
            };
            let value = value.text().into_owned();
            if fields.contains_key(&name) {
                return Err(FormError::NotOneValue(name));
            }
            fields.insert(name, value);
        }
        let form_type = fields.remove("FORM_TYPE").ok_or(FormError::NoFormType)?.trim().to_owned();
        Ok(Self { form_type, fields })
    }
}

/// Returns the fields of a form that have a `var`, each with it.
pub(crate) fn named_fields(x: &Element) -> impl Iterator<Item = (&str, &Element)> {
    let fields = x.children().filter(|child| child.is("field", ns::DATA_FORMS));
    fields.filter_map(|field| Some((field.attribute("var").filter(|name| !name.is_empty())?, field)))
}
