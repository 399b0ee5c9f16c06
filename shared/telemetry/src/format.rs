//! The formats of log lines.

/// The format of log lines, each of which is one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for CloudWatch Logs Insights. The platform adds the time.
    Json,
    /// Plain text for a terminal.
    Human,
}
