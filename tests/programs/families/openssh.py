"""OpenSSH: sshd executes itself for each connection, forks, drops its privileges and sets a seccomp
filter, all with the connection open (T74, T81); with ssh, scp and sftp."""

import getpass
import os
import signal
import subprocess

from harness.family import Family
from harness.process import descendants, until
from harness.registry import case

CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
LogLevel VERBOSE
Subsystem sftp /usr/lib/openssh/sftp-server
VersionAddendum {canary}
"""


class OpenSSH(Family):
    """SSH encrypts on its own. What it says in the clear is its version: that holds the canary."""

    name = "openssh"
    probe = b"SSH-2.0-probe\r\n"

    def start_server(self, ctx, port, config, *words):
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # the init script's task
        for key in ("host_key", "key"):
            ctx.succeed(ctx.start("ssh-keygen", ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519",
                                                 "-N", "", "-f", ctx.folder / key]))
        file = ctx.folder / "sshd_config"
        file.write_text(CONFIGURATION.format(port=port, folder=ctx.folder,
                                             canary=ctx.canary.decode()))
        server = ctx.start("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", file, *words], config)
        ctx.until_listening(port, server)
        return server

    @staticmethod
    def options(ctx):
        return ["-F", "/dev/null", "-i", ctx.folder / "key", "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes",
                "-o", f"UserKnownHostsFile={ctx.folder}/known_hosts"]

    def ssh(self, ctx, port, config, *words, **options):
        return ctx.start("ssh", ["/usr/bin/ssh", *self.options(ctx), "-v", "-p", port,
                                 "-l", getpass.getuser(), "127.0.0.1", *words], config, **options)

    def exchange(self, ctx, port, config):
        client = self.ssh(ctx, port, config, "echo", ctx.canary.decode())
        assert ctx.succeed(client) == ctx.canary + b"\n"
        data = os.urandom(8 << 20)
        got = ctx.succeed(self.ssh(ctx, port, config, "cat", stdin=data))
        assert got == data, f"{len(data)} bytes came back as {len(got)}, or as others"

    def attempt(self, ctx, port, config):
        return self.ssh(ctx, port, config, "echo", ctx.canary.decode())

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) == 255, "ssh should have failed"
        assert not client.stdout
        # -v shows the version of who answers.
        assert ctx.canary not in client.stderr, "the server has said its version"


OPENSSH = OpenSSH()
OPENSSH.register()


def pair(ctx):
    port = ctx.port()
    tap = ctx.tap(port)
    server = OPENSSH.start_server(ctx, port, ctx.server_config(port))
    return server, tap.port, ctx.client_config(tap.port)


def copy(ctx, *words):
    _, port, config = pair(ctx)
    source = ctx.folder / "source"
    source.write_bytes(os.urandom(16 << 20))
    remote = f"scp://{getpass.getuser()}@127.0.0.1:{port}/{ctx.folder}"
    scp = ["/usr/bin/scp", "-q", *words, *OPENSSH.options(ctx)]
    ctx.succeed(ctx.start("scp", [*scp, source, f"{remote}/there"], config))
    ctx.succeed(ctx.start("scp", [*scp, f"{remote}/there", ctx.folder / "back"], config))
    assert (ctx.folder / "there").read_bytes() == source.read_bytes(), "it arrived changed"
    assert (ctx.folder / "back").read_bytes() == source.read_bytes(), "it came back changed"
    ctx.check_wire()


@case("openssh/scp", plain=True)
def scp_by_sftp(ctx):
    copy(ctx)


@case("openssh/scp-of-old", plain=True)
def scp_of_old(ctx):
    copy(ctx, "-O")


@case("openssh/new-keys-again-and-again", plain=True)
def rekey(ctx):
    _, port, config = pair(ctx)
    data = os.urandom(8 << 20)
    client = OPENSSH.ssh(ctx, port, config, "-o", "RekeyLimit=512K", "cat", stdin=data)
    assert ctx.succeed(client) == data
    ctx.check_wire()


@case("openssh/a-terminal", plain=True)
def terminal(ctx):
    """The remote command has a terminal; its status comes back (T82)."""
    _, port, config = pair(ctx)
    client = OPENSSH.ssh(ctx, port, config, "-tt", "tty; exit 7")
    assert ctx.finish(client) == 7
    assert client.stdout.startswith(b"/dev/pts/"), client.stdout
    ctx.check_wire()


@case("openssh/a-client-that-goes-to-the-background", plain=True)
def background(ctx):
    """T74: ssh -f forks when it has authenticated; the child serves others over the connection."""
    _, port, config = pair(ctx)
    control = ctx.folder / "control"
    ctx.succeed(OPENSSH.ssh(ctx, port, config, "-f", "-N", "-M", "-S", control))
    before = len(ctx.taps[0].connections)
    data = os.urandom(4 << 20)
    for _ in range(3):
        client = OPENSSH.ssh(ctx, port, config, "-S", control, "cat", stdin=data)
        assert ctx.succeed(client) == data
    ctx.succeed(OPENSSH.ssh(ctx, port, config, "-S", control, "-O", "exit"))
    assert len(ctx.taps[0].connections) == before, "the connection should have been shared"
    ctx.check_wire()


@case("openssh/a-forwarded-port", plain=True)
def forwarded(ctx):
    """What comes out of the tunnel is a connection of sshd's own, and is judged as one."""
    port, behind = ctx.port(), ctx.port()
    tap = ctx.tap(port)
    inner = ctx.tap(behind)
    own_port = {"name": "service", "port": port, "mode": "strict",
                "allow": [ctx.spiffe_id("client")]}
    outward = {"name": "behind", "to": ["127.0.0.1"], "port": inner.port, "mode": "strict",
               "expect": [ctx.spiffe_id("last")]}
    OPENSSH.start_server(ctx, port, ctx.config("server", inbound=[own_port], outbound=[outward]))
    netcat = ctx.start("nc", ["/bin/nc.openbsd", "-l", "-N", "127.0.0.1", behind],
                       ctx.server_config(behind, allow="server", own="last"),
                       stdin=ctx.canary + os.urandom(1 << 20))
    ctx.until_listening(behind, netcat)
    client = OPENSSH.ssh(ctx, tap.port, ctx.client_config(tap.port), "-W",
                         f"127.0.0.1:{inner.port}", stdin=subprocess.PIPE)
    # A listening netcat whose peer has half-closed ends early: not before all is there.
    wanted = (ctx.folder / "nc.stdin").read_bytes()
    until(lambda: len(client.stdout) >= len(wanted) or client.status is not None, "all of it")
    client.input.close()
    assert ctx.succeed(client) == wanted
    ctx.check_wire()


@case("openssh/reload", plain=True)
def reload(ctx):
    """SIGHUP: the listener executes itself; who is connected stays so."""
    server, port, config = pair(ctx)
    fifo = ctx.folder / "fifo"
    os.mkfifo(fifo)
    client = OPENSSH.ssh(ctx, port, config, f"echo begun; cat {fifo}")
    until(lambda: client.stdout == b"begun\n", "the session")
    seen = server.stderr.count(b"Server listening on")
    server.send_signal(signal.SIGHUP)
    until(lambda: server.stderr.count(b"Server listening on") > seen, "the new image to listen")
    assert ctx.succeed(OPENSSH.ssh(ctx, port, config, "echo new")) == b"new\n"
    with fifo.open("wb") as file:
        file.write(ctx.canary)
    assert ctx.succeed(client) == b"begun\n" + ctx.canary
    ctx.check_wire()


@case("openssh/forty-at-once", plain=True, full=True, timeout=400)
def forty(ctx):
    server, port, config = pair(ctx)
    clients = [OPENSSH.ssh(ctx, port, config, "cat", stdin=ctx.canary * 1000) for _ in range(40)]
    for client in clients:
        assert ctx.succeed(client) == ctx.canary * 1000
    until(lambda: not descendants(server.pid), "the end of the server's processes")
    ctx.check_wire()
