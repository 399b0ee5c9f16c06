//! The place of the operator's rules (`RULES`): the setting, a file, S3, Parameter Store and Secrets Manager.

use std::fs;
use std::path::{Path, PathBuf};

use doubles::{AwsDocuments, SecretsManager};
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{BOB, Event, Pushlark, refusing_address};

/// Rules that skip all messages, by a rule of this name.
fn skip_all(name: &str) -> String {
    format!("[[rules]]\nname = \"{name}\"\naction = \"skip\"\n")
}

/// Two rules, of which the second has no content.
const WRONG: &str = "[[rules]]\naction = \"skip\"\n\n[[rules]]\nname = \"canary\"\naction = \"push\"\n";

/// A file that is deleted at the end of the test.
struct RulesFile(PathBuf);

impl RulesFile {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = std::env::temp_dir().join(format!("pushlark-rules-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn setting(&self) -> String {
        format!("file:{}", self.0.display())
    }
}

impl Drop for RulesFile {
    fn drop(&mut self) {
        fs::remove_file(Path::new(&self.0)).unwrap();
    }
}

/// Returns the explanation for a message to Bob.
async fn explained(settings: &[(&str, &str)]) -> Value {
    let pushlark = Pushlark::with_settings([("PLUGIN", "rules")].into_iter().chain(settings.iter().copied())).await;
    pushlark.explained(Event::message(BOB, "canary Hi")).await
}

/// Returns the reason why a stack with `PLUGIN=rules` does not start.
async fn refused(settings: &[(&str, &str)]) -> String {
    let environment: Environment = [("PLUGIN", "rules")].into_iter().chain(settings.iter().copied()).collect();
    let refused = Stack::start(Options { environment, ..Options::default() }).await.unwrap_err();
    let refused = format!("{refused:#}");
    assert!(!refused.contains("canary"), "{refused}");
    refused
}

#[tokio::test]
async fn rules_are_read_from_each_place() {
    let rules = skip_all("night");
    let file = RulesFile::new("each-place", &rules);
    let (aws, secrets) = (AwsDocuments::start(&rules).await, SecretsManager::start(&rules).await);
    let skipped = json!({"recipient": BOB, "skipped": "rules: rule 1 \"night\""});
    for settings in [
        &[("RULES", &*rules)][..],
        &[("RULES", &file.setting())],
        &[("RULES", AwsDocuments::S3_URL), ("AWS_ENDPOINT_URL_S3", &aws.url)],
        &[("RULES", AwsDocuments::PARAMETER), ("AWS_ENDPOINT_URL_SSM", &aws.url)],
        &[("RULES", SecretsManager::ARN), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets.url)],
    ] {
        assert_eq!(explained(settings).await, skipped, "{settings:?}");
    }
}

#[tokio::test]
async fn rules_that_are_not_valid_stop_the_start_and_the_error_names_the_rule_and_the_line() {
    let file = RulesFile::new("not-valid", WRONG);
    let (aws, secrets) = (AwsDocuments::start(WRONG).await, SecretsManager::start(WRONG).await);
    for settings in [
        &[("RULES", WRONG)][..],
        &[("RULES", &file.setting())],
        &[("RULES", AwsDocuments::S3_URL), ("AWS_ENDPOINT_URL_S3", &aws.url)],
        &[("RULES", AwsDocuments::PARAMETER), ("AWS_ENDPOINT_URL_SSM", &aws.url)],
        &[("RULES", SecretsManager::ARN), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets.url)],
    ] {
        let refused = refused(settings).await;
        assert!(
            refused.starts_with("RULES: ") && refused.contains("rule 2") && refused.contains("line 4"),
            "{refused}"
        );
    }
    // White space before the rules counts as lines.
    let refused = refused(&[("RULES", &format!("\n\n{WRONG}"))]).await;
    assert!(refused.contains("line 6"), "{refused}");
}

#[tokio::test]
async fn rules_that_cannot_be_read_stop_the_start() {
    let aws = AwsDocuments::start(&"# canary\n".repeat(8_000)).await;
    let (_socket, nobody) = refusing_address();
    let (none, large, no_text) = (
        "file:/none/rules.toml",
        RulesFile::new("large", "# canary\n".repeat(8_000)),
        RulesFile::new("no-text", b"canary \xff"),
    );
    let s3 = |place| [("RULES", place), ("AWS_ENDPOINT_URL_S3", &*aws.url)];
    let ssm = |place| [("RULES", place), ("AWS_ENDPOINT_URL_SSM", &*aws.url)];
    for (settings, reason) in [
        (
            &s3("s3://rules/other.toml")[..],
            "the object s3://rules/other.toml cannot be read: the server responded with 404 Not Found (NoSuchKey)",
        ),
        (
            &ssm("arn:aws:ssm:eu-west-1:000000000000:parameter/other"),
            "the parameter arn:aws:ssm:eu-west-1:000000000000:parameter/other cannot be read: the server responded with 400 Bad Request (ParameterNotFound)",
        ),
        // The double takes signatures for its own region only.
        (
            &ssm("arn:aws:ssm:us-east-1:000000000000:parameter/push/rules"),
            "the parameter arn:aws:ssm:us-east-1:000000000000:parameter/push/rules cannot be read: the server responded with 400 Bad Request (InvalidSignatureException)",
        ),
        (
            &s3(AwsDocuments::S3_URL),
            "the object s3://rules/push/all + ä.toml cannot be read: the document has more than 65536 bytes",
        ),
        (&[("RULES", none)], "the file /none/rules.toml cannot be read: No such file or directory (os error 2)"),
        (
            &[("RULES", &large.setting())],
            &format!("the file {} cannot be read: it has more than 65536 bytes", large.0.display()),
        ),
        (
            &[("RULES", &no_text.setting())],
            &format!("the file {} cannot be read: stream did not contain valid UTF-8", no_text.0.display()),
        ),
    ] {
        assert_eq!(refused(settings).await, format!("RULES: {reason}"));
    }
    let unreachable = refused(&[("RULES", AwsDocuments::S3_URL), ("AWS_ENDPOINT_URL_S3", &nobody)]).await;
    let start = "RULES: the object s3://rules/push/all + ä.toml cannot be read: the document cannot be fetched";
    assert!(unreachable.starts_with(start), "{unreachable}");
    let other = "arn:aws:secretsmanager:us-east-1:000000000000:secret:other";
    let unreachable = refused(&[("RULES", other), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &nobody)]).await;
    assert!(unreachable.starts_with(&format!("RULES: the secret {other} cannot be read")), "{unreachable}");
}

#[tokio::test]
async fn rules_in_aws_are_not_read_for_another_plugin() {
    let aws = AwsDocuments::start(WRONG).await;
    let pushlark = Pushlark::with_settings([("RULES", AwsDocuments::S3_URL), ("AWS_ENDPOINT_URL_S3", &aws.url)]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.notified("phone", 1).await;
    assert_eq!(aws.arrived(), 0);
}

#[tokio::test]
async fn rules_of_several_lines_are_not_in_the_file_with_settings_of_single_functions() {
    let rules = skip_all("night");
    let pushlark = Pushlark::with_settings([("PLUGIN", "rules"), ("RULES", rules.as_str())]).await;
    let settings = pushlark.stack.lambda_env();
    assert!(settings.contains("\nPLUGIN=rules\n") && !settings.contains("night"), "{settings}");
    let one_line = r#"rules = [{action = "skip"}]"#;
    let pushlark = Pushlark::with_settings([("PLUGIN", "rules"), ("RULES", one_line)]).await;
    assert!(pushlark.stack.lambda_env().contains(&format!("\nRULES={one_line}\n")));
}
