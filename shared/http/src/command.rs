//! Requests that come as JSON or as an IQ, and are answered in kind: enable and disable.

use std::time::Duration;

use pushlark_xmpp::{Condition, Element, Iq, IqType, PushRequestError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Media, Problem, Request, Response, read_json, read_text};

/// Why a command that was understood is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The request asks for what cannot be; the sender's to mend.
    #[error("{0}")]
    BadRequest(String),
    /// The credential is not good for that user.
    #[error("the credential does not speak for {0}")]
    Forbidden(String),
    /// There is already as much as there may be; something must go first.
    #[error("{0}")]
    Full(String),
    /// The domain sends more than it may; the sender may try again after this time.
    #[error("{0} sends more than it may, try again later")]
    TooMany(String, Duration),
    /// Something that is needed does not answer; the sender may try again.
    #[error("the service is not available at the moment, try again")]
    Unavailable,
}

impl Rejection {
    fn condition(&self) -> Condition {
        match self {
            Self::BadRequest(_) => Condition::BadRequest,
            Self::Forbidden(_) => Condition::Forbidden,
            Self::Full(_) => Condition::NotAllowed,
            Self::TooMany(..) | Self::Unavailable => Condition::ResourceConstraint,
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::BadRequest(_) => Self::bad_request(detail),
            Rejection::Forbidden(_) => Self::forbidden(detail),
            Rejection::Full(_) => Self::conflict(detail),
            Rejection::TooMany(_, wait) => Self::too_many_requests(detail, wait),
            Rejection::Unavailable => Self::unavailable(),
        }
    }
}

/// Reads a command of either media type, carries it out by `act`, and answers: with `act`'s answer to JSON, with an
/// empty result to an IQ.
pub async fn command<C>(
    request: Request,
    act: impl AsyncFnOnce(C) -> Result<Value, Rejection>,
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
                    return Err(Problem::bad_request("an IQ of type result or error asks for nothing"));
                }
                IqType::Get => iq.error(Condition::NotAllowed, "expected an IQ of type set"),
                IqType::Set => match C::try_from(&iq) {
                    Err(invalid) => iq.error(Condition::BadRequest, &invalid.to_string()),
                    Ok(command) => match act(command).await {
                        Ok(_) => iq.result(),
                        Err(rejection) => {
                            let detail = rejection.to_string();
                            if let Rejection::Forbidden(_) = rejection {
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
