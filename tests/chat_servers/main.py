"""Runs the scenarios: a real chat server with Pushlark's module, real clients, and the sink of a local stack.

The first argument chooses the scenarios whose names contain it, the second the server.
"""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from inspect import signature
from pathlib import Path

from ejabberd import Ejabberd, EjabberdScenarios
from pages import snippet
from prosody import Prosody, ProsodyScenarios
from pushlark import Pushlark

# This scenario needs the log of all others.
LAST = "every_log_line_of_the_page_occurs"


def names_of(scenarios):
    """Returns the scenarios of a class in the order of its topics: all methods with the two users as arguments."""
    topics = [*type(scenarios).__bases__, type(scenarios)]
    methods = {name: method for topic in topics for name, method in vars(topic).items()}
    users = ("self", "alice", "bob")
    return [name for name, method in methods.items() if callable(method) and tuple(signature(method).parameters) == users]


async def run(make_server, scenarios, only):
    folder = Path(tempfile.mkdtemp(prefix="pushlark-scenarios-"))
    pushlark = Pushlark(folder)
    server = make_server(folder, pushlark)
    scenarios = scenarios(server, pushlark)
    passed, failed = 0, []
    names = [name for name in names_of(scenarios) if only in name and name != LAST] + ([] if only else [LAST])
    try:
        pushlark.take(snippet(server.page, "Try it first"))
        await pushlark.start()
        await server.start()
        # Again, with the settings for nodes, which are known when the server has started.
        pushlark.stop()
        await pushlark.start()
        for index, name in enumerate(names):
            started = time.monotonic()
            users = f"alice{index}", f"bob{index}"
            try:
                await getattr(scenarios, name)(*users)
                passed += 1
                print(f"{server.name}: {name} … ok ({time.monotonic() - started:.1f} s)", flush=True)
            except Exception as error:
                failed.append(f"{server.name}: {name}")
                print(f"{server.name}: {name} … FAILED: {error!r}", flush=True)
            await scenarios.end()
    finally:
        server.stop()
        pushlark.stop()
        if failed or passed < len(names):
            for log in sorted(folder.glob("*.out")) + sorted(folder.glob("*/*.log")):
                print(f"== {log.name}\n{log.read_text(errors='replace')[-12000:]}", file=sys.stderr)
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder)
    return passed, failed


async def main():
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    only, server = [*sys.argv[1:], "", ""][:2]
    passed, failed = 0, []
    for make_server, scenarios in [(Prosody, ProsodyScenarios), (Ejabberd, EjabberdScenarios)]:
        if server not in make_server.name:
            continue
        results = await run(make_server, scenarios, only)
        passed, failed = passed + results[0], failed + results[1]
    print(f"{passed} passed, {len(failed)} failed", *failed, sep="\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
