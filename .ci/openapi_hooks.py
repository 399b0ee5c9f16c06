"""What schemathesis does not know of infra/openapi.yaml by itself: its formats, its media types, its credentials."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import time
from contextlib import suppress
from xml.sax.saxutils import escape, quoteattr

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import IgnoredAuth

SNS_HEADER = "x-amz-sns-message-type"
TOPIC = os.environ["SNS_PM_TOPIC"]
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/certificate.pem"
XMPP = ["application/xmpp+xml", "application/xml", "text/xml"]


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(user):
    """A client's token, good for a minute."""
    issuer, audience = os.environ["JWT_ISSUER"], os.environ["JWT_AUDIENCE"]
    claims = {"sub": user, "iss": issuer, "aud": audience, "exp": int(time.time()) + 60}
    parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    key = base64.urlsafe_b64decode(json.loads(os.environ["JWT_KEYS"])["k"])
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def signed_by_sns(message):
    """The message with the signature of the topic's key, which is in the folder that DATA names."""
    about = ["SubscribeURL", "Timestamp", "Token"] if "Token" in message else ["Subject", "Timestamp"]
    names = ["Message", "MessageId", *about, "TopicArn", "Type"]
    text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    sign = ["openssl", "dgst", "-sha256", "-sign", os.path.join(os.environ["DATA"], "key.pem")]
    signature = subprocess.run(sign, input=text.encode(), capture_output=True, check=True).stdout
    signature = {"Signature": base64.b64encode(signature).decode(), "SigningCertURL": CERTIFICATE_URL}
    return {**message, "SignatureVersion": "2", **signature}


def element(name, attributes, content=""):
    attributes = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items() if value is not None)
    return f"<{name}{attributes}>{content}</{name}>"


def join(*parts):
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=40)
domain = st.lists(st.text("abcXYZ019ü", min_size=1, max_size=8), min_size=1, max_size=3).map(".".join)
localpart = st.text("abcXYZ019.-_+!éßŁЖ中", min_size=1, max_size=12)
resource = st.text("abcXYZ019 /@.-éßŁЖ中", min_size=1, max_size=12).filter(lambda name: name.strip())
user = join(localpart, "@", domain)
user_session = join(user, "/", resource)
session = user_session | join(domain, "/", resource)
jid = user | domain | session


def form(fields, form_type="http://jabber.org/protocol/pubsub#publish-options", kind="submit"):
    fields = {"FORM_TYPE": form_type, **fields}
    fields = [element("field", {"var": name}, element("value", {}, escape(value))) for name, value in fields.items()]
    return element("x", {"xmlns": "jabber:x:data", "type": kind}, "".join(fields))


@st.composite
def messages(draw):
    """A message of any type, with some of what messages have."""
    namespace = draw(st.sampled_from([None, "jabber:client", "jabber:server", "jabber:component:accept"]))
    kind = draw(st.sampled_from([None, "chat", "groupchat", "normal", "headline", "error"]))
    parts = [
        element("body", {}, escape(draw(text))),
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>",
        "<no-store xmlns='urn:xmpp:hints'/>",
        element("stanza-id", {"xmlns": "urn:xmpp:sid:0", "by": draw(jid), "id": draw(text)}),
        "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/><payload>eHg=</payload></encrypted>",
    ]
    parts = "".join(draw(st.lists(st.sampled_from(parts))))
    return element("message", {"xmlns": namespace, "type": kind, "from": draw(jid), "to": draw(session)}, parts)


@st.composite
def presences(draw):
    kind = draw(st.sampled_from([None, "unavailable", "subscribe"]))
    priority = draw(st.just("") | st.integers(-128, 127).map("<priority>{}</priority>".format))
    return element("presence", {"from": draw(session), "to": draw(st.none() | jid), "type": kind}, priority)


@st.composite
def iqs(draw, *payloads, kind=st.just("set")):
    attributes = {"type": draw(kind), "from": draw(user_session), "to": draw(st.none() | domain), "id": draw(text)}
    return element("iq", attributes, draw(st.one_of(*payloads)))


extensions = [
    "<muted xmlns='tigase:push:filter:muted:0'><item jid='a@b/c'/></muted>",
    "<groupchat xmlns='tigase:push:filter:groupchat:0'><room jid='r@b' allow='mentioned' nick='Ü'/></groupchat>",
    "<ignore-unknown xmlns='tigase:push:filter:ignore-unknown:0'/>",
    "<encrypt xmlns='tigase:push:encrypt:0' alg='aes-128-gcm' max-size='2800'>AAECAwQFBgcICQoLDA0ODw==</encrypt>",
    "<encrypt xmlns='tigase:push:encrypt:0'/>",
    "<muted xmlns='tigase:push:filter:muted:1'/>",
]


@st.composite
def commands(draw, name):
    attributes = {"xmlns": "urn:xmpp:push:0", "jid": draw(st.none() | jid), "node": draw(st.none() | text)}
    options = draw(st.just("") | st.dictionaries(text, text, max_size=4).map(form))
    options += "".join(draw(st.lists(st.sampled_from(extensions), max_size=3)))
    return element(name, attributes, options if name == "enable" else "")


@st.composite
def pubsub(draw):
    node = {"node": draw(st.none() | st.sampled_from(["a", "b"]) | text)}
    summary = {"message-count": "1", "last-message-sender": draw(text), "last-message-body": draw(text)}
    notification = element("notification", {"xmlns": "urn:xmpp:push:0"}, form(summary, "urn:xmpp:push:summary", "form"))
    options = form({"service": "fcm", "device_id": draw(text)})
    models = {"pubsub#access_model": draw(text), "pubsub#publish_model": "open"}
    affiliation = draw(st.sampled_from(["publish-only", "none", "owner", "nobody"]))
    affiliation = element("affiliation", {"jid": draw(jid), "affiliation": affiliation})
    namespace, payload = draw(st.sampled_from([
        ("", element("create", node)),
        ("", element("publish", node, element("item", {}, notification)) + element("publish-options", {}, options)),
        ("#owner", element("configure", node)),
        ("#owner", element("configure", node, form(models, "http://jabber.org/protocol/pubsub#node_config"))),
        ("#owner", element("affiliations", node, affiliation)),
        ("#owner", element("delete", node)),
        ("", "<items/>"),
    ]))
    return element("pubsub", {"xmlns": f"http://jabber.org/protocol/pubsub{namespace}"}, payload)


of_mongooseim = st.fixed_dictionaries({"from_user_id": jid, "to_user_id": jid, "message": text}) | st.fixed_dictionaries(
    {"user_id": user | user_session, "present": st.booleans()}
)
event = st.one_of(
    st.fixed_dictionaries({"type": st.just("message"), "from": jid, "to": jid | st.lists(jid, min_size=1, max_size=30),
                           "chat": st.sampled_from(["chat", "groupchat", "normal"]), "body": st.text()}),
    st.fixed_dictionaries({"type": st.just("message"), "stanza": messages()}),
    st.fixed_dictionaries({"type": st.just("subscription"), "from": jid, "to": jid}),
    st.fixed_dictionaries({"type": st.just("presence"), "jid": user_session,
                           "status": st.sampled_from(["online", "offline"])}),
    st.fixed_dictionaries(
        {"type": st.just("read"), "jid": user, "conversation": jid}, optional={"message": st.text(min_size=1) | st.none()}
    ),
)
of_sns = st.fixed_dictionaries({
    "Type": st.just("Notification"), "MessageId": st.uuids().map(str), "TopicArn": st.just(TOPIC),
    "Message": of_mongooseim.map(json.dumps), "Timestamp": st.just("2026-01-31T12:00:00.000Z"),
})
disco = st.just("<query xmlns='http://jabber.org/protocol/disco#info'/>")

for name, strategy in {
    "jid": jid,
    "user-jid": user | user_session,
    "session-jid": session,
    "user-session-jid": user_session,
    "webhook-id": st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40),
    "domain": domain,
    "time-zone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    "localpart": localpart,
    "message-stanza": messages(),
    "stanza": messages() | presences(),
    "enable-iq": iqs(commands("enable")),
    "disable-iq": iqs(commands("disable")),
    "iq": iqs(disco, pubsub(), commands("enable"), commands("disable"), kind=st.sampled_from(["get", "set"])),
    "ndjson": st.lists((event | of_mongooseim).map(json.dumps) | st.just(""), max_size=20).map("\n".join),
    "base64-event": event.map(lambda event: base64.b64encode(json.dumps(event).encode()).decode()),
    "mongooseim": of_mongooseim.map(json.dumps),
    "sns": of_sns.map(json.dumps),
}.items():
    schemathesis.openapi.format(name, strategy)


# As it is, where schemathesis would put a string into an element; what is no string must at least be sent.
@schemathesis.serializer("application/x-ndjson", "text/plain", *XMPP)
def as_it_is(context, value):
    value = value if isinstance(value, (str, bytes)) else json.dumps(value)
    return value.encode() if isinstance(value, str) else value


# For the document an IQ is a text.
@schemathesis.deserializer(*XMPP)
def as_text(context, response):
    return response.content.decode()


schemathesis.serializer.alias(
    ["application/cloudevents+json", "application/cloudevents-batch+json"], "application/json"
)


@schemathesis.auth()
class Credential:
    def get(self, case, context):
        return "secret-of-the-operator"

    def set(self, case, secret, context):
        # Without a user it is the client's own registrations that are asked for.
        own = case.operation.label == "GET /enable" and "user" not in case.query
        case.headers["Authorization"] = f"Bearer {token('bob@example.com') if own else secret}"


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.media_type == "text/plain":
        case.headers[SNS_HEADER] = "Notification"
        with suppress(TypeError, ValueError):
            case.body = json.dumps(signed_by_sns(json.loads(case.body)))


@schemathesis.hook
def map_body(context, body):
    """The body with whole numbers as they are written, which to a schema are the same with a fraction of zero."""
    if isinstance(body, dict):
        return {name: map_body(context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() and abs(body) < 2**53 else body


@schemathesis.hook
def filter_case(context, case):
    if case.meta.generation.mode.is_negative:
        # No line is a document of no events, which is in order.
        return case.media_type != "application/x-ndjson" or case.body != ""
    # No schema can say that two values differ: a user's own account is no PubSub service.
    if isinstance(case.body, dict) and {"user", "jid", "node"} <= case.body.keys():
        user, jid = (str(case.body[name]).partition("/")[0].rstrip(".").lower() for name in ("user", "jid"))
        if user == jid:
            return False
    # From examples of other documents come texts that are no JSON, which no schema tells from those that are.
    documents = case.body if isinstance(case.body, list) else [case.body]
    deliveries = [document for document in documents if isinstance(document, dict) and "routing_key" in document]
    texts = [delivery.get("body") for delivery in deliveries]
    return all(text.startswith("{") and len(text) > 2 for text in texts if isinstance(text, str))


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # The credential of SNS is in the body. The header by which the scheme is known is none, whatever its value.
    return not (isinstance(failure, IgnoredAuth) and case.media_type == "text/plain")
