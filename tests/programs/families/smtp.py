"""smtpd with smtplib: the server speaks first, asyncore on poll() and a blocking client."""

import base64
import os
import socket

from harness.context import PYTHON, SCRIPTS
from harness.family import Family
from harness.process import until
from harness.registry import case


class Smtp(Family):
    name = "smtp"
    probe = b"EHLO localhost\r\n"
    plaintext_client_waits = True

    def start_server(self, ctx, port, config):
        self.folder = ctx.folder / "mail"
        self.folder.mkdir()
        server = ctx.start("smtp-server", [PYTHON, "-W", "ignore", SCRIPTS / "smtp_server.py",
                                           port, self.folder], config)
        ctx.until_listening(port, server)
        return server

    def write_message(self, ctx, size):
        text = base64.encodebytes(os.urandom(size)).replace(b"\n", b"\r\n")
        path = ctx.folder / f"message-{size}"
        path.write_bytes(b"Subject: " + ctx.canary + b"\r\n\r\n" + text)
        return path

    def exchange(self, ctx, port, config):
        before = len(list(self.folder.glob("message-*")))
        files = [self.write_message(ctx, size) for size in (10, 20000, 2 << 20)]
        client = ctx.start("smtp-client", [PYTHON, SCRIPTS / "smtp_client.py", port, *files],
                           config)
        assert ctx.succeed(client) == b"sent\n"
        for number, file in enumerate(files, before):
            arrived = self.folder / f"message-{number}"
            until(arrived.exists, f"{arrived.name} at the server")
            wanted = file.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n")
            assert arrived.read_bytes() == wanted, f"{arrived.name} arrived changed"

    def attempt(self, ctx, port, config):
        return ctx.start("smtp-client", [PYTHON, SCRIPTS / "smtp_client.py", port,
                                         self.write_message(ctx, 100)], config)

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "the client should have failed"
        assert not list(self.folder.glob("message-*")), "a message was taken"


SMTP = Smtp()
SMTP.register()


@case("smtp/silent-plaintext-client")
def silent_plaintext_client(ctx):
    """Even the server's greeting is data: a client that says nothing gets none of it."""
    port = ctx.port()
    SMTP.start_server(ctx, port, ctx.server_config(port))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := client.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    assert len(answer) <= 7 and answer[:1] in (b"", b"\x15"), f"the client got {answer!r}"
    ctx.expect_event(event="refused", direction="inbound",
                     reason="peer-closed-in-handshake")
    SMTP.exchange(ctx, port, ctx.client_config(port))
