"""Scenarios: the users and sessions that are notified."""

import re

import slixmpp

from processes import TIMEOUT, eventually
from scenarios import Scenarios


class NotificationScenarios(Scenarios):
    async def offline_users_are_notified_once(self, alice, bob):
        """A message to an offline user notifies once. An online user and a disabled device are not notified."""
        sender, phone = await self.sender_and_phone(alice, bob)
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
        """The device of a lost session with unacknowledged messages is notified at once, and not again when the session ends;
        then another device of the user is notified."""
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
        """A resumed session (XEP-0198) stays online when its old stream ends."""
        sender, phone = await self.sender_and_phone(alice, bob)
        resumed = phone.wait_until("session_resumed", TIMEOUT)
        phone.lose()
        phone.connect("127.0.0.1", self.server.port)
        await resumed
        sender.say(bob, "again")
        await eventually("the message", lambda: "again" in phone.bodies)
        line = f"not queued .*to={bob}@localhost .*the recipient is online"
        log = self.pushlark.program.output
        await eventually("the event in Pushlark's log", lambda: re.search(line, log.read_text()))
        assert self.pushlark.explained(f"{bob}@localhost")["online"] is True
        assert not self.pushlark.notifications(bob)

    async def blocked_contacts_notify_nobody(self, alice, bob):
        """The server does not deliver messages of blocked contacts (XEP-0191)."""
        blocked, phone = await self.sender_and_phone(alice, bob)
        other = await self.client("owner", alice)
        await phone.plugin["xep_0191"].block(slixmpp.JID(f"{alice}@localhost"), timeout=TIMEOUT)
        await phone.offline()
        blocked.say(bob, "from the blocked contact")
        await blocked.plugin["xep_0030"].get_info(jid="localhost", timeout=TIMEOUT)
        other.say(bob, "from another")
        notifications = await self.pushlark.notified(bob, 1)
        assert [alert["body"] for alert in notifications] == ["from another"], notifications

    async def inactive_clients_are_notified(self, alice, bob):
        """A client in the background (XEP-0352) is notified, while no other client of the user is active."""
        sender, phone = await self.sender_and_phone(alice, bob)

        async def say(body):
            sender.say(bob, body)
            await sender.handled()

        await say("active")
        await phone.set_client_state("inactive")
        await say("inactive")
        await self.pushlark.notified(bob, 1)
        tablet = await self.client(bob, "tablet")
        await say("a second client")
        await tablet.set_client_state("inactive")
        await say("both inactive")
        bodies = [alert["body"] for alert in await self.pushlark.notified(bob, 2)]
        assert bodies == ["inactive", "both inactive"], bodies

    async def the_preferences_of_a_device_hold(self, alice, bob):
        """Preferences in the request to enable: no notification by a muted contact or a stranger, but also while all other
        sessions are away."""
        names = ["stranger", "muted", "contact"]
        stranger, muted, contact = [await self.client(f"{alice}-{name}", "pc") for name in names]
        phone = await self.client(bob, "phone")
        for name in names[1:]:
            await phone.add_contact(f"{alice}-{name}", name)
        mute = f"<muted xmlns='tigase:push:filter:muted:0'><item jid='{alice}-muted@localhost'/></muted>"
        ignore = "<ignore-unknown xmlns='tigase:push:filter:ignore-unknown:0'/>"
        await phone.enable("node", bob, extensions=mute + ignore, attributes=" away='true'")
        await phone.offline()

        async def say(sender, body):
            sender.say(bob, body)
            await sender.handled()

        for sender, body in [(stranger, "from a stranger"), (muted, "muted"), (contact, "offline")]:
            await say(sender, body)
        await self.pushlark.notified(bob, 1)
        # The server delivers the stored messages, which notify nobody again.
        tablet = await self.client(bob, "tablet")
        await eventually("the presence", lambda: self.pushlark.explained(f"{bob}@localhost")["online"])
        assert self.pushlark.explained(f"{bob}@localhost")["publications"] == []
        tablet.send_presence(pshow="away")
        await tablet.handled()
        await say(contact, "away")
        bodies = [alert["body"] for alert in await self.pushlark.notified(bob, 2)]
        assert bodies == ["offline", "away"], bodies

    async def messages_without_a_type_and_invitations_notify(self, alice, bob):
        """A message without a type is normal (RFC 6121). An invitation notifies with the reason or a placeholder."""
        sender = await self.sender_to_offline_phone(alice, bob)
        sender.send_raw(f"<message to='{bob}@localhost'><body>without a type</body></message>")
        room = "room@conference.localhost"
        direct = f"<x xmlns='jabber:x:conference' jid='{room}' reason='direct'/>"
        sender.send_raw(f"<message to='{bob}@localhost'>{direct}</message>")
        chat_state = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'>{chat_state}</message>")
        bodies = [alert["body"] for alert in await self.pushlark.notified(bob, 2)]
        assert sorted(bodies) == ["direct", "without a type"], bodies

    async def a_contact_request_notifies_once(self, alice, bob):
        """A request to an offline user (RFC 6121, section 3.1) notifies. A repeat does not."""
        sender = await self.sender_to_offline_phone(alice, bob)
        for _ in range(2):
            sender.send_presence_subscription(f"{bob}@localhost")
        await sender.handled()
        first = await self.pushlark.notified(bob, 1)
        assert first[0]["title"] == f"{alice}@localhost" and first[0]["body"] == "Contact request", first
        sender.say(bob, "after the requests")
        alerts = await self.pushlark.notified(bob, 2)
        assert [alert["body"] for alert in alerts] == ["Contact request", "after the requests"], alerts

    async def calls_ring_devices_that_are_not_connected_until_they_end(self, alice, bob):
        """A call (XEP-0353) notifies the phone, though the tablet is online. The tablet, whose session is active, rings by
        itself. Its answer ends the ringing of the phone."""
        sender, phone = await self.sender_and_phone(alice, bob)
        tablet = await self.client(bob, "tablet")
        await tablet.enable("tablet", f"{bob}-tablet")
        await phone.set_client_state("inactive")

        def data(device):
            entries = reversed(self.pushlark.ask("GET", f"/sink/notifications?device_id={device}"))
            return [entry["notification"].get("data", {}) for entry in entries]

        call = f"xmlns='urn:xmpp:jingle-message:0' id='call-{bob}'"
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><propose {call}/></message>")
        rings = await eventually("the call", lambda: data(bob))
        expected = {"type": "jmi", "jmi-sid": f"call-{bob}", "jmi-from": sender.boundjid.full}
        assert rings[0].items() >= expected.items(), rings
        tablet.send_raw(f"<message to='{sender.boundjid.full}' type='chat'><proceed {call}/></message>")
        ends = await eventually("the end", lambda: data(bob)[1:])
        assert ends[0].items() >= {"type": "jmi-end", "jmi-sid": f"call-{bob}"}.items(), ends
        # The tablet may be told of the end, but never of the call.
        assert not [told for told in data(f"{bob}-tablet") if told.get("type") == "jmi"], data(f"{bob}-tablet")
        # The client of a lost session does not get the call, though it was active.
        await phone.set_client_state("active")
        phone.lose()
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><propose {call.replace('call-', 'second-')}/></message>")
        second = {"type": "jmi", "jmi-sid": f"second-{bob}"}
        await eventually("the second call", lambda: any(told.items() >= second.items() for told in data(bob)))
        assert not [told for told in data(f"{bob}-tablet") if told.get("type") == "jmi"], data(f"{bob}-tablet")
