"""vsftpd: a process for each connection, made by clone() into namespaces of its own, chrooted, without
privileges, under a seccomp filter, at its limits of descriptors and processes; what needs privilege a
second process does for it and passes it in messages (T74, T81). Data connections go both ways."""

import os
import pwd

from harness.context import PYTHON, SCRIPTS
from harness.family import Family
from harness.registry import case

CONFIGURATION = """
listen=YES
listen_address=127.0.0.1
listen_port={port}
background=NO
anonymous_enable=YES
local_enable=NO
ftp_username=daemon
nopriv_user=nobody
anon_root={folder}/served
secure_chroot_dir={folder}/empty
anon_upload_enable=YES
write_enable=YES
anon_umask=022
pasv_min_port={passive}
pasv_max_port={passive}
isolate=YES
isolate_network=NO
seccomp_sandbox=NO
"""


class Vsftpd(Family):
    name = "vsftpd"
    probe = b"USER anonymous\r\nPASS a\r\nSTAT /\r\n"
    plaintext_client_waits = True

    def start_server(self, ctx, port, config, passive=1, settings=()):
        served = ctx.folder / "served"
        os.makedirs(served / "upload")
        (ctx.folder / "empty").mkdir(mode=0o755)
        ctx.folder.chmod(0o755)  # the cases' folders are their owner's otherwise
        owner = pwd.getpwnam("daemon")  # whom /usr/sbin is home of: it must be there
        os.chown(served / "upload", owner.pw_uid, owner.pw_gid)
        (served / ctx.canary.decode()).write_bytes(b"")
        self.data = ctx.canary + os.urandom(8 << 20)
        (served / "data").write_bytes(self.data)
        file = ctx.folder / "vsftpd.conf"
        text = CONFIGURATION.format(port=port, folder=ctx.folder, passive=passive)
        file.write_text("\n".join((text.strip(), *settings, "")))
        server = ctx.start("vsftpd", ["/usr/sbin/vsftpd", file], config)
        ctx.until_listening(port, server)
        return server

    def attempt(self, ctx, port, config):
        return ctx.start("ftp", [PYTHON, SCRIPTS / "ftp_client.py", "talk", port], config)

    def exchange(self, ctx, port, config):
        assert ctx.canary in ctx.succeed(self.attempt(ctx, port, config))


VSFTPD = Vsftpd()
VSFTPD.register()


# Where a connection is made by the process with privileges, and passed to the one without: another
# user's, which never gets a session (I7).
ONE_PROCESS = "one_process_model=YES"


def transfer(ctx, way, *settings):
    """A file there and back, and a listing; returns the client at its end, and the data's tap."""
    port, passive, listen = ctx.port(), ctx.port(), ctx.port()
    control, to_server, to_client = ctx.tap(port), ctx.tap(passive), ctx.tap(listen)
    client_id, server_id = ctx.spiffe_id("client"), ctx.spiffe_id("server")
    VSFTPD.start_server(ctx, port, ctx.config("server", inbound=[
        {"name": "control", "port": port, "mode": "strict", "allow": [client_id]},
        {"name": "passive", "port": passive, "mode": "strict", "allow": [client_id]},
    ], outbound=[
        {"name": "active", "to": ["127.0.0.1"], "port": to_client.port, "mode": "strict",
         "expect": [client_id]}]), passive, settings)
    client = ctx.start("ftp", [PYTHON, SCRIPTS / "ftp_client.py", way, control.port,
                               to_server.port, listen, to_client.port, "data"],
                       ctx.config("client", outbound=[
        {"name": "to the server", "to": ["127.0.0.1"], "port": [control.port, to_server.port],
         "mode": "strict", "expect": [server_id]}
    ], inbound=[
        {"name": "data", "port": listen, "mode": "strict", "allow": [server_id]}]))
    ctx.finish(client)
    return client, to_server if way == "passive" else to_client


def transfer_well(ctx, way, *settings):
    client, data = transfer(ctx, way, *settings)
    assert client.status == 0, f"ftp ended with {client.status}"
    uploaded = ctx.folder / "served" / "upload" / way
    assert uploaded.read_bytes() == VSFTPD.data, "it arrived changed"
    assert len(data.connections) == 3
    ctx.check_wire()


@case("vsftpd/passive", plain=True)
def passive(ctx):
    transfer_well(ctx, "passive")


@case("vsftpd/passive-one-process", plain=True)
def passive_one_process(ctx):
    transfer_well(ctx, "passive", ONE_PROCESS)


@case("vsftpd/active-one-process", plain=True)
def active_one_process(ctx):
    transfer_well(ctx, "active", ONE_PROCESS)


@case("vsftpd/active-passed-by-root")
def active_passed_by_root(ctx):
    client, _ = transfer(ctx, "active")
    assert client.status != 0, "another user's process got a session"
    # Of the one that got it, or of the one whose handshake it cut, whichever was first.
    ctx.expect_event(event="refused",
                     reason=frozenset({"inherited-unknown", "peer-closed-in-handshake"}))
    ctx.check_wire()
