"""An XMPP client."""

import slixmpp
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from processes import TIMEOUT


class Client(slixmpp.ClientXMPP):
    """A client that connects at `online`."""

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
        bound = self.wait_until("session_start", TIMEOUT)
        self.connect("127.0.0.1", self.chat_server.port)
        await bound
        self.send_presence()
        await self.handled()
        return self

    async def offline(self):
        gone = self.wait_until("disconnected", TIMEOUT)
        self.disconnect()
        await gone

    def lose(self):
        """Breaks the connection without closing the stream."""
        self.transport.abort()

    async def ask(self, payload, to=None):
        iq = self.make_iq_set(ito=to)
        iq.append(slixmpp.xmlstream.ET.fromstring(payload))
        return await iq.send(timeout=TIMEOUT)

    async def enable(self, node, device, jid=None, extensions="", attributes=""):
        fields = {"FORM_TYPE": "http://jabber.org/protocol/pubsub#publish-options", "service": "fcm", "device_id": device}
        fields = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in fields.items())
        jid = jid or f"push.{self.boundjid.domain}"
        form = f"<x xmlns='jabber:x:data' type='submit'>{fields}</x>"
        await self.ask(f"<enable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'{attributes}>{form}{extensions}</enable>")

    async def disable(self, node):
        jid = f"push.{self.boundjid.domain}"
        await self.ask(f"<disable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'/>")

    async def add_contact(self, user, name):
        """Adds a user of the same server to the roster."""
        item = f"<item jid='{user}@{self.boundjid.domain}' name='{name}'/>"
        await self.ask(f"<query xmlns='jabber:iq:roster'>{item}</query>")

    async def create_node(self, service, node, affiliations, attributes=""):
        """Creates a node of the client, and sets its affiliations."""
        create = f"<create node='{node}'{attributes}/>"
        await self.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{create}</pubsub>", service)
        list = "".join(f"<affiliation jid='{jid}' affiliation='{name}'/>" for jid, name in affiliations.items())
        list = f"<affiliations node='{node}'>{list}</affiliations>"
        await self.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'>{list}</pubsub>", service)

    async def set_client_state(self, state):
        """Tells the server that the client is active or inactive (XEP-0352)."""
        self.send_raw(f"<{state} xmlns='urn:xmpp:csi:0'/>")
        await self.handled()

    async def handled(self):
        """Waits until the server has handled all that the client has sent to it."""
        await self.plugin["xep_0030"].get_info(jid=self.boundjid.domain, timeout=TIMEOUT)

    def say(self, to, body):
        self.send_message(slixmpp.JID(f"{to}@{self.boundjid.domain}"), body, mtype="chat")
