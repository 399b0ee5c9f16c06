"""Judges what Pushlark sends by libraries of other people: a request as JSON on standard input, the verdict on output."""

import base64
import json
import sys

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks.webhooks import Webhook


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


request = json.load(sys.stdin)
if request["judge"] == "web-push":
    key = ec.derive_private_key(int.from_bytes(decoded(request["private_key"]), "big"), ec.SECP256R1())
    body = base64.b64decode(request["body"])
    sys.stdout.buffer.write(http_ece.decrypt(body, private_key=key, auth_secret=decoded(request["auth"])))
else:
    # It raises unless the signature is right and the time is now.
    print(json.dumps(Webhook(request["secret"]).verify(request["body"], request["headers"])))
