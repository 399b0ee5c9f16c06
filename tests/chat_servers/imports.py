"""Scenarios: registrations that a server's own push module has stored move to Pushlark."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

from processes import PROGRAMS, free_port
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
            command = [*former.source(), "--from", former.form, "--map-host", "pubsub.localhost=push.@HOST@"]
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
        return json.loads(await self.run_pushlark(["--json", "import", "--resume", state, *arguments]))

    async def run_pushlark(self, arguments):
        command = [PROGRAMS / "pushlark", f"--local={self.pushlark.url}", *map(str, arguments)]
        environment = {**os.environ, "PUSHLARK_SECRET": TOKEN}
        ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout


# The table in MongooseIM's priv/pg.sql, and a registration as its module stores it.
MONGOOSEIM = """
    CREATE TABLE event_pusher_push_subscription (
         owner_jid VARCHAR(250),
         node VARCHAR(250),
         pubsub_jid VARCHAR(250),
         form JSON NOT NULL,
         created_at BIGINT NOT NULL,
         PRIMARY KEY(owner_jid, node, pubsub_jid)
     );
    INSERT INTO event_pusher_push_subscription VALUES
        ('{user}@localhost', 'phone', 'pubsub.localhost', '{{"service":"fcm","device_id":"{user}"}}', 1700000000000001);
"""


class DatabaseImportScenarios(ImportScenarios):
    async def registrations_of_mongooseim_are_imported_from_postgresql(self, alice, bob):
        """The database is PostgreSQL of Debian with MongooseIM's table; what is exported can be loaded into it."""
        sender = await self.client(alice, "pc")
        self.server.register_once(bob, "localhost")
        database = Postgres(self.server.folder)
        self.servers.append(database)
        await asyncio.to_thread(database.start)
        await asyncio.to_thread(database.run, MONGOOSEIM.format(user=bob))
        command = [database.url, "--from", "mongooseim", "--map-host", "pubsub.localhost=push.@HOST@", "--apply"]
        report = await self.import_from(command)
        assert (report["stored"], report["left_out"]) == (1, {}), report
        sender.say(bob, "after the move from MongooseIM")
        await self.pushlark.notified(bob, 1)
        exported = self.server.folder / "mongooseim.sql"
        await self.run_pushlark(["export", "--format", "mongooseim", "--output", exported])
        await asyncio.to_thread(database.run, exported.read_text())
        form = f"SELECT form FROM event_pusher_push_subscription WHERE owner_jid = '{bob}@localhost' AND pubsub_jid = 'push.localhost'"
        found = await asyncio.to_thread(database.run, form)
        assert json.loads(found) == {"service": "fcm", "device_id": bob}, found


class Postgres:
    """A database server of Debian's package on a free port, without a password."""

    def __init__(self, folder):
        self.folder, self.port = folder / "postgresql", free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"
        self.programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]

    def start(self):
        # It does not run as root.
        self.folder.mkdir()
        shutil.chown(self.folder, "postgres", "postgres")
        self.folder.parent.chmod(0o711)
        data = f"{self.folder}/data"
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.as_postgres(f"{self.programs}/initdb -D {data} -U postgres -A trust -E UTF8 --no-locale")
        self.as_postgres(f"{self.programs}/pg_ctl -D {data} -o '{options}' -l {self.folder}/log -w start")

    def as_postgres(self, command):
        subprocess.run(["su", "postgres", "-c", command], check=True, stdout=subprocess.DEVNULL)

    def run(self, sql):
        command = [self.programs / "psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", self.url]
        return subprocess.run(command, input=sql, check=True, capture_output=True, text=True).stdout

    def stop(self):
        self.as_postgres(f"{self.programs}/pg_ctl -D {self.folder}/data -m immediate -w stop")
