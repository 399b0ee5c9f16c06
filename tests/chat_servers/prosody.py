"""Prosody, with the configuration of Debian's package and the snippets of its page."""

import asyncio
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

from event_queue import EventQueueScenarios
from events import EventScenarios
from faults import FaultScenarios
from imports import ImportScenarios
from installation import InstallationScenarios
from notifications import NotificationScenarios
from pages import filled, section, shell, snippet
from processes import Program, eventually, free_port, is_open
from push_nodes import PushNodeScenarios
from pushlark import SECRET, TOKEN
from senders import SenderScenarios
from server import PACKAGES, STOCK, Server


class Prosody(Server):
    name, page, publisher, hosts = "prosody", "prosody.md", "localhost", ["localhost"]

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.http_port, self.log_file = free_port(), self.data / "prosody.log"
        self.configuration = self.data / "prosody.cfg.lua"
        (self.data / "conf.d").mkdir()
        self.paths = {"/usr/local/lib/prosody/modules": self.data / "modules"}
        self.install()
        shutil.copytree(STOCK / "mod_rest", self.data / "modules" / "mod_rest")
        self.configure()
        self.paste()

    def install(self):
        """Installs Pushlark's module. Prosody finds the modules of Debian's packages without a setting, but only there."""
        shutil.move(self.unpacked() / "usr/lib/prosody/modules", self.data / "modules")

    def configure(self):
        """Lets Prosody run beside another one, without TLS and with short timeouts."""
        stock = (STOCK / "prosody.cfg.lua").read_text()
        # Loaded for all hosts, as by users of this module.
        stock = filled(stock, {'\t\t"disco";': '\t\t"cloud_notify";\n\t\t"disco";'})
        own = f"""
            data_path = "{self.data}"
            installer_plugin_path = "{self.data}/custom_plugins"
            run_as_root = true
            interfaces, http_interfaces = {{ "127.0.0.1" }}, {{ "127.0.0.1" }}
            c2s_ports, s2s_ports, http_ports, https_ports = {{ {self.port} }}, {{}}, {{ {self.http_port} }}, {{}}
            c2s_require_encryption = false
            smacks_hibernation_time = 3
        """
        hosts = "----------- Virtual hosts -----------"
        names = {
            "/run/prosody/prosody.pid": self.data / "prosody.pid",
            'info = "/var/log/prosody/prosody.log"': f'debug = "{self.log_file}"',
            "/var/log/prosody/prosody.err": self.data / "prosody.err",
            "10kb/s": "10mb/s",
            hosts: own + hosts,
        }
        self.configuration.write_text(filled(stock, {**names, **self.paths}))

    def paste(self):
        # Prosody warns about an option that is twice in a file, so only the one of the nodes is written.
        names = {"example.com": "localhost", "SECRET": SECRET, '\tmodules_enabled = { "pushlark" }\n': "", **self.urls}
        module = filled(snippet(self.page, "With Pushlark on AWS"), names)
        bounds = "\tpushlark_queue_size = 50\n\tpushlark_queue_bytes = 1048576\n"
        names = {"chat.example.com": "127.0.0.1", "admin@example.com": "owner@localhost", "example.com": "localhost"}
        nodes = filled(snippet(self.page, "Nodes on Prosody"), names)
        pubsub = "https://PUBSUB.lambda-url.eu-west-1.on.aws/?token=SECRET"
        names = {"example.com": "plain.localhost", pubsub: f"{self.pushlark.url}/pubsub?token={TOKEN}"}
        own = filled(snippet(self.page, "Prosody's own push module", 1), names)
        # Callbacks without a setting for their type: mod_rest asks Pushlark for it when Prosody starts.
        relay = f"""
            Component "relay.localhost" "rest"
                rest_callback_url = "{self.pushlark.url}/events?token={TOKEN}"
                rest_callback_content_type = "application/json"
        """
        rooms = 'Component "conference.told.localhost" "muc"\n'
        (self.data / "conf.d" / "pushlark.cfg.lua").write_text(module + bounds + nodes + own + relay + rooms)
        self.write_module_settings()

    def write_module_settings(self):
        lines = []
        for host, settings in self.module_settings.items():
            lines += [f'VirtualHost "{host}"', '\tmodules_enabled = { "pushlark" }']
            if host != "both.localhost":
                lines.append('\tmodules_disabled = { "cloud_notify" }')
            lines += [f"\tpushlark_{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
        (self.data / "conf.d" / "scenarios.cfg.lua").write_text("\n".join(lines) + "\n")

    def register(self, user, host):
        self.control("register", user, host, "secret")

    def control(self, *arguments):
        command = ["prosodyctl", "--config", str(self.configuration), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commands(self, script):
        """Changes the commands of a page for this server."""
        names = {"prosodyctl ": f"prosodyctl --config {self.configuration} "}
        return filled(script, {name: value for name, value in names.items() if name in script})

    def reload(self):
        self.control("reload")

    def unload(self, host):
        self.module_settings.pop(host)
        self.write_module_settings()
        self.control("shell", f'module:unload("pushlark", "{host}")')

    def set_other(self, is_loaded):
        self.control("shell", f'module:{"load" if is_loaded else "unload"}("cloud_notify", "both.localhost")')

    async def start(self):
        command = ["prosody", "--config", str(self.configuration), "-F"]
        self.program = Program(self.name, command, self.folder)
        await eventually("Prosody", lambda: is_open(self.port) and (self.data / "prosody.sock").exists())
        if self.page_of_nodes():
            [token] = re.findall(r"MT[\w+/=]{20,}", shell(self.commands(self.page_of_nodes()[1])))
            self.pushlark.take(filled(self.page_of_nodes()[0], {
                "https://chat.example.com:5281": f"http://127.0.0.1:{self.http_port}", "=TOKEN": f"={token}"
            }))

    def page_of_nodes(self):
        token = snippet(self.page, "Nodes on Prosody", 2)
        return snippet(self.page, "Nodes on Prosody", 1), filled(token, {"example.com": "localhost"})

    def has_disabled(self, user, node):
        return f"Disabling push notifications for identifier 'push.plain.localhost<{node}'" in self.log()


class FirstProsody(Prosody):
    """The server of a user who follows the page from the start."""

    name, module_hosts = "first-prosody", []

    def install(self):
        """The rock is installed when the configuration of its folder is written."""

    def paste(self):
        shell(self.commands(filled(snippet(self.page, "Try it first", 2), {"$PWD": PACKAGES})))
        names = {"example.com": "localhost", "http://localhost:8080": self.pushlark.url, "SECRET": TOKEN}
        self.include(filled(snippet(self.page, "Try it first", 3), names))

    def paste_functions(self):
        names = {"example.com": "localhost", "SECRET": TOKEN, **self.urls}
        self.include(filled(snippet(self.page, "With Pushlark on AWS"), names))

    def include(self, text):
        (self.data / "conf.d" / "pushlark.cfg.lua").write_text(text)

    def page_of_nodes(self):
        return None


class FormerProsody(Prosody):
    """A server with its own push module, whose registrations move to Pushlark."""

    module_hosts, form, storages = [], "prosody", ["internal", "sql"]

    def __init__(self, folder, pushlark, storage):
        self.name, self.storage = f"former-prosody-{storage}", storage
        super().__init__(folder, pushlark)

    def paste(self):
        storage = f'storage = {{ cloud_notify = "{self.storage}" }}\n'
        database = f'sql = {{ driver = "SQLite3", database = "{self.data}/prosody.sqlite" }}\n'
        (self.data / "conf.d" / "former.cfg.lua").write_text('VirtualHost "localhost"\n' + storage + database)

    def page_of_nodes(self):
        return None

    def source(self):
        return [self.data / "prosody.sqlite" if self.storage == "sql" else self.data]

    def finish(self):
        self.stop()


class ProsodyScenarios(
    InstallationScenarios, NotificationScenarios, EventScenarios, SenderScenarios, EventQueueScenarios, FaultScenarios,
    PushNodeScenarios, ImportScenarios,
):
    first, former, others = FirstProsody, FormerProsody, "mod_cloud_notify"

    async def plain_server(self):
        return self.server

    async def a_reload_of_the_module_loses_nothing(self, alice, bob):
        """The new instance of the module sends the waiting events."""
        sender = await self.sender_to_offline_phone(alice, bob)
        self.pushlark.stop()
        complaints, since = self.server.complaints(), len(self.server.log())
        for number in range(3):
            sender.say(bob, str(number))
        await eventually("the first try", lambda: self.server.complaints() > complaints)
        script = re.search(r"`(prosodyctl shell .*?)`", section("prosody.md", "Upgrade and removal")).group(1)
        await asyncio.to_thread(shell, self.server.commands(filled(script, {"example.com": "localhost"})))
        await self.pushlark.start()
        bodies = sorted(alert["body"] for alert in await self.pushlark.notified(bob, 3))
        assert bodies == ["0", "1", "2"], bodies
        assert "events lost" not in self.server.log()[since:]

    async def mod_rest_sends_callbacks_as_xml(self, alice, bob):
        """The JSON of mod_rest lacks payloads such as that of OMEMO, so Pushlark asks for XML when mod_rest starts."""
        registration = {"user": f"{bob}@relay.localhost", "jid": "push.relay.localhost", "node": "node"}
        self.pushlark.ask("POST", "/enable", {**registration, "form": {"service": "fcm", "device_id": f"{bob}-relay"}})
        sender = await self.client(alice, "pc")
        message = sender.make_message(f"{bob}@relay.localhost", "A text that must not be shown", mtype="chat")
        message.append(ElementTree.fromstring("<encryption xmlns='urn:xmpp:eme:0' namespace='eu.siacs.conversations.axolotl'/>"))
        message.send()
        first = await self.pushlark.notified(f"{bob}-relay", 1)
        assert first[0]["body"] == "New message" and first[0]["title"] == f"{alice}@localhost", first
