#!/usr/bin/env python3
"""A network that splits, joins, delays and trickles what passes, and peers that never finish a handshake."""

import errno
import os
import pathlib
import resource
import select
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (CANARY, GREETING, PATIENCE, ClientVictim, Relay, ServerVictim, Victim, drain,
                     issue, records, until)

WHOLE = GREETING + CANARY  # what the client waits for: the server echoes
BOUND = 4096  # unfinished inbound handshakes of one process (shim/session/attend.cc)

# Accepts for ever, and touches each connection once.
HOLDER = """
import os, socket, sys, json
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
os.write(1, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\\n")
held = []
while True:
    conn, _ = listener.accept()
    conn.setblocking(False)
    try: conn.recv(1)
    except BlockingIOError: pass
    held.append(conn)
"""

# One record that is long, and who waits for it for a while.
LONG = """
import json, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(json.dumps(listener.getsockname()[1]), flush=True)
conn, _ = listener.accept()
conn.recv(1)
conn.sendall(b"!")
conn.sendall(b"x" * 16000)
sys.stdin.readline()
"""
TIMED = """
import json, socket, struct, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.sendall(b"?")
conn.recv(1)
conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300000))
try: said = len(conn.recv(100))
except OSError as error: said = error.strerror
print(json.dumps(said), flush=True)
sys.stdin.readline()
"""


def setUpModule():
    global server_id, client_id, server, client, hasty_server, hasty_client
    server_id, client_id = issue("server"), issue("client")
    server, client = ServerVictim(server_id), ClientVictim(client_id)
    hasty = 'handshake_timeout = "300ms"'
    hasty_server = ServerVictim(server_id, defaults=hasty)
    hasty_client = ClientVictim(client_id, defaults=hasty)


def tearDownModule():
    for victim in (server, client, hasty_server, hasty_client):
        victim.child.kill()
        victim.child.wait()


def open_sockets(victim):
    count = 0
    for entry in pathlib.Path(f"/proc/{victim.child.pid}/fd").iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")
        except OSError:
            pass
    return count


def resident(victim):
    pages = pathlib.Path(f"/proc/{victim.child.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def sleeps(victim):
    """All its threads wait for something."""
    states = []
    for stat in pathlib.Path(f"/proc/{victim.child.pid}/task").glob("*/stat"):
        try:
            states.append(stat.read_text().rpartition(")")[2].split()[0])
        except OSError:
            return False
    return set(states) == {"S"}


class Bytewise(Relay):
    def pump(self, direction):
        source, sink = self.sides[direction]
        while data := source.recv(65536):
            self.seen[direction] += data
            for byte in data:
                sink.sendall(bytes([byte]))
        sink.shutdown(socket.SHUT_WR)


class Coalescing(Relay):
    """Client's handshake records and first data in one segment, as the last ones come."""

    def pump(self, direction):
        source, sink = self.sides[direction]
        first, released, held = True, False, b""
        while data := source.recv(65536):
            self.seen[direction] += data
            held += data
            done = any(len(r) == 5 + len(CANARY) + 17 for r in records(held))
            if direction == "up" and not first and not released and not done:
                continue
            released = not first
            sink.sendall(held)
            held, first = b"", False
        sink.sendall(held)
        sink.shutdown(socket.SHUT_WR)


class Delaying(Relay):
    """Each part of a record comes only once both programs sleep: nothing else is on its way."""

    def pump(self, direction):
        source, sink = self.sides[direction]
        while data := source.recv(65536):
            self.seen[direction] += data
            for part in (data[:3], data[3:7], data[7:]):
                until(lambda: sleeps(server) and sleeps(client), "both to sleep")
                sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


class Trickle(Relay):
    """One direction byte by byte, without an end; counts what it passed on."""

    def __init__(self, direction, port):
        self.slow, self.trickled = direction, 0
        super().__init__(port, lambda direction, index, record: record)

    def pump(self, direction):
        if direction != self.slow:
            return super().pump(direction)
        source, sink = self.sides[direction]
        failed = select.poll()
        failed.register(sink, 0)
        while data := source.recv(65536):
            self.seen[direction] += data
            for byte in data:
                sink.sendall(bytes([byte]))
                self.trickled += 1
                if failed.poll(10):
                    raise ConnectionResetError


class SlowRecord(Relay):
    """Whole records, but for a long one: that byte by byte."""

    def pump(self, direction):
        source, sink = self.sides[direction]
        pending = b""
        while data := source.recv(65536):
            pending += data
            for record in records(pending):
                pending = pending[len(record):]
                for part in [bytes([byte]) for byte in record] if len(record) > 10000 else [record]:
                    sink.sendall(part)
                    time.sleep(0.02 if len(part) == 1 else 0)


class Segments(unittest.TestCase):
    def test_t75_a_time_limit_does_not_begin_again_with_each_part_of_a_record(self):
        sender = Victim(LONG, server_id)
        waiter = Victim(TIMED, client_id, SlowRecord(sender.line(), None).port)
        self.assertEqual(waiter.line(), os.strerror(errno.EAGAIN))
        for victim in (waiter, sender):
            victim.child.kill()
            victim.child.wait()

    def test_a_stream_in_single_bytes_coalesced_or_delayed_is_the_same_stream(self):
        for kind in (Bytewise, Coalescing, Delaying):
            with self.subTest(kind.__name__):
                relay = kind(server.port, None)
                got = client.ask(port=relay.port, enough=len(WHOLE))
                self.assertEqual((bytes.fromhex(got["received"]), got["end"]), (WHOLE, "enough"))
                relay.join()
                result = server.result(relay.server_side_port)
                self.assertEqual((bytes.fromhex(result["received"]), result["end"]), (CANARY, "eof"))

    def test_what_a_client_wrote_early_leaves_in_one_segment_with_the_end_of_its_handshake(self):
        # On its own it would wait for the handshake to be acknowledged (Nagle), which a server
        # that has nothing to say does late.
        written = threading.Event()
        chunks = []

        class Watching(Relay):
            def pump(self, direction):
                source, sink = self.sides[direction]
                while data := source.recv(65536):
                    if direction == "up":
                        chunks.append(data)
                    else:
                        written.wait(PATIENCE)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        relay = Watching(server.port, None)
        self.assertTrue(client.ask(port=relay.port, enough=len(WHOLE), tell=True)["sent"])
        written.set()
        self.assertEqual(client.line()["end"], "enough")
        relay.join()
        server.result(relay.server_side_port)
        with_data = [c for c in chunks if any(len(r) == 5 + len(CANARY) + 17 for r in records(c))]
        self.assertGreater(len(records(with_data[0])), 1, [len(c) for c in chunks])


class SlowPeers(unittest.TestCase):
    def test_silent_clients_do_not_stall_a_server(self):
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
        ports = [peer.getsockname()[1] for peer in silent]
        relay = Relay(server.port, lambda direction, index, record: record)
        self.assertEqual(client.ask(port=relay.port, enough=len(WHOLE))["end"], "enough")
        relay.join()
        server.result(relay.server_side_port)
        for peer in silent:
            peer.close()
        for port in ports:
            self.assertEqual(server.result(port)["end"], "ECONNRESET")

    def assertTrickleIsCut(self, direction):
        """A handshake that never stops and never ends: the deadline counts from its first byte."""
        slow = (hasty_server, client) if direction == "up" else (server, hasty_client)
        ours, theirs = slow
        relay = Trickle(direction, ours.port)
        theirs_said = theirs.ask(port=relay.port, enough=len(WHOLE))
        relay.join()
        said = ours.result(relay.server_side_port)
        self.assertLess(relay.trickled, len(relay.seen[direction]))
        self.assertEqual((theirs_said["received"], theirs_said["end"]), ("", "ECONNRESET"))
        self.assertEqual((said["received"], said["end"]), ("", "ECONNRESET"))
        cut, port = (ours, relay.server_side_port) if direction == "up" else (theirs, relay.port)
        self.assertEqual(cut.reason(port), "handshake-timeout")

    def test_t40_a_clients_handshake_that_trickles_is_cut_at_the_deadline_and_freed(self):
        before = open_sockets(hasty_server)
        self.assertTrickleIsCut("up")
        until(lambda: open_sockets(hasty_server) == before, "the descriptor to be free")

    def test_t40_a_servers_handshake_that_trickles_is_cut_at_the_deadline(self):
        self.assertTrickleIsCut("down")

    def test_t40_a_peer_that_stops_after_its_first_bytes_is_cut_at_the_deadline(self):
        for sent in (b"\x16", b"\x16\x03\x01"):
            with self.subTest(sent), socket.create_connection(("127.0.0.1", hasty_server.port)) as peer:
                port = peer.getsockname()[1]
                peer.sendall(sent)
                self.assertNotIn(GREETING, drain(peer))
                self.assertEqual(hasty_server.result(port)["end"], "ECONNRESET")
                self.assertEqual(hasty_server.reason(port), "handshake-timeout")

    def test_t41_ten_thousand_half_open_handshakes_take_bounded_memory(self):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        count = min(10000, most - 200)
        if count < BOUND + 50:
            self.skipTest("not so many descriptors")
        victim = Victim(HOLDER, server_id, defaults='handshake_timeout = "10m"')
        port = victim.line()["port"]
        peers, ended, memory = [], select.poll(), [resident(victim)]
        for wanted in (BOUND + 50, count):
            while len(peers) < wanted:
                peers.append(socket.create_connection(("127.0.0.1", port)))
                peers[-1].sendall(b"\x16\x03\x01")
                ended.register(peers[-1], select.POLLIN)
            # Older ones make room, and nobody else.
            until(lambda: len(ended.poll(0)) >= wanted - BOUND, "the oldest to be reset")
            self.assertEqual({fd for fd, _ in ended.poll(0)},
                             {peer.fileno() for peer in peers[:wanted - BOUND]})
            memory.append(resident(victim))
        start, at_bound, end = memory
        self.assertLess(end - at_bound, (at_bound - start) / 2, memory)
        reasons = {event["reason"] for event in victim.events() if event["event"] == "refused"}
        self.assertEqual(reasons, {"half-open-limit"})
        for peer in peers:
            peer.close()
        victim.child.kill()


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of a relay end with it
