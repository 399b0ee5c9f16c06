"""Scenarios: the start with the settings of a page, and the announcement of push."""

import asyncio
import re
import xml.etree.ElementTree as ElementTree

from http_server import HttpServer
from pages import filled, shell, snippet
from processes import TIMEOUT, eventually
from pushlark import TOKEN
from scenarios import HOST, Scenarios
from server import BAD_SETTINGS


class InstallationScenarios(Scenarios):
    async def bad_settings_disable_push_and_chat_still_works(self, alice, bob):
        """Each wrong setting has one line in the log when the server starts; a reload with valid settings enables push. This
        scenario is the first one, before others reload the configuration."""
        server = self.server
        for name in BAD_SETTINGS:
            await server.logged(rf"{name}\.localhost.*Push is off: ")
        log = server.log()
        for name, (_, problem) in BAD_SETTINGS.items():
            lines = [line for line in log.splitlines() if f"{name}.localhost" in line and "Push is off: " in line]
            assert len(lines) == 1 and problem in lines[0], (name, lines)
        unwanted = r"traceback|stacktrace|mod_pushlark:start|secret-secret"
        assert not re.search(unwanted, log, re.IGNORECASE), "a stack trace or a secret is in the log"
        host = "none.localhost"
        sender = await self.client(alice, "pc", host)
        phone = await self.client(bob, "phone", host)
        sender.say(bob, "with push off")
        await eventually("the message", lambda: "with push off" in phone.bodies)
        info = await phone.plugin["xep_0030"].get_info(jid=phone.boundjid.bare, timeout=TIMEOUT)
        assert "urn:xmpp:push:0" not in info["disco_info"]["features"], info
        error = await self.refused(phone.enable("node", bob))
        assert error["condition"] == "service-unavailable", error
        await server.set(host, url=self.pushlark.url)
        await eventually("push", lambda: self.enables(phone, bob))
        since = len(server.log())
        await server.set(host, url=self.pushlark.url, queue_size=-1)
        await server.logged(rf"{host}.*Settings not changed: \w*queue_size must be a whole number", since)
        sender.say(bob, "with the former settings")
        await eventually("the message", lambda: "with the former settings" in phone.bodies)
        await phone.offline()
        sender.say(bob, "offline")
        assert (await self.pushlark.notified(bob, 1))[0]["body"] == "offline"

    async def the_commands_of_the_page_lead_to_a_notification(self, alice, bob):
        """All commands of the page, on a server of its own; then the settings of Pushlark on AWS."""
        server = self.first(self.server.folder, self.pushlark)
        self.servers.append(server)
        script = snippet(server.page, "Check that it works")
        names = {"localhost:8080": self.pushlark.url.removeprefix("http://"), "example.com": "localhost"}
        await server.start()
        for notifications, user in [(1, bob), (2, f"{bob}-of-functions")]:
            await asyncio.to_thread(shell, server.commands(filled(script, {**names, "bob": user})), SECRET=TOKEN)
            await server.logged("Pushlark accepts events at ")
            await self.pushlark.notified("check", notifications)
            server.paste_functions()
            await asyncio.to_thread(server.reload)
        assert "Settings not changed" not in server.log()

    async def the_server_announces_push(self, alice, bob):
        """The server and the account announce push and the extensions that clients look for."""
        extensions = ["away", "encrypt", "filter:groupchat", "filter:ignore-unknown", "filter:muted", "jingle", "priority"]
        features = {"urn:xmpp:push:0", "tigase:push:encrypt:aes-128-gcm", *(f"tigase:push:{name}:0" for name in extensions)}
        client = await self.client(bob, "phone")
        for jid in ["localhost", f"{bob}@localhost"]:
            info = await client.plugin["xep_0030"].get_info(jid=jid, timeout=TIMEOUT)
            assert set(info["disco_info"]["features"]) >= features, info

    async def the_extensions_of_a_request_reach_pushlark_unchanged(self, alice, bob):
        """The module forwards all attributes and children of a request, also those that it does not know."""
        enable = (
            "<enable xmlns='urn:xmpp:push:0' jid='push.localhost' node='node' away='true' name='Bob &amp; phone'>"
            "<x xmlns='jabber:x:data' type='submit'><field var='service'><value>fcm</value></field></x>"
            "<encrypt xmlns='tigase:push:encrypt:0' alg='aes-128-gcm' max-size='2800'>AAECAwQFBgcICQoLDA0ODw==</encrypt>"
            "<ignore-unknown xmlns='tigase:push:filter:ignore-unknown:0'/>"
            "<muted xmlns='tigase:push:filter:muted:0'><item jid='noisy@example.org'/><item jid='o&apos;hara@example.org'/></muted>"
            "<groupchat xmlns='tigase:push:filter:groupchat:0'>"
            "<room jid='birds@rooms.example' allow='mentioned' nick='Zaunkönig'/><room jid='ops@rooms.example' allow='always'/>"
            "</groupchat><priority xmlns='tigase:push:priority:0'/><jingle xmlns='tigase:push:jingle:0'/>"
            "<unknown xmlns='urn:example:unknown' a='1'><b xmlns='urn:example:b'>c</b></unknown></enable>"
        )
        async with HttpServer(self.server.folder) as receiver:
            receiver.answer = 202, "application/json", "{}"
            await self.server.set(HOST, url=receiver.url)
            client = await self.client(bob, "phone", HOST)
            await self.refused(client.ask(enable))
            forwarded = ElementTree.fromstring(receiver.bodies[-1])
            assert forwarded.get("from") == client.boundjid.full, receiver.bodies
            elements = [forwarded.find("{urn:xmpp:push:0}enable"), ElementTree.fromstring(enable)]
            forwarded, sent = [ElementTree.canonicalize(ElementTree.tostring(element, "unicode")) for element in elements]
            assert forwarded == sent, receiver.bodies

    async def pushlark_answers_requests(self, alice, bob):
        """A wrong request is answered with the error of Pushlark."""
        client = await self.client(bob, "phone")
        error = await self.refused(client.ask("<enable xmlns='urn:xmpp:push:0' jid='push.localhost'/>"))
        assert error["condition"] == "bad-request", error
        assert "node" in error["text"], error
