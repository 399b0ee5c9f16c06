//! Operations, and checks of their parameters.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::store::QueueStore;

/// An operation other than `ReceiveMessage`, which alone has to wait: its fields are its request.
pub(super) trait Operation: DeserializeOwned {
    type Output: Serialize;

    /// `host` is where the client found this server, for the queue URLs of the answer.
    fn run(self, store: &mut QueueStore, host: &str) -> Result<Self::Output, Error>;
}

/// The response of an operation without output.
#[derive(Serialize)]
pub(super) struct Empty {}

/// Checks that a number parameter is in its range.
pub(super) fn within(parameter: &str, value: i64, range: RangeInclusive<u32>) -> Result<u32, Error> {
    let number = u32::try_from(value).ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        Error::invalid(parameter, &value.to_string(), &format!("Must be between {least} and {most}, if provided."))
    })
}
