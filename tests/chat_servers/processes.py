"""Processes and ports, and waiting for them."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

# The folder with Pushlark's programs.
PROGRAMS = Path(os.environ["PROGRAMS"])
# Seconds until a scenario fails if a condition is not met.
TIMEOUT = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def eventually(what, condition):
    """Waits until `condition` returns a true value, and returns it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"timeout while waiting for {what}")
        await asyncio.sleep(0.05)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A process in its own group, with its output in a file."""

    def __init__(self, name, command, folder, environment=None):
        self.output = folder / f"{name}.out"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env={**os.environ, **(environment or {})}
            )

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
