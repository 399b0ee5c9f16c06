//! The domain types that events, queue, store, plugin and delivery share.

mod claim_slot;
mod encryption;
mod extensions;
mod payload;
mod preferences;
mod presence;
mod presentation;
mod publish_options;
mod registration;
pub mod time;
mod time_zone;

pub use claim_slot::{CLAIM_SLOTS, claim_slot};
pub use encryption::{Algorithm, Encryption, MIN_ENCRYPTED_SIZE};
pub use extensions::{Extensions, ExtensionsError, Strictness};
pub use payload::{CallSignal, EncryptedSubject, Payload};
pub use preferences::{
    AllowedMessages, Day, Mute, Preferences, QuietHours, RoomPreference, Rooms, Show, UnknownSenders, WhileOnline,
};
pub use presence::{Activity, Attention, Availability, ClientState};
pub use presentation::{Collapse, InterruptionLevel, Presentation, Sound};
pub use publish_options::{
    Device, DeviceAddress, MAX_OPTION_FIELDS, MAX_OPTIONS_BYTES, Mode, Priority, PublishOptions, PublishOptionsError,
};
pub use registration::Registration;
pub use time_zone::{TimeZone, UnknownTimeZone};
