//! Requests that come as JSON or as an IQ, and are answered in kind: enable and disable.

use pushlark_xmpp::{Condition, Element, InvalidRequest, Iq, IqType};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Media, Problem, Request, Response, read_json, read_text};

/// Why a command that was understood is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The request asks for what cannot be; the sender's to mend.
    #[error("{0}")]
    BadRequest(String),
    /// Something that is needed does not answer; the sender may try again.
    #[error("the service is not available at the moment, try again")]
    Unavailable,
}

/// Reads a command of either media type, carries it out by `act`, and answers: with `act`'s answer to JSON, with an
/// empty result to an IQ.
pub async fn command<C>(
    request: Request,
    act: impl AsyncFnOnce(C) -> Result<Value, Rejection>,
) -> Result<Response, Problem>
where
    C: DeserializeOwned + for<'iq> TryFrom<&'iq Iq, Error = InvalidRequest>,
{
    match request.media {
        Media::Json => {
            let command = read_json(&request.body).map_err(Problem::bad_request)?;
            match act(command).await {
                Ok(answer) => Response::json(200, &answer),
                Err(Rejection::BadRequest(detail)) => Err(Problem::bad_request(detail)),
                Err(Rejection::Unavailable) => Err(Problem::unavailable()),
            }
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
                        Err(rejection @ Rejection::BadRequest(_)) => {
                            iq.error(Condition::BadRequest, &rejection.to_string())
                        }
                        Err(rejection @ Rejection::Unavailable) => {
                            iq.error(Condition::ResourceConstraint, &rejection.to_string())
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
