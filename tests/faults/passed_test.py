#!/usr/bin/env python3
"""Connections that are passed where their session cannot follow, and arenas that are forged (architecture I1, I7)."""

import fcntl
import os
import pathlib
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (CANARY, FOLDER, GREETING, INLAY, PATIENCE, PYTHON, Relay, ServerVictim, Victim, config_text, issue,
                     records, until)

NOBODY = 65534


def setUpModule():
    global SERVER_ID, CLIENT_ID
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")


# Connects, asks, and passes the connection to whoever listens there.
PASSER = """
import json, os, socket, sys
port, channel = int(sys.argv[1]), sys.argv[2]
conn = socket.create_connection(("127.0.0.1", port))
conn.sendall(b"before")
got = b""
while not got.endswith(b"before"): got += conn.recv(4096)
with socket.socket(socket.AF_UNIX) as unix:
    unix.connect(channel)
    socket.send_fds(unix, [b"x"], [conn.fileno()])
    os.write(1, b'"passed"\\n')
sys.stdin.readline()
if len(sys.argv) > 3:
    conn.sendall(b"after")
    got = b""
    while data := conn.recv(4096): got += data
    os.write(1, json.dumps(got.decode()).encode() + b"\\n")
"""

# Takes a connection there, as the user it is told, and writes the canary.
RECEIVER = """
import errno, json, os, socket, sys
channel, user, canary = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
unix = socket.socket(socket.AF_UNIX)
unix.bind(channel)
unix.listen()
def tell(what): os.write(1, json.dumps(what).encode() + b"\\n")
tell("ready")
if user: os.setresuid(user, user, user)
peer, _ = unix.accept()
_, fds, _, _ = socket.recv_fds(peer, 1, 1)
conn = socket.socket(fileno=fds[0])
ends = []
try:
    conn.sendall(canary)
    got = b""
    while len(got) < len(canary): got += conn.recv(4096)
    ends.append("echoed" if got == canary else "other")
except OSError as error: ends.append(errno.errorcode[error.errno])
tell(ends)
sys.stdin.readline()
"""


class Passing(unittest.TestCase):
    count = 0

    def setUp(self):
        Passing.count += 1
        self.server = ServerVictim(SERVER_ID)
        self.relay = Relay(self.server.port, lambda direction, index, record: record)
        self.channel = FOLDER / f"channel-{Passing.count}"

    def tearDown(self):
        self.server.child.kill()

    def assert_never_in_the_clear(self):
        up = self.relay.join()["up"]
        self.assertNotIn(CANARY, up)
        self.assertEqual(len(b"".join(records(up))), len(up))

    def receiver(self, user=0):
        victim = Victim(RECEIVER, CLIENT_ID, self.channel, str(user), CANARY.decode())
        self.assertEqual(victim.line(), "ready")
        if user:
            victim.log.touch()
            os.chown(victim.log, user, user)
        return victim

    def test_i7_another_program_of_the_same_user_goes_on(self):
        receiver = self.receiver()
        passer = Victim(PASSER, CLIENT_ID, self.relay.port, self.channel)
        self.assertEqual(receiver.line(), ["echoed"])
        for victim in (passer, receiver):
            victim.stop()
        self.assert_never_in_the_clear()
        result = self.server.result(self.relay.server_side_port)
        self.assertEqual((bytes.fromhex(result["received"]), result["end"]), (b"before" + CANARY, "eof"))

    def test_i7_and_so_does_one_that_gets_it_by_way_of_a_program_without_inlay(self):
        passer, receiver, broker = self.brokered()
        with broker:
            self.assertEqual(receiver.line(), ["echoed"])
        for victim in (passer, receiver):
            victim.stop()
        self.assert_never_in_the_clear()

    def brokered(self, between=lambda passer: None):
        """This process, which has no inlay, passes it on."""
        receiver = self.receiver()
        mine = FOLDER / f"broker-{Passing.count}"
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(mine))
            unix.listen()
            passer = Victim(PASSER, CLIENT_ID, self.relay.port, mine)
            peer, _ = unix.accept()
        with peer:
            _, fds, _, _ = socket.recv_fds(peer, 1, 1)
        connection = socket.socket(fileno=fds[0])
        between(passer)
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(self.channel))
        socket.send_fds(channel, [b"x"], [connection.fileno()])
        connection.close()
        return passer, receiver, channel

    def test_i7_where_nobody_has_the_session_any_more_it_is_refused(self):
        def end(passer):
            self.assertEqual(passer.line(), "passed")
            passer.child.kill()
            passer.child.wait()

        _, receiver, broker = self.brokered(end)
        with broker:
            self.assertEqual(receiver.line(), ["ECONNRESET"])
        self.assertEqual(receiver.reason(self.relay.port), "inherited-unknown")
        self.assert_never_in_the_clear()

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become another user")
    def test_i7_another_user_is_refused(self):
        FOLDER.chmod(0o711)
        self.addCleanup(FOLDER.chmod, 0o700)
        receiver = self.receiver(NOBODY)
        passer = Victim(PASSER, CLIENT_ID, self.relay.port, self.channel)
        self.assertEqual(receiver.line(), ["ECONNRESET"])
        self.assertEqual(receiver.reason(self.relay.port), "inherited-unknown")
        passer.stop()
        self.assert_never_in_the_clear()

    def test_what_is_left_in_a_connection_that_has_ended_is_nobodys(self):
        """The kernel knows no peer of it any more, but bytes: those of somebody who has proved nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
            ended, _ = listener.accept()
            with ended:
                peer.sendall(CANARY)
                peer.shutdown(socket.SHUT_WR)
                ended.shutdown(socket.SHUT_WR)
                until(lambda: ended.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07", "its end")
                config = FOLDER / "ended.toml"
                config.write_text(config_text(SERVER_ID))
                program = ("import errno, os, socket, sys\n"
                           "try: print(socket.socket(fileno=int(sys.argv[1])).recv(100))\n"
                           "except OSError as error: print(errno.errorcode[error.errno])")
                done = subprocess.run([INLAY, "run", "--config", config, "--", PYTHON, "-c", program, str(ended.fileno())],
                                      pass_fds=[ended.fileno()], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((done.stdout, done.stderr), ("ECONNRESET\n", ""))

    def test_memory_that_only_has_the_name_of_an_arena_is_passed_over(self):
        sealed = os.memfd_create("inlay-arena", os.MFD_ALLOW_SEALING)
        os.truncate(sealed, 1 << 20)
        unsealed = os.memfd_create("inlay-arena", os.MFD_ALLOW_SEALING)
        os.truncate(unsealed, 1 << 32)  # sparse
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        holder = subprocess.Popen([PYTHON, "-c", "import sys; sys.stdin.readline()"], stdin=subprocess.PIPE,
                                  pass_fds=(sealed, unsealed))
        try:
            self.test_i7_and_so_does_one_that_gets_it_by_way_of_a_program_without_inlay()
        finally:
            holder.communicate(timeout=PATIENCE)
            os.close(sealed)
            os.close(unsealed)


if __name__ == "__main__":
    unittest.main()
