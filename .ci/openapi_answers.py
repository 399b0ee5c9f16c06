"""Sends each example of the document as it is, by each credential; provokes each answer that the document tells of; and
mangles the examples. An answer that is not told of is an error, and so is one that is told of and never comes.

usage: openapi_answers.py DOCUMENT STACK POOR_STACK
"""

import base64
import hashlib
import hmac
import json
import re
import sys
import time
from urllib.parse import urlencode

import jsonschema_rs
import requests
import schemathesis
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from openapi_hooks import SNS_HEADER, TOPIC, signed_by_sns, token

NAME, STACK, POOR_STACK = sys.argv[1:]
with open(NAME) as file:
    DOCUMENT = yaml.safe_load(file)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
JSON = "application/json"
SECRET = {"Authorization": "Bearer secret-of-the-operator"}
seen = set()


def resolved(thing):
    while "$ref" in thing:
        names, thing = thing["$ref"].removeprefix("#/").split("/"), DOCUMENT
        for name in names:
            thing = thing[name]
    return thing


def operations():
    for path, item in DOCUMENT["paths"].items():
        for method in item.keys() & {"get", "post", "options"}:
            yield path, method, item[method]


def ask(method, path, headers=SECRET, *, media=None, body=None, query=None, stack=STACK, of="post"):
    """Sends a request, and checks that its answer is one that is told of for an operation of the path."""
    body = json.dumps(body) if isinstance(body, (dict, list)) else body
    headers = {**headers, "Content-Type": media} if media else headers
    answer = requests.request(method, stack + path, data=body, headers=headers, params=query, timeout=30)
    try:
        SCHEMA[path][of.upper()].Case().validate_response(answer, checks=CHECKS)
    except BaseException:
        print(f"{method} {path} {headers}\n{body!r:.2000}\n{answer.status_code} {answer.headers}\n{answer.text}")
        raise
    told = DOCUMENT["paths"][path][of].get("requestBody", {}).get("content", {})
    if answer.ok and media and media not in told:
        sys.exit(f"{path} takes {media}, the document has {[*told]}")
    seen.add((path, of, str(answer.status_code), answer.headers.get("Content-Type")))
    return answer


def post(path, body, headers=SECRET, media=JSON, **more):
    return ask("POST", path, headers, media=media, body=body, **more)


def get(path, headers=SECRET, query=None, stack=STACK):
    return ask("GET", path, headers, query=query, stack=stack, of="get")


def expect(status, answer):
    if answer.status_code != status:
        sys.exit(f"{answer.request.method} {answer.url} is to be {status}: {answer.status_code} {answer.text}")


def bearer(value):
    return {"Authorization": f"Bearer {value}"}


def credential(scheme, body):
    """What tells who calls by a scheme: headers and query."""
    match scheme:
        case "basic":
            return {"Authorization": f"Basic {base64.b64encode(b'any:secret-of-the-operator').decode()}"}, {}
        case "token":
            return {}, {"token": "secret-of-the-operator"}
        case "webhookId":
            now = str(int(time.time()))
            tag = base64.b64encode(hmac.digest(b"secret-of-the-operator", b"w1.%s.%s" % (now.encode(), body), hashlib.sha256)).decode()
            return {"webhook-id": "w1", "webhook-timestamp": now, "webhook-signature": f"v1,{tag}"}, {}
        case "hubSignature":
            return {"X-Hub-Signature-256": f"sha256={hmac.digest(b'secret-of-the-operator', body, hashlib.sha256).hex()}"}, {}
        case "client":
            return bearer(token("bob@example.com")), {}
        case "sns":
            return {SNS_HEADER: "Notification"}, {}
    return SECRET, {}


def of_sns(kind):
    message = {"Type": kind, "MessageId": "m1", "TopicArn": TOPIC, "Timestamp": "2026-01-31T12:00:00.000Z"}
    message["Message"] = json.dumps({"user_id": "bob@example.com", "present": True})
    if kind != "Notification":
        message |= {"Token": "t", "SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"}
    return {"body": signed_by_sns(message), "headers": {SNS_HEADER: kind}, "media": "text/plain"}


def schemes(operation):
    return [next(iter(alternative)) for alternative in operation.get("security", DOCUMENT["security"])]


def requests_shown():
    """Each example of a request: where to, as what, and its bytes."""
    for path, method, operation in operations():
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            for example in content["examples"].values():
                body = resolved(example)["value"]
                if media == "application/x-www-form-urlencoded":
                    body = urlencode(body)
                yield path, operation, media, (body if isinstance(body, str) else json.dumps(body)).encode()


def send_examples():
    for path, operation, media, body in requests_shown():
        # SNS has a credential of its own, and nobody else has it.
        for scheme in [scheme for scheme in schemes(operation) if (scheme == "sns") == (media == "text/plain")]:
            if scheme == "sns":
                body = json.dumps(signed_by_sns(json.loads(body))).encode()
            headers, query = credential(scheme, body)
            answer = post(path, body, headers, media, query=query)
            if not answer.ok or b"<error" in answer.content:
                sys.exit(f"{path} as {media} by {scheme}: {answer.status_code} {answer.text}\n{body}")
    for path, method, operation in operations():
        for scheme in schemes(operation) if method == "get" else []:
            headers, query = credential(scheme, b"")
            shown = {parameter["name"]: parameter["example"] for parameter in operation["parameters"]}
            expect(200, get(path, headers, {**query, **shown}))
    # A request that a Function URL would make that event of.
    for event in resolved(DOCUMENT["components"]["schemas"]["FunctionUrlEvent"])["examples"]:
        body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"]
        expect(202, post("/events", body, media=event["headers"]["content-type"]))


def check_what_is_shown(thing=DOCUMENT):
    """An example must be what its schema says."""
    if isinstance(thing, dict):
        examples = thing.get("examples", [])
        if "schema" in thing and isinstance(examples, dict):
            examples, schema = [resolved(example)["value"] for example in examples.values()], thing["schema"]
        else:
            schema = {name: value for name, value in thing.items() if name != "examples"}
        for example in examples if isinstance(examples, list) else []:
            jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]}).validate(example)
    for item in thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else []:
        check_what_is_shown(item)


def check_that_all_is_told():
    """What a stack says itself that it takes must be what the document says."""
    for path, item in DOCUMENT["paths"].items():
        allowed = requests.options(STACK + path, timeout=30).headers["Allow"].split(", ")
        told = [method for method in ("GET", "POST", "OPTIONS") if method.lower() in item]
        refusal = post(path, b"x", media="application/octet-stream").json()["detail"]
        taken = re.findall(r"[a-z]+/[a-z+-]+", refusal.partition(", use ")[2])
        documented = item["post"]["requestBody"]["content"].keys() - {"text/plain"}
        if allowed != told or set(taken) != documented:
            sys.exit(f"{path}: {allowed} and {taken}, the document has {told} and {documented}")


def provoke():
    for path in DOCUMENT["paths"]:
        expect(200, ask("OPTIONS", path, {}, of="options"))
        expect(405, ask("PUT", path))
        for status, answer in [
            (401, post(path, {}, {})),
            (413, post(path, b" " * (1024 * 1024 + 1))),
            (415, post(path, b"x", media="application/octet-stream")),
            (400, post(path, b"{")),
        ]:
            expect(status, answer)
    bob = {"user": "bob@example.com", "jid": "push.example.com", "node": "n"}
    removed = {"type": "user_removed", "jid": "bob@example.com"}
    eve = bearer(token("eve@example.com"))
    for status, answer in [
        (400, get("/enable")),
        (401, get("/enable", {})),
        (403, get("/enable", eve, {"user": "bob@example.com"})),
        (403, post("/enable", bob, eve)),
        (403, post("/disable", bob, eve)),
        (403, post("/events", [removed, removed], bearer("secret-of-a-domain"))),
        (403, post("/explain", {"explain": [removed]}, bearer("secret-of-a-domain"))),
        (400, post("/events", [removed] * 1001)),
        (200, post("/events", **of_sns("SubscriptionConfirmation"))),
        (200, post("/events", **of_sns("UnsubscribeConfirmation"))),
    ]:
        expect(status, answer)

    # Of the poor stack nothing answers that is needed, and nobody may have much.
    poor = {"stack": POOR_STACK}
    client = bearer(token("bob@example.com"))
    message = {"type": "message", "from": "a@b", "to": "bob@poor.example", "chat": "chat", "body": "Hi"}
    expect(200, post("/enable", {**bob, "user": "bob@poor.example"}, **poor))
    for answer in [
        get("/enable", client, **poor),
        post("/enable", bob, client, **poor),
        post("/disable", bob, client, **poor),
        post("/events", **of_sns("Notification"), **poor),
        post("/explain", {"explain": [message]}, **poor),
    ]:
        expect(503, answer)
    for path in "/enable", "/disable", "/events":
        user = f"bob@{path[1:]}.example"
        # The minute may end in between, and with it what is counted.
        for node in range(20):
            body = {**removed, "jid": user} if path == "/events" else {**bob, "user": user, "node": f"{node}"}
            answer = post(path, body, **poor)
            if answer.status_code == 429:
                break
        expect(429, answer)


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(st.data())
def mangle(data):
    path, _, media, body = data.draw(st.sampled_from(SHOWN))
    pieces = st.binary(max_size=8) | st.sampled_from(PIECES)
    for _ in range(data.draw(st.integers(1, 3))):
        at, less = data.draw(st.integers(0, len(body))), data.draw(st.integers(0, 8))
        body = body[:at] + data.draw(pieces) + body[at + less :]
    answer = post(path, body, {SNS_HEADER: "Notification"} if media == "text/plain" else SECRET, media)
    assert answer.status_code < 500, f"{path} {media} {body}: {answer.text}"


SHOWN = [*requests_shown()]
PIECES = [
    *(b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&#0;", b"&a;", b"<![CDATA[", b"]]>", b"<a b=", b"<x:y/>", b"<?x?>"),
    *(b"[" * 40, b'{"a":' * 40, b"\\ud800", b"\\u0000", b"1e999", b"null", b"%ff", b"%", b"&&", b"\n", b"\xff", b"\0"),
]


def main():
    check_what_is_shown()
    check_that_all_is_told()
    send_examples()
    provoke()
    mangle()
    told = {
        (path, method, status, media)
        for path, method, operation in operations()
        for status, answer in operation["responses"].items()
        for media in resolved(answer).get("content", [None])
    }
    if seen != told:
        sys.exit(f"told of, and never seen: {told - seen}; seen, and not told of: {seen - told}")
    print(f"{len(SHOWN)} requests and {len(told)} answers are as they are told of")


main()
