//! The snippets of README.md and docs/, run as they stand. What runs elsewhere: the commands at the top of the README are the
//! gate's; Lua and YAML of chat servers are pasted into the stock configuration files by `tests/chat_servers`; parameters of
//! `sam` and `aws` are compared with the template and AWS's own models, and TOML, INI and YAML are parsed, by
//! `.ci/template.py`. No test has a MongooseIM: the commands of its page are only parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use doubles::Receiver;
use jsonwebtoken::{EncodingKey, Header};
use local::Options;
use pushlark_settings::Environment;
use pushlark_xmpp::{Element, ns};
use serde_json::{Value, json};
use tests::{Pushlark, send};
use tokio::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "planted-secret-of-the-pages";
const JWT_KEY: &[u8] = b"planted-key-of-thirty-two-bytes-";
/// Programs that a test does not run as they stand, since they build, deploy or install. That they exist with these
/// arguments is checked elsewhere, or named as unchecked there.
const STAND_INS: [&str; 8] = ["aws", "cargo", "cp", "erlc", "git", "openssl", "pip", "sam"];

/// A fenced block of a page.
#[derive(Debug)]
pub(crate) struct Snippet {
    /// From the project's root.
    page: String,
    /// Where it begins.
    line: usize,
    language: String,
    pub(crate) text: String,
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|entry| entry.unwrap().path());
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
        assert!(open.is_none(), "{page}: a block is not closed");
    }
    assert!(snippets.len() > 30, "{}", snippets.len());
    snippets
}

fn of_language(language: &str) -> Vec<Snippet> {
    let chosen: Vec<_> = snippets().into_iter().filter(|snippet| snippet.language == language).collect();
    assert!(!chosen.is_empty(), "{language}");
    chosen
}

/// The snippets of a language on one page, in their order.
pub(crate) fn of_page(page: &str, language: &str) -> Vec<Snippet> {
    of_language(language).into_iter().filter(|snippet| snippet.page == page).collect()
}

#[test]
fn each_snippet_is_of_a_language_and_a_page_that_a_test_reads() {
    for Snippet { page, line, language, .. } in snippets() {
        let is_of_chat_server = ["docs/prosody.md", "docs/ejabberd.md"].contains(&page.as_str());
        let is_read = match language.as_str() {
            "sh" | "json" | "xml" | "rust" | "toml" | "ini" => true,
            "yaml" => is_of_chat_server || page == "docs/plugin-rust.md",
            "lua" => is_of_chat_server,
            // A diagram for readers.
            "mermaid" => page == "docs/architecture.md",
            _ => false,
        };
        assert!(is_read, "{page}:{line}: no test reads {language:?}");
    }
}

/// A stack that all commands of the pages may ask, with what they have in their environment.
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

/// A folder with programs that note their arguments and do nothing else.
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

/// Each command succeeds, and each request is answered with success. Commands of chat servers are read only.
#[tokio::test]
async fn commands_run_as_they_stand() {
    let (pushlark, environment) = stack().await;
    let folder = stand_ins();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for Snippet { page, line, text, .. } in of_language("sh") {
        // A request that is answered by an error fails, and nothing is written into the project.
        let script = format!(
            "set -euo pipefail\ncurl() {{ command curl --silent --show-error --fail-with-body \"$@\"; echo; }}\n{}\nwait\n",
            text.replace("localhost:8080", pushlark.stack.url.trim_start_matches("http://"))
        );
        let is_run = !["docs/prosody.md", "docs/ejabberd.md", "docs/mongooseim.md"].contains(&page.as_str());
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

/// The names of the workspace's packages.
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
async fn events_of_the_pages_are_taken() {
    let (pushlark, _) = stack().await;
    let mut taken = 0;
    for Snippet { page, line, text, .. } in of_language("json") {
        if !["README.md", "docs/webhooks.md"].contains(&page.as_str()) {
            continue;
        }
        let request = pushlark.request("/events", "application/x-ndjson", text.clone()).bearer_auth(SECRET);
        let reply = send(request).await;
        assert_eq!(reply.status, 202, "{page}:{line}: {}\n{text}", reply.body);
        taken += 1;
    }
    assert_eq!(taken, 2);
}

#[tokio::test]
async fn json_of_the_push_services_is_what_pushlark_reads_and_writes() {
    let [credentials, notification]: [Value; 2] = of_page("docs/push-services.md", "json")
        .into_iter()
        .map(|snippet| serde_json::from_str(&snippet.text).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", &*credentials.to_string())];
    let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
    local::Stack::start(options).await.unwrap();

    let receiver = Receiver::start().await;
    let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "planted-secret-key")];
    let pushlark = Pushlark::with_settings(settings).await;
    let of_page = |name: &str| notification[name].clone();
    let enable = json!({"user": of_page("recipient"), "jid": of_page("jid"), "node": of_page("node"),
        "form": of_page("publish_options")});
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    pushlark
        .event(json!({"type": "message", "id": "m1", "from": "alice@example.com/pc", "to": "bob@example.com",
            "chat": "chat", "body": notification["payload"]["last-message-body"]}))
        .await;
    pushlark.settled().await;
    let mut posted = receiver.requests()[0].json();
    posted["expires_at"] = of_page("expires_at");
    assert_eq!(posted, notification);
}

fn created(result: &Element) -> Option<String> {
    let create = result.child("pubsub", ns::PUBSUB)?.child("create", ns::PUBSUB)?;
    create.attribute("node").map(ToOwned::to_owned)
}

/// A request of a page gets the answer that the page shows after it. What a client does not write, its server adds.
#[tokio::test]
async fn stanzas_of_the_pages_are_answered_as_the_pages_show() {
    const USER: &str = "bob@example.com/phone";
    let (pushlark, _) = stack().await;
    let mut answered = 0;
    // The name that a page shows for a node that Pushlark names, and its name here.
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
                // A client leaves it to its server; a page that shows the requests of a function has it.
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
            assert_eq!(reply.attribute("type"), expected, "{page}:{line}: {stanza} is answered with {reply}");
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
fn code_of_the_page_on_plugins_is_that_of_the_example_and_of_its_test() {
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

/// A link to a file or to a heading leads somewhere.
#[test]
fn links_between_pages_lead_somewhere() {
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
