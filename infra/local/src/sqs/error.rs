use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The media type of requests and responses: AWS JSON 1.0.
pub(super) const JSON_1_0: &str = "application/x-amz-json-1.0";

/// An error response: the errors of each action in the *Amazon SQS API Reference*, and its [common errors].
///
/// [common errors]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite failed: the file can't be opened, or isn't a database.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Stored JSON is invalid: this module did not write it.
    #[error("stored data can't be read: {0}")]
    Stored(#[source] serde_json::Error),
    /// The request isn't JSON, or lacks a field that it must have.
    #[error("{0}")]
    Malformed(#[source] serde_json::Error),
    /// The operation is unknown.
    #[error("The operation {0} is not one of the local SQS.")]
    UnknownOperation(String),
    /// The kind of queue is not supported.
    #[error("The local SQS has standard queues only: {0} is the name of a FIFO queue.")]
    UnsupportedOperation(String),
    /// A required parameter is missing or empty.
    #[error("The request must contain the parameter {0}.")]
    MissingParameter(&'static str),
    /// The value of a parameter is out of range or otherwise invalid.
    #[error("{0}")]
    InvalidParameterValue(String),
    /// The queue attribute is unknown.
    #[error("Unknown Attribute {0}.")]
    InvalidAttributeName(String),
    /// The value of a queue attribute is out of range.
    #[error("Invalid value for the parameter {0}.")]
    InvalidAttributeValue(String),
    /// The queue does not exist.
    #[error("The specified queue does not exist.")]
    QueueDoesNotExist,
    /// The queue exists, with other attributes than those given.
    #[error("A queue already exists with the same name and a different value for attribute {0}")]
    QueueNameExists(String),
    /// The body has a character that XML does not allow.
    #[error(
        "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF"
    )]
    InvalidMessageContents,
    /// The receipt handle is not one of this queue.
    #[error("The input receipt handle \"{0}\" is not a valid receipt handle.")]
    ReceiptHandleIsInvalid(String),
    /// The message is visible again, or was never received.
    #[error("The specified message isn't in flight.")]
    MessageNotInflight,
    /// A batch without entries.
    #[error("The batch request doesn't contain any entries.")]
    EmptyBatchRequest,
    /// A batch of more than ten entries.
    #[error("Maximum number of entries per request are 10. You have sent {0}.")]
    TooManyEntriesInBatchRequest(usize),
    /// Two entries of a batch have the same id.
    #[error("Id {0} repeated.")]
    BatchEntryIdsNotDistinct(String),
    /// The id of an entry has an invalid character or is too long.
    #[error(
        "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long."
    )]
    InvalidBatchEntryId,
    /// The messages of a batch are too long in total.
    #[error("Batch requests cannot be longer than 1048576 bytes. You have sent {0} bytes.")]
    BatchRequestTooLong(usize),
}

impl Error {
    pub(super) fn invalid(parameter: &str, value: &str, reason: &str) -> Self {
        Self::InvalidParameterValue(format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"))
    }

    /// The name of the shape, and the code of the older query protocol, which the SDKs use.
    fn names(&self) -> (&'static str, &'static str) {
        use Error::*;
        match self {
            Database(_) | Stored(_) => ("com.amazon.coral.service#InternalFailure", "InternalFailure"),
            Malformed(_) => ("com.amazon.coral.service#SerializationException", "SerializationException"),
            UnknownOperation(_) => ("com.amazon.coral.service#UnknownOperationException", "InvalidAction"),
            MissingParameter(_) => ("com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter"),
            InvalidParameterValue(_) => {
                ("com.amazon.coral.service#InvalidParameterValueException", "InvalidParameterValue")
            }
            UnsupportedOperation(_) => {
                ("com.amazonaws.sqs#UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation")
            }
            InvalidAttributeName(_) => ("com.amazonaws.sqs#InvalidAttributeName", "InvalidAttributeName"),
            InvalidAttributeValue(_) => ("com.amazonaws.sqs#InvalidAttributeValue", "InvalidAttributeValue"),
            QueueDoesNotExist => ("com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"),
            QueueNameExists(_) => ("com.amazonaws.sqs#QueueNameExists", "QueueAlreadyExists"),
            InvalidMessageContents => ("com.amazonaws.sqs#InvalidMessageContents", "InvalidMessageContents"),
            ReceiptHandleIsInvalid(_) => ("com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid"),
            MessageNotInflight => ("com.amazonaws.sqs#MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"),
            EmptyBatchRequest => ("com.amazonaws.sqs#EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest"),
            TooManyEntriesInBatchRequest(_) => (
                "com.amazonaws.sqs#TooManyEntriesInBatchRequest",
                "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            ),
            BatchEntryIdsNotDistinct(_) => {
                ("com.amazonaws.sqs#BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct")
            }
            InvalidBatchEntryId => {
                ("com.amazonaws.sqs#InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId")
            }
            BatchRequestTooLong(_) => {
                ("com.amazonaws.sqs#BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong")
            }
        }
    }

    pub(super) fn code(&self) -> &'static str {
        self.names().1
    }

    /// Returns whether it is an error of the server. It then fails a whole batch, not one entry.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self, Self::Database(_) | Self::Stored(_))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ErrorBody {
            #[serde(rename = "__type")]
            shape: &'static str,
            message: String,
        }

        let (shape, code) = self.names();
        let (status, fault) = if self.is_internal() {
            (StatusCode::INTERNAL_SERVER_ERROR, "Receiver")
        } else {
            (StatusCode::BAD_REQUEST, "Sender")
        };
        let message = self.to_string();
        let body = ErrorBody { shape, message };
        (
            status,
            [("x-amzn-query-error", format!("{code};{fault}"))],
            [(CONTENT_TYPE, JSON_1_0)],
            // Two strings are always serialisable.
            serde_json::to_vec(&body).unwrap_or_default(),
        )
            .into_response()
    }
}
