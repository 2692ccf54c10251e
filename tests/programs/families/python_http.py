"""python3 -m http.server with a blocking and with an asyncio client; HTTP/1.0, server closes."""

import hashlib
import os

from harness.context import PYTHON, SCRIPTS
from harness.family import Family


class PythonHttp(Family):
    probe = b"GET /canary.txt HTTP/1.0\r\n\r\n"
    # It reads a ClientHello as a request line and waits for its newline, or answers 400.
    plaintext_server_reasons = frozenset({"peer-not-tls", "handshake-waiting"})

    def __init__(self, name, script):
        self.name = name
        self.script = SCRIPTS / script
        self.register()

    def start_server(self, ctx, port, config):
        folder = ctx.folder / "www"
        folder.mkdir()
        (folder / "canary.txt").write_bytes(ctx.canary)
        (folder / "big").write_bytes(os.urandom(16 << 20))
        server = ctx.start("http-server", [PYTHON, "-m", "http.server", port, "--bind",
                                           "127.0.0.1", "--directory", folder], config)
        ctx.until_listening(port, server)
        return server

    def exchange(self, ctx, port, config):
        paths = ["canary.txt", "big", "canary.txt", "big", "canary.txt"]
        client = ctx.start("http-client", [PYTHON, self.script, port, *("/" + p for p in paths)],
                           config)
        wanted = [hashlib.sha256((ctx.folder / "www" / path).read_bytes()).hexdigest()
                  for path in paths]
        assert ctx.succeed(client).decode().split() == wanted, "a body came changed"

    def attempt(self, ctx, port, config):
        # The canary in the path too: a request that must not leave in the clear.
        return ctx.start("http-client", [PYTHON, self.script, port, "show",
                                         f"/canary.txt?{ctx.canary.decode()}"], config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the client should have failed"
        assert ctx.canary not in client.stdout


PythonHttp("http-blocking", "http_get.py")
PythonHttp("http-asyncio", "http_get_asyncio.py")
