"""What the scenarios need of a chat server beside XMPP."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

from pages import ROOT
from processes import eventually, free_port
from pushlark import SECRET

# The folder with the configuration files of Debian's packages, and modules of Prosody from its backports.
STOCK = Path(os.environ["STOCK"])
# The folder with the packages of Pushlark's modules.
PACKAGES = ROOT / "target" / "release-archives"

# Wrong settings, each for a host of its own on which it disables push, with the text in the log. The names are those of
# ejabberd; a setting of None is not written.
BAD_SETTINGS = {
    "none": ({"queue_size": 0}, "queue_size must be a whole number of at least 1"),
    "negative": ({"queue_size": -1}, "queue_size must be a whole number of at least 1"),
    "words": ({"queue_bytes": "many"}, "queue_bytes must be a whole number of at least 1"),
    "broken": ({"queue_size": 1.5}, "queue_size must be a whole number of at least 1"),
    "hasty": ({"timeout": 0}, "timeout must be between 1 and 600 seconds"),
    "idle": ({"timeout": 10000}, "timeout must be between 1 and 600 seconds"),
    "schemeless": ({"url": "localhost:8080"}, "url must be a URL that starts with https:// or http://"),
    "spaced": ({"events_url": "http://local host/"}, "events_url must be a URL that starts with https:// or http://"),
    "nowhere": ({"url": None}, "enable_url, "),
    "short": ({"secret": "secret-secret"}, "secret must have at least 16 bytes"),
    "unnamed": ({"names": "some"}, "names must be true or false"),
    "undecided": ({"csi_events": "sometimes"}, "csi_events must be true or false"),
    "garbled": ({"secret": "whsec_secret-secret-secret!!"}, "secret must be base64 after whsec_"),
}


class Server:
    """A chat server with the configuration of Debian's package and the snippets of its page, with other names, ports and
    URLs."""

    # Hosts with Pushlark's module: with another push module, with each of the wrong settings, for wrong answers, and with
    # events that a scenario reads.
    module_hosts = ["both.localhost", *(f"{name}.localhost" for name in BAD_SETTINGS), "mistakes.localhost", "told.localhost"]

    def __init__(self, folder, pushlark):
        self.folder, self.pushlark, self.port, self.program = folder, pushlark, free_port(), None
        self.data = folder / self.name
        self.data.mkdir()
        self.users = set()
        bad = {f"{name}.localhost": settings for name, (settings, _) in BAD_SETTINGS.items()}
        self.module_settings = {
            host: {"url": pushlark.url, "secret": SECRET, **bad.get(host, {})} for host in self.module_hosts
        }

    @property
    def urls(self):
        return {
            f"https://{name.upper()}.lambda-url.eu-west-1.on.aws": f"{self.pushlark.url}/{name}"
            for name in ["enable", "disable", "events"]
        }

    def unpacked(self):
        """Unpacks the Debian package of Pushlark's module beside the files of this server, and returns its folder."""
        [package] = PACKAGES.glob(f"pushlark-{self.page.removesuffix('.md')}_*_all.deb")
        subprocess.run(["dpkg-deb", "--extract", package, self.data / "package"], check=True)
        return self.data / "package"

    def register_once(self, user, host):
        if (user, host) not in self.users:
            self.register(user, host)
            self.users.add((user, host))

    async def set(self, host, **settings):
        """Changes the settings of the module, and reloads the configuration."""
        self.module_settings[host] = {"secret": SECRET, **settings}
        self.write_module_settings()
        await asyncio.to_thread(self.reload)

    def stop(self):
        if self.program:
            self.program.stop()

    def log(self):
        return self.log_file.read_text(errors="replace")

    async def logged(self, pattern, since=0):
        """Waits for a text in the log."""
        return await eventually(f"{pattern!r} in the log", lambda: re.search(pattern, self.log()[since:]))

    def complaints(self):
        """Returns the number of log lines that say that events wait."""
        return self.log().count("Events not accepted by")

    def lost(self):
        """Returns the number of dropped events in the log."""
        return sum(map(int, re.findall(r"(\d+) events lost: the queue is full", self.log())))

    async def restart_bridge(self):
        """Does nothing if there is no bridge."""
