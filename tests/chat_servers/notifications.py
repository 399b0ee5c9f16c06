"""Scenarios: the users and sessions that are notified."""

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
        line = f"recipient={bob}@localhost}}: not notified"
        await eventually("the event in Pushlark's log", lambda: line in self.pushlark.program.output.read_text())
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
