"""An asyncio echo server with a blocking and with an asyncio client."""

from harness.context import PYTHON, SCRIPTS
from harness.family import Family


class Echo(Family):
    # Whatever it is sent comes back, a ClientHello too: a handshake message that no client expects.
    plaintext_server_reasons = frozenset({"peer-not-tls", "protocol-violation"})

    def __init__(self, name, script):
        self.name = name
        self.script = SCRIPTS / script
        self.register()

    def start_server(self, ctx, port, config):
        server = ctx.start("echo-server", [PYTHON, SCRIPTS / "echo_server.py", port], config)
        ctx.until_listening(port, server)
        self.probe = b"a plaintext line\n"
        return server

    def exchange(self, ctx, port, config):
        for size in (0, 1, 100, 16384, 16385, 8 << 20):
            client = ctx.start("echo-client",
                               [PYTHON, self.script, port, ctx.canary.decode(), size], config)
            assert ctx.succeed(client) == b"intact\n"

    def attempt(self, ctx, port, config):
        return ctx.start("echo-client", [PYTHON, self.script, port, ctx.canary.decode(), 1000,
                                         "show"], config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the client should have failed"
        assert ctx.canary not in client.stdout


Echo("echo-blocking", "echo_client.py")
Echo("echo-asyncio", "echo_client_asyncio.py")
