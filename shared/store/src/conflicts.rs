//! Retries of single writes that conflict with a transaction.

use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::InterceptorContext;
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_smithy_types::retry::ErrorKind;

/// The longest delay before such a write is retried. A transaction takes a few milliseconds.
const MAX_CONFLICT_DELAY: Duration = Duration::from_millis(100);

/// A classifier that retries a write while a transaction holds its item. Without it, the SDK returns an error.
#[derive(Debug)]
pub struct Conflicts;

impl ClassifyRetry for Conflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(|error| error.as_operation_error());
        let code = error.and_then(|error| {
            let update = error.downcast_ref::<UpdateItemError>().map(|error| error.code());
            update.or_else(|| error.downcast_ref::<DeleteItemError>().map(|error| error.code()))?
        });
        match code {
            Some("TransactionConflictException") => RetryAction::retryable_error_with_explicit_delay(
                ErrorKind::TransientError,
                MAX_CONFLICT_DELAY.mul_f32(fastrand::f32()),
            ),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "transaction conflict"
    }
}
