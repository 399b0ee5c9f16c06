//! The catalogue agrees with `docs/settings.md`, the README and the template.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::PathBuf;

use crate::catalogue::all;
use crate::setting::Reader::{Disable, Enable, Ingest, Local, PushNode, Worker};
use crate::{Reader, SettingEntry, Values};

const README: &str = include_str!("../../../README.md");
const TEMPLATE: &str = include_str!("../../../infra/template.yaml");

/// The functions, with their names in the template and in the documentation.
const FUNCTIONS: [(Reader, &str, &str); 5] = [
    (Enable, "Enable", "enable"),
    (Disable, "Disable", "disable"),
    (Ingest, "Ingest", "ingest"),
    (Worker, "Worker", "worker"),
    (PushNode, "PushNode", "push node"),
];

/// Parameters that are no settings of a function.
const OF_DEPLOYMENT: [&str; 9] = [
    "ClientOrigins",
    "KmsKeyArn",
    "TableArn",
    "Architecture",
    "LogRetentionDays",
    "ExtraCaLayerArn",
    "AlarmTopicArn",
    "Dashboard",
    "Tracing",
];

const INTRODUCTION: &str = "\
# Settings

Settings are environment variables of the functions, read once at the start. On AWS they are the parameters of the template,
which have the same names in CamelCase: `RateLimit` for `RATE_LIMIT`. A variable that is empty counts as not set. A bad value
stops a function at its start, also where the setting is not used; the message names the setting and the expected form.

A *secret* is given as it is, as the ARN of a secret in AWS Secrets Manager that holds it (the full ARN; preferred on AWS), or
as `file:` and a path. Secrets in Secrets Manager and in files are read again when they change.

*Host patterns* are domains, comma-separated; `push.@HOST@` is the subdomain `push` of each user's own domain. Lists take no
empty items.

*Read by* names the functions; `local` is the local stack (`cargo run -p local`). On AWS, `WORKERS`, `BATCH_SIZE` and
`BATCHING_WINDOW` configure the worker's event source mapping.

This page is generated: `UPDATE=1 cargo test --workspace --lib page` writes it from `shared/settings/src/catalogue.rs`.
";

/// `docs/settings.md`.
fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut topic = "";
    for setting in all() {
        if setting.topic != topic {
            topic = setting.topic;
            page += &format!(
                "\n## {topic}\n\n| setting | value | default | read by | purpose |\n| --- | --- | --- | --- | --- |\n"
            );
        }
        let SettingEntry { name, values, default, is_secret, readers, purpose, former, .. } = setting;
        let default = default.map_or("none".into(), |default| format!("`{default}`"));
        let secret = if is_secret { "*secret*: " } else { "" };
        let former: String = former.iter().map(|former| format!(" Former name: `{former}`.")).collect();
        let (values, readers) = (values_text(&values), by(readers));
        page += &format!("| `{name}` | {secret}{values} | {default} | {readers} | {purpose}{former} |\n");
    }
    page
}

fn values_text(values: &Values) -> String {
    let words = |words: &[String]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match values {
        Values::Text(form) => (*form).to_owned(),
        Values::Number { range, unit } => {
            format!("{} to {} {unit}", thousands(*range.start()), thousands(*range.end()))
        }
        Values::OneOf(all) => format!("one of {}", words(all)),
        Values::AnyOf(all) => format!("any of {}, comma-separated", words(all)),
    }
}

fn by(readers: &[Reader]) -> String {
    let functions = FUNCTIONS.iter().filter(|(function, ..)| readers.contains(function)).map(|(.., name)| *name);
    let names: Vec<_> = functions.chain(readers.contains(&Local).then_some("local")).collect();
    if names.len() == FUNCTIONS.len() { "all".into() } else { names.join(", ") }
}

/// A number with a comma before each three digits.
fn thousands(number: u32) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1_000), number % 1_000),
    }
}

/// The template's parameter for a setting.
fn parameter_of(setting: &SettingEntry) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_ascii_lowercase();
    setting.name.split('_').map(word).collect()
}

/// Lines of the template below a key of this depth, up to the next key that is as deep.
fn section<'t>(text: &'t str, depth: usize, key: &str) -> &'t str {
    let indent = " ".repeat(depth);
    let start = format!("{indent}{key}:\n");
    let section = text.strip_prefix(&start).or_else(|| Some(text.split_once(&format!("\n{start}"))?.1));
    let section = section.unwrap_or_else(|| panic!("the template has no {key}"));
    let is_end = |line: &str| !line.trim().is_empty() && !line.starts_with(&format!("{indent} "));
    let length: usize = section.split_inclusive('\n').take_while(|line| !is_end(line)).map(str::len).sum();
    &section[..length]
}

/// The scalars of a mapping of this depth, each as it is written, without quotes.
fn scalars(text: &str, depth: usize) -> BTreeMap<&str, String> {
    let lines = text.lines().filter(|line| line.len() > depth && line[..depth].trim().is_empty());
    let lines = lines.map(|line| &line[depth..]).filter(|line| !line.starts_with([' ', '#']));
    lines.filter_map(|line| line.split_once(": ")).map(|(key, value)| (key, value.replace('"', ""))).collect()
}

fn parameters() -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let parameters = section(TEMPLATE, 0, "Parameters");
    let names = parameters.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.trim().trim_end_matches(':'));
    names.map(|name| (name, scalars(section(TEMPLATE, 2, name), 4))).collect()
}

/// The variables that the template gives to a function.
fn variables(function: &str) -> BTreeMap<&'static str, String> {
    let globals = section(section(TEMPLATE, 0, "Globals"), 6, "Variables");
    let own = section(section(section(TEMPLATE, 0, "Resources"), 2, function), 8, "Variables");
    scalars(globals, 8).into_iter().chain(scalars(own, 10)).collect()
}

#[test]
fn the_page_is_generated_from_the_catalogue() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let is_current = fs::read_to_string(&path).is_ok_and(|text| text == page());
    assert!(is_current, "docs/settings.md is stale: UPDATE=1 cargo test --workspace --lib page writes it");
}

#[test]
fn the_catalogue_is_consistent() {
    let all = all();
    let names: BTreeSet<_> = all.iter().map(|setting| setting.name).collect();
    assert_eq!(names.len(), all.len(), "two settings have one name");
    for setting in &all {
        let SettingEntry { name, values, default, readers, purpose, former, .. } = setting;
        assert!(!readers.is_empty(), "{name} is read by no function");
        assert!(purpose.ends_with('.') && !purpose.contains('|'), "{name}: {purpose}");
        assert!(former.iter().all(|former| !names.contains(former)), "{name}: a former name is in use");
        let Some(default) = default else { continue };
        let is_valid = match values {
            Values::Text(_) => !default.is_empty(),
            Values::Number { range, .. } => range.contains(&default.parse().unwrap()),
            Values::OneOf(words) | Values::AnyOf(words) => words.contains(default),
        };
        assert!(is_valid, "{name}: the default {default} is not valid");
    }
}

#[test]
fn the_readme_names_settings_that_exist_with_their_defaults() {
    let all = all();
    let (_, text) = README.split_once("\n## Settings\n").unwrap();
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let names: Vec<_> = cells[1].split(", ").map(|name| name.trim_matches('`')).collect();
        let defaults: Vec<_> = cells[2].split(", ").map(|default| default.trim_matches('`')).collect();
        assert!([1, names.len()].contains(&defaults.len()), "one default, or one for each setting: {row}");
        for (name, default) in names.iter().zip(defaults.iter().cycle()) {
            let setting = all.iter().find(|setting| setting.name == *name);
            let setting = setting.unwrap_or_else(|| panic!("the README has a setting {name}, the catalogue has not"));
            let default = Some(*default).filter(|default| !["none", "all", "set by the template"].contains(default));
            assert_eq!(setting.default.as_deref(), default, "the default of {name} in the README");
            named += 1;
        }
    }
    assert!(named >= 10, "the README shows {named} settings");
}

#[test]
fn the_template_has_a_parameter_for_each_setting_that_an_operator_gives() {
    let all: BTreeMap<_, _> = all().into_iter().map(|setting| (parameter_of(&setting), setting)).collect();
    for (name, given) in parameters() {
        let Some(setting) = all.get(name) else {
            assert!(OF_DEPLOYMENT.contains(&name), "{name} is no setting of the catalogue");
            continue;
        };
        let default = match name {
            // Only with JwtKeys is it used, and then most have this one.
            "JwtAlgorithm" => "RS256".into(),
            _ => setting.default.clone().unwrap_or_default(),
        };
        assert_eq!(given["Default"], default, "the default of {name}");
        let is_number = matches!(&setting.values, Values::Number { .. })
            || matches!(&setting.values, Values::OneOf(values) if values.iter().all(|value| value.parse::<u32>().is_ok()));
        assert_eq!(given["Type"], if is_number { "Number" } else { "String" }, "the type of {name}");
        let bounds = match &setting.values {
            Values::Number { range, .. } => Some((range.start().to_string(), range.end().to_string())),
            _ => None,
        };
        let given_bounds = given.get("MinValue").cloned().zip(given.get("MaxValue").cloned());
        assert_eq!(given_bounds, bounds, "the range of {name}");
        let allowed = match &setting.values {
            Values::OneOf(words) => Some(words.join(", ")),
            // Levels of single parts are for a console, not for a deployment.
            _ if name == "LogLevel" => Some("error, warn, info, debug, trace".into()),
            _ => None,
        };
        // The empty text of a setting without a default is not among its words.
        let given_values =
            given.get("AllowedValues").map(|list| list.trim_matches(['[', ']', '"', ',', ' ']).to_owned());
        assert_eq!(given_values, allowed, "the allowed values of {name}");
        // PushCredentials takes an ARN only.
        let is_hidden = setting.is_secret && name != "PushCredentials";
        assert_eq!(given.contains_key("NoEcho"), is_hidden, "{name} is hidden if it may hold a secret");
    }
}

#[test]
fn the_template_gives_each_function_the_settings_that_it_reads() {
    let parameters = parameters();
    for (function, id, _) in FUNCTIONS {
        let given = variables(id);
        // The SDK's own variables are set by hand where they are needed.
        let read = all().into_iter().filter(|setting| !setting.name.starts_with("AWS_"));
        let read: Vec<_> = read.filter(|setting| setting.readers.contains(&function)).collect();
        let names: BTreeSet<_> = read.iter().map(|setting| setting.name).collect();
        assert_eq!(given.keys().copied().collect::<BTreeSet<_>>(), names, "the variables of {id}");
        for setting in read {
            let parameter = parameter_of(&setting);
            if parameters.contains_key(&*parameter) {
                assert_eq!(given[setting.name], format!("!Ref {parameter}"), "{} of {id}", setting.name);
            } else {
                let is_set_by_template = setting.purpose.contains("set by the template");
                assert!(is_set_by_template, "{} has no parameter", setting.name);
            }
        }
    }
    let source = section(section(TEMPLATE, 2, "Worker"), 6, "Events");
    for setting in all().into_iter().filter(|setting| setting.readers == [Local] && !setting.name.starts_with("AWS_")) {
        let reference = format!("!Ref {}", parameter_of(&setting));
        assert!(source.contains(&reference), "the event source has no {reference}");
    }
}
