"""Echo servers in Python, one for each way to serve a connection, and clients for them."""

import os

from harness.context import PYTHON, SCRIPTS
from harness.family import Family
from harness.process import until
from harness.registry import case

JAVA = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"


class Echo(Family):
    probe = b"a plaintext line\n"
    # Whatever it is sent comes back, a ClientHello too: a handshake message that no client expects.
    plaintext_server_reasons = frozenset({"peer-not-tls", "protocol-violation"})

    def __init__(self, name, server=("echo_server.py",), client="echo_client.py"):
        self.name = name
        self.server = server
        self.client = SCRIPTS / client
        self.register()

    def start_server(self, ctx, port, config):
        script, *words = self.server
        server = ctx.start("echo-server", [PYTHON, SCRIPTS / script, port, *words], config)
        ctx.until_listening(port, server)
        return server

    def exchange(self, ctx, port, config):
        for size in (0, 1, 100, 16384, 16385, 8 << 20):
            client = ctx.start("echo-client",
                               [PYTHON, self.client, port, ctx.canary.decode(), size], config)
            assert ctx.succeed(client) == b"intact\n"

    def attempt(self, ctx, port, config):
        return ctx.start("echo-client", [PYTHON, self.client, port, ctx.canary.decode(), 1000,
                                         "show"], config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the client should have failed"
        assert ctx.canary not in client.stdout


class EchoBeside(Echo):
    """Beside another library that is preloaded, in both programs: allocators that hooks are called from, a clock that lies."""

    def __init__(self, name, library, outside=False, **variables):
        self.library = library  # as ld.so(8) finds it
        self.outside = outside  # of `inlay run`, which is in it then, too
        self.variables = variables
        super().__init__(name)

    def start(self, ctx, name, script, words, config):
        beside = {"LD_PRELOAD": self.library, **self.variables}
        command = [PYTHON, SCRIPTS / "beside.py", self.library, SCRIPTS / script, *words]
        if self.outside:
            return ctx.start(name, command, config, env={**ctx.env, **beside})
        return ctx.start(name, ["env", *(f"{key}={value}" for key, value in beside.items()), *command], config)

    def start_server(self, ctx, port, config):
        server = self.start(ctx, "echo-server", self.server[0], [port], config)
        ctx.until_listening(port, server)
        return server

    def exchange(self, ctx, port, config):
        for size in (0, 1, 16385, 8 << 20):
            client = self.start(ctx, "echo-client", self.client, [port, ctx.canary.decode(), size], config)
            assert ctx.succeed(client) == b"intact\n"

    def attempt(self, ctx, port, config):
        return self.start(ctx, "echo-client", self.client, [port, ctx.canary.decode(), 1000, "show"], config)


class EchoNode(Echo):
    """node's ways to share the work; the clients are Python's."""

    def start_server(self, ctx, port, config):
        how, = self.server
        server = ctx.start("node-server", ["/usr/bin/node", SCRIPTS / "node_cluster.js", port, how],
                           config)
        ctx.until_listening(port, server)
        return server


class EchoRuby(Echo):
    """Ruby's threads: one accepts, one for each connection."""

    def start_server(self, ctx, port, config):
        server = ctx.start("ruby-server", ["/usr/bin/ruby", SCRIPTS / "threaded_server.rb", port],
                           config)
        ctx.until_listening(port, server)
        return server


class EchoJava(Echo):
    """OpenJDK 17, from the source: blocking streams and a thread each, or one selector."""

    def start_server(self, ctx, port, config):
        how, = self.server
        server = ctx.start("java-server", [JAVA, "-Xshare:auto", "-XX:TieredStopAtLevel=1",
                                           SCRIPTS / "EchoServer.java", port, how], config)
        ctx.until_listening(port, server)
        return server


class EchoBash(Echo):
    """bash as the client: its children inherit the connection and share it."""

    def client_of(self, ctx, port, config, data):
        file = ctx.folder / f"sent-{len(data)}"
        file.write_bytes(data)
        return ctx.start("bash-client", ["bash", SCRIPTS / "bash_client.sh", port, file,
                                         len(data)], config)

    def exchange(self, ctx, port, config):
        for size in (0, 1000, 4 << 20):
            data = ctx.canary + os.urandom(size)
            got = ctx.succeed(self.client_of(ctx, port, config, data))
            assert got == data, f"{len(data)} bytes came back as {len(got)}, or as others"

    def attempt(self, ctx, port, config):
        return self.client_of(ctx, port, config, ctx.canary)

    def got_nothing(self, ctx, client):
        ctx.finish(client)
        assert not client.stdout, "the client got data"


Echo("echo-blocking")
Echo("echo-asyncio", client="echo_client_asyncio.py")
Echo("echo-forking", server=("forking_server.py", "fork"))
EchoBeside("echo-jemalloc-T80", "libjemalloc.so.2", outside=True)
EchoBeside("echo-tcmalloc-T80", "libtcmalloc_minimal.so.4")
EchoBeside("echo-faketime-T80", "/usr/$LIB/faketime/libfaketime.so.1", FAKETIME="-3650d")
Echo("echo-exec", server=("forking_server.py", "exec"))
Echo("echo-spawn", server=("spawning_server.py",))
EchoBash("echo-bash")
# T74: the accepted connection goes to another process (SCM_RIGHTS), or others accept beside the first.
Echo("echo-multiprocessing", server=("passing_server.py", "multiprocessing"))
Echo("echo-message", server=("passing_server.py", "message"))
Echo("echo-prefork", server=("passing_server.py", "prefork"))
EchoNode("echo-node-cluster", server=("rr",))
EchoNode("echo-node-shared", server=("shared",))
EchoNode("echo-node-passing", server=("pass",))
EchoRuby("echo-ruby")
EchoJava("echo-java-blocking", server=("blocking",))
EchoJava("echo-java-nio", server=("nio",))


@case("echo-blocking/refused-while-it-only-writes")
def only_writes(ctx):
    """TLS 1.3 lets a client write before it hears that it is refused; its log must not call that a
    normal end. The server's reset may overtake its alert: what is left to say then is the reset."""
    port = ctx.port()
    server = ctx.start("echo-server", [PYTHON, SCRIPTS / "echo_server.py", port],
                       ctx.server_config(port))
    ctx.until_listening(port, server)
    client = ctx.start("writer", [PYTHON, SCRIPTS / "writer.py", port],
                       ctx.client_config(port, own="intruder"))
    ctx.succeed(client)
    until(lambda: [event for event in ctx.events()
                   if (event["pid"], event["direction"]) == (client.pid, "outbound") and
                   event["reason"] in ("refused-by-peer", "reset-by-peer")],
          "the client's log to say that the connection was cut", 20)
