#!/usr/bin/env python3
"""Sessions that several processes share (architecture I5, I7, I12)."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (FOLDER, INLAY, PATIENCE, PEER, PYTHON, TRUST_DOMAIN, ServerVictim, Victim, config_text,
                     drain, issue)

LINE = 64


def setUpModule():
    global SERVER_ID, CLIENT_ID
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")


class Sink:
    """faults_peer as a server that authenticates every record and keeps the plaintext."""

    def __init__(self, name):
        self.file = FOLDER / f"sink-{name}"
        self.child = subprocess.Popen([PEER, "listen", "0", SERVER_ID, TRUST_DOMAIN, "sink"],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Unbuffered: the rest of the stream is read by communicate().
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.child.stdout.fileno(), 1)
        self.port = int(line)

    def end(self):
        said, how = self.child.communicate(timeout=PATIENCE)
        return self.child.returncode, said, how.decode()


SENDERS = """
import json, os, signal, socket, sys
port, processes, lines, width = map(int, sys.argv[1:5])
conn = socket.create_connection(("127.0.0.1", port))
conn.sendall(b"%-*d\\n" % (width - 1, -1))
def send(who):
    for number in range(lines):
        conn.sendall(b"%-*d\\n" % (width - 1, who * 1000000 + number))
children = []
for who in range(1, processes):
    pid = os.fork()
    if pid == 0:
        try:
            send(who)
            conn.close()
        finally:
            os._exit(0)
    children.append(pid)
send(0)
print(json.dumps([os.waitpid(pid, 0)[1] for pid in children]), flush=True)
conn.close()
"""

# The parent sends whole lines all the time; a child is killed in the middle of its own, again and again.
KILLED = """
import json, os, signal, socket, sys, time
port, rounds, width = map(int, sys.argv[1:4])
conn = socket.create_connection(("127.0.0.1", port))
conn.sendall(b"%-*d\\n" % (width - 1, -1))
outcome, sent = "sent", 0
try:
    for round in range(rounds):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(tell, b"x")
            line = b"%-*d\\n" % (width - 1, 5000000)
            while True:
                conn.sendall(line)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        for number in range(1 + round % 7):
            conn.sendall(b"%-*d\\n" % (width - 1, sent))
            sent += 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        conn.sendall(b"%-*d\\n" % (width - 1, sent))
        sent += 1
    conn.shutdown(socket.SHUT_WR)
except OSError as error:
    outcome = error.strerror
print(json.dumps([outcome, sent]), flush=True)
"""

# Says that it is there, and reads nothing until it is told to.
SILENT = """
import json, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(json.dumps(listener.getsockname()[1]), flush=True)
conn, _ = listener.accept()
conn.sendall(b".")
sys.stdin.readline()
end = "eof"
try:
    while conn.recv(65536): pass
except OSError as error: end = error.strerror
print(json.dumps(end), flush=True)
"""

# A child is killed while it waits for room for its bytes, and nobody has waited for it when its parent sends.
KILLED_WAITING = """
import errno, json, os, signal, socket, sys, time
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.recv(1)
pid = os.fork()
if pid == 0:
    while True: conn.sendall(b"x" * 65536)
def sleeps_in_send():
    with open(f"/proc/{pid}/syscall") as call: return call.read().startswith("44 ")
while not sleeps_in_send(): time.sleep(0.01)
os.kill(pid, signal.SIGKILL)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
conn.setblocking(sys.argv[2] == "blocking")
outcome = "EAGAIN"
for _ in range(500):
    try: conn.send(b"y")
    except BlockingIOError: time.sleep(0.01)
    except OSError as error:
        outcome = errno.errorcode[error.errno]
        break
print(json.dumps([outcome, conn.getsockname()[1]]), flush=True)
"""
CLOSED_INSTEAD = KILLED_WAITING[:KILLED_WAITING.index("conn.setblocking")] + """
conn.close()
print(json.dumps("closed"), flush=True)
sys.stdin.readline()
"""

# A child that may make no thread, by a filter that ends it, sends more than there is room for.
SANDBOXED = """
import ctypes, json, os, socket, struct, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.recv(1)
pid = os.fork()
if pid == 0:
    forbidden = (56, 57, 58, 213, 284, 290, 291, 435)  # clone, fork, vfork, epoll_create, eventfd, ..., clone3
    steps = [(0x20, 0, 0, 0), *((0x15, len(forbidden) - at, 0, call) for at, call in enumerate(forbidden)),
             (0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x80000000)]  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
    filter = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(filter)))
    for words in ((38, 1, 0, 0, 0), (22, 2, ctypes.addressof(program), 0, 0)):
        if ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, words)) != 0: os._exit(9)
    conn.setblocking(False)
    try:
        while True: conn.send(b"x" * 65536)
    except BlockingIOError: os._exit(0)
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)
"""

# The thread has a table of descriptors of its own from there on; inlay's has to have the same.
UNSHARED = """
import ctypes, json, socket, sys
port, flags = int(sys.argv[1]), int(sys.argv[2])
def connected():
    conn = socket.create_connection(("127.0.0.1", port))
    conn.recv(1)
    return conn
before = connected()
if ctypes.CDLL(None).close_range(1000, 2000, flags) != 0: sys.exit("close_range")
after = connected()
ports = [conn.getsockname()[1] for conn in (before, after)]
for conn in (before, after): conn.close()
print(json.dumps(ports), flush=True)
sys.stdin.read()
"""


class Tables(unittest.TestCase):
    def test_i2_a_thread_that_no_longer_shares_its_descriptors_goes_on(self):
        for flags in (2, 6):  # CLOSE_RANGE_UNSHARE, and with CLOSE_RANGE_CLOEXEC
            with self.subTest(flags=flags):
                server = ServerVictim(SERVER_ID, b".")
                victim = Victim(UNSHARED, CLIENT_ID, server.port, flags)
                for port in victim.line():
                    self.assertEqual(server.result(port)["end"], "eof")  # while the program goes on
                self.assertEqual(victim.stop(), 0)
                server.child.kill()


class Sending(unittest.TestCase):
    def numbers(self, said):
        self.assertEqual(len(said) % LINE, 0)
        return [int(said[at:at + LINE]) for at in range(0, len(said), LINE)]

    def test_i12_who_is_killed_waiting_for_room_does_not_leave_the_others_waiting(self):
        for kind in ("blocking", "not blocking"):
            with self.subTest(kind):
                silent = Victim(SILENT, SERVER_ID)
                port = silent.line()
                victim = Victim(KILLED_WAITING, CLIENT_ID, port, kind)
                self.assertEqual(victim.line()[0], "ECONNRESET")
                self.assertEqual(victim.reason(port), "poisoned")
                self.assertEqual(silent.ask(), "Connection reset by peer")

    def test_i12_a_connection_that_ends_where_somebody_was_killed_is_logged_as_cut(self):
        silent = Victim(SILENT, SERVER_ID)
        port = silent.line()
        victim = Victim(CLOSED_INSTEAD, CLIENT_ID, port)
        self.assertEqual(victim.line(), "closed")
        self.assertEqual(victim.reason(port), "poisoned")
        self.assertEqual(silent.ask(), "Connection reset by peer")
        self.assertNotIn("closed", [event["event"] for event in victim.events()])

    @unittest.skipUnless(os.uname().machine == "x86_64", "the calls' numbers are that machine's")
    def test_i6_a_child_that_may_make_no_thread_uses_an_inherited_connection(self):
        silent = Victim(SILENT, SERVER_ID)
        victim = Victim(SANDBOXED, CLIENT_ID, silent.line())
        self.assertEqual(victim.line(), 0)
        silent.tell()

    def test_i7_no_sequence_number_is_used_twice_or_skipped_by_processes_that_send_at_once(self):
        # The peer opens record n with sequence number n: it authenticates all only if each number
        # was used once, in the order of the wire.
        sink = Sink("many")
        victim = Victim(SENDERS, CLIENT_ID, sink.port, 3, 3000, LINE)
        self.assertEqual(victim.line(), [0, 0])
        status, said, how = sink.end()
        self.assertEqual(status, 0, how)
        self.assertIn("close_notify", how)
        numbers = self.numbers(said)
        self.assertEqual(len(numbers), 1 + 3 * 3000)
        for who in range(3):
            own = [n for n in numbers if n >= 0 and n // 1000000 == who]
            self.assertEqual(own, list(range(who * 1000000, who * 1000000 + 3000)))
        self.assertEqual(victim.stop(), 0)

    def test_i12_a_process_killed_while_it_sends_leaves_a_working_session_or_an_error(self):
        sink = Sink("killed")
        victim = Victim(KILLED, CLIENT_ID, sink.port, 60, LINE)
        outcome, sent = victim.line()
        status, said, how = sink.end()
        if outcome != "sent" and "the peer went away" in how:  # its reset overtook even the handshake
            said = b""
        else:
            self.assertEqual(status, 0, how)  # every record that came authenticated
        whole = said[:len(said) - len(said) % LINE]
        numbers = [n for n in self.numbers(whole) if 0 <= n < 5000000]
        if outcome == "sent":
            self.assertEqual(numbers, list(range(sent)))
        else:
            self.assertIn(outcome, ("Connection reset by peer", "Broken pipe"))
            self.assertEqual(numbers, list(range(len(numbers))))
        victim.stop()


class Cost(unittest.TestCase):
    PROGRAM = """
import os, socket
a, b = os.pipe()
c, d = socket.socketpair()
with open("/dev/zero", "rb", buffering=0) as zero:
    os.write(b, b"x" * 200); d.send(b"x" * 200)
    os.getpgid(0)
    for _ in range(100):
        os.read(a, 1); c.recv(1); os.read(zero.fileno(), 1)
    os.getpgid(0)
"""

    def test_i5_an_unmanaged_descriptor_costs_no_system_call(self):
        config = FOLDER / "cost.toml"
        config.write_text(config_text(CLIENT_ID))
        trace = FOLDER / "cost.strace"
        subprocess.run(["strace", "-f", "-o", trace, INLAY, "run", "--config", config, "--", PYTHON, "-c",
                        self.PROGRAM], check=True, timeout=PATIENCE)
        lines = trace.read_text().split("getpgid(0)")
        self.assertEqual(len(lines), 3)
        calls = [re.sub(r"^\d+ +", "", line).partition("(")[0] for line in lines[1].splitlines()[1:-1]]
        # The first call on a descriptor asks the kernel what it is, once.
        data = [call for call in calls if call in ("read", "recvfrom")]
        self.assertEqual(len(data), 300)
        self.assertLess(len(calls) - len(data), 12, calls[:20])
        self.assertEqual(set(calls[30:]), {"read", "recvfrom"})

    CLOSING = """
import os
def rounds():
    for _ in range(10):
        number = os.open("/dev/null", os.O_RDONLY)
        os.close(number)
        os.close(os.dup(0))
rounds()
os.getpgid(0)
rounds()
os.getpgid(0)
"""

    def test_i5_to_close_a_file_costs_no_further_system_call(self):
        config = FOLDER / "closing.toml"
        config.write_text(config_text(CLIENT_ID))
        counted = []
        for prefix in ([], [INLAY, "run", "--config", config, "--"]):
            trace = FOLDER / "closing.strace"
            subprocess.run(["strace", "-f", "-o", trace, *prefix, PYTHON, "-c", self.CLOSING], check=True,
                           stdin=subprocess.DEVNULL, timeout=PATIENCE)
            counted.append(len(trace.read_text().split("getpgid(0)")[1].splitlines()))
        # The first dup() of a number asks the kernel what it is, once.
        self.assertLessEqual(counted[1] - counted[0], 1, counted)


class Descriptors(unittest.TestCase):
    PROGRAM = """
import fcntl, json, os, select, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
server, peer = listener.accept()
epoll = select.epoll(); epoll.register(server, select.EPOLLIN)
copy = os.dup(client.fileno())
client.sendall(b"ping"); epoll.poll(); assert server.recv(10) == b"ping"
def kind(fd): return os.readlink("/proc/self/fd/%d" % fd).partition(":")[0]
numbers = sorted(int(n) for n in os.listdir("/proc/self/fd"))
facts = {"numbers": [(n, kind(n)) for n in numbers if n < 1000 and os.path.exists("/proc/self/fd/%d" % n)],
  "client": client.fileno(), "server": server.fileno(), "copy": copy,
  "flags": [fcntl.fcntl(s, fcntl.F_GETFL) for s in (client, server, copy)],
  "fd flags": [fcntl.fcntl(s, fcntl.F_GETFD) for s in (client, server, copy)],
  "names": [client.getpeername() == ("127.0.0.1", port), server.getpeername() == client.getsockname(),
            peer == client.getsockname()],
  "watched": open("/proc/self/fdinfo/%d" % epoll.fileno()).read().count("tfd:")}
os.close(copy); server.close()
facts["freed"] = os.dup(0) == facts["server"] or os.dup(0) == facts["server"]
facts["unwatched"] = open("/proc/self/fdinfo/%d" % epoll.fileno()).read().count("tfd:")
print(json.dumps(facts))
"""

    def facts(self, *prefix):
        done = subprocess.run([*prefix, PYTHON, "-c", self.PROGRAM], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
        return json.loads(done.stdout)

    def test_i2_numbers_flags_names_and_registrations_are_those_without_inlay(self):
        config = FOLDER / "descriptors.toml"
        config.write_text(config_text(CLIENT_ID))
        plain = self.facts()
        self.assertEqual(self.facts(INLAY, "run", "--config", config, "--"), plain)
        self.assertEqual(plain["unwatched"], 0)


if __name__ == "__main__":
    unittest.main()
