//! Plugins, which decide which messages are notified to which registrations, and every type that a custom plugin needs.
//!
//! A plugin is pure and synchronous. It has three callbacks for each event and recipient, in the order of MongooseIM's
//! `mod_event_pusher_push`: `prepare_notification` (which may skip the event), `should_publish` (which filters the
//! recipient's registrations) and `publish_notification`. Callbacks that a plugin does not implement behave like those
//! of [`Defaults`].

mod built_in;
mod call;
mod content_policy;
mod event;
mod plugin;
mod reason;
mod summary;

pub use built_in::{Defaults, Enhanced, Hints};
pub use content_policy::ContentPolicy;
pub use event::{Choice, Event, EventKind, Publication, Recipient, Rule};
pub use plugin::Plugin;
pub use pushlark_model::{
    CallSignal, ClientState, Collapse, InterruptionLevel, Mode, Payload, Presentation, Priority, PublishOptions,
    Registration, Sound,
};
pub use pushlark_xmpp as xmpp;
pub use reason::Reason;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The plugins of a worker, by their names in the setting `PLUGIN`.
#[derive(Clone)]
pub struct Plugins(BTreeMap<&'static str, Arc<dyn Plugin>>);

/// A name that none of the worker's plugins has. The operator must correct the setting.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not a plugin of this worker, which has: {known}")]
pub struct UnknownPluginError {
    name: String,
    known: String,
}

impl Plugins {
    /// Returns the built-in plugins: `defaults`, `enhanced` and `hints`.
    pub fn built_in() -> Self {
        Self(BTreeMap::new()).with("defaults", Defaults).with("enhanced", Enhanced).with("hints", Hints)
    }

    /// Adds `plugin`, or replaces the plugin with the same name.
    pub fn with(mut self, name: &'static str, plugin: impl Plugin + 'static) -> Self {
        self.0.insert(name, Arc::new(plugin));
        self
    }

    /// Returns the plugin called `name`.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Plugin>, UnknownPluginError> {
        self.0.get(name).cloned().ok_or_else(|| UnknownPluginError {
            name: name.into(),
            known: self.0.keys().copied().collect::<Vec<_>>().join(", "),
        })
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
