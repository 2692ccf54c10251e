"""haproxy in front of nginx: threads, connections of its own that it keeps and uses again for others."""

import os

from families.nginx import NGINX
from harness.family import Family
from harness.registry import case

CONFIGURATION = """
global
  nbthread 2
defaults
  mode {mode}
  timeout connect 60s
  timeout client 300s
  timeout server 300s
{option}
frontend service
  bind 127.0.0.1:{port}
  default_backend behind
backend behind
  server nginx 127.0.0.1:{behind}
"""


class Haproxy(Family):
    """The canary lies with nginx; the client and haproxy are the two whose identities vary."""

    probe = b"GET /canary.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    def __init__(self, mode):
        self.mode = mode
        self.name = f"haproxy-{mode}"
        if mode == "tcp":
            # It passes on what it does not understand: nginx answers a ClientHello.
            self.plaintext_server_reasons = frozenset({"peer-not-tls"})
        self.register()

    def start_server(self, ctx, port, config):
        behind = ctx.port()
        inner = ctx.tap(behind)
        # Under inlay on both sides or on none.
        strict = config is not None and "strict" in config.read_text()
        own = config.stem.rpartition("-")[0] if config else ""
        if strict:
            with config.open("a") as file:
                file.write(f"""
[[outbound]]
name = "behind"
to = ["127.0.0.1"]
port = {inner.port}
mode = "strict"
expect = ["{ctx.spiffe_id('nginx')}"]
""")
        NGINX.start_server(ctx, behind, ctx.server_config(behind, allow=own, own="nginx")
                           if strict else config)
        file = ctx.folder / "haproxy.cfg"
        reuse = "  http-reuse always" if self.mode == "http" else ""
        file.write_text(CONFIGURATION.format(mode=self.mode, port=port, behind=inner.port,
                                             option=reuse))
        server = ctx.start("haproxy", ["/usr/sbin/haproxy", "-db", "-f", file], config)
        ctx.until_listening(port, server)
        return server

    def exchange(self, ctx, port, config):
        NGINX.exchange(ctx, port, config)

    def attempt(self, ctx, port, config):
        return NGINX.attempt(ctx, port, config)

    def got_nothing(self, ctx, client):
        NGINX.got_nothing(ctx, client)


Haproxy("tcp")
HTTP = Haproxy("http")


@case("haproxy-http/many-clients-over-few-connections", plain=True)
def many(ctx):
    port = ctx.port()
    tap = ctx.tap(port)
    HTTP.start_server(ctx, port, ctx.server_config(port))
    config = ctx.client_config(tap.port)
    url = f"http://127.0.0.1:{tap.port}"
    data = os.urandom(1 << 20)
    (NGINX.www / "one").write_bytes(data)
    clients = [NGINX.curl(ctx, config, *[f"{url}/one"] * 5, f"{url}/canary.txt")
               for _ in range(10)]
    for client in clients:
        assert ctx.succeed(client) == data * 5 + ctx.canary, "a client got something else"
    ctx.check_wire()
