"""The cases every family of programs goes through.

control           without inlay: the canary is seen on the tap, so looking for it works
inert             with the library preloaded and nothing configured: the same
plaintext         under a configuration that lets everything through in the clear: the same, logged
allowed           the peers' identities allow each other: data intact, only TLS on the tap
strict            allowed, under inlay run --strict
wrong-client      the server refuses the client's identity; its next allowed client is served
wrong-server      the client refuses the server's identity
plaintext-client  a client without inlay gets no data from a strict server
plaintext-server  a strict client sends no application byte to a server without inlay
"""

import socket

from harness import registry
from harness.process import until
from harness.tap import APPLICATION_DATA

REFUSALS = frozenset({"refused", "cut"})


class Family:
    """Base of the families; subclasses say how their programs are started and asked."""

    name = ""
    # A server that ends after one client can't show that it still serves the next.
    serves_again = True
    # What a client that is not under inlay sends to get at the data.
    probe = b""
    # Why a strict client turns away from this server without inlay. A server that waits for the
    # end of a line or a request before it answers leaves the client waiting.
    plaintext_server_reasons = frozenset({"peer-not-tls"})
    # Where the server speaks first, a client without inlay and a strict server wait for each other,
    # as on a silent server; `inlay log` says so after a while.
    plaintext_client_waits = False

    def start_server(self, ctx, port, config):
        """Starts the server, holding ctx.canary where clients can ask for it; returns it ready."""
        raise NotImplementedError

    def exchange(self, ctx, port, config):
        """Runs allowed clients to their end and checks that what they got is intact."""
        raise NotImplementedError

    def attempt(self, ctx, port, config):
        """Starts one client that tries to send and fetch the canary; returns it running."""
        raise NotImplementedError

    # --- the cases ---

    def allowed(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, ctx.server_config(port))
        self.exchange(ctx, tap.port, ctx.client_config(tap.port))
        ctx.check_wire()
        ctx.expect_event(event=frozenset({"accepted", "closed"}), direction="inbound",
                         peer_id=ctx.spiffe_id("client"))

    def strict(self, ctx):
        ctx.strict = True
        self.allowed(ctx)

    def inert(self, ctx):
        ctx.preload_inert()
        self.allowed(ctx)

    def plaintext(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        config = ctx.config("server", default="plaintext")
        self.start_server(ctx, port, config)
        self.exchange(ctx, tap.port, config)
        ctx.check_wire(expect_plaintext=True)
        ctx.expect_event(event="plaintext", direction="inbound",
                         reason="plaintext-default")

    def wrong_client(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, ctx.server_config(port))
        self.got_nothing(ctx, self.attempt(ctx, tap.port,
                                           ctx.client_config(tap.port, own="intruder")))
        ctx.expect_event(event="refused", direction="inbound", reason="peer-not-allowed",
                         rule="service", peer_id=ctx.spiffe_id("intruder"))
        ctx.expect_event(event=REFUSALS, direction="outbound", reason="refused-by-peer")
        if self.serves_again:
            self.exchange(ctx, tap.port, ctx.client_config(tap.port))
        ctx.check_wire()

    def wrong_server(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, ctx.server_config(port, own="impostor"))
        self.got_nothing(ctx, self.attempt(ctx, tap.port, ctx.client_config(tap.port)))
        ctx.expect_event(event="refused", direction="outbound", reason="peer-not-allowed",
                         rule="to the service", peer_id=ctx.spiffe_id("impostor"))
        ctx.expect_event(event=REFUSALS, direction="inbound", reason="refused-by-peer")
        ctx.check_wire()

    def plaintext_client(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, ctx.server_config(port))
        with socket.create_connection(("127.0.0.1", tap.port), timeout=60) as client:
            client.sendall(self.probe)
            answer = b""
            try:
                while data := client.recv(65536):
                    answer += data
            except ConnectionResetError:
                pass
        assert ctx.canary not in answer, "the server gave its data to a plaintext client"
        # At most one alert (RFC 8446 §6), which tells nothing.
        assert len(answer) <= 7 and answer[:1] in (b"", b"\x15"), \
            f"a plaintext client got {answer[:64]!r}"
        ctx.expect_event(event="refused", direction="inbound", reason="peer-not-tls")
        if self.serves_again:
            # The family's own client, without inlay.
            client = self.attempt(ctx, port, None)
            if self.plaintext_client_waits:
                ctx.expect_event(direction="inbound", reason="handshake-waiting")
                client.stop()
            self.got_nothing(ctx, client)
            self.exchange(ctx, port, ctx.client_config(port))

    def plaintext_server(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, None)
        client = self.attempt(ctx, tap.port, ctx.client_config(tap.port))
        ctx.expect_event(direction="outbound", reason=self.plaintext_server_reasons)
        if client.status is None and "handshake-waiting" in self.plaintext_server_reasons:
            client.stop()  # it waits as it would on a silent server
        else:
            ctx.finish(client)
        assert ctx.canary not in client.stdout
        for tapped in tap.connections:
            sent = tapped.streams[0]
            assert sent.canary_at is None, "the client sent the canary in the clear"
            assert sent.records.error is None, f"the client sent {sent.records.error}"
            assert APPLICATION_DATA not in sent.records.counts, \
                "the client sent application data to a server that does not speak TLS"

    def got_nothing(self, ctx, client):
        ctx.finish(client)
        assert ctx.canary not in client.stdout, f"{client.name} got the data"

    def register(self):
        registry.add(f"{self.name}/control", self.allowed, plain=True, always_plain=True)
        registry.add(f"{self.name}/inert", self.inert)
        registry.add(f"{self.name}/plaintext", self.plaintext)
        registry.add(f"{self.name}/allowed", self.allowed)
        registry.add(f"{self.name}/strict", self.strict)
        registry.add(f"{self.name}/wrong-client", self.wrong_client)
        registry.add(f"{self.name}/wrong-server", self.wrong_server)
        registry.add(f"{self.name}/plaintext-client", self.plaintext_client)
        registry.add(f"{self.name}/plaintext-server", self.plaintext_server)


def wait_for_file(path, process):
    """Waits until the program has written the file."""
    until(path.exists, f"{process.name} to write {path.name}")
