"""The base of all scenarios: clients, and the steps that scenarios share."""

from contextlib import asynccontextmanager

import slixmpp

from client import Client
from http_server import HttpServer
from processes import TIMEOUT, eventually

# The host whose events a scenario can receive.
HOST = "told.localhost"


class Scenarios:
    """Each scenario has its own users, alice and bob with a number, who are registered when they first connect."""

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

    async def sender_and_phone(self, alice, bob, host="localhost"):
        """Connects a sender, and a phone that enables push at the node "node" for a device with the name of its user."""
        sender = await self.client(alice, "pc", host)
        phone = await self.client(bob, "phone", host)
        await phone.enable("node", bob)
        return sender, phone

    async def sender_to_offline_phone(self, alice, bob, host="localhost"):
        """The same, with the phone offline again; returns the sender."""
        sender, phone = await self.sender_and_phone(alice, bob, host)
        await phone.offline()
        return sender

    @asynccontextmanager
    async def received_events(self, **settings):
        """Receives the events of the host, instead of Pushlark."""
        async with HttpServer(self.server.folder) as receiver:
            receiver.answer = 202, "application/json", "{}"
            await self.server.set(HOST, url=receiver.url, **settings)
            yield receiver.events

    async def message(self, events, text):
        """Waits for the event of a message whose stanza has a text."""
        def found():
            return [event for event in events if event["type"] in ("message", "unacknowledged") and text in event["stanza"]]

        return (await eventually(f"the message with {text}", found))[0]

    async def event(self, events, **fields):
        """Waits for an event with these fields."""
        def found():
            return [event for event in events if event.items() >= fields.items()]

        return (await eventually(f"the event {fields} in {events}", found))[0]

    async def join(self, client, occupant):
        """Joins a room as an occupant."""
        joined = client.wait_until("presence_available", TIMEOUT)
        join = "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x>"
        client.send_raw(f"<presence to='{occupant}'>{join}</presence>")
        await joined
        await client.handled()

    async def create_room(self, owner, occupant, **configuration):
        """Joins a new room as its owner, and sets fields of its configuration."""
        await self.join(owner, occupant)
        fields = {"FORM_TYPE": "http://jabber.org/protocol/muc#roomconfig", **configuration}
        fields = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in fields.items())
        form = f"<x xmlns='jabber:x:data' type='submit'>{fields if configuration else ''}</x>"
        await owner.ask(f"<query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query>", occupant.split("/")[0])
