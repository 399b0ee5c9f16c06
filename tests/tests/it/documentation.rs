//! The snippets of README.md and docs/. Other tests of the pages: `.ci/run` runs the commands at the top of the README;
//! `tests/chat_servers` uses Lua and YAML of chat servers in their default configuration files; `.ci/template.py` compares
//! parameters of `sam` and `aws` with the template and with AWS's own models, and parses TOML, INI and YAML. No test has a
//! MongooseIM, so the commands of its page are only parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use doubles::Gateway;
use jsonwebtoken::{EncodingKey, Header};
use local::Options;
use pushlark_settings::Environment;
use pushlark_xmpp::{Element, ns};
use serde_json::{Value, json};
use tests::{BOB, Event, PushRequest, Pushlark, send};
use tokio::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "canary-secret-of-the-pages";
const JWT_KEY: &[u8] = b"canary-key-of-thirty-two-bytes--";
/// Programs that are replaced here, since they build, deploy, install, or use AWS. `.ci/template.py` checks their
/// arguments, or says that it does not; `infra/cli/src/main.rs` checks those of `pushlark`.
const STAND_INS: [&str; 10] = ["aws", "cargo", "cp", "git", "openssl", "pip", "pushlark", "sam", "sha256sum", "tar"];

/// A fenced block of a page.
#[derive(Debug)]
pub(crate) struct Snippet {
    /// The path from the root of the project.
    page: String,
    /// The line of its start.
    line: usize,
    language: String,
    pub(crate) text: String,
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut pages: Vec<_> = docs.chain([Path::new(ROOT).join("README.md")]).collect();
    pages.sort_unstable();
    pages
}

fn snippets() -> Vec<Snippet> {
    let mut snippets = Vec::new();
    for path in pages() {
        let page = path.strip_prefix(ROOT).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let mut open: Option<Snippet> = None;
        for (number, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    let (language, text) = (language.trim().to_owned(), String::new());
                    open = Some(Snippet { page: page.clone(), line: number + 1, language, text });
                }
                (Some(_), Some(_)) => snippets.extend(open.take()),
                (None, Some(snippet)) => snippet.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{page}: a code block has no end");
    }
    assert!(snippets.len() > 30, "{}", snippets.len());
    snippets
}

fn of_language(language: &str) -> Vec<Snippet> {
    let chosen: Vec<_> = snippets().into_iter().filter(|snippet| snippet.language == language).collect();
    assert!(!chosen.is_empty(), "{language}");
    chosen
}

/// Returns the snippets of a language on one page, in their order.
pub(crate) fn of_page(page: &str, language: &str) -> Vec<Snippet> {
    of_language(language).into_iter().filter(|snippet| snippet.page == page).collect()
}

#[test]
fn each_snippet_of_the_pages_has_a_test() {
    for Snippet { page, line, language, .. } in snippets() {
        let is_of_chat_server = ["docs/prosody.md", "docs/ejabberd.md"].contains(&page.as_str());
        let is_read = match language.as_str() {
            "sh" | "json" | "xml" | "rust" | "toml" | "ini" => true,
            "yaml" => is_of_chat_server || page == "docs/plugin-rust.md",
            "lua" => is_of_chat_server,
            // The output of a command, which infra/cli/tests/it/rules.rs compares.
            "text" => page == "docs/rules.md",
            // A diagram for readers.
            "mermaid" => page == "docs/architecture.md",
            _ => false,
        };
        assert!(is_read, "{page}:{line}: no test uses a snippet in {language:?}");
    }
}

/// Returns the text of all files in Rust in a folder and the folders in it.
fn rust_in(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => rust_in(&path),
        Some(extension) if extension == "rs" => fs::read_to_string(path).unwrap(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn each_test_that_the_page_about_mongooseim_names_exists() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/mongooseim.md")).unwrap();
    let (_, cases) = page.split_once("\n## Test cases\n").unwrap();
    let tests = ["tests/tests/it", "shared/rules/tests"].map(|folder| rust_in(&Path::new(ROOT).join(folder))).concat();
    let names = |cell: &str| -> Vec<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.filter(|name| name.contains('_') && !name.ends_with(".rs")).map(str::to_owned).collect()
    };
    let mut named = BTreeSet::new();
    for row in cases.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        for cell in &cells[1..] {
            named.extend(names(cell));
            if cell.starts_with("same name") {
                named.extend(names(cells[0]));
            }
        }
    }
    assert!(named.len() > 80, "{}", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Starts a stack for the commands of the pages, and returns it with the environment of the commands.
async fn stack() -> (Pushlark, BTreeMap<&'static str, String>) {
    let key = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, JWT_KEY);
    let keys = json!({"kty": "oct", "k": key, "alg": "HS256"}).to_string();
    let pushlark = Pushlark::with_settings([
        ("WEBHOOK_SECRET", SECRET),
        ("JWT_KEYS", keys.as_str()),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_ISSUER", "https://id.example.com"),
        ("JWT_AUDIENCE", "pushlark"),
    ])
    .await;
    let expiry = time::OffsetDateTime::now_utc().unix_timestamp() + 3_600;
    let claims = json!({"iss": "https://id.example.com", "aud": "pushlark", "exp": expiry, "sub": "bob@example.com"});
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(JWT_KEY)).unwrap();
    let url = pushlark.stack.url.clone();
    let environment = BTreeMap::from([
        ("SECRET", SECRET.to_owned()),
        ("JWT", token),
        ("ENABLE_URL", format!("{url}/enable")),
        ("DISABLE_URL", format!("{url}/disable")),
        ("EVENTS_URL", format!("{url}/events")),
        ("PUSH_NODE_URL", format!("{url}/pubsub")),
        ("WORKER", "pushlark-Worker".into()),
        ("ARN", "arn:aws:sns:eu-west-1:123456789012:messages".into()),
        ("KMS_KEY_ARN", "arn:aws:kms:eu-west-1:123456789012:key/1".into()),
    ]);
    (pushlark, environment)
}

/// Creates a folder with programs that only write their arguments to a file.
fn stand_ins() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pushlark-pages-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for name in STAND_INS {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>\"$(dirname \"$0\")/called\"\necho made-up\n")
            .unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// Each command and each request of a command must succeed. Commands of chat servers are only parsed.
#[tokio::test]
async fn shell_commands_of_the_pages_succeed() {
    let (pushlark, environment) = stack().await;
    let folder = stand_ins();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for Snippet { page, line, text, .. } in of_language("sh") {
        // An error answer makes `curl` fail. Nothing is written into the project, so there are no unpacked archives.
        let script = format!(
            "set -euo pipefail\ncd() {{ :; }}\n\
             curl() {{ command curl --silent --show-error --fail-with-body \"$@\"; echo; }}\n{}\nwait\n",
            text.replace("localhost:8080", pushlark.stack.url.trim_start_matches("http://"))
        );
        // The commands of the page about the migration need the databases of servers. infra/cli reads their arguments, as
        // those of all pages.
        let parsed = ["docs/prosody.md", "docs/ejabberd.md", "docs/mongooseim.md", "docs/migration.md"];
        let is_run = !parsed.contains(&page.as_str());
        let mut bash = Command::new("bash");
        if !is_run {
            bash.arg("-n");
        }
        let ran =
            bash.arg("-c").arg(script).current_dir(ROOT).envs(&environment).env("PATH", &path).output().await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{page}:{line}: {said}\n{text}");
    }
    let called = fs::read_to_string(folder.join("called")).unwrap();
    fs::remove_dir_all(folder).unwrap();
    let packages = packages();
    for call in called.lines().filter(|call| call.starts_with("cargo ")) {
        let words: Vec<_> = call.split(' ').collect();
        for pair in words.windows(2) {
            let exists = match pair {
                ["-p", package] => packages.contains(*package),
                ["--data-file", file] => Path::new(ROOT).join(file).exists(),
                ["invoke", function] => packages.contains(*function),
                _ => true,
            };
            assert!(exists, "{call}");
        }
    }
}

/// Returns the names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for group in ["functions", "shared", "infra", "tests", "examples", "."] {
        for entry in fs::read_dir(Path::new(ROOT).join(group)).unwrap() {
            let Ok(manifest) = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")) else { continue };
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default();
            names.insert(name.trim_matches('"').to_owned());
        }
    }
    names
}

#[tokio::test]
async fn events_of_the_pages_are_accepted() {
    let (pushlark, _) = stack().await;
    let mut accepted = 0;
    for Snippet { page, line, text, .. } in of_language("json") {
        if !["README.md", "docs/webhooks.md"].contains(&page.as_str()) {
            continue;
        }
        let request = pushlark.request("/events", "application/x-ndjson", text.clone()).bearer_auth(SECRET);
        let reply = send(request).await;
        assert_eq!(reply.status, 202, "{page}:{line}: {}\n{text}", reply.body);
        accepted += 1;
    }
    assert_eq!(accepted, 2);
}

#[tokio::test]
async fn the_json_of_the_page_about_push_services_is_valid() {
    let [credentials, notification]: [Value; 2] = of_page("docs/push-services.md", "json")
        .into_iter()
        .map(|snippet| serde_json::from_str(&snippet.text).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", &*credentials.to_string())];
    let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
    local::Stack::start(options).await.unwrap();

    let receiver = Gateway::webhook().await;
    let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let pushlark = Pushlark::with_settings(settings).await;
    let of_page = |name: &str| notification[name].clone();
    let text = |name: &str| notification[name].as_str().unwrap();
    let enable = PushRequest::new(text("recipient"), text("node")).at(text("jid")).form(of_page("publish_options"));
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    pushlark.event(Event::message(BOB, notification["payload"]["last-message-body"].as_str().unwrap()).id("m1")).await;
    pushlark.settled().await;
    let mut posted = receiver.requests()[0].json();
    posted["expires_at"] = of_page("expires_at");
    assert_eq!(posted, notification);
}

fn created(result: &Element) -> Option<String> {
    let create = result.child("pubsub", ns::PUBSUB)?.child("create", ns::PUBSUB)?;
    create.attribute("node").map(ToOwned::to_owned)
}

/// Each request of a page must get the answer that the page shows after it. `from` is added as a client's server does.
#[tokio::test]
async fn stanzas_of_the_pages_get_the_answers_of_the_pages() {
    const USER: &str = "bob@example.com/phone";
    let (pushlark, _) = stack().await;
    let mut answered = 0;
    // The generated node name that a page shows, and the generated name in this test.
    let mut named = None;
    for Snippet { page, line, text, .. } in of_language("xml") {
        let stanzas = Element::parse(&format!("<snippet>{text}</snippet>")).unwrap();
        let mut stanzas = stanzas.children().peekable();
        while let Some(stanza) = stanzas.next() {
            assert_eq!(stanza.name(), "iq", "{page}:{line}");
            assert!(stanza.attribute("id").is_some(), "{page}:{line}: {stanza}");
            let payload = stanza.children().next().unwrap();
            let path = match (stanza.attribute("to"), payload.name()) {
                (None, "enable") => "/enable",
                (None, "disable") => "/disable",
                _ => "/pubsub",
            };
            let request = match stanza.attribute("from") {
                Some(_) => stanza.clone(),
                // The server of a client adds it. A page about the requests to a function must show it.
                None if (page.as_str(), path) == ("docs/pubsub.md", "/pubsub") => panic!("{page}:{line}: {stanza}"),
                None => stanza.clone().with_attribute("from", USER),
            };
            let mut request = request.to_string();
            if let Some((shown, actual)) = &named {
                request = request.replace(&format!("\"{shown}\""), &format!("\"{actual}\""));
            }
            let reply = send(pushlark.request(path, "application/xmpp+xml", request).bearer_auth(SECRET)).await;
            assert_eq!(reply.status, 200, "{page}:{line}: {}", reply.body);
            let reply = Element::parse(&reply.body).unwrap();
            let is_result = |iq: &&&Element| matches!(iq.attribute("type"), Some("result" | "error"));
            let shown = stanzas.peek().filter(|next| is_result(next)).map(|next| (*next).clone());
            if shown.is_some() {
                stanzas.next();
            }
            let expected = shown.as_ref().map_or(Some("result"), |shown| shown.attribute("type"));
            assert_eq!(reply.attribute("type"), expected, "{page}:{line}: {stanza} was answered with {reply}");
            if let Some(shown) = shown {
                assert_eq!(reply.attribute("id"), shown.attribute("id"), "{page}:{line}");
                let names = |iq: &Element| iq.children().map(|child| child.name().to_owned()).collect::<Vec<_>>();
                assert_eq!(names(&reply), names(&shown), "{page}:{line}");
                if let (Some(shown), Some(actual)) = (created(&shown), created(&reply)) {
                    named = Some((shown, actual));
                }
            }
            answered += 1;
        }
    }
    assert!(answered >= 7, "{answered}");
}

#[test]
fn rust_code_of_the_pages_is_part_of_the_example_or_its_test() {
    let sources = ["examples/rooms/src/main.rs", "tests/tests/it/custom_plugins.rs"];
    let lines = |text: &str| {
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let sources: Vec<Vec<String>> =
        sources.iter().map(|path| lines(&fs::read_to_string(Path::new(ROOT).join(path)).unwrap())).collect();
    for Snippet { page, line, text, .. } in of_language("rust") {
        let text = lines(&text);
        let is_part = sources.iter().any(|source| source.windows(text.len()).any(|window| window == text));
        assert!(is_part, "{page}:{line}");
    }
}

/// Each link to a file or to a heading must have a target.
#[test]
fn links_of_the_pages_have_a_target() {
    let anchor = |heading: &str| {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect::<String>()
    };
    let headings = |page: &Path| -> BTreeSet<String> {
        let text = fs::read_to_string(page).unwrap();
        let lines = text.lines().filter(|line| line.starts_with('#'));
        lines.map(|line| anchor(line.trim_start_matches('#'))).collect()
    };
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').map_or((link, None), |(file, fragment)| (file, Some(fragment)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if let Some(fragment) = fragment.filter(|_| target.extension().is_some_and(|kind| kind == "md")) {
                assert!(headings(&target).contains(fragment), "{}: {link}", page.display());
            }
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}
