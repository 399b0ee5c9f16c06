"""A local stack of Pushlark."""

import json
import re
import urllib.request

from processes import PROGRAMS, Program, eventually, free_port, is_open

# The secret of the modules and the bridge, and the token of servers that can only set a URL.
SECRET = "whsec_c2NlbmFyaW8gb2YgcmVhbCBzZXJ2ZXJz"
TOKEN = "token-of-the-scenarios"
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiB0aGVpcnM="


class Pushlark:
    """A local stack, and the notifications in its sink."""

    def __init__(self, folder):
        self.folder, self.port, self.program = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"WEBHOOK_SECRET": f"{SECRET},{TOKEN}", "LOG_LEVEL": "info,ingest=debug"}

    def take(self, commands):
        """Adds the settings in commands of a page."""
        settings = dict(re.findall(r"([A-Z_]+)=([^\s$]+)", commands))
        assert settings, commands
        self.settings.update(settings)

    async def start(self):
        command = [PROGRAMS / "pushlark-local", "--port", str(self.port), "--data", str(self.folder / "pushlark")]
        self.program = Program("pushlark", command, self.folder, self.settings)
        await eventually("Pushlark", lambda: is_open(self.port))

    def stop(self):
        if self.program:
            self.program.stop()

    def ask(self, method, path, body=None):
        body = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def notifications(self, device):
        entries = reversed(self.ask("GET", f"/sink/notifications?device_id={device}"))
        return [entry["notification"]["alert"] for entry in entries]

    async def notified(self, device, times):
        def enough():
            notifications = self.notifications(device)
            return notifications if len(notifications) >= times else None

        return await eventually(f"{times} notifications for {device}", enough)

    def device_is_gone(self, device):
        self.ask("PUT", f"/sink/devices/{device}", {"status": 410, "body": {"reason": "unregistered"}})

    def explained(self, user):
        """Returns the explanation of a message to a user."""
        event = {"type": "message", "from": "alice@localhost", "to": user, "chat": "chat", "body": "Hi"}
        return self.ask("POST", "/explain", {"explain": [event]})["explained"][0]["recipients"][0]

    def registrations(self, user):
        return self.explained(user)["registrations"]
