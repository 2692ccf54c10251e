"""What the tests share that let something fail in the program `session`: the text it sends, a relay that keeps what
passed, peers under inlay, and what must hold whatever failed."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import BUILD, CLIENT, FOLDER, PATIENCE, ServerVictim, Victim, config_text, issue, records

SESSION = BUILD / "tests" / "faults" / "session"
SECRET = b"CANARY-0f6a1be2c9"
TEXT = SECRET * 1200  # more than one record
ENDS = {"ECONNRESET", "EPIPE", "EACCES"}  # what inlay itself says


class Tap:
    """Relays every connection to `target` and keeps what passed."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.target = 0
        self.connections = []
        self.last, self.all_accepted = None, threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, peer = self.listener.accept()
            if peer == self.last:
                client.close()
                self.all_accepted.set()
                continue
            server = socket.socket()
            try:
                server.connect(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            entry = {"port": server.getsockname()[1], "up": b"", "down": b"", "threads": []}
            for direction, source, sink in (("up", client, server), ("down", server, client)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._pump, args=(entry, direction, source, sink), daemon=True)
                entry["threads"].append(thread)
            for thread in entry["threads"]:
                thread.start()
            self.connections.append(entry)

    def _pump(self, entry, direction, source, sink):
        try:
            while data := source.recv(65536):
                entry[direction] += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for sock in (source, sink):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def take(self):
        """The connections of a run that is over. They are accepted in order, so one more says it was the last."""
        self.all_accepted.clear()
        with socket.socket() as end:
            end.bind(("127.0.0.1", 0))
            self.last = end.getsockname()
            end.connect(("127.0.0.1", self.port))
            self.all_accepted.wait(PATIENCE)
        taken, self.connections = self.connections, []
        for entry in taken:
            for thread in entry["threads"]:
                thread.join(PATIENCE)
        return taken


class World:
    """What a run of the program meets: a relay, and peers that do what they should."""

    def __init__(self, timeout="15s", **options):
        self.tap = Tap()
        self.server = ServerVictim(issue("server"), greeting=b"")
        self.client = Victim(CLIENT, issue("client"), TEXT.decode())
        self.config, self.log = {}, {}
        for role in ("client", "server"):
            name = f"failing-{role}-{len(options)}"
            self.config[role] = FOLDER / f"{name}.toml"
            self.log[role] = FOLDER / f"{name}.jsonl"
            # A wake-up that is lost shows as this reason.
            self.config[role].write_text(config_text(
                issue(role), log=self.log[role], defaults=f'handshake_timeout = "{timeout}"', **options))


class Run:
    """One run of the program, with whatever `before` lets fail in it."""

    connections = 2

    def __init__(self, world, role, before=(), env=None):
        if role.startswith("single-"):
            self.connections = 1
        self.side = role.rpartition("-")[2]
        self.started = {}  # what a server said of its listener
        world.log[self.side].unlink(missing_ok=True)
        ask = (SESSION, role, *([world.tap.port] if self.side == "client" else []), TEXT.decode())
        child = subprocess.Popen([str(part) for part in (*before, *ask)], env={**os.environ, **(env or {})},
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.pid = child.pid
        self.theirs = []
        watchdog = threading.Timer(PATIENCE, child.kill)
        watchdog.start()
        try:
            if self.side == "client":
                world.tap.target = world.server.port
            else:
                self.started = json.loads(child.stdout.readline() or b"{}")
                world.tap.target = self.started.get("port", 0)
                for _ in range(self.connections if world.tap.target else 0):
                    self.theirs.append(world.client.ask(port=world.tap.port, enough=len(TEXT)))
            output, self.errors = child.communicate()
        finally:
            watchdog.cancel()
            if child.poll() is None:  # what it talked to has failed
                child.kill()
                child.wait()
        self.status = child.returncode
        self.hung = self.status == -9
        self.taken = world.tap.take()
        if self.side == "client":
            self.theirs = [world.server.result(entry["port"]) for entry in self.taken]
        self.ours = [json.loads(line) for line in output.splitlines()]
        log = world.log[self.side]
        self.events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def bad(self):
        return [ours for ours in self.ours if not ours["good"]]

    def reasons(self):
        return {event["reason"] for event in self.events if event["event"] in ("refused", "cut", "notice")}


class Failures(unittest.TestCase):
    def check_ending(self, run):
        self.assertFalse(run.hung, "it hangs")
        self.assertEqual(run.status, 0, run.errors)

    def check_connections(self, run, *errors):
        """What must hold whatever failed, with one of the errnos `errors` or of inlay's own."""
        self.assertEqual(len(run.ours), run.connections, run.errors)
        for entry in run.taken:
            for direction in ("up", "down"):
                self.assertFalse(SECRET in entry[direction], "in the clear")
                for record in records(entry[direction]):
                    self.assertIn(record[0], (20, 21, 22, 23))
        for ours in run.ours:
            received = bytes.fromhex(ours["received"])
            self.assertTrue(TEXT.startswith(received), "wrong data")
            if ours["good"]:
                self.assertEqual(len(received), len(TEXT))
            else:
                self.assertIn(ours["error"], ENDS | {*errors})
        for theirs in run.theirs:
            received = bytes.fromhex(theirs["received"])
            self.assertTrue(TEXT.startswith(received), "wrong data")
            self.assertIn(theirs["end"], ("eof", "enough", "ECONNRESET", "EPIPE"))
        self.assertNotIn("handshake-timeout", run.reasons())
