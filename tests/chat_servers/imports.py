"""Scenarios: registrations that a server's own push module has stored move to Pushlark."""

import asyncio
import json
import subprocess

from processes import PROGRAMS
from pushlark import TOKEN
from scenarios import Scenarios


class ImportScenarios(Scenarios):
    async def registrations_of_the_servers_own_push_module_are_imported(self, alice, bob):
        """A client enables push at a server without Pushlark, in each of its storages. After an import, a message at the
        server with Pushlark notifies the device."""
        sender = await self.client(alice, "pc")
        for storage in self.former.storages:
            user = f"{bob}-{storage}"
            former = await self.enabled_at_former_server(storage, user)
            self.server.register_once(user, "localhost")
            command = [former.source(), "--from", former.form, "--map-host", "pubsub.localhost=push.@HOST@"]
            dry = await self.import_from(command)
            assert (dry["applied"], dry["stored"], dry["left_out"]) == (False, 1, {}), dry
            assert not self.pushlark.registrations(f"{user}@localhost")
            first = await self.import_from([*command, "--apply"])
            assert (first["applied"], first["stored"], first["without_notification"]) == (True, 1, 0), first
            again = await self.import_from([*command, "--apply"])
            assert (again["stored"], again["unchanged"]) == (0, 1), again
            sender.say(user, f"after the move from {storage}")
            [notification] = await self.pushlark.notified(user, 1)
            assert notification["body"] == f"after the move from {storage}", notification

    async def enabled_at_former_server(self, storage, user):
        """Starts a server with its own push module, enables push with a client, and stops the server where its storage is
        then read from files."""
        former = self.former(self.server.folder, self.pushlark, storage)
        self.servers.append(former)
        await former.start()
        client = await self.client(user, "phone", server=former)
        await client.enable("phone", user, jid="pubsub.localhost")
        await client.offline()
        self.clients.remove(client)
        await asyncio.to_thread(former.finish)
        return former

    async def import_from(self, arguments):
        """Imports into the local stack, and returns the report."""
        state = self.server.folder / "import.state"
        local = [f"--local={self.pushlark.url}", "--json", "import", "--resume", state]
        command = [PROGRAMS / "pushlark", *local, *map(str, arguments)]
        environment = {"PUSHLARK_SECRET": TOKEN, "PATH": "/usr/bin:/bin"}
        ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return json.loads(ran.stdout)
