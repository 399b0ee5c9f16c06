"""What happens between a real chat server with Pushlark's module, a real client, and the sink of a local stack."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
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

HERE = Path(__file__).resolve().parent
MODULES = HERE.parent.parent / "infra" / "chat-servers"
# Where modules of Prosody are that its package lacks, and where the programs are that are tested.
STOCK = Path(os.environ["PROSODY_MODULES"])
PROGRAMS = Path(os.environ["PROGRAMS"])
# What the modules and the bridge sign with, and what a server presents that can only set a URL.
SECRET = "whsec_c3RvcmllcyBvZiByZWFsIHNlcnZlcnM="
TOKEN = "token-of-the-stories"
PATIENCE = 60


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
        self.settings = {
            "PLUGIN": "enhanced",
            "VIRTUAL_PUBSUB_HOSTS": "push.@HOST@",
            "WEBHOOK_SECRET": f"{SECRET},{TOKEN}",
            "PUBSUB_WITHOUT_OPTIONS": "pubsub.@HOST@",
        }

    async def start(self):
        command = [PROGRAMS / "local", "--port", str(self.port), "--data", str(self.folder / "pushlark")]
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
    """What the stories ask of a chat server, beside XMPP."""

    def __init__(self, folder, pushlark):
        self.folder, self.pushlark, self.port, self.program = folder, pushlark, free_port(), None
        self.names = {
            "DATA": folder / self.name,
            "C2S_PORT": self.port,
            "PUSHLARK": pushlark.url,
            "SECRET": SECRET,
            "TOKEN": TOKEN,
        }
        self.names["DATA"].mkdir()

    def configure(self, file, **names):
        configuration = (HERE / file).read_text()
        for name, value in {**self.names, **names}.items():
            configuration = configuration.replace(f"@{name}@", str(value))
        path = self.folder / file
        path.write_text(configuration)
        return path

    def stop(self):
        if self.program:
            self.program.stop()

    def complaints(self):
        """How often the module has said that events wait."""
        return self.log().count("Pushlark does not take events")

    def lost(self):
        """How many events the module has dropped, by its own words."""
        return sum(map(int, re.findall(r"(\d+) events are lost: the queue is full", self.log())))

    async def restart_bridge(self):
        """Where there is one."""


class Prosody(Server):
    name, publisher, hosts = "prosody", "localhost", ["localhost", "plain.localhost"]

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.http_port = free_port()
        modules = MODULES / "prosody"
        self.configuration = self.configure("prosody.cfg.lua", HTTP_PORT=self.http_port, MODULES=modules, STOCK=STOCK)

    def register(self, user, host):
        self.control("register", user, host, "secret")

    def control(self, *arguments):
        command = ["prosodyctl", "--config", str(self.configuration), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async def start(self):
        command = ["prosody", "--config", str(self.configuration), "-F"]
        self.program = Program("prosody", command, self.folder)
        await eventually("Prosody", lambda: is_open(self.port) and is_open(self.http_port))
        token = 'require"core.modulemanager".get_module("localhost","tokenauth").create_jid_token("localhost","localhost")'
        answer = self.control("shell", f"> (({token}))")
        self.pushlark.settings["PUBSUB_URL"] = f"http://127.0.0.1:{self.http_port}/rest"
        self.pushlark.settings["PUBSUB_TOKEN"] = re.search(r"MT[\w+/=]{20,}", answer).group()

    def log(self):
        return (self.folder / self.name / "prosody.log").read_text()

    def has_disabled(self, user, node):
        return f"Disabling push notifications for identifier 'push.plain.localhost<{node}'" in self.log()


class Ejabberd(Server):
    name, publisher, hosts = "ejabberd", "push.localhost", ["localhost", "plain.localhost", "log.localhost"]

    def __init__(self, folder, pushlark):
        super().__init__(folder, pushlark)
        self.api_port, self.component_port, self.rest_port = free_port(), free_port(), free_port()
        self.configuration = self.configure(
            "ejabberd.yml", API_PORT=self.api_port, COMPONENT_PORT=self.component_port
        )
        pushlark.settings["PUBSUB_URL"] = f"http://127.0.0.1:{self.rest_port}/rest"
        pushlark.settings["PUBSUB_TOKEN"] = TOKEN
        self.bridge, self.users = None, []

    def register(self, user, host):
        body = json.dumps({"user": user, "host": host, "password": "secret"}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/api/register", body).read()

    async def start(self):
        environment = {
            "EJABBERD_CONFIG_PATH": str(self.configuration),
            "EJABBERD_LOG_PATH": str(self.folder / self.name / "ejabberd.log"),
            "ERL_LIBS": str(next(Path("/usr/lib").glob("*/ejabberd-*/ebin")).parent.parent),
        }
        data = f'"{self.folder / self.name}"'
        # Not distributed: nothing listens but what the configuration names.
        command = ["erl", "-noinput", "-pa", str(self.folder), "-mnesia", "dir", data, "-s", "ejabberd"]
        module = MODULES / "ejabberd" / "mod_pushlark.erl"
        subprocess.run(["erlc", "-o", str(self.folder), str(module)], check=True, capture_output=True)
        self.program = Program("ejabberd", command, self.folder, environment)
        await eventually("ejabberd", lambda: is_open(self.port) and is_open(self.api_port))
        await self.start_bridge()

    async def start_bridge(self):
        settings = {
            "SERVER": f"127.0.0.1:{self.component_port}",
            "COMPONENTS": "push.localhost=secret,push.plain.localhost=secret",
            "IQ_URL": f"{self.pushlark.url}/pubsub",
            "WEBHOOK_SECRET": SECRET,
            "REST_TOKEN": TOKEN,
            "LISTEN": f"127.0.0.1:{self.rest_port}",
        }
        self.bridge = Program("bridge", [PROGRAMS / "bridge"], self.folder, settings)
        await eventually("the bridge", lambda: is_open(self.rest_port))

    async def restart_bridge(self):
        os.killpg(self.bridge.process.pid, signal.SIGKILL)
        self.bridge.process.wait()
        await self.start_bridge()

    def stop(self):
        super().stop()
        if self.bridge:
            self.bridge.stop()

    def log(self):
        return (self.folder / self.name / "ejabberd.log").read_text()

    def has_disabled(self, user, node):
        return f"rejected notification for {user}@plain.localhost ({node}), disabling push" in self.log()


class Stories:
    """Each story has users of its own, alice and bob with a number, on each of the hosts."""

    def __init__(self, server, pushlark):
        self.server, self.pushlark, self.clients = server, pushlark, []

    async def client(self, user, resource, host="localhost"):
        client = Client(self.server, user, resource, host)
        self.clients.append(client)
        return await client.online()

    async def end(self):
        for client in self.clients:
            if client.is_connected():
                await client.offline()
        self.clients.clear()

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
        await eventually("the log to say so", lambda: "1 events are lost: Pushlark answers 400" in self.server.log())

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

    async def the_servers_own_push_module_publishes_to_our_node(self, alice, bob):
        """XEP-0357 without our module; the bridge dies in between; a device that is gone is disabled by the server."""
        sender = await self.client(alice, "pc", "plain.localhost")
        phone = await self.client(bob, "phone", "plain.localhost")
        await phone.create_node(
            "push.plain.localhost", f"node-{bob}", {"plain.localhost": "publish-only"}, " type='push'"
        )
        await phone.enable(f"node-{bob}", f"{bob}-plain")
        await phone.offline()
        sender.say(bob, "first")
        first = await self.pushlark.notified(f"{bob}-plain", 1)
        assert first[0]["body"] == "first" and first[0]["title"].startswith(f"{alice}@plain.localhost"), first
        await self.server.restart_bridge()
        sender.say(bob, "second")
        second = await self.pushlark.notified(f"{bob}-plain", 2)
        assert [alert["body"] for alert in second] == ["first", "second"], second
        self.pushlark.device_is_gone(f"{bob}-plain")

        async def disabled():
            if self.server.has_disabled(bob, f"node-{bob}"):
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


class ProsodyStories(Stories):
    """What other servers have no module for."""

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
    """What other servers have no module for."""

    async def webhooks_of_mod_post_log_become_notifications(self, alice, bob):
        """Without presence: every recipient counts as offline."""
        registration = {"user": f"{bob}@log.localhost", "jid": "push.log.localhost", "node": "node"}
        self.pushlark.ask("POST", "/enable", {**registration, "form": {"service": "fcm", "device_id": f"{bob}-log"}})
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
    names = [name for name, method in methods.items() if asyncio.iscoroutinefunction(method) and method.__doc__]
    names = [name for name in names if only in name]
    try:
        await pushlark.start()
        await server.start()
        server.register("owner", "localhost")
        for index, name in enumerate(names):
            started = time.monotonic()
            users = f"alice{index}", f"bob{index}"
            for host in server.hosts:
                for user in users:
                    server.register(user, host)
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
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    passed, failed = 0, 0
    for make_server, stories in [(Prosody, ProsodyStories), (Ejabberd, EjabberdStories)]:
        results = await run(make_server, stories, only)
        passed, failed = passed + results[0], failed + results[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
