"""The base of all scenarios: clients, and the steps that scenarios share."""

import slixmpp

from client import Client


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
