"""A plugin as a Lambda function: blocks domains, notifies watches of private chats only, and shortens texts.

If an answer leaves out a callback, the default rule applies. docs/plugin-lambda.md describes the JSON.
"""

import os

BLOCKED_DOMAINS = set(os.environ.get("BLOCKED_DOMAINS", "spam.example").split(","))
LONGEST_TEXT = 100


def handler(event, context):
    return {"events": [answer(asked) for asked in event["events"]]}


def answer(event):
    if bare(event["from"]).split("@")[-1] in BLOCKED_DOMAINS:
        return {"prepare_notification": {"skip": "the sender's domain is blocked"}}
    answers = {}
    if event["chat"] != "chat" and any(is_watch(service) for service in event["services"]):
        answers["should_publish"] = without_watches(event)
    if len(event["body"] or "") > LONGEST_TEXT:
        payload = shortened(event)
        # Not in prepare_notification: that would disable the default rules, such as the one for carbons.
        indexes = range(len(event["services"]))
        answers["publish_notification"] = [{"service": index, "payload": payload} for index in indexes]
    return answers


def without_watches(event):
    # An answer to this callback replaces the default rules, so they are repeated here.
    recipient = event["recipient"]
    is_active = recipient["online"] and recipient["client_state"] != "inactive"
    if event["type"] != "message" or is_active or not recipient["exists"]:
        return []
    return [index for index, service in enumerate(event["services"]) if not is_watch(service)]


def shortened(event):
    return {
        "message-count": event["unread_count"],
        "last-message-sender": event["from"] if event["chat"] == "groupchat" else bare(event["from"]),
        "last-message-body": event["body"][:LONGEST_TEXT] + "…",
    }


def is_watch(service):
    return service["options"].get("device") == "watch"


def bare(jid):
    return jid.split("/")[0]
