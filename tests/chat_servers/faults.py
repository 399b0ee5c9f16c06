"""Scenarios: wrong settings and answers, other push modules, and unloading the module."""

import asyncio
import json
import re

from http_server import HttpServer
from pages import section
from processes import eventually, free_port
from pushlark import OTHER_SECRET, SECRET
from scenarios import Scenarios


class FaultScenarios(Scenarios):
    async def faults_are_logged_and_no_event_is_lost(self, alice, bob):
        """A message waits for the right settings. The log names each fault, and clients get an error that fits."""
        host, server = "mistakes.localhost", self.server
        sender = await self.sender_to_offline_phone(alice, bob, host)
        async with HttpServer(server.folder) as answers, HttpServer(server.folder, tls=True) as secured:
            silent = f"http://127.0.0.1:{free_port()}"
            plain, problem = answers.url, "application/problem+json"
            detail = json.dumps({"detail": "first line\r\n\u0007" + "x" * 1000})
            html, refuses = "text/html; charset=utf-8", "refuses this server. The server's operator must check the secret"
            busy, elsewhere = "the push service is busy. Try again later", "there is no push service at its URL"
            absent = "does not respond. Try again later"
            faults = [
                # The URL, the secret, the answer of the server; the text in the log, and the text for the client.
                (self.pushlark.url, OTHER_SECRET, None, r"status 401 \([^()]+\)", refuses),
                (silent, SECRET, None, r"no response \(connection refused\)", absent),
                ("http://pushlark.invalid", SECRET, None, r"no response \(the host name cannot be resolved\)", absent),
                (secured.url, SECRET, None, r"no response \((the certificate is not trusted|TLS fails: .+)\)", absent),
                (secured.url.replace("https", "http"), SECRET, None, r"no response \([a-z ]+\)", absent),
                (plain.replace("http", "https"), SECRET, (400, html, "<html>"), r"no response \([^(){}<>]+\)", absent),
                (plain, SECRET, (502, html, "<html>Bad Gateway"), rf"status 502 \(not a Pushlark response: {html}\)", busy),
                (plain, SECRET, (413, html, "<html>"), r"status 413 \(not a Pushlark response: text/html.*\)", elsewhere),
                (plain, SECRET, (200, html, "<html>"), r"status 200 \(not a Pushlark response: text/html.*\)", elsewhere),
                (plain, SECRET, (301, None, ""), r"status 301 \(redirect to https://example.org/\)", elsewhere),
                (plain, SECRET, (500, problem, detail), r"status 500 \(first line +x{250,300}…\)", busy),
                (plain, SECRET, (500, problem, "[]"), r"status 500 \([a-zA-Z: +/]+\)", busy),
                # An HTTP client may retry this status by itself.
                (plain, SECRET, (503, None, ""), r"status 503 \([a-zA-Z: ]+\)", busy),
                (plain, SECRET, None, r"no response \(timeout[a-z0-9 ]*\)", absent),
            ]
            for number, (url, secret, answer, logged, text) in enumerate(faults, 100):
                answers.answer, since = answer, len(server.log())
                # The queue size changes each time, since ejabberd ignores a reload without a change. The timeout is short where
                # no answer comes.
                timeout = 1 if url.endswith(plain.removeprefix("http")) else 10
                await server.set(host, url=url + "/", secret=secret, timeout=timeout, queue_size=number)
                if url == faults[0][0]:
                    sender.say(bob, "while the settings are wrong")
                address = rf"{host}.*\s{re.escape(url)}"
                next_try = r"\d+ events waiting, retry in \d+ s\n"
                await server.logged(rf"{address}/events: {logged}; {next_try}", since)
                error = await self.refused(sender.enable("node", alice))
                assert error["type"] == "wait" and text in error["text"], f"{logged}: {error}"
                if secret == OTHER_SECRET:
                    refusal = 'a request is refused status=401 reason="wrong signature"'
                    log = self.pushlark.program.output
                    await eventually("the line in Pushlark's log", lambda: refusal in log.read_text())
                await server.logged(rf"{address}/enable: {logged};", since)
        since = len(server.log())
        await server.set(host, url=self.pushlark.url + "//")
        await server.logged(rf"{host}.*accepts events at {re.escape(self.pushlark.url)}/events\n", since)
        sender.say(bob, "after")
        alerts = await self.pushlark.notified(bob, 2)
        bodies = sorted(alert["body"] for alert in alerts)
        assert bodies == ["after", "while the settings are wrong"], bodies

    async def another_push_module_is_logged(self, alice, bob):
        """The log names it at the start, when it is loaded later, and when a client enables push. Pushlark answers in each
        case. There is no line about a host without another push module."""
        other = rf"both\.localhost.*this host also has {self.others}, so users may be notified twice: unload one push"
        assert re.search(other, self.server.log())
        assert not re.search(r"(?<!both\.)localhost:.*this host also has ", self.server.log())
        since = len(self.server.log())
        phone = await self.client(bob, "phone", "both.localhost")
        await phone.enable("node", bob)
        await self.server.logged(other, since)
        for is_loaded in [False, True]:
            since = len(self.server.log())
            await asyncio.to_thread(self.server.set_other, is_loaded)
            if is_loaded:
                await self.server.logged(other, since)
            await phone.enable(f"node-{is_loaded}", f"{bob}-{is_loaded}")
        nodes = [registration["node"] for registration in self.pushlark.registrations(f"{bob}@both.localhost")]
        assert sorted(nodes) == ["node", "node-False", "node-True"], nodes

    async def an_unloaded_module_stops(self, alice, bob):
        """The log has the number of lost events, and the module sends no more requests, also not the one that waits."""
        server = self.server
        async with HttpServer(server.folder) as answers:
            answers.answer = (502, None, "")
            for host in ["hasty.localhost", "idle.localhost", "both.localhost"]:
                await server.set(host, url=f"{answers.url}/{host}", timeout=600)
                sender = await self.client(alice, "pc", host)
                self.server.register_once(bob, host)
                sender.say(bob, host)
                await server.logged(rf"Events not accepted by \S*/{host}/events: ")
            since = len(server.log())
            await asyncio.to_thread(server.unload, "hasty.localhost")
            await server.logged(r"hasty\.localhost.*\d+ events lost: the module stopped before they were sent", since)
            requests = len(answers.requests)
            await eventually("more tries", lambda: "".join(answers.requests[requests:]).count("/idle.localhost/") >= 3)
            assert "/hasty.localhost/" not in answers.requests[requests:], answers.requests
            answers.answer = None
            hanging = {"/idle.localhost/events", "/both.localhost/events"}
            await eventually("requests that hang", lambda: answers.hanging == hanging)
            await asyncio.to_thread(server.unload, "idle.localhost")
            await eventually("the end of the request", lambda: "/idle.localhost/events" not in answers.hanging)

    async def every_log_line_of_the_page_occurs(self, alice, bob):
        """Each line in the table of the page is in the log after the other scenarios. No line has a secret."""
        sender = await self.client(alice, "pc")
        self.server.register_once(bob, "localhost")
        padding = "x" * 210_000
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><body>{padding}</body></message>")
        await self.server.set("spaced.localhost", url=self.pushlark.url, secret=None)
        for line in re.findall(r"^\| `(.*?)` \|", section(self.server.page, "Log lines"), re.MULTILINE):
            pattern = re.sub(r"\b(URL|DETAIL|REASON|PROBLEMS|TYPE|JID)\b", ".+", re.escape(line))
            await self.server.logged(re.sub(r"\bN\b", r"\\d+", pattern))
        assert SECRET not in self.server.log() and OTHER_SECRET not in self.server.log(), "a secret is in the log"
