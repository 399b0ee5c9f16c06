//! The Pushlark that a command works on: a CloudFormation stack, or the local stack.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use clap::Args;
use pushlark_http_client::{HttpVersions, Tls, aws_http_client};
use pushlark_settings::catalogue::{DEAD_LETTER_QUEUE_URL, QUEUE_URL, TABLE_NAME};
use pushlark_settings::{Environment, HttpUrl, catalogue};
use pushlark_store::Store;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::WrongArguments;
use crate::output::waiting;

/// The longest wait for a connection to the local stack.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait for the local stack's own answers, which need no function.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for a function of the local stack, or for AWS with all attempts.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait for one attempt at AWS. A function starts and answers in 20 seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// The options that choose the stack.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stack")]
pub struct StackOptions {
    /// The name of the CloudFormation stack.
    #[arg(long, global = true, env = "PUSHLARK_STACK", default_value = "pushlark", value_name = "NAME")]
    pub stack: String,
    /// Use the local stack at this URL.
    #[arg(long, global = true, value_name = "URL", num_args = 0..=1, require_equals = true,
        default_missing_value = "http://127.0.0.1:8080")]
    pub local: Option<HttpUrl>,
    /// The region of the stack. Without it, that of the AWS profile or of AWS_REGION.
    #[arg(long, global = true, conflicts_with = "local")]
    pub region: Option<String>,
    /// The profile of the AWS configuration files. Without it, AWS_PROFILE or the default one.
    #[arg(long, global = true, conflicts_with = "local")]
    pub profile: Option<String>,
    /// A secret of the local stack, if it has WEBHOOK_SECRET. On AWS the functions are invoked with IAM.
    #[arg(long, global = true, env = "PUSHLARK_SECRET", hide_env_values = true)]
    pub secret: Option<String>,
}

/// A function that does not do what a request asks for.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The text is the function's own.
    #[error("{0}")]
    Request(String),
    /// The local stack has another secret, or one was not given.
    #[error("{0}: give the secret in --secret or PUSHLARK_SECRET")]
    Secret(String),
}

/// A function of Pushlark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    Enable,
    Disable,
    Ingest,
    PushNode,
    Worker,
}

/// A stack that was found.
#[derive(Debug)]
pub struct Stack {
    /// The name of the CloudFormation stack; `local` for the local stack.
    pub name: String,
    /// The configuration of AWS clients: on the local stack with credentials that no real service accepts.
    pub aws: SdkConfig,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sqs: aws_sdk_sqs::Client,
    pub table: String,
    pub queue_url: String,
    pub dead_letter_queue_url: String,
    /// The place of the functions.
    pub place: Place,
    /// The settings that were read, in the order of [`Function::ALL`].
    environments: [OnceCell<Environment>; Function::ALL.len()],
}

/// The place of the functions, of their settings and of their logs.
#[derive(Debug)]
pub enum Place {
    /// On AWS.
    Aws {
        /// The resources of the stack: physical ids by logical ids of the template.
        resources: HashMap<String, String>,
    },
    /// On this machine.
    Local {
        /// The URL of the local stack, without a slash at the end.
        url: String,
        /// The settings of all functions, without secrets, from `GET /lambda.env`.
        environment: Environment,
        http: Client,
        /// The secret for the functions.
        secret: Option<String>,
    },
}

impl Function {
    /// All functions, in the order of the template.
    pub const ALL: [Self; 5] = [Self::Enable, Self::Disable, Self::Ingest, Self::PushNode, Self::Worker];

    /// The logical id in the template.
    pub fn logical_id(self) -> &'static str {
        match self {
            Self::Enable => "Enable",
            Self::Disable => "Disable",
            Self::Ingest => "Ingest",
            Self::PushNode => "PushNode",
            Self::Worker => "Worker",
        }
    }

    /// The name of its program, which the log has.
    pub fn program(self) -> &'static str {
        match self {
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Ingest => "ingest",
            Self::PushNode => "pubsub",
            Self::Worker => "worker",
        }
    }

    /// The logical id of its log group in the template.
    pub fn log_group_id(self) -> String {
        format!("{}Logs", self.logical_id())
    }

    /// The path at the local stack, where the worker only explains.
    fn local_path(self) -> &'static str {
        match self {
            Self::Enable => "/enable",
            Self::Disable => "/disable",
            Self::Ingest => "/events",
            Self::PushNode => "/pubsub",
            Self::Worker => "/explain",
        }
    }
}

impl Stack {
    /// Finds the stack that the options choose. An error says what is not found, or who does not answer.
    pub async fn find(options: &StackOptions) -> anyhow::Result<Self> {
        waiting("looking for the stack", async {
            match &options.local {
                Some(url) => Self::find_local(url, options.secret.clone()).await,
                None => Self::find_on_aws(options).await,
            }
        })
        .await
    }

    async fn find_on_aws(options: &StackOptions) -> anyhow::Result<Self> {
        let name = &options.stack;
        let mut aws = aws_config()?;
        if let Some(region) = &options.region {
            aws = aws.region(Region::new(region.clone()));
        }
        if let Some(profile) = &options.profile {
            aws = aws.profile_name(profile);
        }
        let aws = aws.load().await;
        ensure!(aws.region().is_some(), "no region is set: give --region, or set AWS_REGION");
        let cloudformation = aws_sdk_cloudformation::Client::new(&aws);
        let described = cloudformation.describe_stacks().stack_name(name).send().await;
        let described = described.with_context(|| format!("the stack {name} cannot be described"))?;
        let stack = described.stacks().first().with_context(|| format!("there is no stack {name}"))?;
        let outputs = stack.outputs().iter();
        let outputs: HashMap<_, _> =
            outputs.filter_map(|output| Some((output.output_key()?, output.output_value()?))).collect();
        let output = |key: &str| {
            let value = outputs.get(key).map(|value| (*value).to_owned());
            value.with_context(|| format!("the stack {name} has no output {key}: is it Pushlark's?"))
        };
        let mut resources = HashMap::new();
        let mut pages = cloudformation.list_stack_resources().stack_name(name).into_paginator().items().send();
        while let Some(resource) = pages.next().await {
            let resource = resource.with_context(|| format!("the resources of the stack {name} cannot be listed"))?;
            if let (Some(logical), Some(physical)) = (resource.logical_resource_id(), resource.physical_resource_id()) {
                resources.insert(logical.to_owned(), physical.to_owned());
            }
        }
        let sqs = aws_sdk_sqs::Client::new(&aws);
        Ok(Self {
            name: name.clone(),
            table: output("TableName")?,
            queue_url: queue_url(&sqs, output("QueueName")?).await?,
            dead_letter_queue_url: queue_url(&sqs, output("DeadLetterQueueName")?).await?,
            dynamodb: aws_sdk_dynamodb::Client::new(&aws),
            sqs,
            aws,
            place: Place::Aws { resources },
            environments: Default::default(),
        })
    }

    async fn find_local(url: &HttpUrl, secret: Option<String>) -> anyhow::Result<Self> {
        let has_no_user = url.0.username().is_empty() && url.0.password().is_none();
        ensure!(has_no_user, WrongArguments("the URL of --local must have no user".into()));
        let url = url.0.as_str().trim_end_matches('/').to_owned();
        let http = tls()?.http_client(HttpVersions::Http1).connect_timeout(CONNECT_TIMEOUT).build()?;
        let answer = http.get(format!("{url}/lambda.env")).timeout(ANSWER_TIMEOUT).send().await;
        let text = match answer.and_then(Response::error_for_status) {
            Ok(answer) => answer.text().await,
            Err(error) => Err(error),
        };
        let text = text.with_context(|| format!("no local stack answers at {url}: start it, or give its URL"))?;
        let environment: Environment = text.lines().filter_map(|line| line.split_once('=')).collect();
        let setting = |name: &str| {
            let value = environment.text(name).map(str::to_owned);
            value.with_context(|| format!("{url}/lambda.env has no {name}: is it Pushlark's local stack?"))
        };
        let aws = aws_config()?
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("local", "local", None, None, "local"))
            .load()
            .await;
        let dynamodb = aws_sdk_dynamodb::config::Builder::from(&aws);
        let dynamodb = dynamodb.endpoint_url(setting("AWS_ENDPOINT_URL_DYNAMODB")?).build();
        let sqs = aws_sdk_sqs::config::Builder::from(&aws).endpoint_url(setting("AWS_ENDPOINT_URL_SQS")?).build();
        Ok(Self {
            name: "local".into(),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb),
            sqs: aws_sdk_sqs::Client::from_conf(sqs),
            table: setting(TABLE_NAME.name)?,
            queue_url: setting(QUEUE_URL.name)?,
            dead_letter_queue_url: setting(DEAD_LETTER_QUEUE_URL.name)?,
            aws,
            environments: Default::default(),
            place: Place::Local { url, environment, http, secret },
        })
    }

    /// Returns the name of the CloudFormation stack, or the URL of the local stack.
    pub fn place_name(&self) -> &str {
        match &self.place {
            Place::Aws { .. } => &self.name,
            Place::Local { url, .. } => url,
        }
    }

    /// Returns the settings of a function, which are read once. At the local stack, settings that may be secrets come from
    /// this process.
    pub async fn environment(&self, function: Function) -> anyhow::Result<Environment> {
        let environment = &self.environments[function as usize];
        let read = environment.get_or_try_init(|| self.read_environment(function));
        waiting("reading settings", read).await.cloned()
    }

    async fn read_environment(&self, function: Function) -> anyhow::Result<Environment> {
        match &self.place {
            Place::Aws { resources } => {
                let name = physical_id(resources, function)?;
                let client = aws_sdk_lambda::Client::new(&self.aws);
                let configuration = client.get_function_configuration().function_name(name).send().await;
                let configuration = configuration.with_context(|| format!("the settings of {name} cannot be read"))?;
                let variables = configuration.environment.and_then(|environment| environment.variables);
                Ok(variables.unwrap_or_default().into_iter().collect())
            }
            Place::Local { environment, .. } => {
                let mut environment = environment.clone();
                let own = Environment::of_process();
                let secrets = catalogue::all().into_iter().filter(|setting| setting.is_secret);
                environment.extend(secrets.filter_map(|setting| Some((setting.name, own.text(setting.name)?))));
                Ok(environment)
            }
        }
    }

    /// Returns the store of the table, with the settings of `enable`.
    pub async fn store(&self) -> anyhow::Result<Store> {
        let environment = self.environment(Function::Enable).await?;
        Ok(Store::from_environment(self.dynamodb.clone(), &environment)?.with_device_accounts(&environment)?)
    }

    /// Invokes a function with a JSON object, and returns its JSON answer. The error is [`Refused`] if the function
    /// answers with a problem (RFC 9457).
    pub async fn invoke(&self, function: Function, payload: &Value) -> anyhow::Result<Value> {
        waiting("asking the function", self.answer(function, payload)).await
    }

    async fn answer(&self, function: Function, payload: &Value) -> anyhow::Result<Value> {
        match &self.place {
            Place::Aws { resources } => {
                let name = physical_id(resources, function)?;
                let client = aws_sdk_lambda::Client::new(&self.aws);
                let invocation = client.invoke().function_name(name).payload(payload.to_string().into_bytes().into());
                let answer = invocation.send().await.with_context(|| format!("{name} cannot be invoked"))?;
                let text = answer.payload.map(aws_sdk_lambda::primitives::Blob::into_inner).unwrap_or_default();
                let json = serde_json::from_slice(&text).unwrap_or_default();
                match answer.function_error {
                    Some(_) => Err(anyhow!("{name} fails: {}", error_text(&json))),
                    None if is_problem(&json) => Err(Refused::Request(error_text(&json)).into()),
                    None => Ok(json),
                }
            }
            Place::Local { url, http, secret, .. } => {
                let request = http.post(format!("{url}{}", function.local_path())).json(payload);
                let mut request = request.timeout(FUNCTION_TIMEOUT);
                if let Some(secret) = secret {
                    request = request.bearer_auth(secret);
                }
                let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
                let status = answer.status();
                let json = answer.json().await.with_context(|| format!("{url} did not answer with JSON"))?;
                if status == StatusCode::UNAUTHORIZED {
                    return Err(Refused::Secret(error_text(&json)).into());
                }
                if !status.is_success() {
                    return Err(Refused::Request(error_text(&json)).into());
                }
                Ok(json)
            }
        }
    }
}

/// Starts a response of the local stack that has no end. An error names the URL.
pub async fn open_stream(request: RequestBuilder, url: &str) -> anyhow::Result<Response> {
    let answer = timeout(ANSWER_TIMEOUT, request.send()).await.with_context(|| format!("{url} does not answer"))?;
    answer.and_then(Response::error_for_status).with_context(|| format!("{url} does not answer"))
}

/// Returns the name of a function on AWS.
pub fn physical_id(resources: &HashMap<String, String>, function: Function) -> anyhow::Result<&str> {
    let id = resources.get(function.logical_id()).map(String::as_str);
    id.with_context(|| format!("the stack has no function {}", function.logical_id()))
}

/// Whether an answer is a problem (RFC 9457). A direct invocation has no status of HTTP.
fn is_problem(json: &Value) -> bool {
    json["title"].is_string() && json["status"].as_u64().is_some_and(|status| status >= 400)
}

/// The text of a function's error, or of a problem (RFC 9457).
fn error_text(json: &Value) -> String {
    let texts = ["detail", "title", "errorMessage"].into_iter().filter_map(|name| json[name].as_str());
    texts.map(str::to_owned).next().unwrap_or_else(|| json.to_string())
}

async fn queue_url(sqs: &aws_sdk_sqs::Client, name: String) -> anyhow::Result<String> {
    let found = sqs.get_queue_url().queue_name(&name).send().await;
    let found = found.with_context(|| format!("the queue {name} cannot be found"))?;
    found.queue_url.with_context(|| format!("the queue {name} has no URL"))
}

/// The configuration of AWS clients, with timeouts for requests that are accepted, but not answered.
fn aws_config() -> anyhow::Result<ConfigLoader> {
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(FUNCTION_TIMEOUT);
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(aws_http_client(tls()?));
    // It ends a request without an answer after 20 seconds, which a function that is starting may take.
    let config = config.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Ok(config.timeout_config(timeouts.build()))
}

/// The TLS configuration of this process, with `EXTRA_CA_FILE`.
fn tls() -> anyhow::Result<Tls> {
    Ok(Tls::from_environment(&Environment::of_process())?)
}
