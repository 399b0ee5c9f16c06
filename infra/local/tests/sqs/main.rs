//! The embedded SQS, called by the AWS SDK over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod batches;
mod database_file;
mod dead_letters;
mod fairness;
mod long_polls;
mod messages;
mod queues;
mod test_queue;
mod throughput;
mod visibility;

const MAX_MESSAGE_BYTES: usize = 1_048_576;
