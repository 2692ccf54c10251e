"""git daemon: git-upload-pack started for each connection with it as standard input and output."""

import os

from harness.family import Family
from harness.registry import case

GIT = "/usr/bin/git"


class Git(Family):
    name = "git"
    probe = b"0030git-upload-pack /repository\0host=localhost\0"
    # The first four bytes are to be a length in hexadecimal.
    plaintext_server_reasons = frozenset({"peer-not-tls", "peer-closed-in-handshake",
                                          "reset-by-peer"})

    def git(self, ctx, *words, config=None):
        names = {key: value for role in ("AUTHOR", "COMMITTER")
                 for key, value in ((f"GIT_{role}_NAME", "inlay"), (f"GIT_{role}_EMAIL", "a@b"))}
        return ctx.start("git", [GIT, "-c", "protocol.version=2", "-c", "gc.auto=0", *words],
                         config, env={**ctx.env, **names, "GIT_CONFIG_NOSYSTEM": "1",
                                      "GIT_TERMINAL_PROMPT": "0"})

    def start_server(self, ctx, port, config):
        # Branches are listed in the clear: one is called after the canary.
        self.source = ctx.folder / "source"
        ctx.succeed(self.git(ctx, "init", "-q", "-b", ctx.canary.decode(), self.source))
        self.data = os.urandom(4 << 20)
        (self.source / "data").write_bytes(self.data)
        ctx.succeed(self.git(ctx, "-C", self.source, "add", "data"))
        ctx.succeed(self.git(ctx, "-C", self.source, "commit", "-q", "-m", "data"))
        served = ctx.folder / "served"
        ctx.succeed(self.git(ctx, "clone", "-q", "--bare", self.source, served / "repository"))
        server = ctx.start("git-daemon", [
            GIT, "daemon", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr", "--export-all",
            f"--base-path={served}", "--enable=receive-pack", "--verbose"], config)
        ctx.until_listening(port, server)
        return server

    def clone(self, ctx, port, config):
        target = ctx.folder / f"clone-{len(ctx.processes)}"
        return target, self.git(ctx, "clone", "-q", f"git://127.0.0.1:{port}/repository", target,
                                config=config)

    def exchange(self, ctx, port, config):
        target, client = self.clone(ctx, port, config)
        ctx.succeed(client)
        assert (target / "data").read_bytes() == self.data, "the file came changed"
        ctx.succeed(self.git(ctx, "-C", target, "fsck", "--strict"))

    def attempt(self, ctx, port, config):
        return self.git(ctx, "ls-remote", f"git://127.0.0.1:{port}/repository", config=config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "git should have failed"
        assert not client.stdout


GIT_DAEMON = Git()
GIT_DAEMON.register()


@case("git/push-and-fetch", plain=True)
def push(ctx):
    port = ctx.port()
    tap = ctx.tap(port)
    GIT_DAEMON.start_server(ctx, port, ctx.server_config(port))
    config = ctx.client_config(tap.port)
    first, client = GIT_DAEMON.clone(ctx, tap.port, config)
    ctx.succeed(client)
    second, client = GIT_DAEMON.clone(ctx, tap.port, config)
    ctx.succeed(client)
    data = os.urandom(4 << 20)
    (first / "more").write_bytes(data)
    ctx.succeed(GIT_DAEMON.git(ctx, "-C", first, "add", "more"))
    ctx.succeed(GIT_DAEMON.git(ctx, "-C", first, "commit", "-q", "-m", "more"))
    ctx.succeed(GIT_DAEMON.git(ctx, "-C", first, "push", "-q", config=config))
    ctx.succeed(GIT_DAEMON.git(ctx, "-C", second, "pull", "-q", "--ff-only", config=config))
    assert (second / "more").read_bytes() == data, "it came changed"
    ctx.check_wire()
