//! The setting `LOG_LEVEL`: a level, and levels of single targets.

use std::str::FromStr;

use tracing::Level;
use tracing_subscriber::filter::Targets;

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// The level of all targets, and levels of single targets.
#[derive(Debug)]
pub struct Levels(pub Targets);

/// A part of the setting that is not a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a level (error, warn, info, debug, trace) nor a target with one, such as worker=debug")]
pub struct LevelError(String);

impl Default for Levels {
    fn default() -> Self {
        // At `info`, the runtime adds a span with the request's and the trace's id to each line: 120 bytes that name no
        // message.
        Self(Targets::new().with_default(Level::INFO).with_target("lambda_runtime", Level::WARN))
    }
}

/// The parser of `Targets` reads an unknown level as a target, and then disables all other targets.
impl FromStr for Levels {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        text.split(',').map(str::trim).try_fold(Self::default(), |Self(targets), directive| {
            let (target, level) = match directive.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, directive),
            };
            let is_target = |target: &str| {
                let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':');
                !target.is_empty() && target.chars().all(is_part)
            };
            let level = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(level)).map(|(_, level)| *level);
            let level = level.filter(|_| target.is_none_or(is_target)).ok_or_else(|| LevelError(directive.into()))?;
            Ok(Self(match target {
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            }))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_levels_of_targets_are_accepted() {
        let logs = |text: &str, target: &str, level| text.parse::<Levels>().unwrap().0.would_enable(target, &level);
        for (name, level) in LEVELS {
            assert!(logs(name, "worker", level), "{name}");
        }
        assert!(!logs("warn", "worker", Level::INFO) && logs("INFO", "worker", Level::INFO));
        assert!(logs("info, worker=debug", "worker::notify", Level::DEBUG));
        assert!(!logs("info,worker=debug", "ingest", Level::DEBUG));
        assert!(!logs("info", "lambda_runtime::layers", Level::INFO) && logs("info", "lambda_runtime", Level::WARN));
        assert!(logs("info,lambda_runtime=info", "lambda_runtime::layers", Level::INFO));
        assert!(logs("worker=debug", "ingest", Level::INFO), "a level of one target does not change the others");
    }

    #[test]
    fn a_word_that_is_not_a_level_is_refused() {
        for (text, part) in [
            ("verbose", "verbose"),
            ("infoo", "infoo"),
            ("off", "off"),
            ("3", "3"),
            ("info,worker=", "worker="),
            ("info,worker=off", "worker=off"),
            ("info,worker=debug=x", "worker=debug=x"),
            ("info,=debug", "=debug"),
            ("info,wor ker=debug", "wor ker=debug"),
            ("info worker=debug", "info worker=debug"),
            ("info,", ""),
            ("info,worker", "worker"),
            ("", ""),
        ] {
            assert_eq!(text.parse::<Levels>().unwrap_err(), LevelError(part.into()), "{text}");
        }
    }
}
