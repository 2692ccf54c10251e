"""Apache httpd with ab and curl: processes that take turns at accept (prefork), and threads that
share connections over one edge of epoll (event)."""

import os
import re
import signal

from harness.family import Family
from harness.process import descendants, until
from harness.registry import case

CONFIGURATION = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/httpd.pid
Listen 127.0.0.1:{port}
LoadModule mpm_{mpm}_module /usr/lib/apache2/modules/mod_mpm_{mpm}.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
ErrorLog {folder}/error.log
LogFormat "%r" request
CustomLog {folder}/access.log request
DocumentRoot {folder}/www
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
Timeout 300
StartServers 2
{processes}
ScriptAlias /cgi/ {folder}/cgi/
<Directory {folder}>
  Require all granted
</Directory>
"""
PROCESSES = {"prefork": "MinSpareServers 2\nMaxSpareServers 8\nMaxRequestWorkers 12",
             "event": "ThreadsPerChild 20\nMaxRequestWorkers 40\nMinSpareThreads 20\n"
                      "MaxSpareThreads 40\nAsyncRequestWorkerFactor 4"}
# What it reads comes back, from a program started with pipes for its standard streams. httpd hands it
# the whole body before it looks for an answer.
SCRIPT = """#!/bin/sh
body=$(mktemp)
cat >"$body"
printf 'Content-Type: application/octet-stream\\n\\n'
cat "$body"
"""


class Apache(Family):
    probe = b"GET /canary HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    def __init__(self, mpm):
        self.mpm = mpm
        self.name = f"apache-{mpm}"

    def start_server(self, ctx, port, config):
        # As root its processes become another user, who cannot read the key any more.
        ctx.become_unprivileged()
        www, cgi = ctx.folder / "www", ctx.folder / "cgi"
        for folder in (www, cgi):
            folder.mkdir()
        (www / "canary").write_bytes(ctx.canary)
        self.big = ctx.canary + os.urandom(8 << 20)
        (www / "big").write_bytes(self.big)
        (cgi / "echo").write_text(SCRIPT)
        (cgi / "echo").chmod(0o755)
        file = ctx.folder / "httpd.conf"
        file.write_text(CONFIGURATION.format(folder=ctx.folder, port=port, mpm=self.mpm,
                                             processes=PROCESSES[self.mpm]))
        server = ctx.start("apache2", ["/usr/sbin/apache2", "-f", file, "-DFOREGROUND"], config)
        ctx.until_listening(port, server)
        until(lambda: len(descendants(server.pid)) >= 2, "its processes")
        return server

    def curl(self, ctx, config, *words, **options):
        return ctx.start("curl", ["/usr/bin/curl", "-q", "-sS", "--fail", *words], config,
                         **options)

    def exchange(self, ctx, port, config):
        url = f"http://127.0.0.1:{port}"
        client = self.curl(ctx, config, "-w", "%{num_connects}", f"{url}/canary", f"{url}/canary")
        assert ctx.succeed(client) == ctx.canary + b"1" + ctx.canary + b"0"
        assert ctx.succeed(self.curl(ctx, config, f"{url}/big")) == self.big, "it came changed"
        data = ctx.canary + os.urandom(1 << 20)
        sent = ctx.folder / "sent"
        sent.write_bytes(data)
        client = self.curl(ctx, config, "--data-binary", f"@{sent}", f"{url}/cgi/echo")
        assert ctx.succeed(client) == data, "it came back changed"

    def attempt(self, ctx, port, config):
        return self.curl(ctx, config, f"http://127.0.0.1:{port}/canary?{ctx.canary.decode()}")

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "curl should have failed"
        assert not client.stdout, "curl got data"
        assert not (ctx.folder / "access.log").read_bytes(), "a request was served"

    def pair(self, ctx):
        port = ctx.port()
        tap = ctx.tap(port)
        server = self.start_server(ctx, port, ctx.server_config(port))
        return server, tap.port, ctx.client_config(tap.port)

    def ab(self, ctx, port, config, requests, *words):
        client = ctx.start("ab", ["/usr/bin/ab", "-q", "-n", requests, *words,
                                  f"http://127.0.0.1:{port}/canary"], config)
        out = ctx.succeed(client, timeout=400).decode()
        assert re.search(rf"Complete requests: +{requests}\n", out), out
        assert re.search(r"Failed requests: +0\n", out), out
        assert f"Document Length:        {len(ctx.canary)} bytes" in out, out
        lines = (ctx.folder / "access.log").read_bytes().count(b"\n")
        # A keepalive client may have one more on its way to each connection.
        assert lines >= requests, f"the server saw {lines} requests"
        ctx.check_wire()

    def connections(self, ctx):
        """A connection for each request, served by whichever process is free."""
        _, port, config = self.pair(ctx)
        self.ab(ctx, port, config, 500, "-c", "10")

    def keepalive(self, ctx):
        _, port, config = self.pair(ctx)
        self.ab(ctx, port, config, 3000, "-c", "10", "-k")

    def graceful(self, ctx):
        """SIGUSR1 replaces the processes when they are done; no request fails."""
        server, port, config = self.pair(ctx)
        url = f"http://127.0.0.1:{port}"
        for _ in range(3):
            before = set(descendants(server.pid))
            client = self.curl(ctx, config, "--limit-rate", "8M", f"{url}/big")
            until(lambda: client.stdout, "the transfer to begin")
            server.send_signal(signal.SIGUSR1)
            while not set(descendants(server.pid)) - before:
                assert ctx.succeed(self.curl(ctx, config, f"{url}/canary")) == ctx.canary
            assert ctx.succeed(client) == self.big, "a transfer was changed or cut"
            until(lambda: not before & set(descendants(server.pid)), "the old processes to end")
            assert ctx.succeed(self.curl(ctx, config, f"{url}/canary")) == ctx.canary
        ctx.check_wire()

    def register_all(self):
        self.register()
        for name, run in (("ab", self.connections), ("ab-keepalive", self.keepalive),
                          ("graceful-restart", self.graceful)):
            case(f"{self.name}/{name}", plain=True, timeout=500)(run)


Apache("prefork").register_all()
Apache("event").register_all()
