//! The time that an invocation waits for other services: the longest chain of calls, each of which began after the one
//! before it had ended.

use std::time::Duration;

use tokio::time::Instant;

/// A service that a function calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    DynamoDb,
    Sqs,
    Push,
}

impl Service {
    /// The latency of the model.
    pub const fn latency(self) -> Duration {
        Duration::from_millis(match self {
            Self::DynamoDb => 5,
            Self::Sqs => 8,
            Self::Push => 50,
        })
    }
}

/// An observed call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub service: Service,
    pub start: Instant,
    pub end: Instant,
}

/// Returns the latencies of the longest chain of an invocation's calls. Calls that overlap count once.
pub fn longest_chain(mut calls: Vec<Call>) -> Duration {
    calls.sort_by_key(|call| call.start);
    let mut chains: Vec<Duration> = Vec::with_capacity(calls.len());
    for call in &calls {
        let before = chains.iter().zip(&calls).filter(|(_, earlier)| earlier.end <= call.start);
        let longest = before.map(|(chain, _)| *chain).max().unwrap_or_default();
        chains.push(longest + call.service.latency());
    }
    chains.into_iter().max().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_calls_count_once_and_sequential_calls_each() {
        let origin = Instant::now();
        let call = |service, start, end| Call {
            service,
            start: origin + Duration::from_millis(start),
            end: origin + Duration::from_millis(end),
        };
        let chain = |calls: &[Call]| longest_chain(calls.to_vec()).as_millis();
        let (query, claim) = (call(Service::DynamoDb, 0, 50), call(Service::DynamoDb, 51, 100));
        let (publish, other) = (call(Service::Push, 101, 600), call(Service::Push, 110, 700));
        assert_eq!(chain(&[]), 0);
        assert_eq!(chain(&[query]), 5);
        assert_eq!(chain(&[query, claim]), 10);
        assert_eq!(chain(&[other, publish, claim, query]), 60);
        // A short call beside a long one does not make the chain longer.
        assert_eq!(chain(&[publish, call(Service::Sqs, 200, 280)]), 50);
        assert_eq!(chain(&[publish, other, call(Service::Sqs, 700, 780)]), 58);
    }
}
