//! The domain types that events, queue, store, plugin and delivery share.

mod payload;
mod presence;
mod publish_options;
mod registration;
pub mod time;

pub use payload::{CallSignal, Payload};
pub use presence::{Availability, ClientState};
pub use publish_options::{
    Device, DeviceAddress, MAX_OPTION_FIELDS, MAX_OPTIONS_BYTES, Mode, Priority, PublishOptions, PublishOptionsError,
};
pub use registration::Registration;
