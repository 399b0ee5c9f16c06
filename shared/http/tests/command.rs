//! Admission, parsing and responses of command requests.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Mutex;

use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_access::Access;
use pushlark_http::{Answer, CommandError, Invocation, MAX_BODY_BYTES, Methods, answer, command};
use pushlark_xmpp::{Element, Enable};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const XML: &str = "application/xml";

const ENABLE: &str = "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>";

/// The event of a Function URL for an HTTP request.
fn request(method: &str, headers: Value, body: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "", "headers": headers,
        "requestContext": {"http": {"method": method, "path": "/"}}, "body": body, "isBase64Encoded": false
    })
}

fn post(content_type: &str, body: &str) -> Value {
    request("POST", json!({"content-type": content_type}), body)
}

/// Returns the answer to `payload` if each enable command returns `outcome`, and the nodes of these commands.
async fn answered(
    access: &Access,
    payload: Value,
    outcome: fn() -> Result<Value, CommandError>,
) -> (Answer, Vec<String>) {
    let nodes = Mutex::new(Vec::new());
    let invocation: Invocation = serde_json::from_str(&payload.to_string()).unwrap();
    let answer = answer(access, Methods::Post, invocation, async |request| {
        command(request, async |enable: Enable| {
            nodes.lock().unwrap().push(enable.node);
            outcome()
        })
        .await
    })
    .await;
    (answer, nodes.into_inner().unwrap())
}

async fn enabled(payload: Value) -> (LambdaFunctionUrlResponse, Vec<String>) {
    match answered(&Access::open(), payload, || Ok(json!({"status": "enabled"}))).await {
        (Answer::Http(response), nodes) => (response, nodes),
        (other, _) => panic!("{other:?}"),
    }
}

/// Returns the problem for a payload that must not execute a command.
async fn problem(payload: Value) -> Value {
    let (response, nodes) = enabled(payload).await;
    assert_eq!(nodes, [""; 0]);
    as_problem(&response)
}

fn as_problem(response: &LambdaFunctionUrlResponse) -> Value {
    assert_eq!(response.headers["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_str(response.body.as_deref().unwrap()).unwrap();
    assert_eq!(problem["status"], response.status_code);
    assert!(["type", "title", "detail"].iter().all(|field| !problem[field].as_str().unwrap().is_empty()), "{problem}");
    problem
}

fn iq(kind: &str, payload: &str) -> String {
    format!(
        "<iq xmlns='jabber:client' type='{kind}' id='x43' from='bob@example.com/phone' to='bob@example.com'>{payload}</iq>"
    )
}

fn reply(response: &LambdaFunctionUrlResponse) -> Element {
    assert_eq!(response.status_code, 200);
    Element::parse(response.body.as_deref().unwrap()).unwrap()
}

/// Returns condition, type and text of an IQ error, which must contain `payload`.
fn error(reply: &Element, payload: &str) -> (String, String, String) {
    let at = |name| reply.attribute(name).unwrap_or_default();
    assert_eq!(
        [at("type"), at("id"), at("from"), at("to")],
        ["error", "x43", "bob@example.com", "bob@example.com/phone"]
    );
    let [echo, error] = reply.children().collect::<Vec<_>>()[..] else { panic!("{reply}") };
    // The payload in the request declares its namespace itself.
    assert_eq!(*echo, Element::parse(payload).unwrap());
    let errors = "urn:ietf:params:xml:ns:xmpp-stanzas";
    let condition = error.children().next().unwrap();
    assert_eq!(condition.namespace(), errors);
    let text = error.child("text", errors).unwrap().text().into_owned();
    (condition.name().to_owned(), error.attribute("type").unwrap().to_owned(), text)
}

#[tokio::test]
async fn a_command_is_answered_in_its_own_media_type() {
    let json = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"}).to_string();
    for content_type in [JSON, "Application/JSON; charset=utf-8", " application/json ;x"] {
        let (response, nodes) = enabled(post(content_type, &json)).await;
        assert_eq!((response.status_code, nodes), (200, vec!["n".to_owned()]));
        assert_eq!(response.headers["content-type"], JSON);
        assert_eq!(response.body.as_deref(), Some(r#"{"status":"enabled"}"#));
    }
    for (content_type, same) in
        [(XML, XML), ("text/xml; charset=utf-8", "text/xml"), ("application/XMPP+xml", "application/xmpp+xml")]
    {
        let (response, nodes) = enabled(post(content_type, &iq("set", ENABLE))).await;
        assert_eq!(nodes, ["n"]);
        assert_eq!(response.headers["content-type"], same);
        let result =
            "<iq xmlns='jabber:client' type='result' from='bob@example.com' to='bob@example.com/phone' id='x43'/>";
        assert_eq!(reply(&response), Element::parse(result).unwrap());
    }
}

#[tokio::test]
async fn an_iq_get_is_not_allowed() {
    let (response, nodes) = enabled(post(XML, &iq("get", ENABLE))).await;
    let (condition, kind, _) = error(&reply(&response), ENABLE);
    assert_eq!((condition.as_str(), kind.as_str()), ("not-allowed", "cancel"));
    assert_eq!(nodes, [""; 0]);
}

#[tokio::test]
async fn an_iq_with_an_invalid_payload_is_a_bad_request() {
    for (payload, named) in [
        ("<enable xmlns='urn:xmpp:push:0' jid='push.example.com'/>", "node"),
        ("<enable xmlns='urn:xmpp:push:0' jid='@' node='n'/>", "jid"),
        ("<enable xmlns='urn:xmpp:push:1' jid='push.example.com' node='n'/>", "urn:xmpp:push:0"),
        ("<disable xmlns='urn:xmpp:push:0' jid='push.example.com'/>", "enable"),
        (
            "<enable xmlns='urn:xmpp:push:0' jid='j' node='n'><x xmlns='jabber:x:data' type='submit'/></enable>",
            "FORM_TYPE",
        ),
    ] {
        let (response, nodes) = enabled(post("text/xml", &iq("set", payload))).await;
        let (condition, kind, text) = error(&reply(&response), payload);
        assert_eq!((condition.as_str(), kind.as_str()), ("bad-request", "modify"));
        assert!(text.contains(named), "{text}");
        assert_eq!(nodes, [""; 0]);
    }
}

#[tokio::test]
async fn xml_that_is_not_an_iq_request_is_a_problem() {
    for (body, named) in [
        ("<iq type='set'><enable xmlns='urn:xmpp:push:0'/></iq>", "id"),
        ("<iq id='1'/>", "type"),
        ("<iq id='1' type='result'/>", "result"),
        ("<iq id='1' type='error'/>", "error"),
        ("<message/>", "<message/>"),
        ("<iq xmlns='urn:other' type='set' id='1'/>", "urn:other"),
        ("<iq type='set' id='1'>", "XML"),
        ("<!DOCTYPE iq><iq type='set' id='1'/>", "document type"),
        ("", "XML"),
    ] {
        let problem = problem(post(XML, body)).await;
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
    }
    let large = iq("set", &format!("<a>{}</a>", "x".repeat(256 * 1024)));
    assert_eq!(problem(post(XML, &large)).await["status"], 400);
}

#[tokio::test]
async fn json_that_is_not_a_command_is_a_problem_that_names_the_field() {
    for (body, named) in [
        (r#"{"user": "bob@example.com", "jid": "push.example.com"}"#, "node is missing"),
        (r#"{"user": "bob@example.com", "jid": "push.example.com", "node": ""}"#, "node is empty"),
        (r#"{"user": 1, "jid": "push.example.com", "node": "n"}"#, "user: "),
        (r#"{"user": "bob@example.com", "jid": "push.example.com", "node": "n", "form": {"a": 1}}"#, "form.a: "),
        (r#"{"user": "bob@example.com", "jid": "push.example.com", "node": "n"} {}"#, "trailing"),
        ("{", "EOF"),
        ("", "EOF"),
    ] {
        let problem = problem(post(JSON, body)).await;
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
    }
}

#[tokio::test]
async fn a_rejected_command_is_answered_in_its_own_media_type() {
    let json = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"}).to_string();
    let xml = iq("set", ENABLE);
    let bad: fn() -> Result<Value, CommandError> = || Err(CommandError::BadRequest("priority is wrong".into()));
    let unavailable: fn() -> Result<Value, CommandError> = || Err(CommandError::Unavailable);
    for (outcome, status, expected) in
        [(bad, 400, ("bad-request", "modify")), (unavailable, 503, ("resource-constraint", "wait"))]
    {
        let (Answer::Http(response), _) = answered(&Access::open(), post(JSON, &json), outcome).await else { panic!() };
        assert_eq!(as_problem(&response)["status"], status);
        assert_eq!(response.headers.contains_key("retry-after"), status == 503);
        let (Answer::Http(response), _) = answered(&Access::open(), post(XML, &xml), outcome).await else { panic!() };
        let (condition, kind, text) = error(&reply(&response), ENABLE);
        assert_eq!((condition.as_str(), kind.as_str()), expected);
        assert_eq!(text.contains("priority"), status == 400);
    }
}

#[tokio::test]
async fn an_unsupported_media_type_is_refused() {
    for content_type in
        ["text/plain", "application/x-ndjson", "application/x-www-form-urlencoded", "application/jsonx", "*/*", ""]
    {
        let problem = problem(post(content_type, "{}")).await;
        assert_eq!(problem["status"], 415, "{content_type}");
        assert!(problem["detail"].as_str().unwrap().contains(XML), "{problem}");
    }
    assert_eq!(problem(request("POST", json!({}), "{}")).await["status"], 415);
}

#[tokio::test]
async fn an_unsupported_method_is_refused() {
    for method in ["GET", "PUT", "DELETE", "HEAD", "post", ""] {
        let (response, _) = enabled(request(method, json!({"content-type": JSON}), "")).await;
        assert_eq!(as_problem(&response)["status"], 405, "{method}");
        assert_eq!(response.headers["allow"], "POST, OPTIONS");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let json = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"}).to_string();
    let padded = |bytes: usize| json.clone() + &" ".repeat(bytes - json.len());
    assert_eq!(enabled(post(JSON, &padded(MAX_BODY_BYTES))).await.0.status_code, 200);
    for (body, encoded) in
        [(padded(MAX_BODY_BYTES + 1), false), (BASE64_STANDARD.encode(padded(MAX_BODY_BYTES + 1)), true)]
    {
        let mut request = post(JSON, &body);
        request["isBase64Encoded"] = encoded.into();
        let problem = problem(request).await;
        assert_eq!(problem["status"], 413);
        assert!(problem["detail"].as_str().unwrap().contains("1048577"), "{problem}");
    }
    assert_eq!(MAX_BODY_BYTES, 1024 * 1024);
}

#[tokio::test]
async fn a_body_may_be_base64() {
    let xml = iq("set", &ENABLE.replace("'n'", "'\u{17c}\u{f3}\u{142}w'"));
    let mut request = post("application/xmpp+xml", &BASE64_STANDARD.encode(&xml));
    request["isBase64Encoded"] = true.into();
    let (response, nodes) = enabled(request.clone()).await;
    assert_eq!((reply(&response).attribute("type"), nodes), (Some("result"), vec!["\u{17c}\u{f3}\u{142}w".to_owned()]));
    for wrong in ["not base64!", &BASE64_STANDARD.encode(b"<iq id='\xff' type='set'/>")] {
        request["body"] = wrong.into();
        let problem = problem(request.clone()).await;
        assert_eq!(problem["status"], 400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("base64") || detail.contains("UTF-8"), "{detail}");
    }
}

#[tokio::test]
async fn a_request_without_a_known_credential_is_refused_before_its_body_is_parsed() {
    let access = Access::of_secrets("a-secret-of-one-server, an-older-secret-of-it").unwrap();
    let json = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"}).to_string();
    for payload in [
        post(JSON, &json),
        request("POST", json!({"content-type": JSON, "authorization": "Bearer wrong"}), &json),
        request("GET", json!({}), ""),
        post("text/plain", &"x".repeat(MAX_BODY_BYTES)),
    ] {
        let (Answer::Http(response), nodes) = answered(&access, payload, || Ok(Value::Null)).await else { panic!() };
        assert_eq!(as_problem(&response)["status"], 401);
        assert!(response.headers["www-authenticate"].to_str().unwrap().contains("Bearer"));
        assert_eq!(nodes, [""; 0]);
    }
    let mut by_query = post(JSON, &json);
    by_query["queryStringParameters"] = json!({"token": "an-older-secret-of-it"});
    let by_header =
        request("POST", json!({"content-type": JSON, "authorization": "Bearer a-secret-of-one-server"}), &json);
    for payload in [by_header, by_query] {
        let (Answer::Http(response), nodes) = answered(&access, payload, || Ok(Value::Null)).await else { panic!() };
        assert_eq!((response.status_code, nodes), (200, vec!["n".to_owned()]));
    }
}

#[tokio::test]
async fn a_direct_invocation_returns_json_and_needs_no_credential() {
    let nobody = Access::of_secrets("").unwrap();
    let command = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"});
    let (Answer::Direct(answer), nodes) = answered(&nobody, command, || Ok(json!({"status": "enabled"}))).await else {
        panic!()
    };
    assert_eq!((answer.get(), nodes), (r#"{"status":"enabled"}"#, vec!["n".to_owned()]));
    for wrong in [json!({}), json!(null), json!(7), json!([]), json!({"user": "bob@example.com", "headers": {}})] {
        let (Answer::Direct(answer), nodes) = answered(&nobody, wrong, || Ok(Value::Null)).await else { panic!() };
        assert_eq!(serde_json::from_str::<Value>(answer.get()).unwrap()["status"], 400);
        assert_eq!(nodes, [""; 0]);
    }
}
