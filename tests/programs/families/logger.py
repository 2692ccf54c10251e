"""logger, which speaks syslog over TCP: one message in one connection, to a netcat that listens."""

from harness.family import Family

LOGGER, NETCAT = "/usr/bin/logger", "/bin/nc.openbsd"


class Logger(Family):
    name = "syslog"
    serves_again = False
    probe = b"<13>let me in\n"
    # The listener ends with its one client, which says nothing before.
    plaintext_server_reasons = frozenset({"peer-closed-in-handshake"})

    def start_server(self, ctx, port, config):
        self.server = ctx.start("nc-server", [NETCAT, "-l", "-N", "127.0.0.1", port], config)
        ctx.until_listening(port, self.server)
        return self.server

    def exchange(self, ctx, port, config):
        assert ctx.succeed(self.attempt(ctx, port, config)) == b""
        message = ctx.succeed(self.server)
        assert message.endswith(b" inlay-test: " + ctx.canary + b"\n"), message

    def attempt(self, ctx, port, config):
        return ctx.start("logger", [LOGGER, "--server", "127.0.0.1", "--port", port, "--tcp", "--rfc3164",
                                    "--tag", "inlay-test", ctx.canary.decode()], config)

    def wrong_client(self, ctx):
        # Its one message is sealed, and it gone, before the server's refusal can come: what TCP's reset
        # would tell it. The server has none of it.
        port = ctx.port()
        tap = ctx.tap(port)
        self.start_server(ctx, port, ctx.server_config(port))
        self.got_nothing(ctx, self.attempt(ctx, tap.port, ctx.client_config(tap.port, own="intruder")))
        ctx.expect_event(event="refused", direction="inbound", reason="peer-not-allowed",
                         rule="service", peer_id=ctx.spiffe_id("intruder"))
        ctx.check_wire()

    def got_nothing(self, ctx, client):
        ctx.finish(client)
        assert ctx.canary not in self.server.stdout, "the server got data"


Logger().register()
