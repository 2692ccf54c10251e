#!/usr/bin/env python3
"""Every system call of a session's life fails once: of the start of the process, of connect or accept, the
handshake, data both ways, the end. And fails from then on, and moves less than it was asked to.

The program gets an error that TCP could have given it, with a reason in the log, or nothing happens;
never a crash, a hang, a wrong byte, a byte in the clear, or a descriptor that is left over.
INLAY_FULL=1 fails each call in each way; otherwise a sample."""

import collections
import errno
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (BUILD, CLIENT, FOLDER, INLAY, PATIENCE, ServerVictim, Victim, config_text, issue, records)

FAILING = BUILD / "tests" / "faults" / "failing"
SESSION = BUILD / "tests" / "faults" / "session"
FULL = os.environ.get("INLAY_FULL") == "1"
ROLES = ("client", "server", "polling-client", "polling-server")
SAMPLE = 29  # without INLAY_FULL every so many-th of all cases, each role another one

SECRET = b"CANARY-0f6a1be2c9"
TEXT = SECRET * 1200  # more than one record

# How calls fail in practice, by name (man 2). What is not here cannot fail, or does not matter.
MEMORY, NUMBERS = ("from=ENOMEM", "error=ENOMEM"), ("error=EMFILE", "from=EMFILE", "error=ENFILE", "error=ENOMEM")
MOVES = ("error=EAGAIN", "error=EINTR", "error=ENOBUFS", "from=ENOMEM", "short=1", "short=7")
WAYS = {
    "accept": ("error=EAGAIN", "error=ECONNABORTED", *NUMBERS), "accept4": ("error=ECONNABORTED", *NUMBERS),
    "brk": ("error=ENOMEM",), "clone": ("error=EAGAIN", "from=EAGAIN", *MEMORY),
    "clone3": ("error=EAGAIN", "from=EAGAIN", "error=ENOSYS", *MEMORY),
    "close": ("after=EINTR", "after=EIO"), "connect": ("after=EINTR", "error=ECONNREFUSED", "error=EADDRNOTAVAIL"),
    "dup": NUMBERS, "epoll_create1": NUMBERS, "epoll_ctl": ("error=ENOMEM", "from=ENOMEM", "error=ENOSPC"),
    "epoll_pwait": ("error=EINTR",), "eventfd2": NUMBERS, "faccessat": ("error=EACCES",),
    "fcntl": ("error=EMFILE", "from=EMFILE", "error=EINVAL"), "fstat": MEMORY,
    "ftruncate": ("error=ENOMEM", "error=ENOSPC", "error=EINTR"),
    "futex": ("error=EAGAIN", "error=EINTR"), "getdents64": ("error=EIO",), "getpeername": ("error=ENOBUFS", "from=ENOBUFS"),
    "getrandom": ("error=EAGAIN", "error=EINTR", "from=ENOSYS"), "getsockname": ("error=ENOBUFS", "from=ENOBUFS"),
    "getsockopt": ("error=ENOBUFS", "from=ENOBUFS", "error=EACCES"), "ioctl": ("error=ENOMEM", "from=EACCES"),
    "lseek": ("error=EIO",),
    "madvise": ("error=EAGAIN", "from=EINVAL"), "memfd_create": (*NUMBERS, "from=ENOSYS"), "mkdirat": ("error=ENOSPC",),
    "mmap": MEMORY, "mprotect": MEMORY, "mremap": MEMORY, "munlock": MEMORY, "munmap": ("error=ENOMEM",),
    "newfstatat": ("error=ENOMEM", "error=EACCES"), "openat": (*NUMBERS, "error=EACCES", "error=EINTR"),
    "poll": ("error=EINTR", "error=ENOMEM"), "ppoll": ("error=EINTR", "error=ENOMEM"),
    "pread64": ("error=EIO", "error=EINTR", "short=1"), "prctl": ("error=EPERM", "from=EPERM"),
    "prlimit64": ("error=EPERM", "from=EPERM"), "process_vm_readv": ("error=EPERM", "from=EPERM"),
    "read": ("error=EINTR", "error=EAGAIN", "error=EIO", "short=1", "short=7"), "readlinkat": ("error=EACCES", "error=ENOMEM"),
    "readv": MOVES, "recvfrom": MOVES, "recvmsg": MOVES, "sendmsg": MOVES, "sendto": MOVES,
    "shutdown": ("error=ENOTCONN",),
    "sigaltstack": ("error=ENOMEM",), "socket": NUMBERS, "statx": MEMORY, "unlinkat": ("error=EACCES",),
    "write": ("error=EINTR", "error=EAGAIN", "error=ENOSPC", "short=1"), "writev": MOVES,
}
# These are no failures: a program that is ready for them gets all its bytes.
HARMLESS = ("error=EINTR", "short=1", "short=7", "after=EINTR", "after=EIO")
# The log itself may be what failed.
LOGGING = ("openat", "write", "mmap", "fstat", "ftruncate", "newfstatat", "faccessat", "read")
ENDS = {"ECONNRESET", "EPIPE", "EACCES"}  # what inlay itself says


class Tap:
    """Relays every connection to `target` and keeps what passed."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.target = 0
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
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
        """The connections of a run that is over."""
        taken, self.connections = self.connections, []
        for entry in taken:
            for thread in entry["threads"]:
                thread.join(PATIENCE)
        return taken


def setUpModule():
    global tap, server, client, config, log
    tap = Tap()
    server = ServerVictim(issue("server"), greeting=b"")
    client = Victim(CLIENT, issue("client"), TEXT.decode())
    config, log = {}, {}
    for role in ("client", "server"):
        config[role] = FOLDER / f"failing-{role}.toml"
        log[role] = FOLDER / f"failing-{role}.jsonl"
        # A wake-up that is lost shows as this reason.
        config[role].write_text(config_text(issue(role), log=log[role], defaults='handshake_timeout = "15s"'))


class Run:
    """One run of the program with one failure."""

    def __init__(self, role, call="none", number=0, how="no"):
        self.side = role.rpartition("-")[2]
        self.started = {}  # what a server said of its listener
        self.what = (role, call, number, how)
        self.name = how.partition("=")[2]
        log[self.side].unlink(missing_ok=True)
        report = FOLDER / "failing.out"
        kind, _, value = how.partition("=")
        told = f"{kind}={getattr(errno, value)}" if value.startswith("E") else how
        ask = (SESSION, role, *([tap.port] if self.side == "client" else []), TEXT.decode())
        child = subprocess.Popen([str(part) for part in (FAILING, report, call, number, told, "--", INLAY, "run",
                                                         "--config", config[self.side], "--", *ask)],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.theirs = []
        watchdog = threading.Timer(PATIENCE, child.kill)
        watchdog.start()
        try:
            if self.side == "client":
                tap.target = server.port
            else:
                self.started = json.loads(child.stdout.readline() or b"{}")
                tap.target = self.started.get("port", 0)
                for _ in range(2 if tap.target else 0):
                    self.theirs.append(client.ask(port=tap.port, enough=len(TEXT)))
            output, self.errors = child.communicate()
        finally:
            watchdog.cancel()
        self.status = child.returncode
        self.hung = self.status == -9
        self.taken = tap.take()
        if self.side == "client":
            self.theirs = [server.result(entry["port"]) for entry in self.taken]
        self.ours = [json.loads(line) for line in output.splitlines()]
        lines = report.read_text().splitlines()
        self.calls = lines[:-1]
        self.report = json.loads(lines[-1]) if lines and not self.hung else {"met": True, "killed": 0, "open": []}
        self.events = [json.loads(line) for line in log[self.side].read_text().splitlines()] if log[self.side].exists() else []

    def reasons(self):
        return {event["reason"] for event in self.events if event["event"] in ("refused", "cut", "notice")}


class FailedCalls(unittest.TestCase):
    def clean(self, role):
        run = Run(role)
        self.assertEqual(run.status, 0, run.errors)
        self.assertEqual([one["good"] for one in run.ours], [True, True], run.ours)
        return run

    def check(self, run):
        """What must hold whatever failed."""
        self.assertFalse(run.hung, "it hangs")
        self.assertEqual((run.status, run.report["killed"]), (0, 0), run.errors)
        if "error" in run.started:
            return self.assertEqual((run.started["error"], run.taken), (run.name, []))
        self.assertEqual(len(run.ours), 2, run.errors)
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
                self.assertIn(ours["error"], ENDS | {run.name})
        for theirs in run.theirs:
            received = bytes.fromhex(theirs["received"])
            self.assertTrue(TEXT.startswith(received), "wrong data")
            self.assertIn(theirs["end"], ("eof", "enough", "ECONNRESET", "EPIPE"))
        self.assertNotIn("handshake-timeout", run.reasons())
        left = run.report["open"]
        self.assertEqual([to for to in left if "socket:" in to or left.count(to) > 1], [])
        bad = [ours for ours in run.ours if not ours["good"]]
        if bad:
            self.assertNotIn(run.what[3], HARMLESS)
        if any(ours["error"] != run.name for ours in bad) and run.what[1] not in LOGGING:
            self.assertTrue(run.reasons(), "no reason")
        # What failed once does not fail for ever, but where inlay keeps its books.
        if len(bad) == 2 and not run.what[3].startswith("from"):
            self.assertIn(run.what[1], ("mmap", "madvise"))

    def sweep(self, role):
        # Of two: one start in 64 has the folder of logs to tidy, file by file.
        counts = collections.Counter(min((self.clean(role).calls for _ in range(2)), key=len))
        cases = [(call, number, how) for call, count in counts.items() for how in WAYS.get(call, ())
                 for number in range(1, count + 1)]
        for at, (call, number, how) in enumerate(cases):
            if not FULL and (at + ROLES.index(role)) % SAMPLE != 0:
                continue
            with self.subTest(role=role, call=call, number=number, how=how):
                self.check(Run(role, call, number, how))

    def test_client(self):
        self.sweep("client")

    def test_server(self):
        self.sweep("server")

    def test_polling_client(self):
        self.sweep("polling-client")

    def test_polling_server(self):
        self.sweep("polling-server")


if __name__ == "__main__":
    unittest.main(warnings="ignore")
