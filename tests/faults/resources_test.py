#!/usr/bin/env python3
"""inlay's own memory runs out: connections are refused with a reason, those that are up go on."""

import pathlib
import resource
import socket
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import CANARY, PATIENCE, ServerVictim, Victim, issue

REASON = "out-of-resources"

# No address space for an arena: neither way a connection gets a session.
CRAMPED = """
import errno, json, os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.write(1, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\\n")
sys.stdin.readline()
seen = {}
def attempt(name, call):
    try: seen[name] = call()
    except OSError as error: seen[name] = errno.errorcode[error.errno]
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
sys.stdin.readline()
conn, _ = listener.accept()
for name in ("recv", "recv again"):
    attempt(name, lambda: conn.recv(100).hex())
attempt("send", lambda: conn.send(sys.argv[2].encode()))
number = conn.fileno()
conn.close()
attempt("closed", lambda: os.fstat(number))
reused = os.open("/dev/zero", os.O_RDONLY)
seen["reused"] = reused == number and os.read(reused, 1) == b"\\0"
os.write(1, json.dumps(seen).encode() + b"\\n")
"""

# Takes connections and closes them at once, with room for few.
TURNS_AWAY = """
import json, os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
os.write(1, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\\n")
for _ in range(int(sys.argv[1])):
    listener.accept()[0].close()
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(32)]
os.write(1, json.dumps({"closed": True}).encode() + b"\\n")
sys.stdin.readline()
"""


# More early data than its part of the arena holds, beside a session that is up.
GREEDY = """
import json, os, socket, sys, threading
greeting = int(sys.argv[3])
def dial(port):
    conn = socket.create_connection(("127.0.0.1", int(port)))
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return conn
def receive(conn, length):
    got = bytearray()
    while len(got) < length:
        part = conn.recv(65536)
        if not part: break
        got += part
    return bytes(got)
up = dial(sys.argv[1])
receive(up, greeting)
silent, written = [], []
for _ in range(100):
    conn = dial(sys.argv[2])
    conn.setblocking(False)
    total = 0
    try:
        while True: total += conn.send(sys.argv[4].encode() * 1000)
    except BlockingIOError: pass
    silent.append(conn)
    written.append(total)
data = os.urandom(2 << 20)
sender = threading.Thread(target=lambda: up.sendall(data))
sender.start()
intact = receive(up, len(data)) == data
sender.join()
os.write(1, json.dumps({"intact": intact, "written": written}).encode() + b"\\n")
"""


class Resources(unittest.TestCase):
    def test_without_memory_for_a_session_connections_are_refused(self):
        server = ServerVictim(issue("server"))
        victim = Victim(CRAMPED, issue("client"), server.port, CANARY.decode())
        port = victim.line()["port"]
        # From outside: a limit the program sets itself leaves inlay its own.
        pages = int(pathlib.Path(f"/proc/{victim.child.pid}/statm").read_text().split()[0])
        most = pages * 4096 + (64 << 20)
        resource.prlimit(victim.child.pid, resource.RLIMIT_AS, (most, most))
        victim.tell(limited=True)
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(CANARY)
            victim.tell(go=True)
            seen = victim.line()
            peer.settimeout(PATIENCE)
            try:
                self.assertEqual(peer.recv(100), b"")
            except ConnectionResetError:
                pass
        self.assertEqual(seen, {"connect": "EACCES", "recv": "ECONNRESET",
                                "recv again": "ECONNRESET", "send": "ECONNRESET",
                                "closed": "EBADF", "reused": True})
        reasons = [(event["event"], event["reason"]) for event in victim.events()]
        self.assertEqual(reasons, [("refused", REASON)] * 2)

    def test_early_data_waits_and_a_session_that_is_up_does_not(self):
        server = ServerVictim(issue("server"))
        with socket.create_server(("127.0.0.1", 0), backlog=200) as silent:
            victim = Victim(GREEDY, issue("client"), server.port, silent.getsockname()[1],
                            len(b"GREETING-97b3f04ac1d24a8c"), CANARY.decode())
            seen = victim.line()
            self.assertTrue(seen["intact"])
            self.assertGreater(seen["written"][0], 0)
            self.assertEqual(seen["written"][-1], 0)
            self.assertLessEqual(sum(seen["written"]), 17 << 20)
            for _ in seen["written"]:
                conn, _ = silent.accept()
                with conn:
                    conn.settimeout(PATIENCE)
                    self.assertNotIn(CANARY, conn.recv(1 << 20))
        self.assertEqual([event for event in victim.events() if event["event"] == "cut"], [])

    def test_silent_clients_of_a_server_that_turns_them_away_do_not_take_its_descriptors(self):
        many = 400
        victim = Victim(TURNS_AWAY, issue("server"), many)
        port = victim.line()["port"]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(many)]
        self.assertEqual(victim.line(), {"closed": True})
        for peer in silent:
            with peer:
                peer.settimeout(PATIENCE)
                self.assertEqual(peer.recv(100), b"")  # the FIN comes in the end


if __name__ == "__main__":
    unittest.main(warnings="ignore")
