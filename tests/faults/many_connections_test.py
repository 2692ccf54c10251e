#!/usr/bin/env python3
"""Thousands of connections between two processes, both under inlay, all open at once: a byte each way on each, then all are
closed in order. INLAY_FULL=1 has 20,000 of them, or what the hard limit of open files allows; otherwise there are 500."""

import os
import pathlib
import resource
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import support
from support import Victim, issue

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
COUNT = min(20000 if os.environ.get("INLAY_FULL") == "1" else 500, HARD_LIMIT - 200)
MOST_BYTES = 4096  # of either process for a connection whose handshake is over, shared memory and Python's own objects in it

COMMON = """
import gc, json, os, resource, socket, sys
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
def tell(**what): os.write(1, json.dumps(what).encode() + b"\\n")
def memory():
    gc.collect()
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
def close_all():
    while conns: conns.pop(0).close()
def told():
    return sys.stdin.readline()
conns = []
gc.disable()
"""

# A byte comes on each, one goes back on each; the client closes first.
SERVER = COMMON + """
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
tell(port=listener.getsockname()[1], descriptors=len(os.listdir("/proc/self/fd")))
while count := told():
    before = memory()
    good = 0
    while len(conns) < int(count):
        conns.append(listener.accept()[0])
        good += conns[-1].recv(1) == b"c"
        conns[-1].sendall(b"s")
    tell(good=good, memory=memory() - before)
    ends = sum(conn.recv(1) == b"" for conn in conns)
    close_all()
    tell(ends=ends, descriptors=len(os.listdir("/proc/self/fd")), memory=memory())
"""

CLIENT = COMMON + """
port, descriptors = int(sys.argv[1]), len(os.listdir("/proc/self/fd"))
while count := told():
    before = memory()
    good = 0
    for _ in range(int(count)):
        conns.append(socket.create_connection(("127.0.0.1", port)))
        conns[-1].sendall(b"c")
        good += conns[-1].recv(1) == b"s"
    tell(good=good, memory=memory() - before)
    told()
    close_all()
    tell(descriptors=len(os.listdir("/proc/self/fd")) - descriptors, memory=memory())
"""


class ManyConnections(unittest.TestCase):
    def round(self, count):
        """All of them, once; what either process has in memory afterwards."""
        for victim in (self.server, self.client):
            victim.child.stdin.write(b"%d\n" % count)
            victim.child.stdin.flush()
        opened = self.client.line(), self.server.line()
        for side in opened:
            self.assertEqual(side["good"], count)
        self.client.child.stdin.write(b"close\n")
        self.client.child.stdin.flush()
        client, server = self.client.line(), self.server.line()
        self.assertEqual(server["ends"], count)
        # inlay's own stay: epoll set, its wake-up, and the arenas, one for each 2048 connections there were at once.
        own = 2 + 1 + max(count, COUNT) // 2048
        self.assertLessEqual(client["descriptors"], own)
        self.assertLessEqual(server["descriptors"] - self.descriptors, own)
        return opened, (client["memory"], server["memory"])

    def test_all_at_once(self):
        self.server = Victim(SERVER, issue("server"))
        line = self.server.line()
        self.descriptors = line["descriptors"]
        self.client = Victim(CLIENT, issue("client"), line["port"])
        self.round(100)  # what is made once
        opened, after = self.round(COUNT)
        for name, side in zip(("client", "server"), opened):
            self.assertLess(side["memory"] / COUNT, MOST_BYTES)
            print(f"{name}: {side['memory'] / COUNT / 1024:.1f} KiB for each of {COUNT} connections", file=sys.stderr)
        # What was taken for them serves the next ones: no slot, chunk or task is left behind.
        _, again = self.round(COUNT // 4)
        for was, now in zip(after, again):
            self.assertLess(now - was, COUNT * MOST_BYTES // 16)
        for victim in (self.client, self.server):
            self.assertEqual(victim.stop(), 0, victim.errors)
            self.assertEqual({event["reason"] for event in victim.events() if event["event"] != "notice"},
                             {"allowed", "closed"})


if __name__ == "__main__":
    support.PATIENCE = 300
    unittest.main()
