//! The AWS SDK on the same TLS configuration and HTTP client as all other servers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::ErrorKind;
use pushlark_settings::{Environment, SettingError};
use reqwest::{Client, Request};

use crate::tls::{HttpVersions, Tls};

/// The timeout of a connection, including its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Returns the configuration of a function's AWS clients: region, credentials and endpoints from the environment of the
/// process, TLS by `EXTRA_CA_FILE`, and timeouts that leave time for a second attempt within the ten seconds of a
/// function.
pub async fn aws_config(environment: &Environment) -> Result<SdkConfig, SettingError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(Duration::from_millis(1_500))
        .operation_timeout(Duration::from_millis(3_000))
        .build();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(aws_http_client(Tls::from_environment(environment)?))
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        // Responses are small, so the timeouts are enough.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    // The default chain would use the same credentials, after it has built the clients of all other providers.
    let config = match environment.text("AWS_ACCESS_KEY_ID").and(environment.text("AWS_SECRET_ACCESS_KEY")) {
        Some(_) => config.credentials_provider(EnvironmentVariableCredentialsProvider::new()),
        None => config,
    };
    Ok(config.load().await)
}

/// Returns the HTTP client of the AWS SDK. It waits at most 1 s for a connection, whatever the configuration of the SDK
/// says.
pub fn aws_http_client(tls: Tls) -> SharedHttpClient {
    let client = Arc::default();
    http_client_fn(move |settings, _| {
        let (tls, client) = (tls.clone(), Arc::clone(&client));
        SharedHttpConnector::new(Connector { tls, client, read_timeout: settings.read_timeout() })
    })
}

/// A client with the timeout of one operation. Clones share the connections.
#[derive(Debug, Clone)]
struct Connector {
    tls: Tls,
    /// Built for the first request.
    client: Arc<OnceLock<Client>>,
    read_timeout: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move { this.send(request).await })
    }
}

impl Connector {
    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // With HTTP/1.1 a connection with a late answer is closed, and not used again.
        let client = self.tls.http_client(HttpVersions::Http1).connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Sends a request, and reads the whole response.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let mut request = reqwest_request(request)?;
        *request.timeout_mut() = self.read_timeout;
        let client = self.client().map_err(connector_error)?;
        let again = request.try_clone();
        let mut response = match (client.execute(request).await, again) {
            // A pooled connection may be dead after a freeze of the sandbox. The SDK would wait before its own retry.
            (Err(error), Some(again)) if is_broken(&error) => client.execute(again).await.map_err(connector_error)?,
            (sent, _) => sent.map_err(connector_error)?,
        };
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = response.bytes().await.map_err(connector_error)?;
        let mut response = http::Response::new(SdkBody::from(body));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        response.try_into().map_err(|error| ConnectorError::other(Box::new(error), None))
    }
}

/// Converts a request of the SDK. Its body is in memory, since no operation streams.
fn reqwest_request(request: HttpRequest) -> Result<Request, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(Box::new(error)))?;
    let (parts, body) = request.into_parts();
    let body = body.bytes().map(<[u8]>::to_vec).ok_or_else(|| ConnectorError::user("the body is a stream".into()))?;
    http::Request::from_parts(parts, body).try_into().map_err(connector_error)
}

/// Returns whether a connection ended before its response: it may have been dead already.
fn is_broken(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

/// Converts an error so that the SDK retries what a retry may solve.
fn connector_error(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else if error.is_connect() {
        ConnectorError::io(error.into())
    } else if error.is_builder() {
        ConnectorError::user(error.into())
    } else {
        ConnectorError::other(error.into(), Some(ErrorKind::TransientError))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use aws_config::Region;
    use aws_sdk_sqs::Client as Sqs;
    use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
    use aws_sdk_sqs::error::SdkError;

    use super::*;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 22\r\n\r\n\
        {\"QueueUrl\":\"http://\"}";

    /// Returns a client of SQS at this address.
    fn sqs(listener: &TcpListener, retries: RetryConfig) -> Sqs {
        let credentials = Credentials::new("local", "local", None, None, "local");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(format!("http://{}", listener.local_addr().unwrap()))
            .retry_config(retries)
            .http_client(aws_http_client(Tls::default()));
        Sqs::new(&config.build())
    }

    /// Reads a request of SQS, whose body ends with a brace.
    fn read_request(stream: &mut TcpStream) -> String {
        let (mut request, mut bytes) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"}") {
            let length = stream.read(&mut bytes).unwrap();
            assert!(length > 0, "the request is incomplete");
            request.extend_from_slice(&bytes[..length]);
        }
        String::from_utf8(request).unwrap()
    }

    #[tokio::test]
    async fn a_dead_pooled_connection_is_replaced_without_a_retry_of_the_sdk() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sqs = sqs(&listener, RetryConfig::disabled());
        let server = thread::spawn(move || {
            let mut first = listener.accept().unwrap().0;
            read_request(&mut first);
            first.write_all(ANSWER.as_bytes()).unwrap();
            // The second request arrives on the same connection, which ends without an answer.
            let unanswered = read_request(&mut first);
            drop(first);
            let mut second = listener.accept().unwrap().0;
            let again = read_request(&mut second);
            second.write_all(ANSWER.as_bytes()).unwrap();
            (unanswered, again)
        });
        for _ in 0..2 {
            let answer = sqs.get_queue_url().queue_name("a").send().await;
            assert_eq!(answer.unwrap().queue_url(), Some("http://"));
        }
        let (unanswered, again) = server.join().unwrap();
        assert_eq!(unanswered, again);
        assert!(
            again.starts_with("POST / HTTP/1.1\r\n") && again.contains("authorization: AWS4-HMAC-SHA256"),
            "{again}"
        );
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error_that_the_sdk_retries() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sqs = sqs(&listener, RetryConfig::disabled());
        drop(listener);
        match sqs.get_queue_url().queue_name("a").send().await.unwrap_err() {
            SdkError::DispatchFailure(failure) => assert!(failure.is_io(), "{failure:?}"),
            other => panic!("{other:?}"),
        }
    }
}
