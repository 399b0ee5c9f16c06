"""Uses the stack that .ci/deploy has deployed as chat servers and operators do: notifies a device, updates the stack, runs
another one beside it, deletes it, and takes its table into a new one. The working folder is the unpacked archive of a
release; the other stack is deployed from the folder BUILT, where `sam build` has built.
"""

import json
import os
import platform
import subprocess
import sys
import time
import unittest
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import boto3

SECRET, SINK = os.environ["SECRET"], os.environ["SINK"]
BASE = ["VirtualPubsubHosts=push.@HOST@", f"MongoosepushUrl={SINK}"]
OTHER_SECRET = "another-secret-of-another-stack"
BOB = "bob@example.com"


def sam(*arguments, folder="."):
    """Runs sam, which must not ask anything; gives its status and what it printed."""
    ran = subprocess.run(["sam", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, timeout=300)
    return ran.returncode, ran.stdout


def eventually(what, condition):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


class Stack:
    """A stack that is deployed, and its secret."""

    def __init__(self, name, secret):
        self.name, self.secret = name, secret
        [stack] = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        self.status = stack["StackStatus"]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def call(self, output, body=None, secret=None, media="application/json", query=""):
        """Calls a function by its URL; gives the status and the answer."""
        headers = {
            # The emulator finds the function by the host.
            "Host": urlsplit(self.outputs[output]).netloc,
            "Content-Type": media,
            "Authorization": f"Bearer {secret or self.secret}",
        }
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        request = Request(os.environ["AWS_ENDPOINT_URL"] + "/" + query, data, headers)
        try:
            with urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def enable(self, node, device):
        form = {"service": "fcm", "device_id": device}
        return self.call("EnableUrl", {"user": BOB, "jid": "push.example.com", "node": node, "form": form})

    def message(self, body):
        event = {"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": body}
        return self.call("EventsUrl", event)

    def counts(self, metric):
        """Whether the worker writes such a metric, with the stack as its only dimension."""
        events = boto3.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{self.name}-worker")["events"]
        lines = [json.loads(event["message"]) for event in events if "CloudWatchMetrics" in event["message"]]
        for line in lines:
            [directive] = line["_aws"]["CloudWatchMetrics"]
            assert (line["Stack"], directive["Dimensions"]) == (self.name, [["Stack"]]), line
        return any(metric in line for line in lines)

    def dashboard(self):
        """The metrics of the stack's dashboard, each as a list."""
        dashboard = boto3.client("cloudwatch").get_dashboard(DashboardName=self.outputs["DashboardName"])
        widgets = json.loads(dashboard["DashboardBody"])["widgets"]
        return [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]

    def enabled(self):
        status, answer = self.call("EnableUrl", query=f"?user={BOB}")
        assert status == 200, answer
        return [registration["node"] for registration in json.loads(answer)["registrations"]]


def pushlark(*arguments, code=0, lines=False):
    """Runs the operator's tool; gives its JSON."""
    ran = subprocess.run([os.environ["PUSHLARK"], "--json", *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()] if lines else json.loads(ran.stdout)


def alerts(device):
    with urlopen(f"{SINK}/notifications?device_id={device}", timeout=60) as response:
        return [entry["notification"]["alert"]["body"] for entry in reversed(json.load(response))]


class Deployed(unittest.TestCase):
    def test_1_a_device_is_enabled_notified_and_disabled(self):
        stack = Stack("pushlark", SECRET)
        self.assertEqual(stack.status, "CREATE_COMPLETE")
        self.assertEqual(stack.enable("phone", "phone")[0], 200)
        self.assertEqual(stack.call("EnableUrl", {}, secret="a-wrong-secret-of-some-length")[0], 401)
        self.assertEqual(stack.message("Hi")[0], 202)
        eventually("the notification", lambda: alerts("phone") == ["Hi"])

        disco = "<iq type='get' id='d' from='example.org' to='push.example.com'>" \
            "<query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        status, answer = stack.call("PushNodeUrl", disco, media="application/xml")
        self.assertEqual(status, 200)
        self.assertIn('type="result"', answer)

        self.assertEqual(stack.enable("tablet", "tablet")[0], 200)
        disable = {"user": BOB, "jid": "push.example.com", "node": "tablet"}
        self.assertEqual(stack.call("DisableUrl", disable)[0], 200)
        self.assertEqual(stack.enabled(), ["phone"])

    def test_2_a_removal_ends_what_is_enabled(self):
        stack = Stack("pushlark", SECRET)
        enable = {"user": "carol@gone.example", "jid": "push.gone.example", "node": "n"}
        self.assertEqual(stack.call("EnableUrl", enable)[0], 200)
        removal = {"type": "domain_removed", "domain": "gone.example"}
        self.assertEqual(stack.call("EventsUrl", removal)[0], 202)
        left = lambda: json.loads(stack.call("EnableUrl", query="?user=carol@gone.example")[1])["registrations"]
        eventually("the end of a domain", lambda: left() == [])

    def test_2_the_operators_tool_finds_the_stack(self):
        status = pushlark("status")
        self.assertEqual([queue["queue"] for queue in status["queues"]], ["events", "dead letters"])
        self.assertEqual(status["queues"][1]["visible"], 0)
        self.assertTrue(any("DeadLettersAlarm" in alarm["name"] for alarm in status["alarms"]), status)
        self.assertEqual(len(status["versions"]), 6)
        self.assertEqual(status["errors"], [])
        sqs = boto3.client("sqs")
        dead_letters = sqs.get_queue_url(QueueName=Stack("pushlark", SECRET).outputs["DeadLetterQueueName"])["QueueUrl"]
        sqs.send_message(QueueUrl=dead_letters, MessageBody="no record")
        pushlark("status", "--check", code=1)
        [message] = sqs.receive_message(QueueUrl=dead_letters)["Messages"]
        sqs.delete_message(QueueUrl=dead_letters, ReceiptHandle=message["ReceiptHandle"])

        lines = eventually("lines", lambda: pushlark("logs", "--user", BOB, lines=True))
        [notified] = [line for line in lines if line["message"] == "notified"]
        self.assertEqual((notified["function"], notified["level"], notified["fields"]["delivered"]), ("worker", "info", 1))
        of_message = pushlark("logs", "--id", notified["fields"]["id"], lines=True)
        self.assertIn(notified, of_message)
        self.assertTrue(all(notified["fields"]["id"] in json.dumps(line) for line in of_message), of_message)
        self.assertEqual(pushlark("logs", "--level", "error", lines=True), [])

    def test_2_the_operators_tool_calculates_the_bill(self):
        stack = Stack("pushlark", SECRET)
        worker = stack.outputs["WorkerName"]
        put = lambda namespace, name, value, **dimensions: boto3.client("cloudwatch").put_metric_data(
            Namespace=namespace, MetricData=[{"MetricName": name, "Value": value, "Dimensions": [
                {"Name": name, "Value": value} for name, value in dimensions.items()]}])
        # The emulator measures its Lambda alone, of which a few invocations are too little to count.
        put("AWS/Lambda", "Invocations", 1e6, FunctionName=worker)
        put("AWS/Lambda", "Duration", 4e7, FunctionName=worker)
        put("AWS/DynamoDB", "ConsumedWriteCapacityUnits", 2e6, TableName=stack.outputs["TableName"])
        put("AWS/SQS", "NumberOfMessagesSent", 3e6, QueueName=stack.outputs["QueueName"])
        put("AWS/Logs", "IncomingBytes", 2e9, LogGroupName="/aws/lambda/pushlark-worker")
        put("Pushlark", "EventsAccepted", 2e6, Stack="pushlark")
        put("Pushlark", "Delivered", 1e6, Stack="pushlark")
        bill = pushlark("bill", "--days", "1")
        lines = {line: round(dollars, 3) for line, dollars in bill["lines"].items()}
        # 10,000 GB-seconds on this machine's architecture, which is that of the functions; 3 million requests to send,
        # and a million each to receive and to delete.
        duration = 0.133 if platform.machine() == "aarch64" else 0.167
        self.assertEqual((lines["Lambda requests"], lines["Lambda duration"], lines["SQS requests"]), (0.2, duration, 2.0))
        self.assertEqual((lines["DynamoDB writes"], lines["logs"]), (1.25, 1.0))
        self.assertIn("alarms", lines)
        self.assertGreaterEqual(bill["events"], 2e6)
        self.assertAlmostEqual(bill["million_notifications"], bill["total"] / bill["notifications"] * 1e6)

    def test_2_the_operators_tool_finds_the_stack_in_order(self):
        # The emulator does not keep the table's settings, and has no quotas.
        checks = {check["check"]: check for check in pushlark("doctor", code=1)}
        failed = [name for name, check in checks.items() if check["state"] == "failed"]
        self.assertEqual(failed, ["table: expiry"], checks)
        for name in ["Enable", "Disable", "Ingest", "PushNode", "Worker"]:
            self.assertEqual([checks[f"{kind} {name}"]["state"] for kind in ("function", "settings of")], ["ok"] * 2)
        for name in ["secret WEBHOOK_SECRET", "URL of MONGOOSEPUSH_URL", "quota: concurrency of Lambda", "clock"]:
            self.assertEqual(checks[name]["state"], "ok", checks)
        self.assertEqual(checks["alarms"]["state"], "warning")
        self.assertNotIn(SECRET, json.dumps(checks))
        self.assertEqual(pushlark("status")["errors"], [], "a check is no failure of a function")

    def test_3_an_update_keeps_parameters_and_registrations(self):
        status, said = sam("deploy", "--parameter-overrides", "BatchSize=50")
        self.assertNotEqual(status, 0)
        self.assertIn("A BatchSize over 10 needs a BatchingWindow", said)

        status, said = sam("deploy", "--parameter-overrides", "BatchSize=50", "BatchingWindow=1", "Tracing=active")
        self.assertEqual(status, 0, said)
        functions = boto3.client("lambda").list_functions()["Functions"]
        self.assertEqual({function["TracingConfig"]["Mode"] for function in functions}, {"Active"})
        stack = Stack("pushlark", SECRET)
        self.assertEqual(stack.status, "UPDATE_COMPLETE")
        sqs = boto3.client("sqs")
        url = sqs.get_queue_url(QueueName=stack.outputs["QueueName"])["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        self.assertEqual((attributes["VisibilityTimeout"], attributes["MaximumMessageSize"]), ("61", "1048576"))
        self.assertEqual(stack.message("Hi after the update")[0], 202)
        eventually("the notification", lambda: alerts("phone") == ["Hi", "Hi after the update"])

    def test_4_two_stacks_do_not_mix(self):
        name = "pushlark-staging"
        status, said = sam("deploy", "--stack-name", name, "--s3-prefix", name, "--parameter-overrides",
                           f"WebhookSecret={OTHER_SECRET}", *BASE, folder=os.environ["BUILT"])
        self.assertEqual(status, 0, said)
        stack, staging = Stack("pushlark", SECRET), Stack(name, OTHER_SECRET)
        self.assertEqual(staging.enable("phone", "staging-phone")[0], 200)
        self.assertEqual(staging.call("EnableUrl", {}, secret=SECRET)[0], 401)
        self.assertEqual(staging.message("Hi from staging")[0], 202)
        eventually("the notification", lambda: alerts("staging-phone") == ["Hi from staging"])
        self.assertNotIn("Hi from staging", alerts("phone"))
        self.assertEqual(stack.enabled(), ["phone"])
        for metric in ["Delivered", "PublishMilliseconds", "ColdStartMilliseconds"]:
            eventually(metric, lambda: all(one.counts(metric) for one in (stack, staging)))
        alarms = boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]
        dimensions = [alarm["Dimensions"] for alarm in alarms if alarm["Namespace"] == "Pushlark"]
        # DisablingStopped and Refused.
        self.assertCountEqual(dimensions, 2 * [[{"Name": "Stack", "Value": s.name}] for s in (stack, staging)])

        names = [function["FunctionName"] for function in boto3.client("lambda").list_functions()["Functions"]]
        shown = [{metric[3] for metric in one.dashboard() if metric[0] == "AWS/Lambda"} for one in (stack, staging)]
        self.assertCountEqual([name for of_stack in shown for name in of_stack], names)

    def test_5_a_new_stack_takes_the_table_of_one_that_was_deleted(self):
        table = Stack("pushlark", SECRET).outputs["TableName"]
        status, said = sam("delete", "--no-prompts")
        self.assertEqual(status, 0, said)
        described = boto3.client("dynamodb").describe_table(TableName=table)["Table"]
        status, said = sam("deploy", "--parameter-overrides", f"WebhookSecret={SECRET}", *BASE,
                           f"TableArn={described['TableArn']}")
        self.assertEqual(status, 0, said)
        stack = Stack("pushlark", SECRET)
        self.assertEqual(stack.outputs["TableName"], table)
        resources = boto3.client("cloudformation").describe_stack_resources(StackName="pushlark")["StackResources"]
        self.assertNotIn("AWS::DynamoDB::Table", [resource["ResourceType"] for resource in resources])
        self.assertEqual(stack.enabled(), ["phone"])
        self.assertEqual(stack.message("Hi again")[0], 202)
        eventually("the notification", lambda: alerts("phone")[-1] == "Hi again")


def logged():
    """What the functions have logged last."""
    client = boto3.client("logs")
    for group in client.describe_log_groups()["logGroups"]:
        for event in client.filter_log_events(logGroupName=group["logGroupName"])["events"][-20:]:
            print(group["logGroupName"], event["message"].strip(), file=sys.stderr)


if __name__ == "__main__":
    ran = unittest.main(verbosity=2, failfast=True, exit=False)
    if not ran.result.wasSuccessful():
        logged()
        sys.exit(1)
