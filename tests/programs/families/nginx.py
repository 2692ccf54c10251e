"""nginx, two workers, with curl: edge-triggered epoll, sendfile, keepalive, accept in workers."""

import hashlib
import os
import signal

from harness.family import Family
from harness.process import descendants, until
from harness.registry import case

CONFIGURATION = """
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log notice;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/nginx-access.log;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_max_body_size 0;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 60;
  server {{
    listen 127.0.0.1:{port}{listen};
    root {folder}/www;
    location /upload/ {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""


def digest(path):
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def write_file(path, mebibytes, canary=b""):
    """Bytes that differ from block to block, so that none can be lost or moved unnoticed."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        file.write(canary)
        for number in range(mebibytes):
            file.write(number.to_bytes(8, "big"))
            file.write(block[8:])


class Nginx(Family):
    name = "nginx"
    probe = b"GET /canary.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    def start_server(self, ctx, port, config, listen=""):
        """`listen` goes on the line that says where."""
        self.www = ctx.folder / "www"
        (self.www / "upload").mkdir(parents=True)
        (self.www / "canary.txt").write_bytes(ctx.canary)
        write_file(self.www / "big", 16, ctx.canary)
        # The workers keep root where the master is root: file identities are for one user.
        user = "user root;" if os.geteuid() == 0 else ""
        file = ctx.folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(user=user, folder=ctx.folder, port=port,
                                             listen=listen))
        server = ctx.start("nginx", ["/usr/sbin/nginx", "-p", ctx.folder, "-c", file], config)
        ctx.until_listening(port, server)
        until(lambda: len(self.workers(server)) == 2, "two workers")
        return server

    @staticmethod
    def workers(server):
        return set(descendants(server.pid))

    def curl(self, ctx, config, *words, **options):
        return ctx.start("curl", ["/usr/bin/curl", "-q", "--silent", "--show-error", "--fail",
                                  *words], config, **options)

    def exchange(self, ctx, port, config):
        url = f"http://127.0.0.1:{port}"
        client = self.curl(ctx, config, f"{url}/canary.txt")
        assert ctx.succeed(client) == ctx.canary
        out = ctx.folder / "big"
        ctx.succeed(self.curl(ctx, config, "-o", out, f"{url}/big"))
        assert digest(out) == digest(self.www / "big"), "the file came changed"
        # Ten requests on one kept connection.
        kept = [f"{url}/canary.txt"] * 10
        client = self.curl(ctx, config, "-w", " %{num_connects}\n", *kept)
        lines = ctx.succeed(client).split(b"\n")[:-1]
        assert lines == [ctx.canary + b" 1"] + [ctx.canary + b" 0"] * 9, lines

    def attempt(self, ctx, port, config):
        return self.curl(ctx, config, f"http://127.0.0.1:{port}/canary.txt?{ctx.canary.decode()}")

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "curl should have failed"
        assert not client.stdout, "curl got data"
        assert not (ctx.folder / "nginx-access.log").read_bytes(), "nginx has served a request"


NGINX = Nginx()
NGINX.register()


def pair(ctx):
    port = ctx.port()
    tap = ctx.tap(port)
    server = NGINX.start_server(ctx, port, ctx.server_config(port))
    return server, f"http://127.0.0.1:{tap.port}", ctx.client_config(tap.port)


@case("nginx/twenty-parallel", plain=True)
def twenty_parallel(ctx):
    """One curl with twenty connections at once, each fetching 16 MiB."""
    _, url, config = pair(ctx)
    words = []
    for number in range(20):
        words += ["-o", ctx.folder / f"got-{number}", f"{url}/big?{number}"]
    ctx.succeed(NGINX.curl(ctx, config, "--parallel", "--parallel-immediate", "--parallel-max",
                           "20", *words))
    wanted = digest(NGINX.www / "big")
    for number in range(20):
        assert digest(ctx.folder / f"got-{number}") == wanted, f"download {number} came changed"
    ctx.check_wire()


@case("nginx/upload-100-mib", plain=True)
def upload(ctx):
    _, url, config = pair(ctx)
    source = ctx.folder / "source"
    write_file(source, 100, ctx.canary)
    ctx.succeed(NGINX.curl(ctx, config, "-T", source, f"{url}/upload/copy"))
    assert digest(NGINX.www / "upload" / "copy") == digest(source), "the upload arrived changed"
    ctx.check_wire()


@case("nginx/four-uploads-at-once", plain=True)
def uploads(ctx):
    _, url, config = pair(ctx)
    source = ctx.folder / "source"
    write_file(source, 100, ctx.canary)
    clients = [NGINX.curl(ctx, config, "-T", source, f"{url}/upload/copy-{number}")
               for number in range(4)]
    for client in clients:
        ctx.succeed(client)
    wanted = digest(source)
    for number in range(4):
        copy = NGINX.www / "upload" / f"copy-{number}"
        assert digest(copy) == wanted, f"upload {number} arrived changed"
    ctx.check_wire()


@case("nginx/reload-under-load", plain=True)
def reload_under_load(ctx):
    """Reloads replace the workers while transfers run; no request fails."""
    server, url, config = pair(ctx)
    wanted = digest(NGINX.www / "big")
    seen = NGINX.workers(server)
    for round_number in range(5):
        running = []
        for number in range(4):
            out = ctx.folder / f"got-{number}"
            running.append((NGINX.curl(ctx, config, "-o", out, f"{url}/big"), out))
        before = NGINX.workers(server)
        server.send_signal(signal.SIGHUP)
        # A request in every phase of the change: new workers start, old ones drain.
        while not (fresh := NGINX.workers(server) - before):
            assert ctx.succeed(NGINX.curl(ctx, config, f"{url}/canary.txt")) == ctx.canary
        for client, out in running:
            ctx.succeed(client)
            assert digest(out) == wanted, f"a download in round {round_number} came changed"
        assert ctx.succeed(NGINX.curl(ctx, config, f"{url}/canary.txt")) == ctx.canary
        until(lambda: not before & NGINX.workers(server), "the old workers to end")
        seen |= fresh
    assert len(seen) >= 7, "the workers were not replaced"
    ctx.check_wire()


@case("nginx/one-gib", plain=True, full=True, timeout=900)
def one_gib(ctx):
    _, url, config = pair(ctx)
    write_file(NGINX.www / "huge", 1024, ctx.canary)
    out = ctx.folder / "got"
    ctx.succeed(NGINX.curl(ctx, config, "-o", out, f"{url}/huge"), timeout=600)
    assert out.stat().st_size == (1 << 30) + len(ctx.canary)
    assert digest(out) == digest(NGINX.www / "huge"), "the file came changed"
    ctx.check_wire()


@case("nginx/slow-reader", plain=True)
def slow_reader(ctx):
    """A reader slower than the server: sendfile meets a full socket buffer again and again."""
    _, url, config = pair(ctx)
    out = ctx.folder / "got"
    ctx.succeed(NGINX.curl(ctx, config, "--limit-rate", "8M", "-o", out, f"{url}/big"))
    assert digest(out) == digest(NGINX.www / "big"), "the file came changed"
    ctx.check_wire()


@case("nginx/tls-inside", plain=True)
def tls_inside(ctx):
    """T79: both ends speak TLS of their own inside inlay's, with the distribution's libssl."""
    port = ctx.port()
    tap = ctx.tap(port)
    certificate, key = ctx.folder / "own.pem", ctx.folder / "own.key"
    ctx.succeed(ctx.start("openssl", [
        "/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate, "-subj",
        "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"]))
    more = (f" ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate}; "
            f"ssl_certificate_key {key}")
    NGINX.start_server(ctx, port, ctx.server_config(port), listen=more)
    config = ctx.client_config(tap.port)
    url = f"https://127.0.0.1:{tap.port}"
    words = ["--cacert", certificate]
    for version in ("--tlsv1.3", "--tls-max=1.2"):
        option, _, value = version.partition("=")
        client = NGINX.curl(ctx, config, *words, option, *([value] if value else []), "-w",
                            " %{num_connects}\n", f"{url}/canary.txt", f"{url}/canary.txt")
        assert ctx.succeed(client) == ctx.canary + b" 1\n" + ctx.canary + b" 0\n"
    out = ctx.folder / "got"
    ctx.succeed(NGINX.curl(ctx, config, *words, "-o", out, f"{url}/big"))
    assert digest(out) == digest(NGINX.www / "big"), "the file came changed"
    source = ctx.folder / "source"
    write_file(source, 8, ctx.canary)
    ctx.succeed(NGINX.curl(ctx, config, *words, "-T", source, f"{url}/upload/copy"))
    assert digest(NGINX.www / "upload" / "copy") == digest(source), "the upload arrived changed"
    for stream in tap.streams:
        assert stream.canary_at is None
        assert stream.records.error is None, stream.records.error
        # Without inlay the program's own server name and ALPN would be there to read.
        assert ctx.plain or b"http/1.1" not in stream.head, "the inner ClientHello is on the wire"
