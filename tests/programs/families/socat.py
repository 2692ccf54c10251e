"""socat: a forked process for each connection, programs executed with the connection as their standard
streams, and addresses that end in other ways."""

import os
import subprocess

from harness.family import Family
from harness.process import until
from harness.registry import case

SOCAT = "/usr/bin/socat"


class Socat(Family):
    """socat - TCP against TCP-LISTEN,fork and an address."""

    probe = b"a plaintext line\n"
    # Whatever it is sent comes back, a ClientHello too.
    plaintext_server_reasons = frozenset({"peer-not-tls", "protocol-violation"})

    def __init__(self, name, address, most=4 << 20):
        self.name = name
        self.address = address
        self.most = most  # bytes it can have under way without waiting for its own reader
        self.register()

    def start_server(self, ctx, port, config):
        server = ctx.start("socat-server", [
            SOCAT, f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", self.address], config)
        ctx.until_listening(port, server)
        return server

    def client(self, ctx, port, config, **options):
        return ctx.start("socat", [SOCAT, "-t", "100", "-", f"TCP4:127.0.0.1:{port}"], config,
                         **options)

    def exchange(self, ctx, port, config):
        for size in (0, 1000, self.most):
            data = ctx.canary + os.urandom(size)
            got = ctx.succeed(self.client(ctx, port, config, stdin=data))
            assert got == data, f"{len(data)} bytes came back as {len(got)}, or as others"
        # The connection stays open while the client has nothing to say.
        client = self.client(ctx, port, config, stdin=subprocess.PIPE)
        for number in range(1, 11):
            client.input.write(ctx.canary)
            client.input.flush()
            until(lambda: client.stdout == ctx.canary * number, "the answer")
        client.input.close()
        assert ctx.succeed(client) == ctx.canary * 10

    def attempt(self, ctx, port, config):
        return self.client(ctx, port, config, stdin=ctx.canary)

    def got_nothing(self, ctx, client):
        ctx.finish(client)
        assert not client.stdout, "the client got data"


# cat reads and writes the connection itself; or socat does, through pipes or a pair of sockets.
Socat("socat-exec-nofork", "EXEC:cat,nofork")
Socat("socat-exec-pipes", "EXEC:cat,pipes", most=16384)
Socat("socat-system", "SYSTEM:cat")
Socat("socat-echo", "PIPE", most=16384)


@case("socat-relay/two-hops", plain=True)
def relay(ctx):
    """T74: a server and a client in one process, once for each connection; both are judged."""
    last, port = ctx.port(), ctx.port()
    tap, inner = ctx.tap(port), ctx.tap(last)
    behind = ctx.start("socat-last", [
        SOCAT, f"TCP4-LISTEN:{last},bind=127.0.0.1,reuseaddr,fork", "EXEC:cat"],
        ctx.server_config(last, allow="server", own="last"))
    ctx.until_listening(last, behind)
    both = ctx.config(
        "server",
        inbound=[{"name": "service", "port": port, "mode": "strict",
                  "allow": [ctx.spiffe_id("client")]}],
        outbound=[{"name": "behind", "to": ["127.0.0.1"], "port": inner.port, "mode": "strict",
                   "expect": [ctx.spiffe_id("last")]}])
    middle = ctx.start("socat-middle", [
        SOCAT, f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork",
        f"TCP4:127.0.0.1:{inner.port}"], both)
    ctx.until_listening(port, middle)
    config = ctx.client_config(tap.port)
    clients = []
    for number in range(5):
        data = ctx.canary + bytes([number]) * (1 << 20)
        client = ctx.start("socat", [SOCAT, "-t", "100", "-", f"TCP4:127.0.0.1:{tap.port}"],
                           config, stdin=data)
        clients.append((client, data))
    for client, data in clients:
        assert ctx.succeed(client) == data, "it came back changed"
    ctx.check_wire()
