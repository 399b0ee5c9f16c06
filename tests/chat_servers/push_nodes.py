"""Scenarios: publishing to push nodes of Pushlark and to nodes of the chat server."""

import asyncio

from processes import eventually
from scenarios import Scenarios


class PushNodeScenarios(Scenarios):
    async def the_push_module_of_the_server_publishes_to_a_push_node(self, alice, bob):
        """XEP-0357 without Pushlark's module. The bridge crashes in between. The server disables a gone device."""
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

    async def pushlark_publishes_to_nodes_of_the_server(self, alice, bob):
        """A registration at a real host: the subscriber of the node gets the item. Without the node the registration ends."""
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
        await eventually("the end of the registration", lambda: self.pushlark.registrations(user) == [])
