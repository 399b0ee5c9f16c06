//! The parts that the builders of JSON objects share.

/// Makes a type with one field, a JSON object, a builder: any field can be set, and the object can be taken or written.
macro_rules! json_builder {
    ($builder:ident) => {
        impl $builder {
            /// Sets any field, also to a wrong value.
            pub fn with(mut self, field: &str, value: impl serde::Serialize) -> Self {
                self.0[field] = serde_json::json!(value);
                self
            }
        }

        impl From<$builder> for serde_json::Value {
            fn from(builder: $builder) -> Self {
                builder.0
            }
        }

        impl std::fmt::Display for $builder {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}
