//! The settings: names, ranges and errors.

use std::process::Command;

use bridge::refuse_old_names;
use clap::{CommandFactory, Parser};
use pushlark_settings::Environment;

use crate::connected_bridge::{Arguments, settings};

#[test]
fn the_error_of_an_invalid_setting_names_it() {
    let fine = ["--components", "push.example.com=s"];
    assert!(settings(&fine).is_ok());
    let no_url = "it is no URL such as https://push.example.com";
    let no_server =
        "expected an address and port of loopback, since a component's stream is clear text, or tls://HOST:PORT";
    for (option, value, refusal) in [
        ("--server", "192.0.2.1:5347", format!("BRIDGE_SERVER: {no_server}")),
        ("--server", "localhost", format!("BRIDGE_SERVER: {no_server}")),
        ("--server", "tls://chat", "BRIDGE_SERVER: expected HOST:PORT after tls://".into()),
        ("--iq-url", "ftp://s3cret", format!("BRIDGE_IQ_URL: {no_url}")),
        ("--iq-url", " ", format!("BRIDGE_IQ_URL: {no_url}")),
        ("--messages-url", "s3cret.example.com", format!("BRIDGE_MESSAGES_URL: {no_url}")),
        ("--webhook-secret", ",", "BRIDGE_WEBHOOK_SECRET: number 1 of the list is empty".into()),
        ("--webhook-secret", "s3cret", "BRIDGE_WEBHOOK_SECRET: number 1: a secret must have at least 16 bytes".into()),
        ("--webhook-secret", "whsec_!!", "BRIDGE_WEBHOOK_SECRET: number 1: whsec_ must be followed by base64".into()),
        (
            "--webhook-secret",
            "arn:aws:secretsmanager:eu-west-1:000000000000:secret:webhook",
            "BRIDGE_WEBHOOK_SECRET: the bridge needs the secret itself, not an ARN or a file".into(),
        ),
        ("--timeout-ms", "1", "BRIDGE_TIMEOUT_MS: 1 is not between 100 and 60000".into()),
        ("--queue-bytes", "1048575", "BRIDGE_QUEUE_BYTES: 1048575 is not between 1048576 and 1073741824".into()),
        ("--queue-bytes", "1073741825", "BRIDGE_QUEUE_BYTES: 1073741825 is not between 1048576 and 1073741824".into()),
        ("--retry-seconds", "86401", "BRIDGE_RETRY_SECONDS: 86401 is not between 0 and 86400".into()),
        ("--rest-token", "fifteen bytes..", "BRIDGE_REST_TOKEN: it has 15 bytes, at least 16 are required".into()),
        ("--rest-token", " fifteen bytes.. ", "BRIDGE_REST_TOKEN: it has 15 bytes, at least 16 are required".into()),
        ("--rest-token", " ", "BRIDGE_REST_TOKEN: it has 0 bytes, at least 16 are required".into()),
        ("--listen", "5281", "BRIDGE_LISTEN: \"5281\" is not an address and port such as 127.0.0.1:5281".into()),
        ("--tls-key", "k", "BRIDGE_TLS_KEY: BRIDGE_TLS_CERTIFICATE must be set, too".into()),
        ("--tls-certificate", "c", "BRIDGE_TLS_CERTIFICATE: BRIDGE_TLS_KEY must be set, too".into()),
    ] {
        assert_eq!(settings(&[&fine[..], &[option, value]].concat()).err(), Some(refusal), "{option} {value}");
    }
    for (components, refusal) in [
        ("", "BRIDGE_COMPONENTS must be set: the components that the bridge serves, NAME=SECRET each"),
        ("push.example.com", "BRIDGE_COMPONENTS: number 1 is not NAME=SECRET"),
        ("a=s3cret,", "BRIDGE_COMPONENTS: number 2 is not NAME=SECRET"),
        ("push.example.com=", "BRIDGE_COMPONENTS: push.example.com has no secret"),
        ("a=s3cret,a=s3cret", "BRIDGE_COMPONENTS: a is listed twice"),
    ] {
        assert_eq!(settings(&["--components", components]).err().unwrap(), refusal);
    }
    let unnamed = settings(&["--components", "=s3cret"]).err().unwrap();
    assert!(
        unnamed.starts_with("BRIDGE_COMPONENTS: the name of number 1: ") && !unnamed.contains("s3cret"),
        "{unnamed}"
    );
    let served = [&fine[..], &["--rest-token", "sixteen bytes..."]].concat();
    assert!(settings(&served).is_ok());
    let everywhere = [&served[..], &["--listen", "0.0.0.0:0"]].concat();
    let refused = settings(&everywhere).err().unwrap();
    assert_eq!(refused, "BRIDGE_LISTEN: beyond loopback, BRIDGE_TLS_CERTIFICATE and BRIDGE_TLS_KEY must be set");
    assert!(settings(&[&everywhere[..], &["--tls-key", "k", "--tls-certificate", "c"]].concat()).is_ok());
}

#[test]
fn the_error_of_an_option_that_is_not_a_number_names_it() {
    for option in ["--timeout-ms", "--queue-bytes", "--retry-seconds"] {
        for (value, refusal) in [("abc", "\"abc\" is no whole number"), ("-1", "-1 is not between 0 and 4294967295")] {
            let arguments = ["pushlark-bridge", &format!("{option}={value}")].map(str::to_owned);
            let refused = Arguments::try_parse_from(arguments).err().unwrap().to_string();
            assert!(refused.contains(option) && refused.contains(refusal), "{refused}");
        }
    }
}

#[test]
fn a_secret_of_a_domain_is_read_in_the_same_way_as_by_the_functions() {
    let of = |secrets: &str| settings(&["--components", "a=b", "--webhook-secret", secrets]);
    // Fifteen bytes without the domain.
    assert!(of("example.com=fifteen bytes..").is_err());
    assert!(of("example.com=sixteen bytes..., short").is_ok());
}

/// Every option has a variable with the prefix, and the variable without the prefix is refused, except that of an option
/// that never had one.
#[test]
fn an_old_name_is_refused_unless_the_current_one_is_set() {
    let command = Arguments::command();
    let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    let variables = variables.filter(|variable| *variable != "BRIDGE_EXTRA_CA_FILE");
    let variables: Vec<_> = variables.chain(["BRIDGE_LOG_LEVEL"]).collect();
    assert_eq!(variables.len(), 13);
    for current in variables {
        let old = current.strip_prefix("BRIDGE_").unwrap();
        let refused = |variables: &[(&str, &str)], shared: &[&str]| {
            let environment = Environment::from_iter(variables.iter().copied());
            refuse_old_names(&environment, shared).err().map(|error| error.to_string())
        };
        let expected = format!("{old}: the bridge no longer reads this variable, set {current}");
        assert_eq!(refused(&[(old, "x")], &[]), Some(expected));
        for accepted in [&[(old, "")][..], &[(current, "x")], &[(old, "x"), (current, "x")]] {
            assert_eq!(refused(accepted, &[]), None, "{accepted:?}");
        }
        assert_eq!(refused(&[(old, "x")], &[old]), None);
    }
}

#[test]
fn the_program_reads_only_variables_with_the_prefix() {
    for (name, value, error) in [
        (
            "COMPONENTS",
            "push.example.com=s",
            "COMPONENTS: the bridge no longer reads this variable, set BRIDGE_COMPONENTS",
        ),
        ("BRIDGE_TIMEOUT_MS", "1", "BRIDGE_TIMEOUT_MS: 1 is not between 100 and 60000"),
        ("BRIDGE_LOG_LEVEL", "loud", "BRIDGE_LOG_LEVEL: \"loud\" is"),
        ("UNRELATED", "1", "BRIDGE_COMPONENTS must be set: "),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_pushlark-bridge"));
        let output = program.env_clear().env(name, value).output().unwrap();
        assert!(!output.status.success());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(error), "{name}={value}: {errors}");
    }
}
