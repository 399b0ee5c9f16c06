//! A setting that is wrong stops the start, with its name and the expected form, and without what may be a secret.

use std::io;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use axum::routing::post;
use axum::{Json, Router};
use doubles::{APNS_KEY, APNS_KEY_ID, APNS_TEAM, APNS_TOPIC, Apns, Fcm};
use local::{Options, Stack};
use pushlark_access::Access;
use pushlark_http::Init;
use pushlark_http_client::{Tls, aws_config, aws_http_client};
use pushlark_plugin::Plugins;
use pushlark_settings::{Environment, Reader, SettingError, catalogue};
use pushlark_telemetry::{Format, start, start_to};
use serde_json::{Value, json};
use tests::{Pushlark, logged};
use tokio::net::TcpListener;
use worker::Worker;

/// A setting, a value, and the message without the name.
type Case = (&'static str, &'static str, &'static str);

const EMPTY: &str = "it is nothing but white space";
const NO_URL: &str = "it is no URL such as https://push.example.com";
const NO_HOST: &str = r#""a b" is neither a domain nor a subdomain of @HOST@, such as "push.@HOST@""#;
const NO_SNS: &str =
    r#""messages" is not the ARN of an SNS topic, such as arn:aws:sns:eu-west-1:123456789012:messages"#;

/// What must hold whether the setting is used or not.
const BAD: &[Case] = &[
    ("WEBHOOK_SECRET", " ", EMPTY),
    ("WEBHOOK_SECRET", ",", "number 1 of the list is empty"),
    ("WEBHOOK_SECRET", "canary-secret-key,", "number 2 of the list is empty"),
    ("WEBHOOK_SECRET", "canary-secret-key,,canary-secret-two", "number 2 of the list is empty"),
    ("WEBHOOK_SECRET", "canary", "number 1: a secret must have at least 16 bytes"),
    ("WEBHOOK_SECRET", "canary-secret-key,whsec_!!", "number 2: whsec_ must be followed by base64"),
    ("WEBHOOK_SECRET", "example.com=", "a domain has no secret, expected domain=secret"),
    ("WEBHOOK_SECRET", "file:/none/s", "the file /none/s cannot be read: No such file or directory (os error 2)"),
    ("JWT_ALGORITHM", "none", r#""none" is none of: HS256, RS256, ES256"#),
    ("JWT_ISSUER", " ", EMPTY),
    ("JWT_AUDIENCE", " ", EMPTY),
    ("JWT_KEYS", " ", EMPTY),
    ("EXTRA_CA_FILE", "/none/ca.pem", "the file /none/ca.pem cannot be read: No such file or directory (os error 2)"),
    ("EXTRA_CA_FILE", " ", EMPTY),
    ("MAX_NODES", "abc", r#""abc" is no whole number"#),
    ("MAX_NODES", "0", "0 is not between 1 and 1000"),
    ("MAX_NODES", "1001", "1001 is not between 1 and 1000"),
    ("MAX_NODES_REACHED", "panic", r#""panic" is none of: replace-oldest, refuse-newest"#),
    ("RATE_LIMIT", "-1", "-1 is not between 0 and 1000000"),
    ("RATE_LIMIT", "1,000", r#""1,000" is no whole number"#),
    ("SNS_PRESENCE_TOPIC", "messages", NO_SNS),
    ("SNS_PM_TOPIC", "messages", NO_SNS),
    ("SNS_MUC_TOPIC", "messages", NO_SNS),
    ("AWS_ENDPOINT_URL_SNS", "vpce.example", NO_URL),
    ("MUC_HOSTS", "a b", NO_HOST),
    ("MUC_HOSTS", ",", "number 1 of the list is empty"),
    ("MUC_LIGHT_HOSTS", "a b", NO_HOST),
    ("MUC_LIGHT_HOSTS", " ", EMPTY),
    ("VIRTUAL_PUBSUB_HOSTS", "a b", NO_HOST),
    ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@,,a", "number 2 of the list is empty"),
    (
        "VIRTUAL_PUBSUB_HOSTS",
        "https://a",
        r#""https://a" is neither a domain nor a subdomain of @HOST@, such as "push.@HOST@""#,
    ),
    ("PUBSUB_HOSTS", "a b", NO_HOST),
    ("PUBSUB_HOSTS", "a,", "number 2 of the list is empty"),
    ("PUBSUB_WITHOUT_OPTIONS", "a b", NO_HOST),
    ("DEDUPLICATION", "pigeons", r#""pigeons" is none of: claims, collapse"#),
    ("PLUGIN", "pigeons", r#""pigeons" is not a plugin of this worker, which has: defaults, enhanced, hints, rules"#),
    ("PLUGIN", "lambda:", "lambda: is not followed by a function's name or ARN"),
    ("PLUGIN", "lambda:a b", "lambda: is not followed by a function's name or ARN"),
    ("PLUGIN", " ", EMPTY),
    ("RULES", " ", EMPTY),
    ("RULES", "file:/none/r", "the file /none/r cannot be read: No such file or directory (os error 2)"),
    ("RULES", r#"rules = [{action = "push"}]"#, "rule 1, line 1: the action push needs a content: message or jingle"),
    ("RULES", "s3://rules", "expected s3://bucket/key"),
    ("RULES", "https://rules.s3.eu-west-1.amazonaws.com/canary", "a URL must be s3://bucket/key"),
    (
        "RULES",
        "arn:aws:s3:::rules/canary",
        "expected the ARN of a parameter, such as arn:aws:ssm:eu-west-1:123456789012:parameter/rules, or of a secret",
    ),
    ("RULES_REFRESH", "1", "1 is neither 0 nor at least 60"),
    ("RULES_REFRESH", "59", "59 is neither 0 nor at least 60"),
    ("RULES_REFRESH", "86401", "86401 is not between 0 and 86400"),
    ("AWS_ENDPOINT_URL_LAMBDA", "lambda.example", NO_URL),
    ("AWS_ENDPOINT_URL_S3", "s3.example", NO_URL),
    ("AWS_ENDPOINT_URL_SSM", "ssm.example", NO_URL),
    ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "secrets.example", NO_URL),
    ("PLUGIN_TIMEOUT_MS", "abc", r#""abc" is no whole number"#),
    ("PLUGIN_TIMEOUT_MS", "2501", "2501 is not between 100 and 2500"),
    ("PLUGIN_ON_ERROR", "stop", r#""stop" is none of: retry, defaults"#),
    ("SESSION_LIFETIME", "0", "0 is not between 1 and 31536000"),
    ("UNREAD_COUNTS", "yes", r#""yes" is none of: on, off"#),
    ("INCLUDE_BODY", "true", r#""true" is none of: on, off"#),
    ("INCLUDE_SENDER", "ON", r#""ON" is none of: on, off"#),
    ("BODY_PLACEHOLDER", " ", EMPTY),
    ("GROUP_DATA", "urgent,mentions", r#""mentions" is none of: urgent, mention"#),
    ("GROUP_DATA", "urgent,", "number 2 of the list is empty"),
    ("PUBSUB_URL", "chat.example.com", "number 1: it is no URL such as https://push.example.com"),
    ("PUBSUB_URL", "https://a/rest?token=canary,ftp://b/", "number 2: it is no URL such as https://push.example.com"),
    ("PUBSUB_URL", "example.com=", "number 1: it is no URL such as https://push.example.com"),
    ("PUBSUB_URL", "https://a/rest,", "number 2 of the list is empty"),
    ("PUBSUB_URL", "https://a/rest,https://b/rest", "number 2 is for the same domain as another one"),
    ("PUBSUB_URL", "a.b=https://a/,A.B=https://b/", "number 2 is for the same domain as another one"),
    ("PUBSUB_TOKEN", ",", "number 1 of the list is empty"),
    ("PUBSUB_TOKEN", "canary one", "number 1 has characters that a bearer token cannot have"),
    ("PUBSUB_TOKEN", "canary-1,canary-2", "number 2 is for the same domain as another one"),
    ("PUBSUB_TOKEN", "example.com=", "number 1 is a domain without a token behind it"),
    ("PUBSUB_MAX_ERRORS", "1001", "1001 is not between 0 and 1000"),
    ("PUSH_SERVICE", "pigeons:canary", "expected mongoosepush, direct or a URL such as https://push.example.com"),
    ("PUSH_SERVICE", "https://", "expected mongoosepush, direct or a URL such as https://push.example.com"),
    ("PUSH_SERVICE", "Direct", "expected mongoosepush, direct or a URL such as https://push.example.com"),
    ("PUSH_SERVICE_SECRET", "whsec_!!", "whsec_ must be followed by base64"),
    ("PUSH_SERVICE_SECRET", "canary", "a secret must have at least 16 bytes"),
    ("PUSH_SERVICE_SECRET", "file:/none/s", "the file /none/s cannot be read: No such file or directory (os error 2)"),
    ("PUSH_CREDENTIALS", "file:/none/c", "the file /none/c cannot be read: No such file or directory (os error 2)"),
    ("PUSH_CREDENTIALS", "canary", r#"expected JSON of apps such as {"default": {"fcm": {…}}}: line 1, column 1"#),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"fcm": "canary"}"#,
        r#"expected JSON of apps such as {"default": {"fcm": {…}}}: line 1, column 29"#,
    ),
    ("PUSH_CREDENTIALS", "{}", r#"it has no app; the default app is called "default""#),
    ("PUSH_CREDENTIALS", r#"{"default": "canary"}"#, r#"the app "default": it is not an object"#),
    (
        "PUSH_CREDENTIALS",
        r#"{"defualt": {"fcm": {}}}"#,
        r#"the app "defualt" has no hosts, and there is no app "default""#,
    ),
    ("PUSH_CREDENTIALS", r#"{"default": {}}"#, r#"the app "default": it has none of apns, fcm and web_push"#),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"fcm": {}}, "other": {"hosts": ["a.b"]}}"#,
        r#"the app "other": it has none of apns, fcm and web_push"#,
    ),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"fmc": {}}}"#,
        r#"the app "default": unknown field `fmc`, expected one of `hosts`, `apns`, `fcm`, `web_push`"#,
    ),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"apns": {"topics": "canary"}}}"#,
        r#"the app "default": apns: unknown field `topics`, expected one of `team_id`, `key_id`, `key`, `topic`, `url`, `dev_url`"#,
    ),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"web_push": {"keys": "canary"}}}"#,
        r#"the app "default": web_push: unknown field `keys`, expected `key` or `subject`"#,
    ),
    (
        "PUSH_CREDENTIALS",
        r#"{"default": {"hosts": ["a b"], "fcm": {}}}"#,
        r#"the app "default": hosts: "a b" is neither a domain nor a subdomain of @HOST@, such as "push.@HOST@""#,
    ),
    ("WEB_PUSH_TRUSTED_ORIGINS", "ntfy", "number 1 is not an origin such as https://push.example.com:8443"),
    (
        "WEB_PUSH_TRUSTED_ORIGINS",
        "https://a,https://b/canary",
        "number 2 is not an origin such as https://push.example.com:8443",
    ),
    ("WEB_PUSH_TRUSTED_ORIGINS", "https://a,", "number 2 of the list is empty"),
    ("DISABLE_AFTER_SUSPECTS", "0", "0 is not between 1 and 1000"),
    ("DISABLE_MAX_PERCENT", "101", "101 is not between 1 and 100"),
    ("MONGOOSEPUSH_URL", "push.example.com:8443", NO_URL),
    (
        "MONGOOSEPUSH_URL",
        "https://a/?token=canary",
        "the URL must have no query or fragment, since the path of the API is appended",
    ),
    ("MONGOOSEPUSH_API_VERSION", "v4", r#""v4" is none of: v2, v3"#),
    ("WORKERS", "1", "1 is not between 2 and 1000"),
    ("BATCH_SIZE", "0", "0 is not between 1 and 10000"),
    ("BATCH_SIZE", "11", "a batch of more than 10 messages needs a BATCHING_WINDOW"),
    ("BATCHING_WINDOW", "301", "301 is not between 0 and 300"),
    ("BATCHING_WINDOW", "7", "7 is none of: 0, 1, 2, 3, 4, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300"),
    ("WORKER_CONCURRENCY", "many", r#""many" is no whole number"#),
    ("PUBLISH_TIMEOUT_MS", "5001", "5001 is not between 100 and 5000"),
    ("TIME_TO_LIVE", "99999999999", "99999999999 is not between 60 and 1209600"),
    ("TABLE_NAME", " ", EMPTY),
];

/// Why a stack does not start.
async fn refused<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> String {
    let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
    format!("{:#}", Stack::start(options).await.unwrap_err())
}

#[tokio::test]
async fn a_bad_value_stops_the_start_whether_it_is_used_or_not() {
    // Clients' tokens, PubSub nodes and a plugin's function are off in all; without virtual hosts the push service is, too.
    for others in [&[][..], &[("VIRTUAL_PUBSUB_HOSTS", "")]] {
        for (name, value, message) in BAD {
            let refusal = refused(others.iter().copied().chain([(*name, *value)])).await;
            assert_eq!(refusal, format!("{name}: {message}"), "{value:?}");
            assert!(!refusal.contains("canary"));
        }
    }
}

#[tokio::test]
async fn what_a_choice_needs_is_named() {
    let keys = r#"{"keys": []}"#;
    let too_long = format!("# {}", "a".repeat(1_023));
    let jwt = |algorithm, issuer, audience| {
        vec![("JWT_KEYS", keys), ("JWT_ALGORITHM", algorithm), ("JWT_ISSUER", issuer), ("JWT_AUDIENCE", audience)]
    };
    for (settings, message) in [
        (
            jwt("", "i", "a"),
            "JWT_ALGORITHM must be set: The only signature algorithm that these tokens may use; needed if `JWT_KEYS` is set.",
        ),
        (
            jwt("RS256", "", "a"),
            "JWT_ISSUER must be set: The issuer (`iss`) that these tokens must have; needed if `JWT_KEYS` is set.",
        ),
        (
            jwt("RS256", "i", ""),
            "JWT_AUDIENCE must be set: The audience (`aud`) that these tokens must have; needed if `JWT_KEYS` is set.",
        ),
        (jwt("RS256", "i", "a"), "JWT_KEYS: there is no key for RS256"),
        (
            [jwt("RS256", "i", "a"), vec![("JWT_KEYS", "canary")]].concat(),
            r#"JWT_KEYS: it is not a JWK Set such as {"keys": [{"kty": "RSA", …}]}: expected a JSON object"#,
        ),
        (
            [jwt("RS256", "i", "a"), vec![("JWT_KEYS", "https://")]].concat(),
            "JWT_KEYS: it is no URL such as https://push.example.com",
        ),
        (
            vec![("PLUGIN", "rules")],
            "RULES must be set: The rules of `PLUGIN=rules`, or their place: `file:` and a path, `s3://bucket/key`, or the ARN of a parameter in Parameter Store or of a secret in Secrets Manager. An object or a file has at most 64 KiB.",
        ),
        (
            vec![("PLUGIN", "rules"), ("RULES", &too_long)],
            "RULES: the text has 1025 bytes, the limit is 1024: expected file: and a path, s3://bucket/key, or the ARN of a parameter or of a secret",
        ),
        (
            vec![("PUSH_SERVICE", "direct")],
            "PUSH_CREDENTIALS must be set: The credentials of the apps, for `PUSH_SERVICE=direct`.",
        ),
        (
            vec![("PUSH_SERVICE", "https://push.example.com/?token=canary")],
            "PUSH_SERVICE_SECRET must be set: The key that signs notifications to your own push service.",
        ),
        (
            vec![("MONGOOSEPUSH_URL", "")],
            "MONGOOSEPUSH_URL must be set: Base URL of MongoosePush (MongooseIM: `mod_push_service_mongoosepush`).",
        ),
        (
            vec![
                ("SNS_PM_TOPIC", "arn:aws:sns:eu-west-1:123456789012:messages"),
                ("SNS_MUC_TOPIC", "arn:aws:sns:eu-west-1:123456789012:messages"),
            ],
            "SNS_MUC_TOPIC: another setting has the same topic",
        ),
    ] {
        assert_eq!(refused(settings).await, message);
    }
}

/// Builds a function as its `main` does.
async fn build(function: Reader, environment: &Environment) -> Result<(), SettingError> {
    let aws = &aws_config(environment).await?;
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(aws), aws_sdk_sqs::Client::new(aws));
    let init = async || {
        let access = Access::from_environment(environment, aws).await?;
        Ok::<_, SettingError>(Init { environment: environment.clone(), aws: aws.clone(), access })
    };
    match function {
        Reader::Enable => {
            enable::Function::from_environment(&init().await?, dynamodb).await?;
        }
        Reader::Disable => {
            disable::Function::from_environment(&init().await?, dynamodb).await?;
        }
        Reader::Ingest => drop(ingest::Function::from_environment(&init().await?, dynamodb, sqs)?),
        Reader::PushNode => drop(pubsub::Function::from_environment(&init().await?, dynamodb, sqs)?),
        Reader::Worker => {
            Worker::from_environment(environment, aws, &Plugins::built_in(), dynamodb, sqs).await?;
        }
        Reader::Local => unreachable!("it is no function"),
    }
    Ok(())
}

/// Whoever reads a setting refuses one that is nothing but white space.
#[tokio::test]
async fn each_function_reads_the_settings_that_the_catalogue_gives_it() {
    let functions = [Reader::Enable, Reader::Disable, Reader::Ingest, Reader::Worker, Reader::PushNode];
    let mut wrong = Vec::new();
    for setting in catalogue::all() {
        let needed = ["TABLE_NAME", "QUEUE_URL", "DEAD_LETTER_QUEUE_URL"].map(|name| (name, "any"));
        let environment: Environment = needed.into_iter().chain([(setting.name, " ")]).collect();
        let refusal = format!("{}: {EMPTY}", setting.name);
        let is_refused = |built: Result<(), SettingError>| built.is_err_and(|error| error.to_string() == refusal);
        // Each `main` starts logging, which may succeed only once in a process.
        let is_for_logging = ["LOG_LEVEL", "STACK_NAME"].contains(&setting.name);
        let is_read_at_start = is_for_logging && is_refused(start(Format::Json, &environment));
        let mut readers = Vec::new();
        for function in functions {
            if is_refused(build(function, &environment).await) || is_read_at_start {
                readers.push(function);
            }
        }
        if setting.readers == [Reader::Local] && refused([(setting.name, " ")]).await == refusal {
            readers.push(Reader::Local);
        }
        if readers != setting.readers {
            wrong.push(format!("{}: {readers:?} read it, not {:?}", setting.name, setting.readers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_level_that_is_none_stops_the_start() {
    for (level, part) in [("verbose", "verbose"), ("infoo", "infoo"), ("info,worker=", "worker="), ("info,", "")] {
        let environment = Environment::from_iter([("LOG_LEVEL", level)]);
        let refused = start_to(io::sink, Format::Json, &environment).unwrap_err().to_string();
        let expected = "neither a level (error, warn, info, debug, trace) nor a target with one, such as worker=debug";
        assert_eq!(refused, format!("LOG_LEVEL: {part:?} is {expected}"));
    }
}

fn apple(apns: &Apns) -> Value {
    json!({"team_id": APNS_TEAM, "key_id": APNS_KEY_ID, "key": APNS_KEY, "topic": APNS_TOPIC, "url": apns.url})
}

#[tokio::test]
async fn a_bad_key_is_logged_at_the_start_and_stops_its_provider_alone() {
    const BOB: &str = "bob@example.com";
    const PHONE: &str = "63616e61727900fc13adff785122";
    let Some(lines) = logged("settings::a_bad_key_is_logged_at_the_start_and_stops_its_provider_alone") else {
        let (apns, fcm) = (Apns::start().await, Fcm::start().await);
        let mut account = fcm.service_account();
        account["private_key"] = "canary".into();
        let credentials = json!({"default": {"apns": apple(&apns), "fcm": account}}).to_string();
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let pushlark = Pushlark::with_settings(settings).await;
        println!("{}", json!({"message": "started"}));
        pushlark.enable_with(BOB, PHONE, json!({"service": "apns"})).await;
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        assert_eq!(apns.accepted(PHONE).len(), 1);
        return;
    };
    let mut at_start = lines.iter().take_while(|line| line["message"] != "started");
    let error = at_start.find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(
        (&error["message"], &error["app"], &error["provider"], &error["reason"]),
        (
            &json!("the credentials cannot be used"),
            &json!("default"),
            &json!("FCM"),
            &json!("the private key is not an RSA key in PKCS #8 as PEM")
        )
    );
}

#[tokio::test]
async fn credentials_in_secrets_manager_are_judged_when_they_are_read() {
    let Some(lines) = logged("settings::credentials_in_secrets_manager_are_judged_when_they_are_read") else {
        let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:push";
        let answer =
            json!({"ARN": arn, "SecretString": json!({"defualt": {"fcm": {"private_key": "canary"}}}).to_string()});
        let secrets = Router::new().route("/", post(async move || Json(answer.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, secrets).await });
        let credentials = Credentials::new("local", "local", None, None, "local");
        let aws = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(endpoint)
            .http_client(aws_http_client(Tls::default()))
            .build();
        let mut pushlark = Pushlark::start().await;
        pushlark.stack.environment.extend([("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", arn)]);
        let Stack { environment, dynamodb, sqs, .. } = &pushlark.stack;
        let worker = Worker::from_environment(environment, &aws, &Plugins::built_in(), dynamodb.clone(), sqs.clone())
            .await
            .unwrap();
        worker.warm_up().await;
        return;
    };
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(error["message"], "the credentials for push services cannot be used");
    assert_eq!(error["error"], r#"PUSH_CREDENTIALS: the app "defualt" has no hosts, and there is no app "default""#);
}
