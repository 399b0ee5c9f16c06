"""ejabberd, with the configuration of Debian's package and the snippets of its page."""

import asyncio
import json
import os
import re
import signal
import urllib.request
from pathlib import Path

from event_queue import EventQueueScenarios
from events import EventScenarios
from faults import FaultScenarios
from installation import InstallationScenarios
from notifications import NotificationScenarios
from pages import filled, section, shell, snippet
from processes import PROGRAMS, Program, eventually, free_port, is_open
from push_nodes import PushNodeScenarios
from pushlark import SECRET, TOKEN
from scenarios import HOST
from senders import SenderScenarios
from server import PACKAGES, STOCK, Server


class Ejabberd(Server):
    name, page, publisher = "ejabberd", "ejabberd.md", "push.localhost"
    hosts = ["localhost", "other.localhost", "log.localhost"]
    # The commands that the pages use, with the names of their arguments.
    arguments = {
        "register": "user host password", "send_message": "type from to subject body", "reload_config": "",
        "module_install": "module",
    }

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.api_port, self.component_port, self.rest_port = free_port(), free_port(), free_port()
        self.log_file, self.bridge = self.data / "ejabberd.log", None
        self.bridges, self.others = 0, {"mod_push": {}, "mod_push_keepalive": {}}
        self.configuration, self.includes = self.data / "ejabberd.yml", self.data / "modules.d"
        self.includes.mkdir()
        self.libraries = [next(Path("/usr/lib").glob("*/ejabberd-*/ebin")).parent.parent]
        self.stock = (STOCK / "ejabberd.yml").read_text()
        self.install()
        self.paste()
        self.configure()

    def install(self):
        """Installs Pushlark's module. Erlang finds the libraries of Debian's packages without a setting, but only there."""
        self.libraries.append(self.unpacked() / "usr/lib/erlang/lib")

    def configure(self):
        """Lets ejabberd run beside another one, without TLS and with short timeouts."""
        hosts = "".join(f"  - {host}\n" for host in [*self.hosts, *self.module_hosts])
        names = {
            "hosts:\n  - localhost\n": f"hosts:\n{hosts}",
            "port: 5222": f"port: {self.port}",
            "port: 5443": f"port: {self.api_port}",
            **{f"port: {port}": f"port: {free_port()}" for port in [5223, 5269, 5280, 3478, 1883]},
            'ip: "::"': 'ip: "127.0.0.1"',
            "starttls_required: true": "starttls_required: false",
            "\n    tls: true": "\n    tls: false",
            "rate: 3000": "rate: 3000000",
            "resend_on_timeout: if_offline": "resend_on_timeout: if_offline\n    resume_timeout: 3",
        }
        self.configuration.write_text(filled(self.stock, names))

        # ejabberdctl cannot connect to a node that is not distributed.
        permissions = {"who": [{"ip": "127.0.0.1/8"}], "what": [*self.arguments]}
        self.include("api.yml", json.dumps({"api_permissions": {"scenarios": permissions}}))

    def include(self, file, text):
        (self.includes / file).write_text(text)

    def remove_the_push_modules(self):
        self.stock = filled(self.stock, {"  mod_push: {}\n": "", "  mod_push_keepalive: {}\n": ""})

    def paste(self):
        self.remove_the_push_modules()
        names = {"example.com": "localhost", "http://localhost:8080": self.pushlark.url}
        names['secret: "SECRET"'] = f'secret: "{SECRET}"\n        queue_size: 50\n        queue_bytes: 1048576'
        self.include("mod_pushlark.yml", filled(snippet(self.page, "Try it first", 4), names))
        self.paste_bridge()
        url = "https://EVENTS.lambda-url.eu-west-1.on.aws/?token=SECRET"
        names = {"example.com": "log.localhost", url: f"{self.pushlark.url}/events?token={TOKEN}"}
        self.include("mod_post_log.yml", filled(snippet(self.page, "mod_post_log"), names))
        self.write_module_settings()
        self.pushlark.take(filled(snippet(self.page, "Nodes on ejabberd"), {
            "https://chat.example.com:5281": f"http://127.0.0.1:{self.rest_port}", "=TOKEN": f"={TOKEN}"
        }))

    def paste_bridge(self):
        names = {"example.com": self.hosts[0], "SECRET": "secret", "5347": self.component_port}
        self.include("bridge.yml", filled(snippet(self.page, "ejabberd's own push module"), names))

    def write_module_settings(self):
        hosts = {}
        for host, settings in self.module_settings.items():
            set = {name: value for name, value in settings.items() if value is not None}
            others = self.others if host == "both.localhost" else {}
            hosts[host] = {"modules": {"mod_pushlark": set, **others}}
        self.include("scenarios.yml", json.dumps({"append_host_config": hosts}))

    def register(self, user, host):
        self.command("register", user=user, host=host, password="secret")

    def command(self, name, **arguments):
        body = json.dumps(arguments).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/api/{name}", body).read()

    def commands(self, script):
        """Changes the commands of a page for this server: a function calls the HTTP API instead of ejabberdctl."""
        return f"""
            ejabberdctl() {{
                declare -A names=({" ".join(f"[{name}]={words!r}" for name, words in self.arguments.items())})
                names="${{names[$1]}}" url="http://127.0.0.1:{self.api_port}/api/$1"
                shift
                python3 - "$names" "$@" <<'END' | curl --fail --silent --data @- "$url"
import json, sys
names = sys.argv[1].split()
assert len(names) == len(sys.argv[2:]), sys.argv
print(json.dumps(dict(zip(names, sys.argv[2:]))))
END
            }}
            {script}
        """

    def reload(self):
        self.command("reload_config")

    def unload(self, host):
        self.module_settings.pop(host)
        self.write_module_settings()
        self.reload()

    def set_other(self, is_loaded):
        self.others = {"mod_push": {}, "mod_push_keepalive": {}} if is_loaded else {}
        self.write_module_settings()
        self.reload()

    async def start(self):
        environment = {
            "EJABBERD_CONFIG_PATH": str(self.configuration),
            "EJABBERD_LOG_PATH": str(self.log_file),
            "CONTRIB_MODULES_CONF_DIR": str(self.includes),
            "CONTRIB_MODULES_PATH": str(self.data / "modules"),
            "ERL_LIBS": ":".join(map(str, self.libraries)),
        }
        # Not distributed, so it listens only on the ports of the configuration.
        command = ["erl", "-noinput", "-mnesia", "dir", f'"{self.data}"', "-s", "ejabberd"]
        self.program = Program(self.name, command, self.folder, environment)
        await eventually("ejabberd", lambda: is_open(self.port) and is_open(self.api_port))
        if (self.includes / "bridge.yml").exists():
            await self.start_bridge()

    async def start_bridge(self):
        names = {
            "=127.0.0.1:5347": f"=127.0.0.1:{self.component_port}",
            "example.com=SECRET": f"{self.hosts[0]}=secret",
            "https://PUBSUB.lambda-url.eu-west-1.on.aws": f"{self.pushlark.url}/pubsub",
            "=WEBHOOK_SECRET": f"={SECRET}",
            "=TOKEN": f"={TOKEN}",
        }
        lines = filled(snippet("bridge.md", "Installation", 1), names).splitlines()
        settings = {**dict(line.split("=", 1) for line in lines), "BRIDGE_LISTEN": f"127.0.0.1:{self.rest_port}"}
        self.bridge = Program(f"{self.name}-bridge", [PROGRAMS / "pushlark-bridge"], self.folder, settings)
        self.bridges += 1
        connected = " connected component="
        await eventually("the bridge", lambda: self.bridge.output.read_text().count(connected) == self.bridges)

    async def restart_bridge(self):
        os.killpg(self.bridge.process.pid, signal.SIGKILL)
        self.bridge.process.wait()
        await self.start_bridge()

    def stop(self):
        super().stop()
        if self.bridge:
            self.bridge.stop()

    def has_disabled(self, user, node):
        return f"rejected notification for {user}@plain.localhost ({node}), disabling push" in self.log()


class FirstEjabberd(Ejabberd):
    """The server of a user who follows the page from the start."""

    name, hosts, module_hosts = "first-ejabberd", ["localhost"], []

    def install(self):
        """ejabberd installs the module itself, when it runs."""

    def paste(self):
        self.remove_the_push_modules()

    async def start(self):
        await super().start()
        names = {"mod_pushlark-": PACKAGES / "mod_pushlark-", "/var/lib/ejabberd/.ejabberd-modules": self.data / "modules"}
        await asyncio.to_thread(shell, self.commands(filled(snippet(self.page, "Try it first", 2), names)))
        names = {"http://localhost:8080": self.pushlark.url, "SECRET": TOKEN}
        self.include("mod_pushlark.yml", filled(snippet(self.page, "Try it first", 3), names))
        self.program.stop()
        await super().start()

    def paste_functions(self):
        names = {"SECRET": TOKEN, **self.urls}
        self.include("mod_pushlark.yml", filled(snippet(self.page, "With Pushlark on AWS"), names))


class PlainEjabberd(Ejabberd):
    """A server with its own push module instead of Pushlark's."""

    name, hosts, module_hosts = "plain-ejabberd", ["plain.localhost"], []

    def paste(self):
        self.stock = filled(self.stock, {"  mod_push: {}\n": snippet(self.page, "ejabberd's own push module", 1)})
        self.paste_bridge()


class EjabberdScenarios(
    InstallationScenarios, NotificationScenarios, EventScenarios, SenderScenarios, EventQueueScenarios, FaultScenarios,
    PushNodeScenarios,
):
    first, others = FirstEjabberd, "mod_push and mod_push_keepalive"

    async def plain_server(self):
        plain = PlainEjabberd(self.server.folder, self.pushlark)
        self.servers.append(plain)
        await plain.start()
        return plain

    async def the_commands_of_the_bridge_page_start_a_bridge(self, alice, bob):
        """systemd accepts the unit of the page, and its command runs a bridge within `local`."""
        unit, settings = self.server.folder / "pushlark-bridge.service", self.server.folder / "pushlark-bridge.env"
        settings.write_text(snippet("bridge.md", "Installation", 1))
        names = {"/usr/local/bin/pushlark-bridge": PROGRAMS / "pushlark-bridge", "/etc/pushlark-bridge.env": settings}
        unit.write_text(filled(snippet("bridge.md", "Installation", 2), names))
        output = shell(f"systemd-analyze verify {unit} 2>&1")
        assert unit.name not in output, output
        [options] = re.findall(r"`cargo run -p local -- (.*?)`", section("bridge.md", "Installation"))
        server = f"--server 127.0.0.1:{self.server.component_port} --port {free_port()} --memory"
        command = [PROGRAMS / "pushlark-local", *f"{filled(options, {'SECRET': 'secret'})} {server}".split()]
        local = Program("local-with-a-bridge", command, self.server.folder)
        self.servers.append(local)
        await eventually("the component", lambda: "connected component=push.localhost" in local.output.read_text())

    async def a_message_that_a_room_wraps_has_the_name_of_the_room(self, alice, bob):
        """A subscriber (MUC/Sub) who is offline gets the messages of a room inside an event of PubSub."""
        async with self.received_events() as events:
            room, node = f"room-{bob}@conference.{HOST}", "urn:xmpp:mucsub:nodes:messages"
            owner = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            configuration = {"muc#roomconfig_roomname": "Birds", "allow_subscription": "1"}
            await self.create_room(owner, f"{room}/Alice", **configuration)
            await phone.ask(f"<subscribe xmlns='urn:xmpp:mucsub:0' nick='Bob'><event node='{node}'/></subscribe>", room)
            await phone.offline()
            owner.send_raw(f"<message to='{room}' type='groupchat'><body>to the room</body></message>")
            wrapped = await self.event(events, to=f"{bob}@{HOST}", room_name="Birds")
            assert node in wrapped["stanza"] and wrapped["recipient"]["sender_known"] is True, wrapped

    async def webhooks_of_mod_post_log_become_notifications(self, alice, bob):
        """These webhooks have no presence, so every recipient counts as offline."""
        registration = {"user": f"{bob}@log.localhost", "jid": "push.log.localhost", "node": "node"}
        self.pushlark.ask("POST", "/enable", {**registration, "form": {"service": "fcm", "device_id": f"{bob}-log"}})
        self.server.register_once(bob, "log.localhost")
        sender = await self.client(alice, "pc", "log.localhost")
        sender.say(bob, "logged")
        first = await self.pushlark.notified(f"{bob}-log", 1)
        assert first[0]["body"] == "logged" and first[0]["title"] == f"{alice}@log.localhost", first
