//! `POST /rest`, compatible with Prosody's `mod_rest`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use axum_server::{Handle, Server};
use pushlark_telemetry::log_refusal;
use pushlark_xmpp::{Condition, DomainPart, Element, Iq, IqType, MAX_STANZA_BYTES, ns, parse_jid};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::component::{Component, SendError};
use crate::error::StartError;
use crate::settings::RestConfig;

const XMPP: &str = "application/xmpp+xml";
/// The time that a caller has to send the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that a caller has to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The handler of `/rest`.
pub struct RestApi {
    /// At least one.
    components: Vec<Arc<Component>>,
    token: [u8; 32],
    timeout: Duration,
}

/// The reason for which a request is refused.
enum RestError {
    NoCredential,
    WrongCredential,
    MediaType,
    BodyTimeout,
    Body(BytesRejection),
    Stanza(StatusCode, String),
    NotSent(SendError),
}

impl RestApi {
    pub fn new(components: Vec<Arc<Component>>, token: [u8; 32], timeout: Duration) -> Self {
        Self { components, token, timeout }
    }

    /// Starts to serve, until the bridge stops. Returns the address with the actual port.
    pub async fn serve(
        self,
        config: RestConfig,
        tasks: &mut JoinSet<()>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<SocketAddr, StartError> {
        let failed = |error| StartError::Rest(config.address, error);
        let listener = TcpListener::bind(config.address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let limit = DefaultBodyLimit::max(MAX_STANZA_BYTES);
        let router = Router::new().route("/rest", post(answer)).layer(limit).with_state(Arc::new(self));
        let router = router.into_make_service();
        let handle = Handle::new();
        let stopping = handle.clone();
        tasks.spawn(async move {
            // An error means that the bridge was dropped.
            let _ = stopped.wait_for(|stopped| *stopped).await;
            stopping.graceful_shutdown(Some(Duration::from_secs(5)));
        });
        let tls = match &config.tls {
            Some((certificate, key)) => {
                let tls = RustlsConfig::from_pem_chain_file(certificate, key).await.map_err(failed)?;
                let mut config = ServerConfig::clone(&tls.get_inner());
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                tls.reload_from_config(Arc::new(config));
                Some(tls)
            }
            None => None,
        };
        tracing::info!(%address, tls = tls.is_some(), "/rest is served");
        tasks.spawn(async move {
            let served = match tls {
                Some(tls) => match axum_server::from_tcp_rustls(listener, tls) {
                    Ok(server) => bounded(server).handle(handle).serve(router).await,
                    Err(error) => Err(error),
                },
                None => match axum_server::from_tcp(listener) {
                    Ok(server) => bounded(server).handle(handle).serve(router).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = served {
                tracing::error!(%error, "the server of /rest failed");
            }
        });
        Ok(address)
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), RestError> {
        let authorization = headers.get(header::AUTHORIZATION).ok_or(RestError::NoCredential)?;
        let token = authorization.to_str().ok().and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or(RestError::NoCredential)?;
        let digest: [u8; 32] = Sha256::digest(token.trim()).into();
        if digest.ct_eq(&self.token).into() { Ok(()) } else { Err(RestError::WrongCredential) }
    }

    /// Reads the body only after the token was accepted.
    async fn send(&self, request: Request) -> Result<Response, RestError> {
        let headers = request.headers();
        self.check(headers)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(XMPP) {
            return Err(RestError::MediaType);
        }
        let body =
            timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await.map_err(|_| RestError::BodyTimeout)?;
        let body = body.map_err(RestError::Body)?;
        let text = std::str::from_utf8(&body).map_err(bad_request)?;
        let stanza = Element::parse(text).map_err(bad_request)?;
        if !ns::STANZAS.contains(&stanza.namespace()) {
            return Err(unprocessable("the stanza is not in the namespace of a stanza"));
        }
        let (component, from) = self.sender(stanza.attribute("from"))?;
        let stanza = match &from {
            Some(from) => stanza.with_attribute("from", from),
            None => stanza.with_attribute("from", component.name.as_str()),
        };
        match stanza.name() {
            "message" | "presence" => {
                component.send(&stanza, self.timeout).await.map_err(RestError::NotSent)?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            "iq" => self.ask(component, stanza, text).await,
            other => Err(unprocessable(format!("<{other}/> is not a stanza"))),
        }
    }

    async fn ask(&self, component: &Component, stanza: Element, given: &str) -> Result<Response, RestError> {
        let iq = Iq::from_element(stanza).map_err(unprocessable)?;
        if matches!(iq.kind(), IqType::Result | IqType::Error) || iq.payload().is_none() {
            return Err(unprocessable("the IQ must be of type get or set, with exactly one child"));
        }
        let answer = component.ask(&iq, self.timeout).await.map_err(RestError::NotSent)?;
        // The caller gets its own id and addresses back.
        let given = Element::parse(given).ok().and_then(|given| Iq::from_element(given).ok());
        let given = given.as_ref().unwrap_or(&iq);
        let timed_out = || given.error(Condition::RemoteServerTimeout, "no answer in time");
        let answer = answer.unwrap_or_else(timed_out).with_attribute("id", given.id());
        let answer = match given.from() {
            Some(from) => answer.with_attribute("to", from),
            None => answer,
        };
        Ok(([(header::CONTENT_TYPE, XMPP)], answer.to_string()).into_response())
    }

    /// The component that sends a stanza, and the sender address if it is of that component's domain: servers let a
    /// component send only from its own domain. For the address of a server, it is the component that is a subdomain of
    /// it, or else the first one.
    fn sender(&self, from: Option<&str>) -> Result<(&Component, Option<String>), RestError> {
        let named = |name: &DomainPart| self.components.iter().find(|component| component.name == *name);
        let from = from.map(parse_jid).transpose().map_err(unprocessable)?;
        let Some(from) = from else { return Ok((&self.components[0], None)) };
        let domain = from.domain().to_owned();
        if let Some(component) = named(&domain) {
            return Ok((component, Some(from.to_string())));
        }
        let below = |component: &&Arc<Component>| {
            component.name.as_str().strip_suffix(domain.as_str()).is_some_and(|prefix| prefix.ends_with('.'))
        };
        Ok((self.components.iter().find(below).unwrap_or(&self.components[0]), None))
    }
}

async fn answer(State(rest): State<Arc<RestApi>>, request: Request) -> Response {
    let answered = rest.send(request).await;
    if let Err(refusal) = &answered {
        refusal.log();
    }
    answered.unwrap_or_else(RestError::into_response)
}

/// HTTP/1.1 only, because hyper has a header timeout for it.
fn bounded<A>(mut server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT);
    server.http1_only()
}

fn bad_request(reason: impl ToString) -> RestError {
    RestError::Stanza(StatusCode::BAD_REQUEST, reason.to_string())
}

fn unprocessable(reason: impl ToString) -> RestError {
    RestError::Stanza(StatusCode::UNPROCESSABLE_ENTITY, reason.to_string())
}

impl RestError {
    /// Logs the error if it is about the credential.
    fn log(&self) {
        let (status, reason) = match self {
            Self::NoCredential => (401, "no bearer token at /rest"),
            Self::WrongCredential => (403, "wrong bearer token at /rest"),
            _ => return,
        };
        log_refusal(pushlark_telemetry::Refusal { status, reason, caller: None, detail: None });
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        let with = |status: StatusCode, header: (HeaderName, &'static str), reason: String| {
            (status, [header], reason).into_response()
        };
        match self {
            Self::NoCredential => with(
                StatusCode::UNAUTHORIZED,
                (header::WWW_AUTHENTICATE, "Bearer"),
                "a bearer token is required".into(),
            ),
            Self::WrongCredential => (StatusCode::FORBIDDEN, "the token is not valid").into_response(),
            Self::MediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the content type must be {XMPP}")).into_response()
            }
            Self::BodyTimeout => {
                let reason = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                with(StatusCode::REQUEST_TIMEOUT, (header::CONNECTION, "close"), reason)
            }
            Self::Body(rejection) => rejection.into_response(),
            Self::Stanza(status, reason) => (status, reason).into_response(),
            Self::NotSent(error) => {
                with(StatusCode::SERVICE_UNAVAILABLE, (header::RETRY_AFTER, "5"), error.to_string())
            }
        }
    }
}
