"""Scenarios: the queue of events in the chat server while Pushlark is down."""

from processes import TIMEOUT, eventually
from scenarios import Scenarios


class EventQueueScenarios(Scenarios):
    async def stop_pushlark_during_an_event(self, sender, bob):
        """Stops Pushlark, and waits until the server tries to send the event "first", the only one that it has then. The sink
        is empty when Pushlark starts again."""
        sender.say(bob, "before")
        await self.pushlark.notified(bob, 1)
        self.pushlark.stop()
        complaints = self.server.complaints()
        sender.say(bob, "first")
        await eventually("the first try", lambda: self.server.complaints() > complaints)

    async def nothing_is_lost_while_pushlark_is_down(self, alice, bob):
        """Events wait in the server, which still works; clients get a temporary error."""
        sender = await self.sender_to_offline_phone(alice, bob)
        self.pushlark.stop()
        for number in range(5):
            sender.say(bob, str(number))
        error = await self.refused(sender.enable("node", "device"))
        assert error["type"] == "wait", error
        await self.pushlark.start()
        await self.pushlark.notified(bob, 5)
        bodies = sorted(alert["body"] for alert in self.pushlark.notifications(bob))
        assert bodies == ["0", "1", "2", "3", "4"], bodies

    async def only_the_event_that_pushlark_refuses_is_dropped(self, alice, bob):
        """The other events of the batch are sent again without it."""
        sender = await self.sender_to_offline_phone(alice, bob)
        self.pushlark.stop()
        sender.say(bob, "before")
        deep = "<a xmlns='urn:example:deep'>" * 70 + "</a>" * 70
        sender.send_raw(f"<message to='{bob}@localhost' type='chat'><body>deep</body>{deep}</message>")
        sender.say(bob, "after")
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=TIMEOUT)
        await self.pushlark.start()
        await self.pushlark.notified(bob, 2)
        bodies = sorted(alert["body"] for alert in self.pushlark.notifications(bob))
        assert bodies == ["after", "before"], bodies
        await eventually("the log line", lambda: "1 events lost: refused by " in self.server.log())

    async def the_oldest_events_are_dropped_above_the_queue_size(self, alice, bob):
        """The size is 50. The event that is being sent does not count, and the log has the number of dropped events."""
        sender = await self.sender_to_offline_phone(alice, bob)
        await self.stop_pushlark_during_an_event(sender, bob)
        lost = self.server.lost()
        for number in range(60):
            sender.say(bob, str(number))
        # The server answers this after it has handled the earlier messages of the sender.
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=TIMEOUT)
        await self.pushlark.start()
        await eventually("the last", lambda: "59" in [alert["body"] for alert in self.pushlark.notifications(bob)])
        notifications = await self.pushlark.notified(bob, 51)
        bodies = {alert["body"] for alert in notifications}
        assert bodies == {"first", *map(str, range(10, 60))}, bodies
        await eventually("the log line", lambda: self.server.lost() >= lost + 10)

    async def the_oldest_events_are_dropped_above_the_queue_bytes(self, alice, bob):
        """The limit is 1 MiB, the size of ten events here. The log has the number of dropped events."""
        sender = await self.sender_to_offline_phone(alice, bob)
        await self.stop_pushlark_during_an_event(sender, bob)
        lost = self.server.lost()
        padding = "x" * 100_000
        for number in range(25):
            padded = f"<body>{number}</body><x xmlns='urn:example:padding'>{padding}</x>"
            sender.send_raw(f"<message to='{bob}@localhost' type='chat'>{padded}</message>")
        # The server answers this after it has handled the earlier messages of the sender.
        await sender.plugin["xep_0030"].get_info(jid="localhost", timeout=TIMEOUT)
        await self.pushlark.start()
        bodies = {alert["body"] for alert in await self.pushlark.notified(bob, 11)}
        assert bodies == {"first", *map(str, range(15, 25))}, bodies
        await eventually("the log line", lambda: self.server.lost() >= lost + 15)
