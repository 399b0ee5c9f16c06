"""Scenarios: the events that the module sends."""

import itertools

from http_server import HttpServer
from processes import TIMEOUT, eventually
from scenarios import HOST, Scenarios

CALL = "urn:xmpp:jingle-message:0"


class EventScenarios(Scenarios):
    async def messages_without_an_effect_are_not_told(self, alice, bob):
        """Chat states, receipts and markers of contacts neither notify nor count."""
        async with self.received_events() as events:
            sender, bob = await self.client(alice, "pc", HOST), f"{bob}@{HOST}"
            self.server.register_once(bob.split("@")[0], HOST)
            for content in [
                "<composing xmlns='http://jabber.org/protocol/chatstates'/><no-store xmlns='urn:xmpp:hints'/>",
                "<received xmlns='urn:xmpp:receipts' id='1'/>",
                "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/><store xmlns='urn:xmpp:hints'/>",
                "<ringing xmlns='urn:xmpp:jingle-message:0' id='1'/>",
                "<proceed xmlns='urn:xmpp:jingle-message:0' id='1'/>",
                "<thread>1</thread><subject>2</subject>",
                "<body/>",
            ]:
                sender.send_raw(f"<message to='{bob}' type='chat'>{content}</message>")
            sender.send_raw(f"<message to='{bob}' type='headline'><body>headline</body></message>")
            told = {
                "chat": "<body>text</body><active xmlns='http://jabber.org/protocol/chatstates'/>",
                "normal": "<body>normal</body>",
                "": "<x xmlns='jabber:x:conference' jid='room@conference.example'/>",
                "normal' id='mediated": "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>",
                "chat' id='omemo": "<encrypted xmlns='eu.siacs.conversations.axolotl'><payload>x</payload></encrypted>",
                "chat' id='last": "<reaction xmlns='urn:example:of-a-plugin'/>",
            }
            for kind, content in told.items():
                type = f"type='{kind}'" if kind else ""
                sender.send_raw(f"<message to='{bob}' {type}>{content}</message>")
            await self.message(events, "of-a-plugin")
            messages = [event for event in events if event["type"] == "message" and event["to"] == bob]
            assert len(messages) == len(told), messages
            recipients = [event["recipient"] for event in messages]
            assert recipients == [{"exists": True, "online": False, "sender_known": False}] * len(told), recipients

    async def the_client_state_is_told_with_each_message(self, alice, bob):
        """A user is inactive if all clients are (XEP-0352). A change of the state is no event by default."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)

            async def state(text):
                sender.say(bob, text)
                recipient = (await self.message(events, text))["recipient"]
                assert recipient["online"] is True, recipient
                return recipient["client_state"]

            assert await state("default") == "active"
            await phone.set_client_state("inactive")
            assert await state("in the background") == "inactive"
            tablet = await self.client(bob, "tablet", HOST)
            assert await state("a second client") == "active"
            await tablet.set_client_state("inactive")
            assert await state("both inactive") == "inactive"
            await phone.set_client_state("active")
            assert await state("one active") == "active"
            presence = [event for event in events if event["type"] == "presence" and event["jid"].startswith(f"{bob}@")]
            assert len(presence) == 2, presence
            # A new presence does not change the state of the client.
            tablet.send_presence(pshow="away")
            await self.event(events, type="presence", jid=tablet.boundjid.full, client_state="inactive")

    async def a_change_of_the_client_state_is_an_event_by_an_option(self, alice, bob):
        async with self.received_events(csi_events=True) as events:
            phone = await self.client(bob, "phone", HOST)
            for state in ["inactive", "active"]:
                since = len(events)
                await phone.set_client_state(state)
                presence = {"type": "presence", "jid": phone.boundjid.full, "status": "online", "client_state": state}
                await eventually(state, lambda: any(event.items() >= presence.items() for event in events[since:]))

    async def only_a_change_of_availability_or_show_is_told(self, alice, bob):
        """Neither a change of the text or the priority alone, nor anything twice."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)

            markers = itertools.count()

            async def told():
                """Waits for the events of all earlier changes. Returns the presence events since the last call."""
                marker = f"marker {next(markers)}."
                await phone.handled()
                sender.say(bob, marker)
                last = events.index(await self.message(events, marker))
                presence = [event for event in events[:last] if event.get("jid") == f"{bob}@{HOST}/phone"]
                del events[:]
                return [(event["status"], event.get("show")) for event in presence]

            async def assert_told(*expected, **presence):
                """Sends a presence stanza, if there is one, and checks the resulting presence events."""
                if presence:
                    phone.send_presence(**presence)
                found = await told()
                assert found == [*expected], (presence, found)

            online, offline, away = ("online", None), ("offline", None), ("online", "away")
            await assert_told(online)
            for presence in [{"pstatus": "at work"}, {"pstatus": "busy"}, {"ppriority": 5}, {"ppriority": 0}]:
                await assert_told(**presence)
            await assert_told(pto=f"{alice}@{HOST}", pshow="xa")
            await assert_told(away, pshow="away")
            await assert_told(pshow="away", pstatus="at lunch", ppriority=7)
            await assert_told(offline, pshow="away", ppriority=-1)
            await assert_told(ppriority=-2)
            await assert_told(away, pshow="away")
            resumed = phone.wait_until("session_resumed", TIMEOUT)
            phone.lose()
            phone.connect("127.0.0.1", self.server.port)
            await resumed
            await assert_told(pshow="away", pstatus="resumed")
            # The next presence event has the changed client state.
            await phone.set_client_state("inactive")
            await assert_told()
            await assert_told(away, pshow="away", pstatus="in the background")
            await assert_told(pshow="away")
            # A session that ends has one offline event, with or without an unavailable presence stanza.
            await assert_told(offline, ptype="unavailable")
            await phone.offline()
            phone = await self.client(bob, "phone", HOST)
            await assert_told(online)
            await phone.offline()
            phone = await self.client(bob, "phone", HOST)
            await assert_told(offline, online)
            # The end of a session that enables a device while it is offline ends the tie to the device.
            await assert_told(offline, ptype="unavailable")
            await self.enables(phone, bob)
            await phone.offline()
            phone = await self.client(bob, "phone", HOST)
            await assert_told(offline, online)

    async def presence_is_told_again_before_it_is_forgotten(self, alice, bob):
        async with self.received_events(presence_refresh=1) as events:
            phone = await self.client(bob, "phone", HOST)
            phone.send_presence(pshow="away")
            away = {"type": "presence", "jid": phone.boundjid.full, "status": "online", "show": "away"}
            def found():
                return len([event for event in events if event.items() >= away.items()]) >= 3

            await eventually("the presence told again", found)
            negative = await self.client(bob, "tablet", HOST)
            negative.send_presence(ppriority=-1)
            await self.event(events, jid=negative.boundjid.full, status="offline")
            since = len(events)
            await eventually("the next presence", lambda: any(event.items() >= away.items() for event in events[since:]))
            assert not [event for event in events[since:] if event["jid"] == negative.boundjid.full], events

    async def presence_that_may_be_lost_is_told_again(self, alice, bob):
        """The queue was full, so it is not certain that Pushlark knows the presence."""
        async with HttpServer(self.server.folder) as receiver:
            receiver.answer = 503, "application/json", "{}"
            await self.server.set(HOST, url=receiver.url, queue_size=1)
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            phone.send_presence(pshow="dnd")
            await phone.handled()
            for number in range(3):
                sender.say(bob, f"message {number}")
            await sender.handled()
            receiver.answer = 202, "application/json", "{}"
            await self.message(receiver.events, "message 2")
            phone.send_presence(pshow="dnd", pstatus="at work")
            await self.event(receiver.events, type="presence", jid=phone.boundjid.full, show="dnd")

    async def what_happens_at_once_is_one_request(self, alice, bob):
        async with HttpServer(self.server.folder) as receiver:
            receiver.answer = 202, "application/json", "{}"
            await self.server.set(HOST, url=receiver.url)
            sender = await self.client(alice, "pc", HOST)
            for resource in ["phone", "tablet", "pc"]:
                client = await self.client(bob, resource, HOST)
                await self.event(receiver.events, jid=client.boundjid.full, status="online")
            sender.send_raw(f"<message to='{bob}@{HOST}' type='chat'><propose xmlns='{CALL}' id='call-{bob}'/></message>")
            propose = await self.message(receiver.events, "<propose")
            [batch] = [batch for batch in receiver.batches if propose in batch]
            assert [event["type"] for event in batch] == ["presence"] * 3 + ["message"], receiver.batches

    async def a_call_is_told_after_the_presence_of_its_recipient(self, alice, bob):
        """A call (XEP-0353) also rings devices whose client is inactive, so Pushlark must know the states of the clients."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)
            tablet = await self.client(bob, "tablet", HOST)
            await phone.set_client_state("inactive")

            def step(client, to, name):
                client.send_raw(f"<message to='{to}' type='chat'><{name} xmlns='{CALL}' id='call-{bob}'/></message>")

            # Another element of the same namespace does not hide the step.
            def beside_other(client, to, name):
                steps = "".join(f"<{step} xmlns='{CALL}' id='call-{bob}'/>" for step in ["other", name])
                client.send_raw(f"<message to='{to}' type='chat'>{steps}<no-store xmlns='urn:xmpp:hints'/></message>")

            beside_other(sender, f"{bob}@{HOST}", "propose")
            propose = await self.message(events, "<propose")
            before = events[:events.index(propose)][-2:]
            states = {event["jid"]: event["client_state"] for event in before}
            assert states == {phone.boundjid.full: "inactive", tablet.boundjid.full: "active"}, before
            assert propose["to"] == f"{bob}@{HOST}" and propose["from"] == sender.boundjid.full, propose
            # The user's own answers are told for the user, so that the other devices stop ringing.
            step(tablet, sender.boundjid.full, "ringing")
            step(tablet, sender.boundjid.full, "proceed")
            proceed = await self.message(events, "<proceed")
            assert (proceed["from"], proceed["to"]) == (tablet.boundjid.full, f"{bob}@{HOST}"), proceed
            beside_other(tablet, "carol@remote.example", "reject")
            reject = await self.message(events, "<reject")
            assert (reject["from"], reject["to"]) == (tablet.boundjid.full, f"{bob}@{HOST}"), reject
            step(tablet, f"{bob}@{HOST}", "accept")
            accept = await self.message(events, "<accept")
            assert (accept["from"], accept["to"]) == (tablet.boundjid.full, f"{bob}@{HOST}"), accept
            for end in ["retract", "finish"]:
                step(sender, f"{bob}@{HOST}", end)
                assert (await self.message(events, f"<{end}"))["recipient"]["client_state"] == "active"
            # The device of a lost session rings only if it is notified, so its client is inactive.
            tablet.lose()
            inactive = {"type": "presence", "jid": tablet.boundjid.full, "client_state": "inactive"}

            def is_told():
                step(sender, f"{bob}@{HOST}", "propose")
                return any(event.items() >= inactive.items() for event in events)

            await eventually("the state of the lost session", is_told)
            assert not [event for event in events if "<ringing" in event.get("stanza", "")], events

    async def a_contact_request_is_told_once(self, alice, bob):
        """The server stores a request until the user answers it. Repeats have no effect."""
        async with self.received_events() as events:
            sender = await self.client(alice, "pc", HOST)
            self.server.register_once(bob, HOST)
            for _ in range(2):
                sender.send_presence_subscription(f"{bob}@{HOST}")
            await sender.handled()
            sender.say(bob, "after the requests")
            await self.message(events, "after the requests")
            requests = [event for event in events if event["type"] == "subscription"]
            [request] = [{name: value for name, value in request.items() if name != "at"} for request in requests]
            users = {"from": f"{alice}@{HOST}", "to": f"{bob}@{HOST}"}
            assert request == {"type": "subscription", **users, "recipient": {"exists": True, "online": False}}, request

    async def read_marks_of_all_conversations_are_told(self, alice, bob):
        """Displayed markers (XEP-0333), also to other servers and rooms, the markers for the user's clients (XEP-0490), and
        texts to users of other hosts."""
        async with self.received_events() as events:
            phone = await self.client(bob, "phone", HOST)
            user = f"{bob}@{HOST}"
            for to, kind in [("carol@remote.example/pc", "chat"), ("room@conference.remote.example", "groupchat")]:
                marker = f"<displayed xmlns='urn:xmpp:chat-markers:0' id='of-{kind}'/>"
                phone.send_raw(f"<message to='{to}' type='{kind}'>{marker}</message>")
                conversation = to.split("/")[0]
                await self.event(events, type="read", jid=user, conversation=conversation, message=f"of-{kind}")
            phone.send_raw(f"<message to='{alice}@{HOST}' type='chat'><body>to a user of this host</body></message>")
            phone.send_raw("<message to='erin@remote.example/pc' type='chat'><body>a reply</body></message>")
            reply = await self.event(events, type="read", jid=user, conversation="erin@remote.example")
            assert "message" not in reply, reply
            assert not [event for event in events if event.get("conversation") == f"{alice}@{HOST}"], events
            mds, id = "urn:xmpp:mds:displayed:0", "<stanza-id xmlns='urn:xmpp:sid:0' by='dave@remote.example' id='s1'/>"
            item = f"<item id='dave@remote.example'><displayed xmlns='{mds}'>{id}</displayed></item>"
            publish = f"<publish node='{mds}'>{item}</publish>"
            await phone.ask(f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{publish}</pubsub>")
            await self.event(events, type="read", jid=user, conversation="dave@remote.example", message="s1")

    async def the_nick_of_a_member_is_told_with_group_messages(self, alice, bob):
        """The member's own message comes back from the room, and must not notify the member."""
        async with self.received_events() as events:
            room = f"room-{bob}@conference.{HOST}"
            owner = await self.client(alice, "pc", HOST)
            phone = await self.client(bob, "phone", HOST)

            async def nick(text, sender=owner):
                sender.send_raw(f"<message to='{room}' type='groupchat'><body>{text}</body></message>")
                def found():
                    user = f"{bob}@{HOST}"
                    return [event for event in events if event.get("to") == user and text in event["stanza"]]

                return (await eventually(text, found))[0]["recipient"].get("nick")

            await self.create_room(owner, f"{room}/Alice")
            await self.join(phone, f"{room}/Bob")
            assert await nick("first") == "Bob"
            # The nick is in use, so the room refuses it.
            phone.send_raw(f"<presence to='{room}/Alice'/>")
            await phone.handled()
            assert await nick("second") == "Bob"
            phone.send_raw(f"<presence to='{room}/Robert'/>")

            async def renamed():
                return await nick(f"third-{len(events)}") == "Robert"

            await eventually("the new nick", renamed)
            resumed = phone.wait_until("session_resumed", TIMEOUT)
            phone.lose()
            phone.connect("127.0.0.1", self.server.port)
            await resumed
            await phone.handled()
            assert await nick("after the resumption") == "Robert"
            phone.send_presence(ppriority=-1)
            await phone.handled()
            assert await nick("with a negative priority") == "Robert"
            tablet = await self.client(bob, "tablet", HOST)
            await self.join(tablet, f"{room}/Tablet")
            assert await nick("of the other session", tablet) == "Tablet"

            def both():
                told = [event for event in events if event.get("to") == f"{bob}@{HOST}" and "of the other" in event["stanza"]]
                return told if len(told) == 2 else None

            told = await eventually("the message to both sessions", both)
            assert [event["recipient"]["nick"] for event in told] == ["Tablet", "Tablet"], told
            # A private message does not show that the user has read the room.
            phone.send_raw(f"<message to='{room}/Alice' type='chat'><body>private</body></message>")
            await phone.handled()
            await nick("after the private message")
            assert not [event for event in events if event.get("conversation") == room], events
