//! The options of a stack.

use std::path::PathBuf;
use std::time::Duration;

use pushlark_settings::Environment;
use worker::{FUNCTION_TIMEOUT, Plugins};

use crate::page::Live;
use crate::sqs::Clock;

/// The options of a stack.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port of the HTTP routes; 0 for any.
    pub port: u16,
    /// The folder of the table and the queues; `None` for memory.
    pub data: Option<PathBuf>,
    /// Settings of the functions, which override the stack's own defaults.
    pub environment: Environment,
    /// The clock of SQS.
    pub clock: Clock,
    /// The visibility timeout without `BATCHING_WINDOW`, in seconds of SQS's clock.
    pub visibility_timeout: u32,
    /// The plugins that `PLUGIN` chooses from.
    pub plugins: Plugins,
    /// The endpoint of DynamoDB for the functions, if it is not the stack's, such as a proxy that fails.
    pub dynamodb_endpoint: Option<String>,
    /// What the page shows. The log lines of the process are in it if its layer is part of the process's log.
    pub live: Live,
    /// Time for the header of a request, including the time between two requests; then the connection is closed.
    pub header_timeout: Duration,
    /// Time for the body of a request; then the response is 408.
    pub body_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            data: None,
            environment: Environment::default(),
            clock: Clock::real(),
            // Six times the worker's.
            visibility_timeout: 6 * FUNCTION_TIMEOUT.as_secs() as u32,
            plugins: Plugins::built_in(),
            dynamodb_endpoint: None,
            live: Live::default(),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
        }
    }
}
