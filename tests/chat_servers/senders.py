"""Scenarios: the data about senders and rooms in the events of messages."""

from processes import TIMEOUT
from scenarios import HOST, Scenarios


class SenderScenarios(Scenarios):
    async def is_told(self, events, sender, bob, text, known, name=None):
        """Sends a message, whose event tells whether bob knows the sender, and the name of the sender."""
        sender.say(bob, text)
        event = await self.message(events, text)
        assert event["recipient"]["sender_known"] is known, event
        assert (event.get("sender_name"), event.get("room_name")) == (name, None), event

    async def add_contact(self, client, contact, name):
        item = f"<item jid='{contact}@{HOST}' name='{name}'/>"
        await client.ask(f"<query xmlns='jabber:iq:roster'>{item}</query>")

    async def names_of_senders_are_told(self, alice, bob):
        """The name in the roster, or else in the profile. A contact is known, a stranger and a contact request are not."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            phone.auto_authorize = None
            await self.is_told(events, sender, bob, "from a stranger", False)
            sender.send_presence_subscription(f"{bob}@{HOST}")
            await sender.handled()
            await self.is_told(events, sender, bob, "after a contact request", False)
            await sender.ask("<vCard xmlns='vcard-temp'><FN> </FN><NICKNAME>Al</NICKNAME></vCard>")
            await self.is_told(events, sender, bob, "with a nickname", False, "Al")
            await sender.ask("<vCard xmlns='vcard-temp'><FN>Alice Liddell</FN><NICKNAME>Al</NICKNAME></vCard>")
            await self.is_told(events, sender, bob, "with a profile", False, "Alice Liddell")
            stranger = await self.client(f"{alice}-other", "pc", HOST)
            await self.add_contact(phone, f"{alice}-other", "Zo\u00eb &lt;3")
            await self.is_told(events, stranger, bob, "from a contact", True, "Zo\u00eb <3")
            await self.add_contact(phone, f"{alice}-other", "")
            await self.is_told(events, stranger, bob, "from a contact without a name", True)
            phone.send_presence_subscription(f"{alice}@{HOST}")
            await self.add_contact(phone, alice, "n" * 5000)
            sender.say(bob, "with a long name")
            name = (await self.message(events, "with a long name"))["sender_name"]
            assert set(name) == {"n"} and 256 <= len(name) <= 1024, name
            await self.add_contact(phone, alice, "Ally")
            phone.say(bob, "note to self")
            note = await self.message(events, "note to self")
            assert note["recipient"]["sender_known"] and "sender_name" not in note, note
            resumed = phone.wait_until("session_resumed", TIMEOUT)
            phone.lose()
            sender.say(bob, "to a lost session")
            lost = await self.event(events, type="unacknowledged", sender_name="Ally")
            assert lost["recipient"]["sender_known"] is True, lost
            phone.connect("127.0.0.1", self.server.port)
            await resumed
            await phone.offline()
            await self.is_told(events, sender, bob, "to an offline user", True, "Ally")

    async def names_are_left_out_by_an_option(self, alice, bob):
        async with self.received_events(names=False) as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            await self.add_contact(phone, alice, "Ally")
            await self.is_told(events, sender, bob, "without a name", True)

    async def names_of_rooms_are_told(self, alice, bob):
        """A room in which the user is, and its occupants, are known."""
        async with self.received_events() as events:
            room = f"room-{bob}@conference.{HOST}"
            owner = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            await self.create_room(owner, f"{room}/Alice", **{"muc#roomconfig_roomname": "Zo\u00eb &amp; birds"})
            for reason, known in [("come in", False), ("come in, friend", True)]:
                invite = f"<invite to='{bob}@{HOST}'><reason>{reason}</reason></invite>"
                owner.send_raw(f"<message to='{room}'><x xmlns='http://jabber.org/protocol/muc#user'>{invite}</x></message>")
                invitation = await self.message(events, f"{reason}<")
                assert invitation["recipient"]["sender_known"] is known, invitation
                await self.add_contact(phone, alice, "Ally")
            await phone.ask(f"<query xmlns='jabber:iq:roster'><item jid='{alice}@{HOST}' subscription='remove'/></query>")
            await self.is_told(events, owner, bob, "from a stranger", False)
            await self.join(phone, f"{room}/Bob")
            await self.is_told(events, owner, bob, "from an occupant", True)
            events.clear()
            owner.send_raw(f"<message to='{room}' type='groupchat'><body>to the room</body></message>")
            group = await self.event(events, to=f"{bob}@{HOST}", room_name="Zo\u00eb & birds")
            assert "to the room" in group["stanza"] and group["recipient"]["sender_known"] is True, group
            assert "sender_name" not in group, group
            owner.send_raw(f"<message to='{room}/Bob' type='chat'><body>in private</body></message>")
            private = await self.message(events, "in private")
            assert private["recipient"]["sender_known"] is True and "sender_name" not in private, private
            phone.send_raw(f"<presence to='{room}/Bob' type='unavailable'/>")
            await phone.handled()
            await self.is_told(events, owner, bob, "after the room", False)

    async def show_is_told_with_presence(self, alice, bob):
        """Also before a call, and after the resumption of the session."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)

            def call():
                call = f"<propose xmlns='urn:xmpp:jingle-message:0' id='call-{len(events)}'/>"
                sender.send_raw(f"<message to='{bob}@{HOST}' type='chat'>{call}</message>")

            online = {"type": "presence", "jid": phone.boundjid.full, "status": "online", "client_state": "active"}
            assert "show" not in await self.event(events, **online)
            for show in ["chat", "dnd", "xa", "away"]:
                phone.send_presence(pshow=show)
                await self.event(events, **online, show=show)
            events.clear()
            call()
            await self.event(events, **online, show="away")
            resumed = phone.wait_until("session_resumed", TIMEOUT)
            phone.lose()
            phone.connect("127.0.0.1", self.server.port)
            await resumed
            await phone.handled()
            events.clear()
            call()
            await self.event(events, **online, show="away")
            events.clear()
            phone.send_presence()
            assert "show" not in await self.event(events, **online)
