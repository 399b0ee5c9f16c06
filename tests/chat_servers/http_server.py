"""An HTTP server that is not Pushlark."""

import asyncio
import json
import re
import ssl
import subprocess


class HttpServer:
    """The server gives one answer to all requests: a status, a content type and a body; or none, and requests hang.

    `batches` has the events of each request, `events` all of them, `bodies` the other bodies."""

    def __init__(self, folder, tls=False):
        self.answer, self.requests, self.batches, self.events, self.bodies = None, [], [], [], []
        self.hanging, self.tls = set(), None
        if tls:
            files = ["-keyout", folder / "answers.key", "-out", folder / "answers.pem"]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=answers", *files]
            subprocess.run(command, check=True, capture_output=True)
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(folder / "answers.pem", folder / "answers.key")

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            content = await reader.readexactly(int(re.search(r"(?i)content-length: (\d+)", head).group(1)))
            path = head.split()[1]
            self.requests.append(path)
            if path == "/events":
                self.batches.append(json.loads(content))
                self.events += self.batches[-1]
            else:
                self.bodies.append(content.decode())
            if self.answer is None:
                self.hanging.add(path)
                await reader.read()
                self.hanging.discard(path)
            else:
                status, type, body = self.answer
                type = f"Content-Type: {type}\r\n" if type else ""
                body = body.encode()
                head = f"HTTP/1.1 {status} -\r\n{type}Location: https://example.org/?secret\r\nRetry-After: 1\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, AttributeError):
            pass
        finally:
            writer.close()
