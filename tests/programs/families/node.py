"""node's http server and client with keepalive: libuv, edge-triggered where it may be."""

from harness.context import SCRIPTS
from harness.family import Family

NODE = "/usr/bin/node"


class Node(Family):
    name = "node"
    probe = b"GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def start_server(self, ctx, port, config):
        server = ctx.start("node-server", [NODE, SCRIPTS / "node_server.js", port,
                                           ctx.canary.decode()], config)
        ctx.until_listening(port, server)
        return server

    def exchange(self, ctx, port, config):
        client = ctx.start("node-client", [NODE, SCRIPTS / "node_client.js", port,
                                           ctx.canary.decode(), 100], config)
        assert ctx.succeed(client) == b"intact over 4 connections\n", client.stdout

    def attempt(self, ctx, port, config):
        return ctx.start("node-client", [NODE, SCRIPTS / "node_client.js", port,
                                         ctx.canary.decode(), 1, "show"], config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the client should have failed"
        assert ctx.canary not in client.stdout


Node().register()
