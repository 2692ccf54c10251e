"""What the fault tests share: identities, configurations, victims under `inlay run`, peers, relays."""

import atexit
import ctypes
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("INLAY_BUILD", HERE.parents[1] / "build")).absolute()
INLAY = BUILD / "tools" / "inlay"
PEER = BUILD / "tests" / "faults" / "faults_peer"
PYTHON = sys.executable
TRUST_DOMAIN = "faults.test"
PATIENCE = 120  # a safety net: nothing passes or fails by time

CANARY = b"CANARY-bfb1c8d94b2f4b0e"      # what the client program sends at once
GREETING = b"GREETING-97b3f04ac1d24a8c"  # what the server program sends at once

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="inlay-faults-"))
_started = []


def _end():
    for child in _started:
        if child.poll() is None:
            child.kill()
        child.wait()
    shutil.rmtree(FOLDER, ignore_errors=True)


atexit.register(_end)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain for " + what)


def checked(*argv):
    done = subprocess.run([str(part) for part in argv], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout


def issue(path, *options, authority="authority"):
    home = FOLDER / authority
    if not home.exists():
        checked(INLAY, "ca", "init", "--dir", home, "--trust-domain", TRUST_DOMAIN)
    out = FOLDER / (authority + "-" + path)
    out.mkdir(exist_ok=True)
    checked(INLAY, "ca", "issue", "--dir", home, "--id", f"spiffe://{TRUST_DOMAIN}/{path}",
            "--out", out, *options)
    return out


def config_text(svid, *, allow=("client", "server"), identity="", defaults="", inbound="", outbound="",
                log=None, agent=None):
    """With an agent's socket instead of files."""
    allowed = json.dumps([f"spiffe://{TRUST_DOMAIN}/{path}" for path in allow])
    source = f'agent = "unix://{agent}"' if agent else f"""svid = "{svid}/svid.pem"
key = "{svid}/key.pem"
bundle = "{svid}/bundle.pem\""""
    text = f"""trust_domain = "{TRUST_DOMAIN}"
[identity]
{source}
{identity}
[defaults]
inbound = "deny"
outbound = "deny"
{defaults}
"""
    if log:
        text += f'[log]\nfile = "{log}"\n'
    return text + f"""[[inbound]]
name = "all inbound"
port = "*"
mode = "strict"
allow = {allowed}
{inbound}
[[outbound]]
name = "all outbound"
port = "*"
mode = "strict"
expect = {allowed}
{outbound}
"""


class Victim:
    """A Python program under `inlay run`; its standard output is lines of JSON."""

    count = 0

    def __init__(self, program, svid, *arguments, env=None, prefix=(), pass_fds=(), inlay=INLAY, **options):
        Victim.count += 1
        self.log = FOLDER / f"victim-{Victim.count}.jsonl"
        self.config = FOLDER / f"victim-{Victim.count}.toml"
        self.config.write_text(config_text(svid, log=self.log, **options))
        self.child = subprocess.Popen(
            [str(part) for part in (*prefix, inlay, "run", "--config", self.config, "--", PYTHON,
                                    "-u", "-c", program, *arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})}, pass_fds=pass_fds)
        _started.append(self.child)
        self.errors = b""
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self):
        for line in self.child.stderr:
            self.errors += line

    def line(self):
        line = self._lines.get(timeout=PATIENCE)
        if line is None:
            self.child.wait()
            raise AssertionError(f"the victim ended with {self.child.returncode}: {self.errors.decode()}")
        return json.loads(line)

    def tell(self, **what):
        self.child.stdin.write(json.dumps(what).encode() + b"\n")
        self.child.stdin.flush()

    def ask(self, **what):
        self.tell(**what)
        return self.line()

    def events(self):
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may not be whole yet

    def reason(self, port, after=0):
        """Why the connection with this remote port was refused or cut; of the events after so many."""

        def found():
            for event in self.events()[after:]:
                if event["event"] in ("refused", "cut") and str(port) == \
                        str(event.get("remote", "")).rpartition(":")[2]:
                    return event["reason"]
            return None

        return until(found, f"a reason for the connection with port {port} in {self.log}")

    def stop(self):
        self.child.stdin.close()
        self.child.wait(PATIENCE)
        return self.child.returncode


# A thread per connection: greets at once, echoes, tells what came and how it ended.
SERVER = """
import errno, json, os, socket, sys, threading
greeting = sys.argv[1].encode()
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
def tell(**what): os.write(1, json.dumps(what).encode() + b"\\n")
def serve(conn, port):
    got, end = b"", "eof"
    try:
        conn.sendall(greeting)
        while data := conn.recv(65536):
            got += data
            conn.sendall(data)
    except OSError as error:
        end = errno.errorcode[error.errno]
        try:
            while data := conn.recv(65536): got += data
        except OSError: pass
    conn.close()
    tell(port=port, received=got.hex(), end=end)
tell(port=listener.getsockname()[1])
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    conn, peer = listener.accept()
    threading.Thread(target=serve, args=(conn, peer[1]), daemon=True).start()
"""

# Connects where it is told, sends the canary at once, reads until `enough` bytes or the end.
CLIENT = """
import errno, json, os, socket, sys
canary = sys.argv[1].encode()
for line in sys.stdin:
    task = json.loads(line)
    got, end, port = b"", "eof", 0
    try:
        conn = socket.create_connection(("127.0.0.1", task["port"]))
        port = conn.getsockname()[1]
        conn.sendall(canary)
        if task.get("tell"): os.write(1, json.dumps({"sent": True}).encode() + b"\\n")
        while True:
            data = conn.recv(65536)
            if not data: break
            got += data
            if len(got) >= task.get("enough", 1 << 60):
                end = "enough"
                break
    except OSError as error:
        end = errno.errorcode[error.errno]
    try: conn.close()
    except OSError: pass
    os.write(1, json.dumps({"received": got.hex(), "end": end, "port": port}).encode() + b"\\n")
"""


class ServerVictim(Victim):
    def __init__(self, svid, greeting=GREETING, **options):
        super().__init__(SERVER, svid, greeting.decode(), **options)
        self.port = self.line()["port"]
        self._results = {}

    def result(self, port):
        """What the connection from this port came to."""
        while port not in self._results:
            line = self.line()
            self._results[line["port"]] = line
        return self._results.pop(port)


class ClientVictim(Victim):
    def __init__(self, svid, **options):
        super().__init__(CLIENT, svid, CANARY.decode(), **options)


def reset(sock):
    """RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def drain(sock):
    """Everything until the peer's end, however it comes."""
    sock.settimeout(PATIENCE)
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionError:
        pass
    return data


_ports = set()


def listener():
    """On a port that no other had here: logs tell connections apart by it."""
    passed_over = []
    while True:
        fresh = socket.create_server(("127.0.0.1", 0))
        if fresh.getsockname()[1] not in _ports:
            break
        passed_over.append(fresh)
    _ports.add(fresh.getsockname()[1])
    for one in passed_over:
        one.close()
    return fresh


def records(data):
    """The whole records in a stream."""
    found = []
    while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[3:5], "big"):
        length = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:length])
        data = data[length:]
    return found


class Stop(Exception):
    """Raised by a relay's hand: "fin" or "rst" for both sides, "half" for the direction alone."""


class Relay:
    """One connection between a client and a server, record by record.

    hand(direction, index, record) gives the bytes to pass on ("up" is client to server), or raises
    Stop(kind, bytes to pass on before it).
    """

    def __init__(self, port, hand):
        self.listener = listener()
        self.port = self.listener.getsockname()[1]
        self.target = port
        self.hand = hand
        self.seen = {"up": b"", "down": b""}
        self.server_side_port = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target))
        self.server_side_port = server.getsockname()[1]
        self.sides = {"up": (client, server), "down": (server, client)}
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = [threading.Thread(target=self._pump, args=(d,), daemon=True) for d in self.sides]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        client.close()
        server.close()
        self.listener.close()

    def _pump(self, direction):
        try:
            self.pump(direction)
        except OSError:
            for sock in self.sides[direction]:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def pump(self, direction):
        source, sink = self.sides[direction]
        pending, index = b"", 0
        try:
            while data := source.recv(65536):
                self.seen[direction] += data
                pending += data
                for record in records(pending):
                    pending = pending[len(record):]
                    sink.sendall(self.hand(direction, index, record))
                    index += 1
            sink.sendall(pending)
            sink.shutdown(socket.SHUT_WR)
        except Stop as stop:
            self._stop(*stop.args, sink)

    def _stop(self, kind, rest, sink):
        try:
            sink.sendall(rest)
        except OSError:
            pass
        if kind == "half":
            sink.shutdown(socket.SHUT_WR)
            return
        for side in {*self.sides["up"]}:
            try:
                if kind == "rst":
                    # close() would wait for the other pump's recv; a disconnect resets at once.
                    ctypes.CDLL(None).connect(side.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16)
                else:
                    side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def join(self):
        self.thread.join(PATIENCE)
        return self.seen
