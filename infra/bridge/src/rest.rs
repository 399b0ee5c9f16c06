//! `POST /rest`, as Prosody's `mod_rest` has it.

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

use crate::StartError;
use crate::component::{Component, NotSent};
use crate::settings;

const XMPP: &str = "application/xmpp+xml";
/// How long a caller may take to send the header of a request, …
const HEADER: Duration = Duration::from_secs(10);
/// … and its body.
const BODY: Duration = Duration::from_secs(30);

/// What `/rest` needs to answer.
pub struct Rest {
    /// At least one.
    components: Vec<Arc<Component>>,
    token: [u8; 32],
    timeout: Duration,
}

/// Why a request is not acted on.
enum Refusal {
    NoCredential,
    WrongCredential,
    Media,
    Slow,
    Body(BytesRejection),
    Stanza(StatusCode, String),
    NotSent(NotSent),
}

impl Rest {
    pub fn new(components: Vec<Arc<Component>>, token: [u8; 32], timeout: Duration) -> Self {
        Self { components, token, timeout }
    }

    /// Listens, and serves until it is stopped.
    pub async fn serve(
        self,
        settings: settings::Rest,
        tasks: &mut JoinSet<()>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<SocketAddr, StartError> {
        let failed = |error| StartError::Rest(settings.address, error);
        let listener = TcpListener::bind(settings.address).map_err(failed)?;
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
        let tls = match &settings.tls {
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
                tracing::error!(%error, "/rest is served no more");
            }
        });
        Ok(address)
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let authorization = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoCredential)?;
        let token = authorization.to_str().ok().and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or(Refusal::NoCredential)?;
        let digest: [u8; 32] = Sha256::digest(token.trim()).into();
        if digest.ct_eq(&self.token).into() { Ok(()) } else { Err(Refusal::WrongCredential) }
    }

    /// Reads the body only after the token is found right.
    async fn send(&self, request: Request) -> Result<Response, Refusal> {
        let headers = request.headers();
        self.check(headers)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(XMPP) {
            return Err(Refusal::Media);
        }
        let body = timeout(BODY, Bytes::from_request(request, &())).await.map_err(|_| Refusal::Slow)?;
        let body = body.map_err(Refusal::Body)?;
        let text = std::str::from_utf8(&body).map_err(bad_request)?;
        let stanza = Element::parse(text).map_err(bad_request)?;
        if !ns::STANZAS.contains(&stanza.namespace()) {
            return Err(unprocessable("the stanza is in no namespace of a stanza"));
        }
        let (component, from) = self.sender(stanza.attribute("from"))?;
        let stanza = match &from {
            Some(from) => stanza.with_attribute("from", from),
            None => stanza.with_attribute("from", component.name.as_str()),
        };
        match stanza.name() {
            "message" | "presence" => {
                component.send(&stanza, self.timeout).await.map_err(Refusal::NotSent)?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
            "iq" => self.ask(component, stanza, text).await,
            other => Err(unprocessable(format!("<{other}/> is no stanza"))),
        }
    }

    async fn ask(&self, component: &Component, stanza: Element, given: &str) -> Result<Response, Refusal> {
        let iq = Iq::from_element(stanza).map_err(unprocessable)?;
        if matches!(iq.kind(), IqType::Result | IqType::Error) || iq.payload().is_none() {
            return Err(unprocessable("the IQ must be of type get or set, with exactly one child"));
        }
        let answer = component.ask(&iq, self.timeout).await.map_err(Refusal::NotSent)?;
        // As the caller has addressed it.
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

    /// The component that a stanza goes by, and the sender, where it may say whom: servers let a component speak for its own
    /// name only. A server is spoken for by the component that is a subdomain of it, or else by the first.
    fn sender(&self, from: Option<&str>) -> Result<(&Component, Option<String>), Refusal> {
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

async fn answer(State(rest): State<Arc<Rest>>, request: Request) -> Response {
    let answered = rest.send(request).await;
    if let Err(refusal) = &answered {
        refusal.log();
    }
    answered.unwrap_or_else(Refusal::into_response)
}

/// HTTP/1.1 alone, of which hyper bounds the time for a header.
fn bounded<A>(mut server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    server.http_builder().http1().header_read_timeout(HEADER);
    server.http1_only()
}

fn bad_request(reason: impl ToString) -> Refusal {
    Refusal::Stanza(StatusCode::BAD_REQUEST, reason.to_string())
}

fn unprocessable(reason: impl ToString) -> Refusal {
    Refusal::Stanza(StatusCode::UNPROCESSABLE_ENTITY, reason.to_string())
}

impl Refusal {
    /// Logs the refusal of a credential.
    fn log(&self) {
        let (status, reason) = match self {
            Self::NoCredential => (401, "no bearer token at /rest"),
            Self::WrongCredential => (403, "another token than REST_TOKEN at /rest"),
            _ => return,
        };
        log_refusal(pushlark_telemetry::Refusal { status, reason, caller: None, detail: None });
    }
}

impl IntoResponse for Refusal {
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
            Self::Media => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the content type must be {XMPP}")).into_response()
            }
            Self::Slow => {
                let reason = format!("the body did not arrive within {} s", BODY.as_secs());
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
