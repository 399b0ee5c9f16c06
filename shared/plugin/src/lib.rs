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

/// The names of the built-in plugins.
const BUILT_IN: [&str; 3] = ["defaults", "enhanced", "hints"];

impl Plugins {
    /// Returns the built-in plugins: `defaults`, `enhanced` and `hints`.
    pub fn built_in() -> Self {
        let plugins: [Arc<dyn Plugin>; 3] = [Arc::new(Defaults), Arc::new(Enhanced), Arc::new(Hints)];
        Self(BUILT_IN.into_iter().zip(plugins).collect())
    }

    /// Adds `plugin`, or replaces the added plugin with the same name. A built-in plugin cannot be replaced: ingest does
    /// not queue the messages of which the built-in plugin in use notifies nobody.
    ///
    /// # Panics
    ///
    /// If `name` is that of a built-in plugin.
    pub fn with(mut self, name: &'static str, plugin: impl Plugin + 'static) -> Self {
        assert!(!BUILT_IN.contains(&name), "{name:?} is the name of a built-in plugin");
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
