"""Real programs whose identity comes from an agent: `inlay run -- COMMAND`, no key, no files."""

import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess

from harness.process import until
from harness.registry import case

SERVER, CLIENT, BENCHMARK = "/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/redis-benchmark"


class Agent:
    """An agent of this case's own, with entries for redis and its clients."""

    def __init__(self, ctx, source="authority", timeout="30s", upstream=None):
        self.ctx = ctx
        self.port = ctx.port()
        self.tap = ctx.tap(self.port)
        self.home = ctx.folder / ("agent" if upstream is None else "agent-below")
        self.home.mkdir(mode=0o755)
        self.socket = self.home / "agent.sock"
        self.address = f"unix://{self.socket}"
        self.config = self.home / "agent.toml"
        self.timeout = timeout
        self.server_svid, self.client_svid = ctx.issue("server"), ctx.issue("client")
        self.policy("server", f'[[inbound]]\nname = "service"\nport = {self.port}\n'
                    f'mode = "strict"\nallow = ["{ctx.spiffe_id("client")}"]')
        self.policy("client", f'[[outbound]]\nname = "to the service"\nto = "127.0.0.1"\n'
                    f'port = {self.tap.port}\nmode = "strict"\nexpect = ["{ctx.spiffe_id("server")}"]')
        if upstream is not None:
            where = f'workload_api = "{upstream.address}"\n'
        elif source == "authority":
            where = f'authority = "{ctx.folder}/authority"\n'
        else:
            where = "".join(f'[[source.svid]]\nsvid = "{svid}/svid.pem"\nkey = "{svid}/key.pem"\n'
                            f'bundle = "{svid}/bundle.pem"\n'
                            for svid in (self.server_svid, self.client_svid))
        entries = "".join(
            f'[[entry]]\nid = "{ctx.spiffe_id(who)}"\npolicy = "{who}.toml"\nexecutable = "{executable}"\n'
            for who, executable in (("server", SERVER), ("client", CLIENT), ("client", BENCHMARK),
                                    ("server", ctx.build / "identity" / "agent" / "inlay-agent")))
        self.config.write_text(f'trust_domain = "{ctx.trust_domain}"\nsocket = "{self.socket}"\n'
                               f'[source]\n{where}{entries}')
        self.process = None
        self.start()

    def policy(self, name, rule):
        (self.home / f"{name}.toml").write_text(
            f'trust_domain = "{self.ctx.trust_domain}"\n[identity]\nagent = "{self.address}"\n'
            f'[defaults]\ninbound = "deny"\noutbound = "deny"\nhandshake_timeout = "{self.timeout}"\n'
            f'{rule}\n')

    def start(self):
        self.process = self.ctx.start("inlay-agent",
                                      [self.ctx.inlay_command, "agent", "--config", self.config])

        def answers():
            assert self.process.status is None, f"the agent ended: {self.process.stderr.decode()}"
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self.socket)) == 0

        until(answers, "the agent to answer")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.ctx.finish(self.process)

    def redis(self):
        server = self.ctx.start("redis-server", [
            SERVER, "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--daemonize", "no", "--dir", self.ctx.folder], self.address)
        self.ctx.until_listening(self.port, server)
        return server

    def cli(self, *words, **options):
        return self.ctx.start("redis-cli", [CLIENT, "-h", "127.0.0.1", "-p", self.tap.port, *words],
                              self.address, **options)

    def status(self):
        done = subprocess.run([self.ctx.inlay_command, "status", "--json", "--agent", self.address],
                              check=False, env=self.ctx.env, capture_output=True)
        return json.loads(done.stdout)


    def rotations(self, id_):
        """How often its SVID was replaced, once it has one; None before."""
        for identity in self.status()["identities"]:
            if identity["spiffe_id"] == self.ctx.spiffe_id(id_):
                return identity["rotations"] if identity["ready"] else None
        return None


def serial_of(pem):
    return subprocess.run(["openssl", "x509", "-noout", "-serial"], input=pem, check=True, capture_output=True).stdout


def presented(agent):
    """The serial number of the certificate with which the server answers."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{agent.port}", "-tls1_3", "-cert",
         agent.client_svid / "svid.pem", "-key", agent.client_svid / "key.pem"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60).stdout
    return serial_of(shown)


def memory_holds(pid, secret):
    """Whether the process's memory has these bytes anywhere: what a core dump would show, and more."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if " r" not in line or "[vvar" in line or "[vsyscall" in line:
                continue
            try:
                memory.seek(begin)
                if secret in memory.read(end - begin):
                    return True
            except OSError:
                continue  # reserved, never touched
    return False


def core_dump(ctx, process):
    """Ends it with one; None where the kernel gives dumps to a program."""
    if pathlib.Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip() != "core":
        return None
    unlimited = (resource.RLIM_INFINITY,) * 2
    resource.prlimit(process.pid, resource.RLIMIT_CORE, unlimited)
    folder = pathlib.Path(os.readlink(f"/proc/{process.pid}/cwd"))
    process.send_signal(signal.SIGTRAP)  # SIGQUIT is ignored in what a shell starts behind itself
    ctx.finish(process)
    dump, = folder.glob("core*")
    data = dump.read_bytes()
    dump.unlink()
    return data


def private_key_traces(svid):
    """The secret number of a P-256 key, as it lies in memory in either byte order, and its file's text."""
    text = subprocess.run(["openssl", "pkey", "-in", str(svid / "key.pem"), "-noout", "-text"],
                          check=True, capture_output=True, text=True).stdout
    digits = re.search(r"priv:\n((?:\s+[0-9a-f:]+\n)+)", text)[1]
    number = bytes.fromhex(re.sub(r"[^0-9a-f]", "", digits))[-32:]
    lines = (svid / "key.pem").read_bytes().splitlines()
    return number, number[::-1], *lines[1:-1]


@case("agent/redis")
def a_program_gets_its_identity_and_policy_from_the_agent(ctx):
    agent = Agent(ctx)
    server = agent.redis()
    canary = ctx.canary.decode()
    assert ctx.succeed(agent.cli("SET", "secret", canary)) == b"OK\n"
    assert ctx.succeed(agent.cli("GET", "secret")) == ctx.canary + b"\n"
    ctx.expect_event(pid=server.pid, event="accepted", peer_id=ctx.spiffe_id("client"))
    ctx.check_wire()


@case("agent/no-entry")
def what_no_entry_matches_is_not_started(ctx):
    agent = Agent(ctx)
    stranger = ctx.start("sh", ["/bin/sh", "-c", "echo started"], agent.address)
    assert ctx.finish(stranger) == 125, stranger.stderr
    assert b"no entry" in stranger.stderr, stranger.stderr
    assert b"started" not in stranger.stdout


@case("agent/T60-no-key-in-the-process")
def the_process_memory_holds_no_identity_key(ctx):
    agent = Agent(ctx, source="files")
    server = agent.redis()
    assert ctx.succeed(agent.cli("SET", "secret", ctx.canary.decode())) == b"OK\n"
    secrets = private_key_traces(agent.server_svid)
    agent_pid = agent.process.pid
    # The control: where the key is, it is found.
    assert any(memory_holds(agent_pid, secret) for secret in secrets), "not even in the agent"
    assert not any(memory_holds(server.pid, secret) for secret in secrets)
    assert ctx.succeed(agent.cli("GET", "secret")) == ctx.canary + b"\n"
    dump = core_dump(ctx, server)
    if dump is not None:
        assert ctx.canary in dump, "it is no dump of this process"
        assert not any(secret in dump for secret in secrets)


@case("agent/T63-killed-and-started-again")
def open_sessions_outlive_the_agent_and_new_ones_find_the_next(ctx):
    agent = Agent(ctx)
    server = agent.redis()
    session = agent.cli(stdin=subprocess.PIPE)

    def ask(line, answer):
        session.input.write(line + b"\n")
        session.input.flush()
        until(lambda: session.stdout.endswith(answer + b"\n"), f"the answer {answer}")

    ask(b"SET secret " + ctx.canary, b"OK")
    agent.kill()
    ask(b"PING one", b"one")  # an open session needs no agent
    refused = agent.cli("PING", "two")
    assert ctx.finish(refused) != 0
    assert b"agent.sock" in refused.stderr, refused.stderr  # `inlay run` asks before it starts
    agent.start()
    assert ctx.succeed(agent.cli("PING", "three")) == b"three\n"
    ask(b"PING four", b"four")
    assert server.status is None
    ctx.check_wire()


@case("agent/T63-gone")
def without_the_agent_new_handshakes_fail_closed_with_the_reason(ctx):
    agent = Agent(ctx, timeout="3s")
    server = agent.redis()
    # Its own client's process lives on: a reconnecting program.
    script = ctx.folder / "commands"
    script.write_bytes(b"PING\n")
    assert ctx.succeed(agent.cli("PING")) == b"PONG\n"
    client = ctx.config("client", outbound=[{
        "name": "to the service", "to": ["127.0.0.1"], "port": agent.tap.port, "mode": "strict",
        "expect": [ctx.spiffe_id("server")]}])  # its own key, so that only the server needs the agent
    agent.kill()
    refused = ctx.start("redis-cli", [CLIENT, "-h", "127.0.0.1", "-p", agent.tap.port, "PING"], client)
    assert ctx.finish(refused) != 0
    ctx.expect_event(pid=server.pid, reason="agent-unavailable")
    agent.start()
    again = ctx.start("redis-cli", [CLIENT, "-h", "127.0.0.1", "-p", agent.tap.port, "PING"], client)
    assert ctx.succeed(again) == b"PONG\n"
    ctx.check_wire()


@case("agent/below-another")
def an_agent_gets_its_svids_from_another_one(ctx):
    above = Agent(ctx, source="files")
    below = Agent(ctx, upstream=above)
    until(lambda: below.rotations("server") is not None, "the first SVID")
    below.redis()
    client = ctx.config("client", outbound=[{
        "name": "to the service", "to": ["127.0.0.1"], "port": below.tap.port, "mode": "strict",
        "expect": [ctx.spiffe_id("server")]}])

    def cli(*words, **options):
        return ctx.start("redis-cli", [CLIENT, "-h", "127.0.0.1", "-p", below.tap.port, *words], client, **options)

    session = cli(stdin=subprocess.PIPE)

    def ask_open(word):
        session.input.write(b"PING %b\n" % word)
        session.input.flush()
        until(lambda: session.stdout.endswith(word + b"\n"), f"the open session's {word}")

    def rotate_above():
        before = below.rotations("server")
        ctx.checked([ctx.inlay_command, "ca", "issue", "--dir", ctx.folder / "authority", "--id",
                     ctx.spiffe_id("server"), "--out", above.server_svid])
        until(lambda: below.rotations("server") > before, "the new SVID to come through")

    assert ctx.succeed(cli("SET", "secret", ctx.canary.decode())) == b"OK\n"
    ask_open(b"one")
    rotate_above()
    assert ctx.succeed(cli("PING", "two")) == b"two\n"
    ask_open(b"three")
    above.kill()  # what it gave stays good
    assert ctx.succeed(cli("PING", "four")) == b"four\n"
    above.start()
    rotate_above()
    assert ctx.succeed(cli("PING", "five")) == b"five\n"
    ask_open(b"six")
    ctx.check_wire()


def rotate(ctx, rotations):
    """New SVIDs for both ends, one after another, under load."""
    agent = Agent(ctx, source="files")
    agent.redis()
    session = agent.cli(stdin=subprocess.PIPE)
    load = ctx.start("redis-benchmark", [
        BENCHMARK, "-h", "127.0.0.1", "-p", agent.tap.port, "-c", "4", "-n", "100000000", "-q",
        "-k", "0", "-t", "ping_mbulk"], agent.address)

    def in_force(id_):
        for identity in agent.status()["identities"]:
            if identity["spiffe_id"] == ctx.spiffe_id(id_):
                return identity
        raise AssertionError(f"{id_} is not in the status")

    for number in range(rotations):
        svid = agent.server_svid if number % 2 else agent.client_svid
        id_ = "server" if number % 2 else "client"
        before = in_force(id_)["rotations"]
        ctx.checked([ctx.inlay_command, "ca", "issue", "--dir", ctx.folder / "authority", "--id",
                     ctx.spiffe_id(id_), "--out", svid])
        until(lambda: in_force(id_)["rotations"] > before, f"rotation {number}")
        session.input.write(b"PING %d\n" % number)
        session.input.flush()
        until(lambda: session.stdout.endswith(b"%d\n" % number), "the open session's answer")
        assert load.status is None, "the load ended"
        if id_ == "server" and number >= rotations - 2:
            assert presented(agent) == serial_of((svid / "svid.pem").read_bytes()), "the server has an old SVID"
    processes = until(lambda: (all_ := agent.status()["processes"]) and
                      all(process["has_newest_svid"] for process in all_) and all_, "no process to have an old SVID")
    assert len(processes) == 3, processes  # the server, the load, the open session
    load.stop()
    broken = [event for event in ctx.events() if event["event"] in ("refused", "cut") and
              event["reason"] not in ("reset-by-peer", "peer-closed-in-handshake", "bare-fin")]
    assert not broken, broken[:5]
    ctx.check_wire()


@case("agent/T73-rotation-under-load")
def rotations_under_load_break_no_connection(ctx):
    rotate(ctx, 6)


@case("agent/T73-100-rotations-under-load", full=True, timeout=600)
def a_hundred_rotations_under_load_break_no_connection(ctx):
    rotate(ctx, 100)
