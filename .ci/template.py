"""The template, samconfig.toml, the toolchain and the snippets of README.md and docs/ must fit together."""

import configparser
import re
import shlex
import tomllib
import unittest
from pathlib import Path

import botocore.session
from botocore import xform_name
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parent.parent
TEMPLATE = yaml_parse((ROOT / "infra/template.yaml").read_text())
PARAMETERS, RESOURCES = TEMPLATE["Parameters"], TEMPLATE["Resources"]
SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
FUNCTIONS = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::Serverless::Function"]


def deployments(file):
    """The parameters of each `sam deploy` in the code of a file."""
    text = (ROOT / file).read_text().replace("\\\n", "")
    for options in re.findall(r"sam deploy([^`\n]*)", text):
        yield dict(word.split("=", 1) for word in shlex.split(options) if re.match(r"[A-Z]\w*=", word))


def snippets(language, file="**/*.md"):
    """The fenced blocks of a language in README.md and docs/: each with its file."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path.match(file):
            for text in re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
                yield path.name, text


def commands(shell):
    """The words of each simple command of a block."""
    shell = re.sub(r"(^|\s)#[^'\"]*$", r"\1", shell, flags=re.MULTILINE).replace("\\\n", " ")
    lexer = shlex.shlex(shell, posix=True, punctuation_chars=";|&()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words = []
    for word in [*lexer, "\n"]:
        if set(word) <= set(";|&()\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def evaluate(expression, parameters):
    """The value of an expression of the Rules section."""
    if not isinstance(expression, dict):
        return expression
    [(function, arguments)] = expression.items()
    if function == "Ref":
        return parameters[arguments]
    if function == "Fn::Contains":
        return evaluate(arguments[1], parameters) in arguments[0]
    arguments = [evaluate(argument, parameters) for argument in arguments]
    match function:
        case "Fn::Not":
            return not arguments[0]
        case "Fn::And":
            return all(arguments)
        case "Fn::Equals":
            return arguments[0] == arguments[1]
    raise ValueError(function)


def refused(given):
    """What CloudFormation says against a deployment with these parameters; None if it accepts them."""
    for name, value in given.items():
        parameter = PARAMETERS.get(name)
        if parameter is None:
            return f"no parameter {name}"
        if "AllowedValues" in parameter and value not in map(str, parameter["AllowedValues"]):
            return f"{name}: not an allowed value"
        # The whole value must match.
        if "AllowedPattern" in parameter and not re.fullmatch(parameter["AllowedPattern"], value):
            return f"{name}: not of the allowed pattern"
    missing = [name for name, parameter in PARAMETERS.items() if "Default" not in parameter and name not in given]
    if missing:
        return f"no value for {missing}"
    parameters = {name: str(parameter.get("Default")) for name, parameter in PARAMETERS.items()} | given
    for rule in TEMPLATE["Rules"].values():
        if not evaluate(rule["RuleCondition"], parameters):
            continue
        for assertion in rule["Assertions"]:
            if not evaluate(assertion["Assert"], parameters):
                return assertion["AssertDescription"]
    return None


def deployed():
    """The parameters of the first deployment, as the README has it."""
    return next(given for given in deployments("README.md") if "WebhookSecret" in given)


class Commands(unittest.TestCase):
    def test_the_readme_deploys_with_a_few_valid_parameters(self):
        given = deployed()
        self.assertIsNone(refused(given))
        self.assertIn(len(given), range(3, 6))
        self.assertIn("WebhookSecret", given)
        # What a first deployment cannot leave out.
        self.assertIsNotNone(refused({name: value for name, value in given.items() if name != "MongoosepushUrl"}))

    def test_each_command_of_the_pages_is_accepted(self):
        commands = [(page, given) for page in PAGES for given in deployments(page)]
        self.assertGreaterEqual(len([page for page, _ in commands if page == "docs/deploy.md"]), 3)
        for page, given in commands:
            # An update keeps the parameters that it does not name.
            before = {} if "WebhookSecret" in given else deployed()
            self.assertIsNone(refused(before | given), (page, given))

    def test_a_deployment_that_could_notify_nobody_is_refused(self):
        secret = {"WebhookSecret": "secret"}
        reason = refused(secret)
        for parameter in ["VirtualPubsubHosts", "PubsubUrl"]:
            self.assertIn(parameter, reason)
        mongoosepush = {"MongoosepushUrl": "https://mongoosepush.example.com"}
        self.assertEqual(refused(secret | mongoosepush), reason)
        self.assertIsNone(refused(secret | {"PubsubUrl": "https://chat.example.com/rest"}))
        self.assertIsNone(refused(secret | mongoosepush | {"VirtualPubsubHosts": "push.@HOST@"}))

    def test_a_deployment_asks_nothing(self):
        deploy = SAMCONFIG["default"]["deploy"]["parameters"]
        self.assertTrue(deploy["resolve_s3"] and deploy["s3_prefix"] and deploy["stack_name"])
        self.assertFalse(deploy["confirm_changeset"])
        self.assertEqual(deploy["capabilities"], "CAPABILITY_IAM")
        self.assertEqual(SAMCONFIG["default"]["delete"]["parameters"]["stack_name"], deploy["stack_name"])
        # With a template here, `sam deploy` would deploy the source instead of the build.
        self.assertNotIn("template_file", deploy)
        for page in PAGES:
            self.assertNotIn("--guided", (ROOT / page).read_text())


class Snippets(unittest.TestCase):
    # Options of every command, commands that are the CLI's own, and an option that it gives another name.
    GLOBAL = {"cli-binary-format", "output", "profile", "query", "region"}
    OWN = {("logs", "tail"): {"follow", "format", "since"}, ("s3", "cp"): set()}
    RENAMED = {("sns", "subscribe"): {"notification-endpoint"}, ("lambda", "publish-layer-version"): {"zip-file"}}

    def test_aws_commands_name_operations_and_parameters_that_exist(self):
        session, checked = botocore.session.get_session(), 0
        for page, shell in snippets("sh"):
            for words in commands(shell):
                if words[0] != "aws":
                    continue
                service, operation = words[1], words[2]
                if operation == "wait":
                    waiters = session.create_client(service, region_name="eu-west-1").waiter_names
                    self.assertIn(words[3], [name.replace("_", "-") for name in waiters], page)
                    continue
                given = {word.lstrip("-").split("=")[0] for word in words[3:] if word.startswith("--")}
                known = self.OWN.get((service, operation))
                if known is None:
                    model = session.get_service_model(service)
                    names = {xform_name(name, "-"): name for name in model.operation_names}
                    self.assertIn(operation, names, f"{page}: {words}")
                    members = model.operation_model(names[operation]).input_shape.members
                    known = {xform_name(member, "-") for member in members}
                    known |= self.RENAMED.get((service, operation), set())
                    known |= {f"no-{xform_name(name, '-')}" for name, m in members.items() if m.type_name == "boolean"}
                self.assertLessEqual(given, known | self.GLOBAL, f"{page}: {words}")
                checked += 1
        self.assertGreater(checked, 8)

    def test_configuration_files_are_well_formed(self):
        for page, text in snippets("toml"):
            self.assertTrue(tomllib.loads(text), page)
        for page, text in snippets("ini"):
            parser = configparser.ConfigParser(interpolation=None)
            parser.optionxform = str
            parser.read_string(text)
            self.assertTrue(parser.sections(), page)
        for page, text in snippets("yaml"):
            self.assertTrue(yaml_parse(text), page)

    def test_a_worker_of_ones_own_fits_the_template(self):
        [(_, text)] = snippets("yaml", "plugin-rust.md")
        [(name, resource)] = yaml_parse(text).items()
        worker = RESOURCES[name]
        self.assertLessEqual(resource["Metadata"].keys(), worker["Metadata"].keys())
        self.assertLessEqual(resource["Properties"].keys(), worker["Properties"].keys())
        code = ROOT / "infra" / resource["Properties"]["CodeUri"]
        package = tomllib.loads((code / "Cargo.toml").read_text())["package"]["name"]
        self.assertEqual(package, resource["Metadata"]["BuildProperties"]["Binary"])

    def test_outputs_that_the_pages_name_exist(self):
        pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        named = {name for page in pages for name in re.findall(r"prints[^.]*? as `(\w+)`", page.read_text())}
        self.assertLessEqual(named, TEMPLATE["Outputs"].keys())


class Queues(unittest.TestCase):
    def test_the_visibility_timeout_is_six_times_the_workers_and_the_window(self):
        mapping = {window: map["Seconds"] for window, map in TEMPLATE["Mappings"]["VisibilityTimeout"].items()}
        timeout = TEMPLATE["Globals"]["Function"]["Timeout"]
        windows = PARAMETERS["BatchingWindow"]["AllowedValues"]
        self.assertEqual(mapping, {str(window): 6 * timeout + window for window in windows})
        queue = RESOURCES["Queue"]["Properties"]
        self.assertEqual(
            queue["VisibilityTimeout"], {"Fn::FindInMap": ["VisibilityTimeout", {"Ref": "BatchingWindow"}, "Seconds"]}
        )
        self.assertNotIn("Timeout", RESOURCES["Worker"]["Properties"])

    def test_large_batches_need_a_window(self):
        self.assertIsNone(refused(deployed() | {"BatchSize": "10"}))
        self.assertEqual(refused(deployed() | {"BatchSize": "11"}), "A BatchSize over 10 needs a BatchingWindow")
        self.assertIsNone(refused(deployed() | {"BatchSize": "1000", "BatchingWindow": "20"}))
        self.assertIsNotNone(refused(deployed() | {"BatchingWindow": "7"}))

    def test_each_queue_has_a_policy_of_its_own(self):
        policies = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::SQS::QueuePolicy"]
        queues = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::SQS::Queue"]
        self.assertEqual(sorted(policy["Queues"][0]["Ref"] for policy in policies), sorted(queues))
        for policy in policies:
            [queue], [statement] = policy["Queues"], policy["PolicyDocument"]["Statement"]
            self.assertEqual(statement["Resource"], {"Fn::GetAtt": [queue["Ref"], "Arn"]})

    def test_each_queue_takes_what_a_record_may_have(self):
        # The fuzz targets hold each record to this limit.
        [product] = re.findall(r"MAX_MESSAGE_BYTES: usize = (.*);", (ROOT / "fuzz/src/lib.rs").read_text())
        limit = 1
        for factor in product.split("*"):
            limit *= int(factor)
        for name in ["Queue", "DeadLetterQueue"]:
            self.assertEqual(RESOURCES[name]["Properties"]["MaximumMessageSize"], limit)

    def test_a_function_may_send_to_the_queue_that_invokes_it(self):
        for name in FUNCTIONS:
            function = RESOURCES[name]["Properties"]
            queues = [str(event["Properties"]["Queue"]) for event in function.get("Events", {}).values()]
            role = RESOURCES[function["Role"]["Fn::GetAtt"][0]]["Properties"]
            statements = [str(s) for policy in role["Policies"] for s in policy["PolicyDocument"]["Statement"]]
            sends = [statement for statement in statements if "sqs:SendMessage" in statement]
            loops = any(queue in statement for queue in queues for statement in sends)
            self.assertEqual(function.get("RecursiveLoop"), "Allow" if loops else None, name)
        self.assertEqual(RESOURCES["Worker"]["Properties"]["RecursiveLoop"], "Allow")


class Release(unittest.TestCase):
    def test_the_template_and_the_pages_name_the_version_of_the_crates(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        application = TEMPLATE["Metadata"]["AWS::ServerlessRepo::Application"]
        self.assertEqual(application["SemanticVersion"], version)
        for file in ["LicenseUrl", "ReadmeUrl"]:
            self.assertTrue((ROOT / "infra" / application[file]).is_file(), file)
        named = r"(?:VERSION=|pushlark-\w+_|mod_pushlark-)(\d+\.\d+\.\d+)"
        found = [(page, name) for page in PAGES for name in re.findall(named, (ROOT / page).read_text())]
        self.assertLessEqual({"docs/deploy.md", "docs/prosody.md", "docs/ejabberd.md"}, {page for page, _ in found})
        for page, name in found:
            self.assertEqual(name, version, page)


class Toolchain(unittest.TestCase):
    def test_the_crates_and_the_readme_name_the_version_of_the_toolchain_file(self):
        channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
        self.assertEqual(channel.rsplit(".", 1)[0], version)
        self.assertIn(f"Rust {version}", (ROOT / "README.md").read_text())
        for manifest in ROOT.glob("*/*/Cargo.toml"):
            package = tomllib.loads(manifest.read_text())["package"]
            self.assertEqual(package.get("rust-version"), {"workspace": True}, manifest)


def resolved(node, parameters):
    """A part of the template as CloudFormation resolves it; other resources and pseudo parameters are their names."""
    if isinstance(node, list):
        values = [resolved(value, parameters) for value in node]
        return [value for value in values if value != "AWS::NoValue"]
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        return {key: resolved(value, parameters) for key, value in node.items()}
    [(function, argument)] = node.items()
    match function:
        case "Ref":
            return parameters.get(argument, argument)
        case "Condition" if isinstance(argument, str):
            return resolved(TEMPLATE["Conditions"][argument], parameters)
        case "Fn::If":
            name, then, otherwise = argument
            return resolved(then if resolved(TEMPLATE["Conditions"][name], parameters) else otherwise, parameters)
        case "Fn::Sub":
            text, names = argument if isinstance(argument, list) else (argument, {})
            names = parameters | {name: resolved(value, parameters) for name, value in names.items()}
            return re.sub(r"\$\{([\w:]+)\}", lambda match: str(names.get(match[1], match[1])), text)
        case "Fn::GetAtt":
            return ".".join(argument)
    argument = resolved(argument, parameters)
    match function:
        case "Fn::Select":
            return argument[1][int(argument[0])]
        case "Fn::Split":
            return argument[1].split(argument[0])
        case "Fn::Equals":
            return argument[0] == argument[1]
        case "Fn::Not":
            return not argument[0]
        case "Fn::And":
            return all(argument)
        case "Fn::Or":
            return any(argument)
    return {function: argument}


def statements(role, **given):
    """The statements of a role's policies, in a stack with these parameters."""
    parameters = {name: str(parameter.get("Default", "")) for name, parameter in PARAMETERS.items()} | given
    policies = RESOURCES[role]["Properties"]["Policies"]
    return [s for policy in policies for s in resolved(policy["PolicyDocument"]["Statement"], parameters)]


class Rules(unittest.TestCase):
    SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:rules-AbCdEf"
    PARAMETER = "arn:aws:ssm:eu-west-1:123456789012:parameter/push/rules"
    KEY = "arn:aws:kms:eu-west-1:123456789012:key/k"

    def added(self, **given):
        """The statements of the worker's role that these parameters add."""
        without = statements("WorkerRole")
        return [statement for statement in statements("WorkerRole", **given) if statement not in without]

    def test_the_worker_may_read_just_the_rules_that_it_is_given(self):
        for place, action, resource in [
            ("s3://bucket/a/rules.toml", "s3:GetObject", "arn:AWS::Partition:s3:::bucket/a/rules.toml"),
            ("s3://bucket/s3://a", "s3:GetObject", "arn:AWS::Partition:s3:::bucket/s3://a"),
            (self.PARAMETER, "ssm:GetParameter", self.PARAMETER.replace("arn:aws:", "arn:AWS::Partition:")),
            (f"{self.PARAMETER}:3", "ssm:GetParameter", self.PARAMETER.replace("arn:aws:", "arn:AWS::Partition:")),
            (self.SECRET, "secretsmanager:GetSecretValue", self.SECRET),
        ]:
            [statement] = self.added(Rules=place)
            self.assertEqual(statement, {"Effect": "Allow", "Action": action, "Resource": resource})
        for text in ["", "file:/opt/rules.toml", 'rules = [{action = "skip"}]', 'rules = [{name = "a:b:ssm"}]', "s3"]:
            self.assertEqual(self.added(Rules=text), [], text)

    def test_the_worker_may_decrypt_its_rules_with_a_key_of_the_customer(self):
        for place in ["s3://bucket/rules.toml", self.PARAMETER]:
            [decrypt] = [s for s in self.added(Rules=place, KmsKeyArn=self.KEY) if s["Action"] == "kms:Decrypt"]
            self.assertEqual(decrypt["Resource"], self.KEY)
            [services] = decrypt["Condition"]["StringEquals"].values()
            self.assertEqual([service.split(".")[0] for service in services], ["s3", "ssm"])
        for place in ["", self.SECRET]:
            self.assertNotIn("kms:Decrypt", [s["Action"] for s in self.added(Rules=place, KmsKeyArn=self.KEY)])

    def test_the_plugin_rules_needs_rules(self):
        self.assertEqual(refused(deployed() | {"Plugin": "rules"}), "Plugin rules needs Rules")
        self.assertIsNone(refused(deployed() | {"Plugin": "rules", "Rules": "s3://bucket/rules.toml"}))


class Stacks(unittest.TestCase):
    def test_alarms_see_the_metrics_of_their_own_stack_alone(self):
        stack = {"Ref": "AWS::StackName"}
        self.assertEqual(TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["STACK_NAME"], stack)
        alarms = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::CloudWatch::Alarm"]
        metrics = [alarm for alarm in alarms if "Namespace" in alarm]
        for alarm in alarms:
            metrics += [query["MetricStat"]["Metric"] for query in alarm.get("Metrics", []) if "MetricStat" in query]
        self.assertTrue(any(metric["Namespace"] == "Pushlark" for metric in metrics))
        for metric in metrics:
            if metric["Namespace"] == {"Fn::Sub": "Pushlark/${AWS::StackName}"}:
                continue
            [dimension] = metric["Dimensions"]
            if metric["Namespace"] == "Pushlark":
                self.assertEqual(dimension, {"Name": "Stack", "Value": stack})
            else:
                reference = dimension["Value"].get("Ref") or dimension["Value"]["Fn::GetAtt"][0]
                self.assertIn(reference, RESOURCES)

    def test_a_key_of_the_customer_is_for_all_roles_and_only_if_it_is_given(self):
        condition = {"Fn::Not": [{"Fn::Equals": [{"Ref": "KmsKeyArn"}, ""]}]}
        self.assertEqual(TEMPLATE["Conditions"]["HasKmsKey"], condition)
        name, with_key, without = RESOURCES["Table"]["Properties"]["SSESpecification"]["Fn::If"]
        self.assertEqual((name, without), ("HasKmsKey", {"Ref": "AWS::NoValue"}))
        self.assertEqual(with_key["KMSMasterKeyId"], {"Ref": "KmsKeyArn"})
        policy = RESOURCES["KmsKeyPolicy"]
        self.assertEqual(policy["Condition"], "HasKmsKey")
        roles = [RESOURCES[name]["Properties"]["Role"]["Fn::GetAtt"][0] for name in FUNCTIONS]
        self.assertEqual(sorted(role["Ref"] for role in policy["Properties"]["Roles"]), sorted(roles))

    def test_nothing_refers_to_the_table_where_another_one_may_be_used(self):
        def references(node, own):
            if isinstance(node, dict):
                if "Fn::If" in node and node["Fn::If"][0] == "HasOwnTable":
                    return references(node["Fn::If"][1], True)
                refers = [node.get("Ref") == "Table", "Table" in str(node.get("Fn::GetAtt"))]
                refers.append(bool(re.search(r"\$\{Table[.}]", str(node.get("Fn::Sub")))))
                return not own and any(refers) or any(references(value, own) for value in node.values())
            return isinstance(node, list) and any(references(value, own) for value in node)

        self.assertFalse(references({"Globals": TEMPLATE["Globals"], "Outputs": TEMPLATE["Outputs"]}, False))
        for name, resource in RESOURCES.items():
            self.assertFalse(references(resource, resource.get("Condition") == "HasOwnTable"), name)


if __name__ == "__main__":
    unittest.main()
