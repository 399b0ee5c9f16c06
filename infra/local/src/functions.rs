//! The functions of the stack, built as Lambda builds them, and their routes.

use std::sync::Arc;

use aws_config::SdkConfig;
use axum::Router;
use pushlark_access::{Access, Caller};
use pushlark_http::{Answer, Init, Invocation, Media, Methods, Problem, Response, answer};
use pushlark_json::read_json;
use pushlark_settings::catalogue::{AWS_ENDPOINT_URL_SECRETS_MANAGER, WEBHOOK_SECRET};
use pushlark_settings::{Environment, SettingError};
use serde::Deserialize;
use serde_json::value::RawValue;
use worker::{ExplainError, Plugins, Worker};

use crate::function_url::route;

/// All functions.
pub struct Functions {
    access: Access,
    enable: enable::Function,
    disable: disable::Function,
    pub ingest: ingest::Function,
    pubsub: pubsub::Function,
    pub worker: Arc<Worker>,
}

impl Functions {
    /// Builds each function by its own `from_environment`. Without `WEBHOOK_SECRET` anybody may call them.
    pub async fn from_environment(
        environment: &Environment,
        aws: &SdkConfig,
        plugins: &Plugins,
        dynamodb: &aws_sdk_dynamodb::Client,
        sqs: &aws_sdk_sqs::Client,
    ) -> Result<Self, SettingError> {
        let (dynamodb, sqs) = (|| dynamodb.clone(), || sqs.clone());
        let aws = environment.with_endpoint(aws, &AWS_ENDPOINT_URL_SECRETS_MANAGER)?;
        let access = access(environment, &aws).await?;
        let worker = Worker::from_environment(environment, &aws, plugins, dynamodb(), sqs()).await?;
        let init = Init { environment: environment.clone(), aws, access };
        Ok(Self {
            enable: enable::Function::from_environment(&init, dynamodb()).await?,
            disable: disable::Function::from_environment(&init, dynamodb()).await?,
            ingest: ingest::Function::from_environment(&init, dynamodb(), sqs())?,
            pubsub: pubsub::Function::from_environment(&init, dynamodb(), sqs())?,
            worker: Arc::new(worker),
            access: init.access,
        })
    }

    /// The routes of the functions that AWS serves at Function URLs, and `/explain`.
    pub fn routes(&self) -> Router {
        let Self { access, enable, disable, ingest, pubsub, worker } = self;
        Router::new()
            .merge(route("/enable", enable.clone(), |function, event| async move { function.handle(event).await }))
            .merge(route("/disable", disable.clone(), |function, event| async move { function.handle(event).await }))
            .merge(route("/events", ingest.clone(), |function, event| async move { function.handle(event).await }))
            .merge(route("/pubsub", pubsub.clone(), |function, event| async move { function.handle(event).await }))
            .merge(route("/explain", (access.clone(), Arc::clone(worker)), |(access, worker), event| async move {
                explain(&access, &worker, event).await
            }))
    }
}

/// Invokes the worker with events to explain, as an operator can on AWS with IAM.
async fn explain(access: &Access, worker: &Worker, invocation: Invocation) -> Answer {
    #[derive(Deserialize)]
    struct Explain {
        explain: Vec<Box<RawValue>>,
    }

    answer(access, Methods::Post, invocation, async |request| {
        if request.caller != Caller::Operator {
            return Err(Problem::forbidden("the credential does not speak for all domains"));
        }
        if request.media != Media::Json {
            return Err(Problem::unsupported_media(&request.media, "application/json"));
        }
        let Explain { explain } = read_json(&request.body).map_err(Problem::bad_request)?;
        match worker.explain(&explain).await {
            Ok(explained) => Response::json(200, &explained),
            Err(ExplainError::Store(_) | ExplainError::Plugin(_)) => Err(Problem::unavailable()),
            Err(unexplained) => Err(Problem::bad_request(unexplained.to_string())),
        }
    })
    .await
}

async fn access(environment: &Environment, aws: &SdkConfig) -> Result<Access, SettingError> {
    if environment.value(&WEBHOOK_SECRET)?.is_none() {
        tracing::warn!("WEBHOOK_SECRET is not set: anybody on this machine may call");
        return Ok(Access::open());
    }
    Access::from_environment(environment, aws).await
}
