//! Google's push service, by the HTTP v1 API of Firebase Cloud Messaging.

use std::time::Duration;

use aws_lc_rs::signature::RsaKeyPair;
use pushlark_plugin::{Payload, Priority, PublishOptions};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::content::{Content, is_call};
use crate::direct::{Published, Unauthorized};
use crate::fetched::Fetched;
use crate::fit::fit;
use crate::http_client::{HttpClient, failure, named, retry_after, unanswered};
use crate::jws::{BadKey, rs256, rsa_key};
use crate::notification::Notification;
use crate::outcome::{Extent, Failure, Outcome};

/// The most that a message may hold, in bytes ("About FCM messages").
const MAX_PAYLOAD: usize = 4_096;
/// The longest time to live: four weeks ("Set the lifespan of a message").
const MAX_TIME_TO_LIVE: Duration = Duration::from_hours(28 * 24);
/// How long to leave Google alone when a quota is used up and it does not say ("Scale your FCM implementation").
const QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// A token is no longer used when less than this is left of its life.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

/// The file of a service account, as Google gives it. Its other fields are passed over, since Google may add some.
#[derive(Deserialize)]
pub struct Settings {
    project_id: String,
    client_email: String,
    private_key: String,
    token_uri: String,
    /// Where messages are sent.
    #[serde(default = "google")]
    url: String,
}

fn google() -> String {
    "https://fcm.googleapis.com".into()
}

/// The client of one project.
pub struct Fcm {
    http: HttpClient,
    settings: Settings,
    key: RsaKeyPair,
    token: Fetched<Token, NoToken>,
}

/// An access token ("Using OAuth 2.0 for server to server applications").
#[derive(Clone)]
struct Token {
    bearer: String,
    good_until: Instant,
}

/// Why there is no access token.
#[derive(Debug, Clone)]
enum NoToken {
    Unauthorized(Unauthorized),
    Failed(Failure),
}

impl Fcm {
    pub fn new(settings: Settings, http: HttpClient) -> Result<Self, BadKey> {
        let key = rsa_key(&settings.private_key)?;
        Ok(Self { http, settings, key, token: Fetched::default() })
    }

    /// Sends one notification to the device that its options name.
    pub async fn publish(&self, notification: &Notification<'_>) -> Published {
        let device_id = match notification.require("device_id") {
            Ok(device_id) => device_id,
            Err(unusable) => return Ok(Outcome::Refused(unusable.to_string())),
        };
        let options = &notification.service.options;
        let ttl = notification.time_to_live().min(MAX_TIME_TO_LIVE).as_secs();
        let android = match fit(MAX_PAYLOAD, notification.payload, |payload| android(options, payload, ttl)) {
            Ok(android) => android,
            Err(too_large) => return Ok(Outcome::Refused(too_large.to_string())),
        };
        let mut body = format!("{{\"message\":{{\"token\":{},\"android\":", Value::from(device_id)).into_bytes();
        body.extend(android);
        body.extend(b"}}");
        let mut refused = None;
        loop {
            let token = match self.token(refused.as_ref()).await {
                Ok(token) => token,
                Err(NoToken::Unauthorized(unauthorized)) => return Err(unauthorized),
                Err(NoToken::Failed(failure)) => return Ok(failure.into()),
            };
            let response = match self.send(&token, &body).await {
                Ok(response) => response,
                Err(failure) => return Ok(failure.into()),
            };
            match outcome(response).await {
                // Google may take a token back before its time.
                Err(Unauthorized(_)) if refused.is_none() => refused = Some(token),
                published => return published,
            }
        }
    }

    /// Fetches a token and opens the connection to Google; whatever is answered, it stays.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        match self.token(None).await {
            Ok(_) => {}
            Err(NoToken::Unauthorized(Unauthorized(reason))) => return Err(Failure::of_service(reason)),
            Err(NoToken::Failed(failure)) => return Err(failure),
        }
        self.http.send(|client| client.get(&self.settings.url)).await.map(drop).map_err(unanswered)
    }

    async fn send(&self, token: &Token, body: &[u8]) -> Result<Response, Failure> {
        let Settings { url, project_id, .. } = &self.settings;
        let url = format!("{}/v1/projects/{project_id}/messages:send", url.trim_end_matches('/'));
        let request = |client: &reqwest::Client| {
            let request = client.post(&url).bearer_auth(&token.bearer);
            request.header(CONTENT_TYPE, "application/json").body(body.to_vec())
        };
        self.http.send(request).await.map_err(unanswered)
    }

    /// The access token, another one than `refused`.
    async fn token(&self, refused: Option<&Token>) -> Result<Token, NoToken> {
        let is_good = |token: &Token| {
            Instant::now() < token.good_until && refused.is_none_or(|refused| refused.bearer != token.bearer)
        };
        self.token.get(is_good, async || self.fetch_token().await).await
    }

    async fn fetch_token(&self) -> Result<Token, NoToken> {
        #[derive(Deserialize)]
        struct Grant {
            access_token: String,
            /// Seconds.
            expires_in: u64,
        }

        let Settings { client_email, token_uri, .. } = &self.settings;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"iss": client_email, "scope": SCOPE, "aud": token_uri, "iat": now, "exp": now + 3_600});
        let assertion = rs256(&self.key, &json!({"alg": "RS256", "typ": "JWT"}), &claims);
        let form = format!("grant_type={GRANT_TYPE}&assertion={assertion}");
        let request = |client: &reqwest::Client| {
            client.post(token_uri).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
        };
        let failed = |error| NoToken::Failed(unanswered(error));
        let response = self.http.send(request).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let reason = format!("no access token: status {}", status.as_u16());
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(NoToken::Failed(failure(reason, &headers, Extent::Service)));
        }
        if !status.is_success() {
            return Err(NoToken::Unauthorized(Unauthorized(reason)));
        }
        let Grant { access_token: bearer, expires_in } = response.json().await.map_err(failed)?;
        let life = Duration::from_secs(expires_in.min(86_400)).saturating_sub(TOKEN_MARGIN);
        Ok(Token { bearer, good_until: Instant::now() + life })
    }
}

/// The message's `android` (AndroidConfig), as MongoosePush makes it.
fn android(options: &PublishOptions, payload: &Payload, ttl: u64) -> Vec<u8> {
    let content = Content::new(options, payload);
    let mut android = Map::new();
    let priority = match options.priority() {
        _ if is_call(payload) => Some("HIGH"),
        Ok(Some(Priority::High)) => Some("HIGH"),
        Ok(Some(Priority::Normal)) => Some("NORMAL"),
        _ => None,
    };
    android.extend(priority.map(|priority| ("priority".into(), priority.into())));
    android.insert("ttl".into(), format!("{ttl}s").into());
    if let Some(alert) = &content.alert {
        let mut notification =
            Map::from_iter([("title".into(), alert.title.into()), ("body".into(), alert.body.into())]);
        let texts =
            [("tag", alert.tag), ("click_action", options.get("click_action")), ("sound", options.get("sound"))];
        for (name, text) in texts {
            notification.extend(text.map(|text| (name.into(), Value::from(text))));
        }
        android.insert("notification".into(), notification.into());
    }
    if !content.data.is_empty() {
        let data: Map<_, _> = content.data.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        android.insert("data".into(), data.into());
    }
    Value::from(android).to_string().into_bytes()
}

/// What Google answers other than success (google.rpc.Status, with FcmError and BadRequest among its details).
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(default)]
    error: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    error_code: Option<String>,
    #[serde(default)]
    field_violations: Vec<Violation>,
}

#[derive(Debug, Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

impl Status {
    /// The code of FCM ("FCM error codes"), or else that of Google at large.
    fn code(&self) -> &str {
        self.details.iter().find_map(|detail| detail.error_code.as_deref()).unwrap_or(&self.status)
    }

    /// Whether an invalid argument is the device's token.
    fn is_of_token(&self) -> bool {
        let violations: Vec<_> = self.details.iter().flat_map(|detail| &detail.field_violations).collect();
        if violations.is_empty() {
            return self.message.contains("registration token");
        }
        violations.iter().any(|violation| violation.field == "message.token")
    }
}

/// "FCM error codes" (ErrorCode).
async fn outcome(response: Response) -> Published {
    let status = response.status().as_u16();
    if status == 200 {
        return Ok(Outcome::Delivered);
    }
    let headers = response.headers().clone();
    let Problem { error } = response.json().await.unwrap_or_default();
    let described = format!("status {status}, {}", named(error.code()));
    Ok(match (status, error.code()) {
        (_, "UNREGISTERED") => Outcome::Gone(described),
        (_, "SENDER_ID_MISMATCH") => Outcome::Suspect(described),
        (400, "INVALID_ARGUMENT") if error.is_of_token() => Outcome::Suspect(described),
        // Apple's credentials, which FCM holds for its own users.
        (_, "THIRD_PARTY_AUTH_ERROR") => Outcome::Refused(described),
        (401, _) => return Err(Unauthorized(described)),
        (429, _) => quota_exceeded(described, &headers).into(),
        (500.., _) => failure(described, &headers, Extent::Service).into(),
        _ => Outcome::Refused(described),
    })
}

/// A quota is used up: the project's, or the device's.
fn quota_exceeded(reason: String, headers: &HeaderMap) -> Failure {
    Failure { reason, retry_after: retry_after(headers).or(Some(QUOTA_PAUSE)), extent: Extent::Service }
}
