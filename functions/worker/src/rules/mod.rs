//! The operator's rules (`PLUGIN=rules`): read at the start, and again when they are older than `RULES_REFRESH`.

mod aws_document;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_plugin::Plugin;
use pushlark_rules::Rules;
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_telemetry::Causes;
use tokio::time::Instant;

use crate::deduplication::Deduplication;
use source::{RulesSource, UnreadRulesError};

/// The shortest `RULES_REFRESH`, in seconds.
const MIN_REFRESH: u32 = 60;

/// The settings `RULES` and `RULES_REFRESH`.
pub struct RulesSettings {
    source: Option<RulesSource>,
    /// The rules with their text, if they were read without AWS.
    checked: Option<(Rules, String)>,
    refresh: Option<Duration>,
    deduplication: Deduplication,
}

/// The rules that decide now.
pub struct CurrentRules {
    source: RulesSource,
    refresh: Option<Duration>,
    deduplication: Deduplication,
    state: Mutex<State>,
}

struct State {
    rules: Arc<Rules>,
    /// The text of the rules.
    text: String,
    /// The start of the last read.
    read_at: Instant,
}

impl RulesSettings {
    /// Reads `RULES`, `RULES_REFRESH`, `DEDUPLICATION`, `EXTRA_CA_FILE`, `AWS_ENDPOINT_URL_S3` and
    /// `AWS_ENDPOINT_URL_SSM`. Rules in the setting itself and in a file are checked.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let source = RulesSource::from_environment(environment, aws)?;
        let checked = match &source {
            Some(RulesSource::Local(local)) => Some(parse(local.read())?),
            _ => None,
        };
        let refresh = match environment.number(&catalogue::RULES_REFRESH)? {
            0 => None,
            seconds @ 1..MIN_REFRESH => {
                let expected = format!("{seconds} is neither 0 nor at least {MIN_REFRESH}");
                return Err(catalogue::RULES_REFRESH.invalid(expected));
            }
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        Ok(Self { source, checked, refresh, deduplication: Deduplication::from_environment(environment)? })
    }
}

impl CurrentRules {
    /// Reads the rules for the first time. Without valid rules, the worker does not start.
    pub async fn read(settings: RulesSettings) -> Result<Self, SettingError> {
        let RulesSettings { source, checked, refresh, deduplication } = settings;
        let source = source.ok_or_else(|| catalogue::RULES.missing())?;
        let read_at = Instant::now();
        let (rules, text) = match checked {
            Some(checked) => checked,
            None => parse(source.read().await)?,
        };
        let state = Mutex::new(State { rules: Arc::new(rules), text, read_at });
        Ok(Self { source, refresh, deduplication, state })
    }

    /// Returns the rules. All callbacks for one event must use the same.
    pub fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.state().rules)
    }

    /// Reads the rules again if they are older than `RULES_REFRESH`. One of several concurrent callers reads them; the
    /// others return at once. Rules that are not valid or cannot be read change nothing.
    pub async fn refresh(&self) {
        if !self.is_due() {
            return;
        }
        let text = match self.source.read().await {
            Ok(text) => text,
            Err(unread) => {
                return tracing::error!(error = %Causes(&unread), "the rules are not read again: those of before stay");
            }
        };
        if self.state().text == text {
            return;
        }
        match text.parse::<Rules>() {
            Ok(rules) if self.deduplication == Deduplication::Collapse && rules.notifies_unacknowledged() => {
                tracing::error!(
                    "the new rules name unack_msg, which DEDUPLICATION=collapse does not allow: those of before stay"
                );
            }
            Ok(rules) => {
                let mut state = self.state();
                (state.rules, state.text) = (Arc::new(rules), text);
                tracing::info!("the rules have changed");
            }
            Err(error) => tracing::error!(%error, "the new rules are not valid: those of before stay"),
        }
    }

    /// Returns whether this caller must read the rules again, and notes the time of that read.
    fn is_due(&self) -> bool {
        let Some(refresh) = self.refresh.filter(|_| self.source.can_change()) else { return false };
        let mut state = self.state();
        let is_due = state.read_at.elapsed() >= refresh;
        if is_due {
            state.read_at = Instant::now();
        }
        is_due
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses a text that was read at the start, and returns the rules with their text.
fn parse(read: Result<String, UnreadRulesError>) -> Result<(Rules, String), SettingError> {
    let text = read.map_err(|unread| catalogue::RULES.invalid(Causes(&unread)))?;
    let rules = text.parse().map_err(|wrong| catalogue::RULES.invalid(wrong))?;
    Ok((rules, text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tokio::time::advance;

    use super::*;

    /// Rules in a file, which is deleted at the end of the test.
    struct RulesFile(PathBuf);

    impl RulesFile {
        fn new(name: &str) -> Self {
            let file = Self(std::env::temp_dir().join(format!("pushlark-refresh-{}-{name}", std::process::id())));
            file.write(&named("first"));
            file
        }

        fn write(&self, text: &str) {
            fs::write(&self.0, text).unwrap();
        }

        async fn rules(&self, refresh: &str) -> CurrentRules {
            self.rules_with(refresh, "claims").await
        }

        async fn rules_with(&self, refresh: &str, deduplication: &str) -> CurrentRules {
            let place = format!("file:{}", self.0.display());
            let settings = [("RULES", place.as_str()), ("RULES_REFRESH", refresh), ("DEDUPLICATION", deduplication)];
            let environment = Environment::from_iter(settings);
            let settings = RulesSettings::from_environment(&environment, &SdkConfig::builder().build());
            CurrentRules::read(settings.unwrap()).await.unwrap()
        }
    }

    impl Drop for RulesFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// Rules that differ by the name of their only rule.
    fn named(name: &str) -> String {
        format!("[[rules]]\nname = \"{name}\"\naction = \"skip\"\n")
    }

    /// Reads the rules again if they are old, and returns whether they are those of this name.
    async fn are(current: &CurrentRules, name: &str) -> bool {
        current.refresh().await;
        *current.get() == named(name).parse::<Rules>().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_read_again_when_they_are_older_than_the_setting() {
        let file = RulesFile::new("older");
        let current = file.rules("60").await;
        file.write(&named("second"));
        advance(Duration::from_millis(59_900)).await;
        assert!(are(&current, "first").await);
        advance(Duration::from_millis(100)).await;
        // The rules of an event that is decided on stay.
        let first = current.get();
        assert!(are(&current, "second").await);
        assert_eq!(*first, named("first").parse().unwrap());
        file.write(&named("third"));
        advance(Duration::from_millis(59_900)).await;
        assert!(are(&current, "second").await);
        advance(Duration::from_millis(100)).await;
        assert!(are(&current, "third").await);
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_read_once_without_the_setting() {
        let file = RulesFile::new("once");
        let current = file.rules("0").await;
        file.write(&named("second"));
        advance(Duration::from_hours(24)).await;
        assert!(are(&current, "first").await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rules_of_before_stay_if_new_ones_need_claims_that_are_not_made() {
        let unacknowledged = "[[rules]]\naction = 'skip'\nconditions = [{event = 'unack_msg'}]\n";
        for (deduplication, stays) in [("collapse", true), ("claims", false)] {
            let file = RulesFile::new(deduplication);
            let current = file.rules_with("60", deduplication).await;
            file.write(unacknowledged);
            advance(Duration::from_secs(60)).await;
            assert_eq!(are(&current, "first").await, stays, "{deduplication}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rules_of_before_stay_while_new_ones_are_not_valid_or_cannot_be_read() {
        let file = RulesFile::new("stay");
        let current = file.rules("60").await;
        for wrong in ["[[rules]]\naction = \"push\"\n", "rules", ""] {
            file.write(wrong);
            advance(Duration::from_secs(60)).await;
            assert!(are(&current, "first").await, "{wrong:?}");
        }
        fs::remove_file(&file.0).unwrap();
        advance(Duration::from_secs(60)).await;
        assert!(are(&current, "first").await);
        file.write(&named("second"));
        advance(Duration::from_millis(59_900)).await;
        assert!(are(&current, "first").await, "one attempt in 60 s");
        advance(Duration::from_millis(100)).await;
        assert!(are(&current, "second").await);
    }
}
