"""What happens between a real chat server with Pushlark's module, a real client, and the sink of a local stack."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import slixmpp
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = ROOT / "infra" / "chat-servers"
# The configuration files of Debian's packages, modules of Prosody from its backports, and the programs that are tested.
STOCK = Path(os.environ["STOCK"])
PROGRAMS = Path(os.environ["PROGRAMS"])
# What the modules and the bridge sign with, and what a server presents that can only set a URL.
SECRET = "whsec_c3RvcmllcyBvZiByZWFsIHNlcnZlcnM="
TOKEN = "token-of-the-stories"
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiB0aGVpcnM="
PATIENCE = 60

# Settings of which each turns push off on a host of its own, with what the log says of it. The names are as ejabberd's; a
# URL of None is not set.
BAD_SETTINGS = {
    "none": ({"queue_size": 0}, "queue_size must be a whole number from 1"),
    "negative": ({"queue_size": -1}, "queue_size must be a whole number from 1"),
    "words": ({"queue_bytes": "many"}, "queue_bytes must be a whole number from 1"),
    "broken": ({"queue_size": 1.5}, "queue_size must be a whole number from 1"),
    "hasty": ({"timeout": 0}, "timeout must be from 1 to 600 seconds"),
    "idle": ({"timeout": 10000}, "timeout must be from 1 to 600 seconds"),
    "schemeless": ({"url": "localhost:8080"}, "url must be a URL that begins with https:// or http://"),
    "spaced": ({"events_url": "http://local host/"}, "events_url must be a URL that begins with https:// or http://"),
    "nowhere": ({"url": None}, "enable_url, "),
    "short": ({"secret": "secret-secret"}, "secret must have 16 bytes or more"),
    "garbled": ({"secret": "whsec_secret-secret-secret!!"}, "secret must be base64 behind whsec_"),
}


def section(page, heading):
    """What stands below a heading of a page, up to the next heading."""
    below = rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)"
    [text] = re.findall(below, (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return text


def snippet(page, heading, number=0):
    """A code block of a page, by its number below a heading."""
    return re.findall(r"^```\w+\n(.*?)^```$", section(page, heading), re.MULTILINE | re.DOTALL)[number]


def filled(text, names):
    """A text with other names, ports and URLs; each of the names must occur."""
    for name in names:
        assert name in text, f"there is no {name} in {text}"
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    return re.sub("|".join(longest_first), lambda found: str(names[found.group()]), text) if names else text


def shell(script, **environment):
    """Runs commands of a page as a user does, and returns what they print."""
    ran = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if ran.returncode:
        raise AssertionError(f"{script}\nends with {ran.returncode}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def eventually(what, condition):
    """Waits until `condition` gives something."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        await asyncio.sleep(0.05)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A process of its own group, with its output in a file."""

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


class Pushlark:
    """A local stack, with what its sink was sent."""

    def __init__(self, folder):
        self.folder, self.port, self.program = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"WEBHOOK_SECRET": f"{SECRET},{TOKEN}"}

    def take(self, commands):
        """Settings, as commands of a page give them."""
        settings = dict(re.findall(r"([A-Z_]+)=([^\s$]+)", commands))
        assert settings, commands
        self.settings.update(settings)

    async def start(self):
        command = [PROGRAMS / "pushlark-local", "--port", str(self.port), "--data", str(self.folder / "pushlark")]
        self.program = Program("pushlark", command, self.folder, self.settings)
        await eventually("Pushlark", lambda: is_open(self.port))

    def stop(self):
        if self.program:
            self.program.stop()

    def ask(self, method, path, body=None):
        body = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def notifications(self, device):
        entries = reversed(self.ask("GET", f"/sink/notifications?device_id={device}"))
        return [entry["notification"]["alert"] for entry in entries]

    async def notified(self, device, times):
        def enough():
            notifications = self.notifications(device)
            return notifications if len(notifications) >= times else None

        return await eventually(f"{times} notifications for {device}", enough)

    def device_is_gone(self, device):
        self.ask("PUT", f"/sink/devices/{device}", {"status": 410, "body": {"reason": "unregistered"}})

    def explained(self, user):
        """What a message to a user finds."""
        event = {"type": "message", "from": "alice@localhost", "to": user, "chat": "chat", "body": "Hi"}
        return self.ask("POST", "/explain", {"explain": [event]})["explained"][0]["recipients"][0]

    def registrations(self, user):
        return self.explained(user)["registrations"]


class Client(slixmpp.ClientXMPP):
    """A client that connects when it is told to."""

    def __init__(self, server, user, resource, host):
        super().__init__(f"{user}@{host}/{resource}", "secret")
        self.chat_server = server
        self.enable_plaintext, self.enable_starttls, self.enable_direct_tls = True, False, False
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        self.plugin["feature_mechanisms"].unencrypted_scram = True
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0191")
        self.register_plugin("xep_0198")
        self.bodies, self.items = [], []
        self.add_event_handler("message", lambda message: self.bodies.append(message["body"]))
        event = MatchXPath("{jabber:client}message/{http://jabber.org/protocol/pubsub#event}event")
        self.register_handler(Callback("items", event, lambda message: self.items.append(str(message))))

    async def online(self):
        bound = self.wait_until("session_start", PATIENCE)
        self.connect("127.0.0.1", self.chat_server.port)
        await bound
        self.send_presence()
        return self

    async def offline(self):
        gone = self.wait_until("disconnected", PATIENCE)
        self.disconnect()
        await gone

    def lose(self):
        """Breaks the connection without a word."""
        self.transport.abort()

    async def ask(self, payload, to=None):
        iq = self.make_iq_set(ito=to)
        iq.append(slixmpp.xmlstream.ET.fromstring(payload))
        return await iq.send(timeout=PATIENCE)

    async def enable(self, node, device, jid=None):
        fields = {"FORM_TYPE": "http://jabber.org/protocol/pubsub#publish-options", "service": "fcm", "device_id": device}
        fields = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in fields.items())
        jid = jid or f"push.{self.boundjid.domain}"
        form = f"<x xmlns='jabber:x:data' type='submit'>{fields}</x>"
        await self.ask(f"<enable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'>{form}</enable>")

    async def disable(self, node):
        jid = f"push.{self.boundjid.domain}"
        await self.ask(f"<disable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'/>")

    async def create_node(self, service, node, affiliations, attributes=""):
        """A node, whose owner the client is."""
        create = f"<create node='{node}'{attributes}/>"
        await self.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{create}</pubsub>", service)
        list = "".join(f"<affiliation jid='{jid}' affiliation='{name}'/>" for jid, name in affiliations.items())
        list = f"<affiliations node='{node}'>{list}</affiliations>"
        await self.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'>{list}</pubsub>", service)

    def say(self, to, body):
        self.send_message(slixmpp.JID(f"{to}@{self.boundjid.domain}"), body, mtype="chat")


class Server:
    """What the stories ask of a chat server, beside XMPP. It starts from the configuration of Debian's package, with the
    snippets of its page, and with other names, ports and URLs."""

    # Hosts with Pushlark's module: with another push module beside it, with each of the bad settings, and with mistakes.
    module_hosts = ["both.localhost", *(f"{name}.localhost" for name in BAD_SETTINGS), "mistakes.localhost"]

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

    def register_once(self, user, host):
        if (user, host) not in self.users:
            self.register(user, host)
            self.users.add((user, host))

    async def set(self, host, **settings):
        """Other settings of the module, which a reload of the configuration takes."""
        self.module_settings[host] = {"secret": SECRET, **settings}
        self.write_module_settings()
        await asyncio.to_thread(self.reload)

    def stop(self):
        if self.program:
            self.program.stop()

    def log(self):
        return self.log_file.read_text(errors="replace")

    async def logged(self, pattern, since=0):
        """Waits for a line of the log."""
        return await eventually(f"{pattern!r} in the log", lambda: re.search(pattern, self.log()[since:]))

    def complaints(self):
        """How often the module has said that events wait."""
        return self.log().count("takes no events")

    def lost(self):
        """How many events the module has dropped, by its own words."""
        return sum(map(int, re.findall(r"(\d+) events are lost: the queue is full", self.log())))

    async def restart_bridge(self):
        """Where there is one."""


class Prosody(Server):
    name, page, publisher, hosts = "prosody", "prosody.md", "localhost", ["localhost"]

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.http_port, self.log_file = free_port(), self.data / "prosody.log"
        self.configuration = self.data / "prosody.cfg.lua"
        (self.data / "conf.d").mkdir()
        self.paths = {"/usr/local/lib/prosody/modules": self.data / "modules"}
        shell(filled(snippet(self.page, "Try it first", 1), self.paths))
        shutil.copytree(STOCK / "mod_rest", self.data / "modules" / "mod_rest")
        self.configure()
        self.paste()

    def configure(self):
        """What lets Prosody run beside another one, without TLS and at the pace of the stories."""
        stock = (STOCK / "prosody.cfg.lua").read_text()
        # Loaded for all hosts, as by those who had it before.
        stock = filled(stock, {'\t\t"disco";': '\t\t"cloud_notify";\n\t\t"disco";'})
        own = f"""
            data_path = "{self.data}"
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
        # An option that stands twice in a file is a warning of Prosody's; that of the nodes holds.
        names = {"example.com": "localhost", "SECRET": SECRET, '\tmodules_enabled = { "pushlark" }\n': "", **self.urls}
        module = filled(snippet(self.page, "With Pushlark on AWS"), names)
        bounds = "\tpushlark_queue_size = 50\n\tpushlark_queue_bytes = 1048576\n"
        names = {"chat.example.com": "127.0.0.1", "admin@example.com": "owner@localhost", "example.com": "localhost"}
        nodes = filled(snippet(self.page, "Nodes on Prosody"), names)
        pubsub = "https://PUBSUB.lambda-url.eu-west-1.on.aws/?token=SECRET"
        names = {"example.com": "plain.localhost", pubsub: f"{self.pushlark.url}/pubsub?token={TOKEN}"}
        own = filled(snippet(self.page, "Prosody's own push module", 1), names)
        # Callbacks as they are when nobody says of which type; it is asked for when Prosody starts.
        relay = f"""
            Component "relay.localhost" "rest"
                rest_callback_url = "{self.pushlark.url}/events?token={TOKEN}"
                rest_callback_content_type = "application/json"
        """
        (self.data / "conf.d" / "pushlark.cfg.lua").write_text(module + bounds + nodes + own + relay)
        self.write_module_settings()

    def write_module_settings(self):
        lines = []
        for host, settings in self.module_settings.items():
            lines += [f'VirtualHost "{host}"', '\tmodules_enabled = { "pushlark" }']
            if host != "both.localhost":
                lines.append('\tmodules_disabled = { "cloud_notify" }')
            lines += [f"\tpushlark_{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
        (self.data / "conf.d" / "stories.cfg.lua").write_text("\n".join(lines) + "\n")

    def register(self, user, host):
        self.control("register", user, host, "secret")

    def control(self, *arguments):
        command = ["prosodyctl", "--config", str(self.configuration), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commands(self, script):
        """A page's commands, for this server."""
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
    """As somebody has it who follows the page from its beginning."""

    name, module_hosts = "first-prosody", []

    def paste(self):
        names = {"example.com": "localhost", "http://localhost:8080": self.pushlark.url, "SECRET": TOKEN}
        self.include(filled(snippet(self.page, "Try it first", 2), names))

    def paste_functions(self):
        names = {"example.com": "localhost", "SECRET": TOKEN, **self.urls}
        self.include(filled(snippet(self.page, "With Pushlark on AWS"), names))

    def include(self, text):
        (self.data / "conf.d" / "pushlark.cfg.lua").write_text(text)

    def page_of_nodes(self):
        return None


class Ejabberd(Server):
    name, page, publisher = "ejabberd", "ejabberd.md", "push.localhost"
    hosts = ["localhost", "other.localhost", "log.localhost"]

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.api_port, self.component_port, self.rest_port = free_port(), free_port(), free_port()
        self.log_file, self.bridge = self.data / "ejabberd.log", None
        self.bridges, self.others = 0, {"mod_push": {}, "mod_push_keepalive": {}}
        self.configuration, self.includes = self.data / "ejabberd.yml", self.data / "modules.d"
        self.includes.mkdir()
        self.default = self.data / "default"
        self.stock = (STOCK / "ejabberd.yml").read_text()
        self.paste()
        self.configure()
        names = {"/usr/local/lib/pushlark": self.data / "lib", "/etc/default/ejabberd": self.default}
        shell(filled(snippet(self.page, "Try it first", 1), names))

    def configure(self):
        """What lets ejabberd run beside another one, without TLS and at the pace of the stories."""
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

        # No ejabberdctl reaches a node that is not distributed.
        permissions = {"who": [{"ip": "127.0.0.1/8"}], "what": ["register", "send_message", "reload_config"]}
        self.include("api.yml", json.dumps({"api_permissions": {"stories": permissions}}))

    def include(self, file, text):
        (self.includes / file).write_text(text)

    def remove_the_push_modules(self):
        self.stock = filled(self.stock, {"  mod_push: {}\n": "", "  mod_push_keepalive: {}\n": ""})

    def paste(self):
        self.remove_the_push_modules()
        names = {"example.com": "localhost", "http://localhost:8080": self.pushlark.url}
        names['secret: "SECRET"'] = f'secret: "{SECRET}"\n        queue_size: 50\n        queue_bytes: 1048576'
        self.include("mod_pushlark.yml", filled(snippet(self.page, "Try it first", 3), names))
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
        self.include("stories.yml", json.dumps({"append_host_config": hosts}))

    def register(self, user, host):
        self.command("register", user=user, host=host, password="secret")

    def command(self, name, **arguments):
        body = json.dumps(arguments).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/api/{name}", body).read()

    def commands(self, script):
        """A page's commands, for this server, which no ejabberdctl reaches since it is no distributed node."""
        arguments = {"register": "user host password", "send_message": "type from to subject body", "reload_config": ""}
        return f"""
            ejabberdctl() {{
                declare -A names=({" ".join(f"[{name}]={words!r}" for name, words in arguments.items())})
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
            "ERL_LIBS": str(next(Path("/usr/lib").glob("*/ejabberd-*/ebin")).parent.parent),
        }
        # Not distributed: nothing listens but what the configuration names.
        start = f"""exec erl $ERL_OPTIONS -noinput -mnesia dir '"{self.data}"' -s ejabberd"""
        command = ["bash", "-euc", f"ERL_OPTIONS=; . {self.default}; {start}"]
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
        lines = filled(snippet("bridge.md", "The bridge", 1), names).splitlines()
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
    """As somebody has it who follows the page from its beginning."""

    name, hosts, module_hosts = "first-ejabberd", ["localhost"], []

    def paste(self):
        self.remove_the_push_modules()
        names = {"http://localhost:8080": self.pushlark.url, "SECRET": TOKEN}
        self.include("mod_pushlark.yml", filled(snippet(self.page, "Try it first", 2), names))

    def paste_functions(self):
        names = {"SECRET": TOKEN, **self.urls}
        self.include("mod_pushlark.yml", filled(snippet(self.page, "With Pushlark on AWS"), names))


class PlainEjabberd(Ejabberd):
    """With its own push module."""

    name, hosts, module_hosts = "plain-ejabberd", ["plain.localhost"], []

    def paste(self):
        self.stock = filled(self.stock, {"  mod_push: {}\n": snippet(self.page, "ejabberd's own push module", 1)})
        self.paste_bridge()


class Answers:
    """An HTTP server that is not Pushlark: it gives one answer, a status, a content type and a body, or none."""

    def __init__(self, folder, tls=False):
        self.answer, self.requests, self.hanging, self.tls = None, [], set(), None
        if tls:
            files = ["-keyout", folder / "answers.key", "-out", folder / "answers.pem"]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=answers", *files]
            subprocess.run(command, check=True, capture_output=True)
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(folder / "answers.pem", folder / "answers.key")

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(re.search(r"(?i)content-length: (\d+)", head).group(1)))
            path = head.split()[1]
            self.requests.append(path)
            if self.answer is None:
                self.hanging.add(path)
                await reader.read()
                self.hanging.discard(path)
            else:
                status, type, body = self.answer
                type = f"Content-Type: {type}\r\n" if type else ""
                body = body.encode()
                head = f"HTTP/1.1 {status} -\r\n{type}Location: https://example.org/?secret\r\nRetry-After: 1\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, AttributeError):
            pass
        finally:
            writer.close()


class Stories:
    """Each story has users of its own, alice and bob with a number, who are registered when they first connect."""

    def __init__(self, server, pushlark):
        self.server, self.pushlark, self.clients, self.servers = server, pushlark, [], []

    async def client(self, user, resource, host="localhost", server=None):
        server = server or self.server
        server.register_once(user, host)
        client = Client(server, user, resource, host)
        self.clients.append(client)
        return await client.online()

    async def refused(self, request):
        try:
            await request
        except slixmpp.exceptions.IqError as error:
            return error.iq["error"]
        raise AssertionError("there is no error")

    async def enables(self, client, device):
        try:
            await client.enable("node", device)
            return True
        except slixmpp.exceptions.IqError:
            return False

    async def end(self):
        for client in self.clients:
            if client.is_connected():
                await client.offline()
        self.clients.clear()
        for server in self.servers:
            server.stop()
        self.servers.clear()

    async def bad_settings_turn_push_off_and_chat_goes_on(self, alice, bob):
        """One line of the log each, when the server starts; a reload with good ones turns push on. This story comes first,
        before others reload the configuration."""
        server = self.server
        for name in BAD_SETTINGS:
            await server.logged(rf"{name}\.localhost.*ush is off: ")
        log = server.log()
        for name, (_, problem) in BAD_SETTINGS.items():
            lines = [line for line in log.splitlines() if f"{name}.localhost" in line and "ush is off: " in line]
            assert len(lines) == 1 and problem in lines[0], (name, lines)
        unwanted = r"traceback|stacktrace|mod_pushlark:start|secret-secret"
        assert not re.search(unwanted, log, re.IGNORECASE), "a trace or a secret"
        host = "none.localhost"
        sender = await self.client(alice, "pc", host)
        phone = await self.client(bob, "phone", host)
        sender.say(bob, "with push off")
        await eventually("the message", lambda: "with push off" in phone.bodies)
        info = await phone.plugin["xep_0030"].get_info(jid=phone.boundjid.bare, timeout=PATIENCE)
        assert "urn:xmpp:push:0" not in info["disco_info"]["features"], info
        error = await self.refused(phone.enable("node", bob))
        assert error["condition"] == "service-unavailable", error
        await server.set(host, url=self.pushlark.url)
        await eventually("push", lambda: self.enables(phone, bob))
        since = len(server.log())
        await server.set(host, url=self.pushlark.url, queue_size=-1)
        await server.logged(rf"{host}.*he former settings stay: \w*queue_size must be a whole number", since)
        sender.say(bob, "with the former settings")
        await eventually("the message", lambda: "with the former settings" in phone.bodies)
        await phone.offline()
        sender.say(bob, "offline")
        assert (await self.pushlark.notified(bob, 1))[0]["body"] == "offline"

    async def the_page_leads_to_a_notification(self, alice, bob):
        """Its commands from the beginning, on a server of its own; then the settings of Pushlark on AWS."""
        server = self.first(self.server.folder, self.pushlark)
        self.servers.append(server)
        script = snippet(server.page, "Check that it works")
        names = {"localhost:8080": self.pushlark.url.removeprefix("http://"), "example.com": "localhost"}
        await server.start()
        for notifications, user in [(1, bob), (2, f"{bob}-of-functions")]:
            await asyncio.to_thread(shell, server.commands(filled(script, {**names, "bob": user})), SECRET=TOKEN)
            await server.logged("takes events")
            await self.pushlark.notified("check", notifications)
            server.paste_functions()
            await asyncio.to_thread(server.reload)
        assert "he former settings stay" not in server.log()

    async def push_is_announced(self, alice, bob):
        """The server and the account announce urn:xmpp:push:0."""
        client = await self.client(bob, "phone")
        for jid in ["localhost", f"{bob}@localhost"]:
            info = await client.plugin["xep_0030"].get_info(jid=jid, timeout=PATIENCE)
            assert "urn:xmpp:push:0" in info["disco_info"]["features"], info

    async def requests_are_answered_by_pushlark(self, alice, bob):
        """What is wrong with a request is said by an error of its own."""
        client = await self.client(bob, "phone")
        try:
            await client.ask("<enable xmlns='urn:xmpp:push:0' jid='push.localhost'/>")
            raise AssertionError("enabled without a node")
        except slixmpp.exceptions.IqError as error:
            assert error.iq["error"]["condition"] == "bad-request", error.iq
            assert "node" in error.iq["error"]["text"], error.iq

    async def offline_users_are_notified_once(self, alice, bob):
        """Enabled, offline, written to: notified once; online: not; disabled: not."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        sender.say(bob, "while online")
        await eventually("the message", lambda: "while online" in phone.bodies)
        await phone.offline()
        sender.say(bob, "while offline")
        first = await self.pushlark.notified(bob, 1)
        assert first[0]["body"] == "while offline" and first[0]["title"] == f"{alice}@localhost", first
        phone = await self.client(bob, "phone")
        await phone.disable("node")
        await phone.enable("other", f"{bob}-other")
        await phone.offline()
        sender.say(bob, "disabled")
        await self.pushlark.notified(f"{bob}-other", 1)
        assert len(self.pushlark.notifications(bob)) == 1, self.pushlark.notifications(bob)

    async def lost_sessions_are_notified_at_once(self, alice, bob):
        """A session that is lost with messages that it did not acknowledge: its device is notified, and not again when it
        dies; another device of the user is then."""
        sender = await self.client(alice, "pc")
        tablet = await self.client(bob, "tablet")
        await tablet.enable("tablet", f"{bob}-tablet")
        await tablet.offline()
        phone = await self.client(bob, "phone")
        await phone.enable("phone", bob)
        phone.lose()
        sender.say(bob, "lost")
        lost = await self.pushlark.notified(bob, 1)
        assert lost[0]["body"] == "lost", lost
        assert not self.pushlark.notifications(f"{bob}-tablet")
        await self.pushlark.notified(f"{bob}-tablet", 1)
        sender.say(bob, "dead")
        await self.pushlark.notified(bob, 2)
        bodies = [alert["body"] for alert in self.pushlark.notifications(bob)]
        assert bodies == ["lost", "dead"], bodies

    async def resumed_sessions_stay_online(self, alice, bob):
        """A session that comes back (XEP-0198) is not taken for gone when its former stream is."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        resumed = phone.wait_until("session_resumed", PATIENCE)
        phone.lose()
        phone.connect("127.0.0.1", self.server.port)
        await resumed
        sender.say(bob, "again")
        await eventually("the message", lambda: "again" in phone.bodies)
        told = f"recipient={bob}@localhost}}: not notified"
        await eventually("the message to be told", lambda: told in self.pushlark.program.output.read_text())
        assert self.pushlark.explained(f"{bob}@localhost")["online"] is True
        assert not self.pushlark.notifications(bob)

    async def blocked_contacts_notify_nobody(self, alice, bob):
        """XEP-0191: what the server does not deliver."""
        blocked = await self.client(alice, "pc")
        other = await self.client("owner", alice)
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.plugin["xep_0191"].block(slixmpp.JID(f"{alice}@localhost"), timeout=PATIENCE)
        await phone.offline()
        blocked.say(bob, "from whom is blocked")
        await blocked.plugin["xep_0030"].get_info(jid="localhost", timeout=PATIENCE)
        other.say(bob, "from another")
        notifications = await self.pushlark.notified(bob, 1)
        assert [alert["body"] for alert in notifications] == ["from another"], notifications

    async def nothing_is_lost_while_pushlark_is_down(self, alice, bob):
        """Events wait in the server, which goes on; clients are answered that it is for a while."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.offline()
        self.pushlark.stop()
        for number in range(5):
            sender.say(bob, str(number))
        try:
            await sender.enable("node", "device")
            raise AssertionError("enabled by nobody")
        except slixmpp.exceptions.IqError as error:
            assert error.iq["error"]["type"] == "wait", error.iq
        await self.pushlark.start()
        await self.pushlark.notified(bob, 5)
        bodies = sorted(alert["body"] for alert in self.pushlark.notifications(bob))
        assert bodies == ["0", "1", "2", "3", "4"], bodies

    async def what_pushlark_calls_bad_is_dropped_alone(self, alice, bob):
        """Of a batch, the other events are told again without it."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.offline()
        self.pushlark.stop()
        sender.say(bob, "before")
        deep = "<a xmlns='urn:example:deep'>" * 70 + "</a>" * 70
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><body>deep</body>{deep}</message>")
        sender.say(bob, "after")
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=PATIENCE)
        await self.pushlark.start()
        await self.pushlark.notified(bob, 2)
        bodies = sorted(alert["body"] for alert in self.pushlark.notifications(bob))
        assert bodies == ["after", "before"], bodies
        await eventually("the log to say so", lambda: "1 events are lost, " in self.server.log())

    async def beyond_their_bound_the_oldest_events_go(self, alice, bob):
        """pushlark_queue_size and queue_size are 50; what is on its way counts apart; the log counts what is lost."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.offline()
        self.pushlark.stop()
        complaints = self.server.complaints()
        sender.say(bob, "first")
        await eventually("the first event to be on its way", lambda: self.server.complaints() > complaints)
        lost = self.server.lost()
        for number in range(60):
            sender.say(bob, str(number))
        # Answered after all that its sender said before.
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=PATIENCE)
        await self.pushlark.start()
        await eventually("the last", lambda: "59" in [alert["body"] for alert in self.pushlark.notifications(bob)])
        notifications = await self.pushlark.notified(bob, 50)
        assert len(notifications) < 55 and "5" not in [alert["body"] for alert in notifications], notifications
        await eventually("the log to say so", lambda: self.server.lost() >= lost + 10)

    async def beyond_their_bytes_the_oldest_events_go(self, alice, bob):
        """pushlark_queue_bytes and queue_bytes are 1 MiB, which is the bytes of ten events; the log counts what is lost."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.offline()
        self.pushlark.stop()
        complaints = self.server.complaints()
        sender.say(bob, "first")
        await eventually("the first event to be on its way", lambda: self.server.complaints() > complaints)
        lost = self.server.lost()
        padding = "x" * 100_000
        for number in range(25):
            padded = f"<body>{number}</body><x xmlns='urn:example:padding'>{padding}</x>"
            sender.send_raw(f"<message to='{bob}@localhost' type='chat'>{padded}</message>")
        # Answered after all that its sender said before.
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=PATIENCE)
        await self.pushlark.start()
        await self.pushlark.notified(bob, 10)
        bodies = {alert["body"] for alert in self.pushlark.notifications(bob)}
        assert bodies - {"first"} == set(map(str, range(15, 25))), bodies
        await eventually("the log to say so", lambda: self.server.lost() >= lost + 15)

    async def what_is_wrong_is_told_and_nothing_is_lost(self, alice, bob):
        """A message waits for the right settings, while the log tells each fault, and clients are told the truth."""
        host, server = "mistakes.localhost", self.server
        sender = await self.client(alice, "pc", host)
        phone = await self.client(bob, "phone", host)
        await phone.enable("node", bob)
        await phone.offline()
        async with Answers(server.folder) as answers, Answers(server.folder, tls=True) as secured:
            silent = f"http://127.0.0.1:{free_port()}"
            plain, problem = answers.url, "application/problem+json"
            detail = json.dumps({"detail": "first line\r\n\u0007" + "x" * 1000})
            html, refuses = "text/html; charset=utf-8", "refuses this server, whose administrator must check the secret"
            busy, elsewhere = "cannot take the request now, try again later", "is not where this server asks for it"
            absent = "does not answer, try again later"
            faults = [
                # The URL, the secret and the answer that is given; what the log says, and the client's text.
                (self.pushlark.url, OTHER_SECRET, None, r"answers 401 \([^()]+\)", refuses),
                (silent, SECRET, None, r"does not answer \(connection refused\)", absent),
                ("http://pushlark.invalid", SECRET, None, r"does not answer \(the host name cannot be resolved\)", absent),
                (secured.url, SECRET, None, r"does not answer \((its certificate is not trusted|TLS fails: .+)\)", absent),
                (secured.url.replace("https", "http"), SECRET, None, r"does not answer \([a-z ]+\)", absent),
                (plain.replace("http", "https"), SECRET, (400, html, "<html>"), r"does not answer \([^(){}<>]+\)", absent),
                (plain, SECRET, (502, html, "<html>Bad Gateway"), rf"answers 502 \(not as Pushlark does: {html}\)", busy),
                (plain, SECRET, (413, html, "<html>"), r"answers 413 \(not as Pushlark does: text/html.*\)", elsewhere),
                (plain, SECRET, (200, html, "<html>"), r"answers 200 \(not as Pushlark does: text/html.*\)", elsewhere),
                (plain, SECRET, (301, None, ""), r"answers 301 \(a redirect to https://example.org/\)", elsewhere),
                (plain, SECRET, (500, problem, detail), r"answers 500 \(first line +x{250,300}…\)", busy),
                (plain, SECRET, (500, problem, "[]"), r"answers 500 \([a-zA-Z: +/]+\)", busy),
                # Which an HTTP client may try again by itself.
                (plain, SECRET, (503, None, ""), r"answers 503 \([a-zA-Z: ]+\)", busy),
                (plain, SECRET, None, r"does not answer \(no answer within [a-z0-9 ]+\)", absent),
            ]
            for number, (url, secret, answer, told, text) in enumerate(faults, 100):
                answers.answer, since = answer, len(server.log())
                # A setting changes each time, or ejabberd has nothing to reload.
                # Some answers are waited for in vain.
                timeout = 1 if url.endswith(plain.removeprefix("http")) else 10
                await server.set(host, url=url + "/", secret=secret, timeout=timeout, queue_size=number)
                if url == faults[0][0]:
                    sender.say(bob, "while the settings are wrong")
                address = rf"{host}.*\s{re.escape(url)}"
                next_try = r"\d+ wait, next try in \d+ seconds\n"
                await server.logged(rf"{address}/events takes no events: it {told}; {next_try}", since)
                error = await self.refused(sender.enable("node", alice))
                assert error["type"] == "wait" and text in error["text"], f"{told}: {error}"
                if secret == OTHER_SECRET:
                    refusal = 'a request is refused status=401 reason="wrong signature"'
                    log = self.pushlark.program.output
                    await eventually("Pushlark's log to say so", lambda: refusal in log.read_text())
                await server.logged(rf"{address}/enable answers no request to enable push: it {told};", since)
        since = len(server.log())
        await server.set(host, url=self.pushlark.url + "//")
        await server.logged(rf"{host}.*\s{re.escape(self.pushlark.url)}/events takes events\n", since)
        sender.say(bob, "after")
        alerts = await self.pushlark.notified(bob, 2)
        bodies = sorted(alert["body"] for alert in alerts)
        assert bodies == ["after", "while the settings are wrong"], bodies

    async def another_push_module_is_told_of(self, alice, bob):
        """In the log, at the start, when it is loaded later, and when a client enables; Pushlark answers, whether it is
        loaded or not. A host without another is silent."""
        other = rf"both\.localhost.*this host has {self.others}, too, so users may be notified twice: unload one push"
        assert re.search(other, self.server.log())
        assert not re.search(r"(?<!both\.)localhost:.*this host has ", self.server.log())
        since = len(self.server.log())
        phone = await self.client(bob, "phone", "both.localhost")
        await phone.enable("node", bob)
        await self.server.logged(other, since)
        for is_loaded in [False, True]:
            since = len(self.server.log())
            await asyncio.to_thread(self.server.set_other, is_loaded)
            if is_loaded:
                await self.server.logged(other, since)
            await phone.enable(f"node-{is_loaded}", bob)
        nodes = [registration["node"] for registration in self.pushlark.registrations(f"{bob}@both.localhost")]
        assert sorted(nodes) == ["node", "node-False", "node-True"], nodes

    async def what_is_unloaded_stops(self, alice, bob):
        """What it has lost is told, and no more requests are made, neither by a timer nor by the one that is on its way."""
        server = self.server
        async with Answers(server.folder) as answers:
            answers.answer = (502, None, "")
            for host in ["hasty.localhost", "idle.localhost", "both.localhost"]:
                await server.set(host, url=f"{answers.url}/{host}", timeout=600)
                sender = await self.client(alice, "pc", host)
                self.server.register_once(bob, host)
                sender.say(bob, host)
                await server.logged(rf"/{host}/events takes no events")
            since = len(server.log())
            await asyncio.to_thread(server.unload, "hasty.localhost")
            await server.logged(r"hasty\.localhost.*\d+ events are lost: they waited for Pushlark", since)
            requests = len(answers.requests)
            await eventually("more tries", lambda: "".join(answers.requests[requests:]).count("/idle.localhost/") >= 3)
            assert "/hasty.localhost/" not in answers.requests[requests:], answers.requests
            answers.answer = None
            hanging = {"/idle.localhost/events", "/both.localhost/events"}
            await eventually("requests that hang", lambda: answers.hanging == hanging)
            await asyncio.to_thread(server.unload, "idle.localhost")
            await eventually("its end", lambda: "/idle.localhost/events" not in answers.hanging)

    async def the_servers_own_push_module_publishes_to_our_node(self, alice, bob):
        """XEP-0357 without our module; the bridge dies in between; a device that is gone is disabled by the server."""
        server = await self.plain_server()
        sender = await self.client(alice, "pc", "plain.localhost", server)
        phone = await self.client(bob, "phone", "plain.localhost", server)
        await phone.create_node(
            "push.plain.localhost", f"node-{bob}", {"plain.localhost": "publish-only"}, " type='push'"
        )
        await phone.enable(f"node-{bob}", f"{bob}-plain")
        await phone.offline()
        sender.say(bob, "first")
        first = await self.pushlark.notified(f"{bob}-plain", 1)
        assert first[0]["body"] == "first" and first[0]["title"].startswith(f"{alice}@plain.localhost"), first
        await server.restart_bridge()
        sender.say(bob, "second")
        second = await self.pushlark.notified(f"{bob}-plain", 2)
        assert [alert["body"] for alert in second] == ["first", "second"], second
        self.pushlark.device_is_gone(f"{bob}-plain")

        async def disabled():
            if server.has_disabled(bob, f"node-{bob}"):
                return True
            sender.say(bob, "gone")
            await asyncio.sleep(0.5)

        await eventually("the server to disable push", disabled)

    async def we_publish_to_nodes_of_the_server(self, alice, bob):
        """A registration at a host that is not virtual; the node's subscriber gets the item; no node, no registration."""
        service, node, user = "pubsub.localhost", f"node-{bob}", f"{bob}@localhost"
        sender = await self.client(alice, "pc")
        owner = await self.client("owner", bob)
        await owner.create_node(service, node, {self.server.publisher: "publisher"})
        subscribe = f"<subscribe node='{node}' jid='{owner.boundjid.bare}'/>"
        await owner.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{subscribe}</pubsub>", service)
        phone = await self.client(bob, "phone")
        await phone.enable(node, "device", service)
        await phone.offline()
        assert self.pushlark.registrations(user) == [{"jid": service, "node": node}]
        sender.say(bob, "to a node")
        await eventually("the item", lambda: owner.items)
        for part in ["urn:xmpp:push:summary", "last-message-body", "to a node", f"{alice}@localhost"]:
            assert part in owner.items[0], owner.items
        delete = f"<delete node='{node}'/>"
        await owner.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'>{delete}</pubsub>", service)
        sender.say(bob, "to no node")
        await eventually("the registration to go", lambda: self.pushlark.registrations(user) == [])


    async def every_line_of_the_page_is_one_of_the_log(self, alice, bob):
        """The table of log lines; the stories before this one have led to each. No line has a secret."""
        sender = await self.client(alice, "pc")
        self.server.register_once(bob, "localhost")
        padding = "x" * 210_000
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><body>{padding}</body></message>")
        await self.server.set("spaced.localhost", url=self.pushlark.url, secret=None)
        for line in re.findall(r"^\| `(.*?)` \|", section(self.server.page, "Log lines"), re.MULTILINE):
            pattern = re.sub(r"\b(URL|DETAIL|REASON|PROBLEMS|TYPE|JID)\b", ".+", re.escape(line))
            await self.server.logged(re.sub(r"\bN\b", r"\\d+", pattern))
        assert SECRET not in self.server.log() and OTHER_SECRET not in self.server.log(), "a secret is in the log"


class ProsodyStories(Stories):
    """What other servers have no module for."""

    first, others = FirstProsody, "mod_cloud_notify"

    async def plain_server(self):
        return self.server

    async def a_reload_of_the_module_loses_nothing(self, alice, bob):
        """What waits is sent by the instance that comes after."""
        sender = await self.client(alice, "pc")
        phone = await self.client(bob, "phone")
        await phone.enable("node", bob)
        await phone.offline()
        self.pushlark.stop()
        complaints, since = self.server.complaints(), len(self.server.log())
        for number in range(3):
            sender.say(bob, str(number))
        await eventually("an event to be on its way", lambda: self.server.complaints() > complaints)
        script = re.search(r"`(prosodyctl shell .*?)`", section("prosody.md", "Upgrade and removal")).group(1)
        await asyncio.to_thread(shell, self.server.commands(filled(script, {"example.com": "localhost"})))
        await self.pushlark.start()
        bodies = sorted(alert["body"] for alert in await self.pushlark.notified(bob, 3))
        assert bodies == ["0", "1", "2"], bodies
        assert "events are lost" not in self.server.log()[since:]

    async def callbacks_of_mod_rest_are_asked_for_as_xml(self, alice, bob):
        """Its JSON knows no payloads, of which OMEMO's is one; Pushlark says so when mod_rest starts."""
        registration = {"user": f"{bob}@relay.localhost", "jid": "push.relay.localhost", "node": "node"}
        self.pushlark.ask("POST", "/enable", {**registration, "form": {"service": "fcm", "device_id": f"{bob}-relay"}})
        sender = await self.client(alice, "pc")
        message = sender.make_message(f"{bob}@relay.localhost", "The text of nobody", mtype="chat")
        message.append(ElementTree.fromstring("<encryption xmlns='urn:xmpp:eme:0' namespace='eu.siacs.conversations.axolotl'/>"))
        message.send()
        first = await self.pushlark.notified(f"{bob}-relay", 1)
        assert first[0]["body"] == "New message" and first[0]["title"] == f"{alice}@localhost", first


class EjabberdStories(Stories):
    """What other servers have no module or no need for."""

    first, others = FirstEjabberd, "mod_push and mod_push_keepalive"

    async def plain_server(self):
        plain = PlainEjabberd(self.server.folder, self.pushlark)
        self.servers.append(plain)
        await plain.start()
        return plain

    async def the_page_of_the_bridge_leads_to_a_bridge(self, alice, bob):
        """Its unit, as systemd reads it, and its command that runs a bridge within `local`."""
        unit, settings = self.server.folder / "pushlark-bridge.service", self.server.folder / "pushlark-bridge.env"
        settings.write_text(snippet("bridge.md", "The bridge", 1))
        names = {"/usr/local/bin/pushlark-bridge": PROGRAMS / "pushlark-bridge", "/etc/pushlark-bridge.env": settings}
        unit.write_text(filled(snippet("bridge.md", "The bridge", 2), names))
        said = shell(f"systemd-analyze verify {unit} 2>&1")
        assert unit.name not in said, said
        [options] = re.findall(r"`cargo run -p local -- (.*?)`", section("bridge.md", "The bridge"))
        server = f"--server 127.0.0.1:{self.server.component_port} --port {free_port()} --memory"
        command = [PROGRAMS / "pushlark-local", *f"{filled(options, {'SECRET': 'secret'})} {server}".split()]
        local = Program("local-with-a-bridge", command, self.server.folder)
        self.servers.append(local)
        await eventually("the component", lambda: "connected component=push.localhost" in local.output.read_text())

    async def webhooks_of_mod_post_log_become_notifications(self, alice, bob):
        """Without presence: every recipient counts as offline."""
        registration = {"user": f"{bob}@log.localhost", "jid": "push.log.localhost", "node": "node"}
        self.pushlark.ask("POST", "/enable", {**registration, "form": {"service": "fcm", "device_id": f"{bob}-log"}})
        self.server.register_once(bob, "log.localhost")
        sender = await self.client(alice, "pc", "log.localhost")
        sender.say(bob, "logged")
        first = await self.pushlark.notified(f"{bob}-log", 1)
        assert first[0]["body"] == "logged" and first[0]["title"] == f"{alice}@log.localhost", first


async def run(make_server, stories, only):
    folder = Path(tempfile.mkdtemp(prefix="pushlark-stories-"))
    pushlark = Pushlark(folder)
    server = make_server(folder, pushlark)
    stories = stories(server, pushlark)
    passed, failed = 0, 0
    methods = {**vars(Stories), **vars(type(stories))}
    last = "every_line_of_the_page_is_one_of_the_log"
    names = [name for name, method in methods.items() if asyncio.iscoroutinefunction(method) and method.__doc__]
    names = [name for name in names if only in name and name not in [last, "refused"]] + ([] if only else [last])
    try:
        pushlark.take(snippet(server.page, "Try it first"))
        await pushlark.start()
        await server.start()
        # With the way to nodes, which the server tells when it has started.
        pushlark.stop()
        await pushlark.start()
        for index, name in enumerate(names):
            started = time.monotonic()
            users = f"alice{index}", f"bob{index}"
            try:
                await getattr(stories, name)(*users)
                passed += 1
                print(f"{server.name}: {name} … ok ({time.monotonic() - started:.1f} s)", flush=True)
            except Exception as error:
                failed += 1
                print(f"{server.name}: {name} … FAILED: {error!r}", flush=True)
            await stories.end()
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
    passed, failed = 0, 0
    for make_server, stories in [(Prosody, ProsodyStories), (Ejabberd, EjabberdStories)]:
        if server not in make_server.name:
            continue
        results = await run(make_server, stories, only)
        passed, failed = passed + results[0], failed + results[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
