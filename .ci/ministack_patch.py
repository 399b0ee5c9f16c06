"""Removes from a built template the parts that ministack 1.5.33 does not support, and prints each removal.

usage: ministack_patch.py TEMPLATE

- It evaluates neither Fn::Split nor Fn::Sub in a condition. These conditions tell whether a setting is an ARN or a Lambda
  function's name; the deployment gives no such value, so they do not hold.
- It has no saved queries of Logs Insights. They are left out.
- It is reached without TLS, which the policies of the queues deny. They are left out.
- It takes the batch calls of SQS for actions of their own, which IAM has not. The roles that may send one message, or
  change the visibility of one, may do so in a batch.
- It compares the numbers of an event source mapping without reading them as numbers. They are the parameters' defaults.
"""

import sys
from pathlib import Path

from samcli.yamlhelper import yaml_dump, yaml_parse


def functions(node):
    """The names of the functions in an expression."""
    if isinstance(node, dict):
        return set(node).union(*map(functions, node.values()))
    return set().union(*map(functions, node)) if isinstance(node, list) else set()


def numbers(node):
    """An expression, with the defaults of the numeric parameters in it."""
    if isinstance(node, dict):
        parameter = template["Parameters"].get(node.get("Ref"), {})
        if parameter.get("Type") == "Number":
            print(f"{node['Ref']}: the default")
            return parameter["Default"]
        return {name: numbers(value) for name, value in node.items()}
    return node


def batches(statement):
    """Adds to a policy's statement, or to those of a condition, the batch calls of its actions."""
    for possible in statement.get("Fn::If", [])[1:]:
        batches(possible)
    actions = statement.get("Action", [])
    actions = [actions] if isinstance(actions, str) else actions
    batch = [f"{action}Batch" for action in actions if action in ("sqs:SendMessage", "sqs:ChangeMessageVisibility")]
    if batch:
        statement["Action"] = actions + batch


path = Path(sys.argv[1])
template = yaml_parse(path.read_text())
for name, condition in template["Conditions"].items():
    if functions(condition) & {"Fn::Split", "Fn::Sub"}:
        print(f"{name}: does not hold")
        template["Conditions"][name] = {"Fn::Equals": ["it", "never holds"]}
for name, resource in list(template["Resources"].items()):
    kind, properties = resource["Type"], resource["Properties"]
    if kind in ("AWS::SQS::QueuePolicy", "AWS::Logs::QueryDefinition"):
        print(f"{name}: left out")
        del template["Resources"][name]
    for policy in properties.get("Policies", []):
        for statement in policy["PolicyDocument"]["Statement"]:
            batches(statement)
    for event in properties.get("Events", {}).values() if kind == "AWS::Serverless::Function" else []:
        event["Properties"] = numbers(event["Properties"])
path.write_text(yaml_dump(template))
