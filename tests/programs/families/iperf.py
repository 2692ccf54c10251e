"""iperf3 in all its TCP modes: threads of blocking writes, several connections at once, and a control
connection beside them."""

import json

from harness.family import Family
from harness.process import until
from harness.registry import case

IPERF = "/usr/bin/iperf3"


class Iperf(Family):
    name = "iperf3"
    # The cookie, 37 bytes, that a client begins with.
    probe = b"abcdefghijklmnopqrstuvwxyz0123456789\0"
    # A ClientHello is long enough for the cookie: the server answers with one byte, and waits.
    plaintext_server_reasons = frozenset({"peer-not-tls", "handshake-timeout"})

    def start_server(self, ctx, port, config):
        server = ctx.start("iperf3-server", [IPERF, "-s", "-B", "127.0.0.1", "-p", port,
                                             "--forceflush"], config)
        ctx.until_listening(port, server)
        return server

    def client(self, ctx, port, config, *words):
        # The extra data goes to the server, as text.
        return ctx.start("iperf3", [IPERF, "-c", "127.0.0.1", "-p", port, *words,
                                    "--extra-data", ctx.canary.decode()], config)

    def transfer(self, ctx, port, config, *words):
        """Moves a number of bytes, not for a time; returns the client's report."""

        def report():
            client = self.client(ctx, port, config, "--json", "-n", "32M", *words)
            ctx.finish(client)
            out = json.loads(client.stdout)
            error = out.get("error", "")
            assert not error or "server is busy" in error, error
            return None if error else out["end"]

        return until(report, "the server to be done with the last test")

    def exchange(self, ctx, port, config):
        end = self.transfer(ctx, port, config)
        assert end["sum_sent"]["bytes"] >= 32 << 20
        assert end["sum_received"]["bytes"] > 0

    def attempt(self, ctx, port, config):
        return self.client(ctx, port, config, "-n", "1M")

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "iperf3 should have failed"


IPERF3 = Iperf()
IPERF3.register()


@case("iperf3/every-mode", plain=True, timeout=400)
def modes(ctx):
    port = ctx.port()
    tap = ctx.tap(port)
    IPERF3.start_server(ctx, port, ctx.server_config(port))
    config = ctx.client_config(tap.port)
    source = ctx.folder / "source"
    source.write_bytes(ctx.canary * 100000)
    for words in (["-R"], ["-P", "4"], ["-P", "4", "-R"], ["--bidir"], ["-Z"], ["-l", "1K"],
                  ["-l", "1M"], ["-N"], ["-w", "64K"], ["-4", "-F", source], ["-O", "0"],
                  ["--get-server-output"], ["-M", "1000"]):
        end = IPERF3.transfer(ctx, tap.port, config, *words)
        assert end["sum_sent"]["bytes"] > 0 and end["sum_received"]["bytes"] > 0, words
    ctx.check_wire()
