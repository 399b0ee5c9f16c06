//! Commands (enable and disable) in a JSON or IQ request, with a response of the same media type.

use std::time::Duration;

use pushlark_json::read_json;
use pushlark_store::RateLimitError;
use pushlark_telemetry::Causes;
use pushlark_xmpp::{Condition, Element, Iq, IqType, PushRequestError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Media, Problem, Request, Response, read_text};

/// The reason why a valid command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A value in the request is invalid. The caller must change the request.
    #[error("{0}")]
    BadRequest(String),
    /// The credential is for other users. The caller must send another credential.
    #[error("the credential does not speak for {0}")]
    Forbidden(String),
    /// A limit is reached. The caller must delete an item first.
    #[error("{0}")]
    Full(String),
    /// The account is over the rate limit. A retry after this time may succeed.
    #[error("{0} is over the rate limit, try again later")]
    TooMany(String, Duration),
    /// The table or another service does not respond. A later retry may succeed.
    #[error("the service is not available at the moment, try again")]
    Unavailable,
}

impl CommandError {
    /// Returns the stanza error condition of the error (RFC 6120, section 8.3.3).
    pub fn condition(&self) -> Condition {
        match self {
            Self::BadRequest(_) => Condition::BadRequest,
            Self::Forbidden(_) => Condition::Forbidden,
            Self::Full(_) => Condition::NotAllowed,
            Self::TooMany(..) | Self::Unavailable => Condition::ResourceConstraint,
        }
    }
}

impl From<RateLimitError> for CommandError {
    fn from(error: RateLimitError) -> Self {
        match error {
            RateLimitError::Exceeded { account, retry_after } => Self::TooMany(account, retry_after),
            RateLimitError::TooManyAccounts(_) => Self::BadRequest(error.to_string()),
            RateLimitError::Store(error) => {
                tracing::error!(error = %Causes(&error), "the request is not counted against the rate limit");
                Self::Unavailable
            }
        }
    }
}

impl From<CommandError> for Problem {
    fn from(rejection: CommandError) -> Self {
        let detail = rejection.to_string();
        match rejection {
            CommandError::BadRequest(_) => Self::bad_request(detail),
            CommandError::Forbidden(_) => Self::forbidden(detail),
            CommandError::Full(_) => Self::conflict(detail),
            CommandError::TooMany(_, wait) => Self::too_many_requests(detail, wait),
            CommandError::Unavailable => Self::unavailable(),
        }
    }
}

impl From<RateLimitError> for Problem {
    fn from(error: RateLimitError) -> Self {
        match error {
            RateLimitError::TooManyAccounts(_) => Self::too_many_accounts(error.to_string()),
            error => CommandError::from(error).into(),
        }
    }
}

/// Reads a command from JSON or an IQ, and executes it by `act`. The response to JSON is the value that `act` returns;
/// the response to an IQ is an empty IQ result, or an IQ error.
pub async fn command<C>(
    request: Request,
    act: impl AsyncFnOnce(C) -> Result<Value, CommandError>,
) -> Result<Response, Problem>
where
    C: DeserializeOwned + for<'iq> TryFrom<&'iq Iq, Error = PushRequestError>,
{
    match request.media {
        Media::Json => {
            let command = read_json(&request.body).map_err(Problem::bad_request)?;
            Response::json(200, &act(command).await?)
        }
        Media::Xml(media) => {
            let element = Element::parse(read_text(&request.body)?).map_err(|e| Problem::bad_request(e.to_string()))?;
            let iq = Iq::from_element(element).map_err(|error| Problem::bad_request(error.to_string()))?;
            let reply = match iq.kind() {
                IqType::Result | IqType::Error => {
                    return Err(Problem::bad_request("an IQ of type result or error is not a request"));
                }
                IqType::Get => iq.error(Condition::NotAllowed, "expected an IQ of type set"),
                IqType::Set => match C::try_from(&iq) {
                    Err(invalid) => iq.error(Condition::BadRequest, &invalid.to_string()),
                    Ok(command) => match act(command).await {
                        Ok(_) => iq.result(),
                        Err(rejection) => {
                            let detail = rejection.to_string();
                            if let CommandError::Forbidden(_) = rejection {
                                request.caller.log_refusal(&detail);
                            }
                            iq.error(rejection.condition(), &detail)
                        }
                    },
                },
            };
            Ok(Response::xml(media, reply.to_string()))
        }
        other => Err(Problem::unsupported_media(
            &other,
            "application/json, application/xml, text/xml or application/xmpp+xml",
        )),
    }
}
