"""A pair of netcat-openbsd: blocking calls around poll(), half-closes, one client per server."""

import os
import subprocess

from harness.family import Family
from harness.process import until

NETCAT = "/bin/nc.openbsd"


class Netcat(Family):
    name = "netcat"
    serves_again = False
    probe = b"let me in\n"
    # The listening netcat says what it has to say at once, so the client meets plain text.

    def start_server(self, ctx, port, config):
        data = ctx.canary + os.urandom(4 << 20) + ctx.canary
        server = ctx.start("nc-server", [NETCAT, "-l", "-N", "127.0.0.1", port], config,
                           stdin=data)
        self.from_server = data
        ctx.until_listening(port, server)
        self.server = server
        return server

    def exchange(self, ctx, port, config):
        data = ctx.canary + os.urandom(4 << 20) + ctx.canary
        # A listening netcat whose peer has half-closed ends as soon as it has nothing in its buffer,
        # even if there is more to read on its standard input. So the client keeps its side open
        # until it has everything.
        client = ctx.start("nc-client", [NETCAT, "-N", "127.0.0.1", port], config,
                           stdin=subprocess.PIPE)
        client.input.write(data)
        client.input.flush()
        until(lambda: len(client.stdout) >= len(self.from_server) or client.status is not None,
              "all that the server sends")
        client.input.close()
        assert ctx.succeed(client) == self.from_server, "what the server sent came changed"
        assert ctx.succeed(self.server) == data, "what the client sent came changed"

    def attempt(self, ctx, port, config):
        return ctx.start("nc-client", [NETCAT, "-N", "127.0.0.1", port], config,
                         stdin=ctx.canary)

    def got_nothing(self, ctx, client):
        ctx.finish(client)
        assert not client.stdout, "the client got data"
        assert ctx.canary not in self.server.stdout, "the server got data"


Netcat().register()
