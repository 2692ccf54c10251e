"""memcached with libmemcached's tools: one thread accepts, four serve, level-triggered epoll."""

import os
import pwd

from harness.family import Family
from harness.registry import case


class Memcached(Family):
    name = "memcached"
    probe = b"get canary\r\n"
    # A ClientHello is a command without its newline yet, or too long a one.
    plaintext_server_reasons = frozenset({"peer-not-tls", "handshake-waiting",
                                          "peer-closed-in-handshake"})

    def start_server(self, ctx, port, config, *words):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        server = ctx.start("memcached", ["/usr/bin/memcached", "-l", "127.0.0.1", "-p", port,
                                         "-U", "0", "-I", "16m", "-m", "128", *user, *words],
                           config)
        ctx.until_listening(port, server)
        return server

    def tool(self, ctx, name, port, config, *words):
        return ctx.start(name, [f"/usr/bin/{name}", f"--servers=127.0.0.1:{port}", *words], config)

    def exchange(self, ctx, port, config):
        small = ctx.folder / "canary"
        small.write_bytes(ctx.canary)
        big = ctx.folder / "big"
        big.write_bytes(ctx.canary + os.urandom(8 << 20))
        ctx.succeed(self.tool(ctx, "memccp", port, config, small, big))
        for file in (small, big):
            out = ctx.folder / f"{file.name}.got"
            ctx.succeed(self.tool(ctx, "memccat", port, config, f"--file={out}", file.name))
            assert out.read_bytes() == file.read_bytes(), f"{file.name} came changed"

    def attempt(self, ctx, port, config):
        file = ctx.folder / "attempt"
        file.write_bytes(ctx.canary)
        return self.tool(ctx, "memccp", port, config, file)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the tool should have failed"
        assert ctx.canary not in client.stdout


MEMCACHED = Memcached()
MEMCACHED.register()


def pair(ctx, *words):
    port = ctx.port()
    tap = ctx.tap(port)
    server = MEMCACHED.start_server(ctx, port, ctx.server_config(port), *words)
    return server, tap.port, ctx.client_config(tap.port)


@case("memcached/every-command-of-its-protocol", plain=True)
def every_command(ctx):
    """memccapable sends each command, one that is cut short and ones nobody waits for too."""
    _, port, config = pair(ctx)
    client = ctx.start("memccapable", ["/usr/bin/memccapable", "-h", "127.0.0.1", "-p", port, "-a"],
                       config)
    out = ctx.succeed(client)
    assert out.count(b"[pass]") > 20 and b"[FAIL]" not in out, out


@case("memcached/twenty-threads-at-once", plain=True)
def twenty_threads(ctx):
    _, port, config = pair(ctx)
    client = MEMCACHED.tool(ctx, "memcslap", port, config, "--concurrency=20",
                            "--execute-number=1000", "--test=set")
    ctx.succeed(client)
    stats = ctx.succeed(MEMCACHED.tool(ctx, "memcstat", port, config))
    wanted = b"cmd_set: 20000"
    assert wanted in stats, stats


@case("memcached/another-user-after-its-start", plain=True)
def another_user(ctx):
    """T81: it starts as root and serves as nobody, whose group may read the key."""
    if os.geteuid() != 0:
        return
    port = ctx.port()
    tap = ctx.tap(port)
    config = ctx.server_config(port)
    nobody = pwd.getpwnam("nobody")
    if not ctx.plain:
        key = ctx.issue("server") / "key.pem"
        os.chown(key, -1, nobody.pw_gid)
        key.chmod(0o640)
    server = ctx.start("memcached", ["/usr/bin/memcached", "-l", "127.0.0.1", "-p", port, "-I",
                                     "16m", "-u", "nobody"], config,
                       extra_groups=[nobody.pw_gid])
    ctx.until_listening(port, server)
    with open(f"/proc/{server.pid}/status", encoding="ascii") as status:
        assert f"\nUid:\t{nobody.pw_uid}\t" in status.read(), "memcached should have changed its user"
    MEMCACHED.exchange(ctx, tap.port, ctx.client_config(tap.port))
    ctx.check_wire()
