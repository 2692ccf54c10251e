#!/usr/bin/env python3
"""Descriptor numbers beyond inlay's table: refused with a reason, nothing in the clear.

Needs fs.nr_open above 2^20, which it raises for a moment where it may, and CAP_SYS_RESOURCE.
"""

import fcntl
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import CANARY, FOLDER, INLAY, PATIENCE, PYTHON, ServerVictim, Victim, config_text, issue

BEYOND = 1 << 20
NR_OPEN = pathlib.Path("/proc/sys/fs/nr_open")
REASON = "out-of-resources"
RAISE = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({BEYOND + 64}, {BEYOND + 64}))\n"

CLIENT = RAISE + """
import errno, fcntl, json, os, socket, sys
port = int(sys.argv[1])
seen = {}
def attempt(name, call):
    try: seen[name] = call()
    except OSError as error: seen[name] = errno.errorcode[error.errno]
conn = socket.create_connection(("127.0.0.1", port))
conn.recv(1)
attempt("dup2", lambda: os.dup2(conn.fileno(), BEYOND + 1))
attempt("F_DUPFD", lambda: fcntl.fcntl(conn.fileno(), fcntl.F_DUPFD, BEYOND))
attempt("closed", lambda: os.fstat(BEYOND + 1))
attempt("still there", lambda: len(conn.recv(1)))
fresh = socket.socket()
high = socket.socket(fileno=fcntl.fcntl(fresh.fileno(), fcntl.F_DUPFD, BEYOND))
attempt("connect", lambda: high.connect(("127.0.0.1", port)))
os.write(1, json.dumps(seen).encode() + b"\\n")
""".replace("BEYOND", str(BEYOND))

# Touches what it inherited in every way that could let a byte through.
INHERITOR = """
import errno, json, os, socket, sys
fd = int(sys.argv[1])
seen = {}
def attempt(name, call):
    try: seen[name] = call()
    except OSError as error: seen[name] = errno.errorcode[error.errno]
for name in ("read", "read again"):
    attempt(name, lambda: os.read(fd, 100).hex())
attempt("write", lambda: os.write(fd, sys.argv[2].encode()))
conn = socket.socket(fileno=fd)
attempt("send", lambda: conn.send(sys.argv[2].encode()))
attempt("dup", lambda: os.read(os.dup(fd), 100).hex())
conn.close()
os.write(1, json.dumps(seen).encode() + b"\\n")
"""


def setUpModule():
    global server, before
    before = NR_OPEN.read_text()
    try:
        if int(before) < BEYOND + 64:
            NR_OPEN.write_text(str(BEYOND + 64))
        resource.setrlimit(resource.RLIMIT_NOFILE, (BEYOND + 64, BEYOND + 64))
    except (OSError, ValueError):
        tearDownModule()
        raise unittest.SkipTest("descriptor numbers above 2^20 are not to be had here") from None
    server = ServerVictim(issue("server"))


def tearDownModule():
    if NR_OPEN.read_text() != before:
        NR_OPEN.write_text(before)


class BeyondTheTable(unittest.TestCase):
    def test_a_session_gets_no_such_number_and_lives_on(self):
        client = Victim(CLIENT, issue("client"), server.port)
        seen = client.line()
        self.assertEqual(seen, {"dup2": "EBADF", "F_DUPFD": "EMFILE", "closed": "EBADF",
                                "still there": 1, "connect": "EACCES"})
        reasons = {(event["event"], event["reason"]) for event in client.events()}
        self.assertIn(("notice", REASON), reasons)
        self.assertIn(("refused", REASON), reasons)

    def test_an_inherited_connection_there_is_cut(self):
        listener = socket.create_server(("127.0.0.1", 0))
        peer = socket.create_connection(listener.getsockname())
        peer.sendall(CANARY)
        accepted, _ = listener.accept()
        high = fcntl.fcntl(accepted.fileno(), fcntl.F_DUPFD, BEYOND)
        accepted.close()
        svid = issue("inheritor")
        log = FOLDER / "inheritor.log"
        config = FOLDER / "inheritor.toml"
        config.write_text(config_text(svid, log=log))
        done = subprocess.run([INLAY, "run", "--config", config, "--", PYTHON, "-c", INHERITOR,
                               str(high), CANARY.decode()], pass_fds=(high,), capture_output=True,
                              timeout=PATIENCE)
        os.close(high)
        seen = json.loads(done.stdout)
        self.assertEqual(set(seen), {"read", "read again", "write", "send", "dup"}, done.stderr)
        for call, result in seen.items():
            self.assertIn(result, ("EBADF", "ECONNRESET"), call)
        peer.settimeout(PATIENCE)
        try:
            self.assertEqual(peer.recv(100), b"")
        except ConnectionResetError:
            pass
        reasons = [json.loads(line)["reason"] for line in log.read_text().splitlines()]
        self.assertIn(REASON, reasons)


if __name__ == "__main__":
    unittest.main(warnings="ignore")
