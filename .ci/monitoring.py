"""The alarms, the dashboard, the saved queries and the traces of the template must fit the functions and the pages."""

import json
import re
import unittest

from template import FUNCTIONS, PARAMETERS, RESOURCES, ROOT, TEMPLATE, resolved


class Alarms(unittest.TestCase):
    """CloudWatch bills each metric of an alarm."""

    ALARMS = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::CloudWatch::Alarm"}

    def test_the_alarms_have_at_most_six_metrics(self):
        metrics = [
            metric
            for alarm in self.ALARMS.values()
            for metric in alarm.get("Metrics", [alarm])
            if "MetricName" in metric or "MetricStat" in metric
        ]
        self.assertLessEqual(len(metrics), 6)

    def test_each_alarm_says_what_to_do_and_is_on_the_page(self):
        page = (ROOT / "docs/deploy.md").read_text()
        self.assertEqual(set(re.findall(r"^\| `(\w+Alarm)` \|", page, re.MULTILINE)), self.ALARMS.keys())
        runbook = (ROOT / "docs/operations.md").read_text().split("\n## Runbook\n")[1].split("\n## ")[0]
        sections = re.findall(r"^### (.*)$", runbook, re.MULTILINE)
        for name, alarm in self.ALARMS.items():
            self.assertRegex(alarm["AlarmDescription"], r"Search|Check|Reduce", name)
            [section] = re.findall(r'Runbook: docs/operations\.md, "(.*)"\.$', alarm["AlarmDescription"])
            self.assertIn(section, sections, name)

    def test_each_function_counts_its_failures_in_the_metric_of_the_alarm(self):
        alarm = self.ALARMS["FailuresAlarm"]
        filters = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::Logs::MetricFilter"]
        logs = [RESOURCES[name]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"] for name in FUNCTIONS]
        self.assertEqual(sorted(filter["LogGroupName"]["Ref"] for filter in filters), sorted(logs))
        for filter in filters:
            [metric] = filter["MetricTransformations"]
            self.assertEqual(metric["MetricNamespace"], alarm["Namespace"])
            self.assertEqual(metric["MetricName"], alarm["MetricName"])
            # A default value is a metric that is billed in each hour.
            self.assertNotIn("DefaultValue", metric)
            self.assertEqual(filter["FilterPattern"], {"Fn::FindInMap": ["Logs", "Failures", "Pattern"]})

    def test_lambda_logs_the_invocations_that_fail(self):
        config = TEMPLATE["Globals"]["Function"]["LoggingConfig"]
        self.assertEqual((config["LogFormat"], config["SystemLogLevel"]), ("JSON", "WARN"))


class Dashboard(unittest.TestCase):
    # By namespace: the dimension, the type of its resource, and metrics ("Types of metrics for Lambda functions",
    # "Available CloudWatch metrics for Amazon SQS", "DynamoDB Metrics and dimensions", "Monitoring usage with
    # CloudWatch metrics" of CloudWatch Logs).
    AWS = {
        "AWS/Lambda": (
            "FunctionName",
            "AWS::Serverless::Function",
            {"Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions"},
        ),
        "AWS/SQS": (
            "QueueName",
            "AWS::SQS::Queue",
            {
                "ApproximateAgeOfOldestMessage",
                "ApproximateNumberOfMessagesVisible",
                "ApproximateNumberOfMessagesDelayed",
                "NumberOfMessagesSent",
                "NumberOfMessagesReceived",
                "NumberOfMessagesDeleted",
                "NumberOfEmptyReceives",
            },
        ),
        "AWS/DynamoDB": (
            "TableName",
            "AWS::DynamoDB::Table",
            {"ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits"},
        ),
        "AWS/Logs": ("LogGroupName", "AWS::Logs::LogGroup", {"IncomingBytes"}),
    }

    def widgets(self, **given):
        """The widgets of the dashboard in a stack with these parameters; those of a type by their titles."""
        parameters = {name: str(parameter.get("Default", "")) for name, parameter in PARAMETERS.items()}
        properties = RESOURCES["StackDashboard"]["Properties"]
        parameters |= {"AWS::StackName": "pushlark", "AWS::Region": "eu-west-1"} | given
        return json.loads(resolved(properties["DashboardBody"], parameters))["widgets"]

    def metrics(self, **given):
        """Each metric of the dashboard, without expressions: its namespace, name, dimensions and options."""
        for widget in self.widgets(**given):
            for metric in widget["properties"].get("metrics", []):
                options = metric.pop() if isinstance(metric[-1], dict) else {}
                if metric:
                    yield metric[0], metric[1], dict(zip(metric[2::2], metric[3::2])), options

    def test_each_metric_exists_and_is_of_the_stack(self):
        own = 0
        for namespace, name, dimensions, _ in self.metrics():
            if namespace in self.AWS:
                dimension, kind, names = self.AWS[namespace]
                self.assertIn(name, names)
                value = dimensions.pop(dimension)
                self.assertEqual(RESOURCES[re.sub(r"^\$\{(\w+)\.\w+\}$", r"\1", value)]["Type"], kind)
                self.assertEqual(dimensions, {})
            elif namespace == "Pushlark":
                # A test of the crate compares the names.
                self.assertEqual(dimensions, {"Stack": "pushlark"})
                own += 1
            else:
                self.assertEqual((namespace, name, dimensions), ("Pushlark/pushlark", "Failures", {}))
        self.assertGreater(own, 10)

    def test_two_stacks_have_two_dashboards(self):
        name = RESOURCES["StackDashboard"]["Properties"]["DashboardName"]
        names = {resolved(name, {"AWS::StackName": s, "AWS::Region": r}) for s in ["a", "b"] for r in ["x", "y"]}
        self.assertEqual(len(names), 4)
        for namespace, _, dimensions, _ in self.metrics(**{"AWS::StackName": "staging"}):
            self.assertNotIn("pushlark", [*namespace.split("/"), *dimensions.values()])

    def test_a_table_of_an_earlier_stack_is_on_it(self):
        arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/earlier"
        tables = [value for *_, dimensions, _ in self.metrics(TableArn=arn) for value in dimensions.values()]
        self.assertEqual((tables.count("earlier"), tables.count("Table")), (2, 0))

    def test_it_has_at_most_fifty_metrics(self):
        # Three dashboards of an account are free, each of up to fifty metrics ("Amazon CloudWatch pricing").
        metrics = [(namespace, name, *dimensions.items()) for namespace, name, dimensions, _ in self.metrics()]
        self.assertLessEqual(len(metrics), 50)

    def test_it_shows_each_alarm(self):
        [widget] = [widget for widget in self.widgets() if widget["type"] == "alarm"]
        self.assertEqual({arn.strip("${}") for arn in widget["properties"]["alarms"]}, {f"{a}.Arn" for a in Alarms.ALARMS})

    def test_widgets_do_not_overlap(self):
        cells = [
            (x, y)
            for widget in self.widgets()
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        ]
        self.assertEqual(len(cells), len(set(cells)))
        self.assertLessEqual(max(x for x, _ in cells), 23)

    def test_the_drivers_of_the_bill_are_those_of_all_functions(self):
        [widget] = [w for w in self.widgets() if w["properties"].get("view") == "singleValue"]
        metrics = widget["properties"]["metrics"]
        expressions = {m[0]["label"]: m[0]["expression"] for m in metrics if isinstance(m[0], dict)}
        ids = {metric[-1]["id"]: metric for metric in metrics if "id" in metric[-1]}
        summed = {label: re.findall(r'METRICS\("(\w+)"\)', text) for label, text in expressions.items()}
        for label, prefixes in summed.items():
            [prefix] = prefixes
            of_functions = [metric for id, metric in ids.items() if prefix in id]
            self.assertEqual(len(of_functions), 4 if prefix == "sqs" else len(FUNCTIONS), label)
        self.assertEqual(sum(len([id for id in ids if prefix in id]) for [prefix] in summed.values()), len(ids))
        memory = TEMPLATE["Globals"]["Function"]["MemorySize"]
        self.assertTrue(expressions["Lambda GB-seconds"].endswith(f"/ 1000 * {memory} / 1024"))
        self.assertFalse(any("MemorySize" in RESOURCES[name]["Properties"] for name in FUNCTIONS))

    def test_it_can_be_left_out(self):
        self.assertEqual(RESOURCES["StackDashboard"]["Condition"], "HasDashboard")
        self.assertEqual(TEMPLATE["Conditions"]["HasDashboard"], {"Fn::Equals": [{"Ref": "Dashboard"}, "on"]})


class Queries(unittest.TestCase):
    """The saved queries of Logs Insights."""

    QUERIES = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::Logs::QueryDefinition"}
    COMMANDS = {"fields", "filter", "stats", "sort", "limit", "by", "as", "and", "or", "in", "like", "asc", "desc"}
    OF_CLOUDWATCH = {"@timestamp", "@log"}
    PAGE = (ROOT / "docs/logs.md").read_text()

    def test_a_query_names_fields_and_lines_that_are_on_the_page(self):
        on_page = set(re.findall(r"`([\w.]+)`", self.PAGE))
        for name, query in self.QUERIES.items():
            text = query["QueryString"]
            known = on_page | self.OF_CLOUDWATCH | set(re.findall(r"\bas (\w+)", text))
            words = re.findall(r"@?[A-Za-z_][\w.]*\b(?!\()", re.sub(r'"[^"]*"', "", text))
            self.assertLessEqual(set(words) - self.COMMANDS, known, name)
            for line in re.findall(r'message = "([^"]*)"', text):
                self.assertIn(f'"{line}"', self.PAGE)

    def test_a_query_reads_the_log_groups_of_functions(self):
        groups = [RESOURCES[name]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"] for name in FUNCTIONS]
        for name, query in self.QUERIES.items():
            of_query = [group["Ref"] for group in query["LogGroupNames"]]
            self.assertIn(sorted(of_query), [sorted(groups), ["WorkerLogs"]], name)

    def test_the_page_has_each_query_by_its_name(self):
        names = {query["Name"]["Fn::Sub"].removeprefix("${AWS::StackName}/") for query in self.QUERIES.values()}
        listed = re.findall(r"^\| \*(.*?)\* \|", self.PAGE, re.MULTILINE)
        self.assertEqual(sorted(listed), sorted(names))


class Tracing(unittest.TestCase):
    def test_functions_record_traces_only_if_it_is_active(self):
        mode = TEMPLATE["Globals"]["Function"]["Tracing"]
        self.assertEqual(resolved(mode, {"Tracing": PARAMETERS["Tracing"]["Default"]}), "PassThrough")
        self.assertEqual(resolved(mode, {"Tracing": "active"}), "Active")
        for function in FUNCTIONS:
            self.assertNotIn("Tracing", RESOURCES[function]["Properties"])

    def test_only_then_may_they_send_them(self):
        policy = RESOURCES["TracingPolicy"]
        self.assertEqual(policy["Condition"], "IsTraced")
        roles = [RESOURCES[name]["Properties"]["Role"]["Fn::GetAtt"][0] for name in FUNCTIONS]
        self.assertEqual(sorted(role["Ref"] for role in policy["Properties"]["Roles"]), sorted(roles))
        [statement] = policy["Properties"]["PolicyDocument"]["Statement"]
        self.assertEqual(statement["Action"], ["xray:PutTraceSegments", "xray:PutTelemetryRecords"])
        others = {name: resource for name, resource in RESOURCES.items() if name != "TracingPolicy"}
        self.assertNotIn("xray:", str(others))


if __name__ == "__main__":
    unittest.main()
