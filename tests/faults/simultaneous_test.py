#!/usr/bin/env python3
"""Two clients that somebody in between connects to each other, and a client to itself."""

import pathlib
import socket
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import CANARY, Victim, issue, listener

# Connects where it is told, from a port of its own choice or not; sends, and reads as much.
CLIENT = """
import errno, json, os, socket, sys
canary = sys.argv[1].encode()
for line in sys.stdin:
    task = json.loads(line)
    got, end = b"", "enough"
    try:
        conn = socket.socket()
        if task["bound"]: conn.bind(("127.0.0.1", 0))
        conn.connect(("127.0.0.1", task["port"]))
        conn.sendall(canary)
        while len(got) < len(canary):
            data = conn.recv(65536)
            if not data:
                end = "eof"
                break
            got += data
    except OSError as error:
        end = errno.errorcode[error.errno]
    conn.close()
    os.write(1, json.dumps({"received": got.hex(), "end": end}).encode() + b"\\n")
"""
NOBODY_COMES_IN = '[[inbound]]\nname = "nobody"\nport = "*"\nmode = "deny"\n'


def setUpModule():
    global victims
    app, db = issue("app"), issue("db")
    both = ("app", "db")
    make = lambda svid, **options: Victim(CLIENT, svid, CANARY.decode(), **options)
    victims = {
        "app": make(app, allow=both),
        "db": make(db, allow=both),
        "db, app not allowed": make(db, allow=("db",)),
        "db, nobody comes in": make(db, allow=both, inbound=NOBODY_COMES_IN),
        "app, expects itself": make(app, allow=("app",)),
    }


def tearDownModule():
    for victim in victims.values():
        victim.child.kill()
        victim.child.wait()


def copy(source, sink, seen):
    try:
        while data := source.recv(65536):
            seen.append(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Simultaneous(unittest.TestCase):
    def cross(self, one, other, bound=(True, True)):
        """What two clients see that are given each other, and what passed between them."""
        victims_ = victims[one], victims[other]
        with listener() as first, listener() as second:
            ports = first.getsockname()[1], second.getsockname()[1]
            for victim, port, is_bound in zip(victims_, ports, bound):
                victim.tell(port=port, bound=is_bound)
            ends = first.accept()[0], second.accept()[0]
        seen = []
        pumps = [threading.Thread(target=copy, args=(*pair, seen)) for pair in (ends, ends[::-1])]
        for pump in pumps:
            pump.start()
        results = [victim.line() for victim in victims_]
        for pump in pumps:
            pump.join()
        for end in ends:
            end.close()
        self.assertNotIn(CANARY, b"".join(seen))
        return [(bytes.fromhex(r["received"]), r["end"]) for r in results], ports

    def assertRefused(self, seen):
        self.assertEqual(seen, [(b"", "ECONNRESET")] * 2)

    # Several times each: which of the two becomes the server is chance.
    TIMES = 6

    def test_two_that_chose_their_ports_are_each_other_s_peer(self):
        for _ in range(self.TIMES):
            seen, _ = self.cross("app", "db")
            self.assertEqual(seen, [(CANARY, "enough")] * 2)

    def test_a_client_that_chose_no_port_meets_no_client(self):
        for bound in ((False, False), (True, False), (False, True)):
            with self.subTest(bound):
                seen, ports = self.cross("app", "db", bound)
                self.assertRefused(seen)
                reasons = victims["app"].reason(ports[0]), victims["db"].reason(ports[1])
                self.assertIn("protocol-violation", reasons)

    def test_each_is_judged_as_the_destination_by_the_other(self):
        for _ in range(self.TIMES):
            seen, ports = self.cross("app", "db, app not allowed")
            self.assertRefused(seen)
            self.assertEqual(victims["db, app not allowed"].reason(ports[1]), "peer-not-allowed")

    def test_each_is_judged_as_one_who_comes_in_by_the_other(self):
        for _ in range(self.TIMES):
            seen, ports = self.cross("app", "db, nobody comes in")
            self.assertRefused(seen)
            self.assertEqual(victims["db, nobody comes in"].reason(ports[1]), "denied-by-rule")

    def test_t43_a_client_is_not_its_own_peer(self):
        for bound in (False, True):
            with self.subTest(bound), listener() as fake:
                victim, port = victims["app, expects itself"], fake.getsockname()[1]
                victim.tell(port=port, bound=bound)
                peer, _ = fake.accept()
                with peer:
                    seen = []
                    copy(peer, peer, seen)
                result = victim.line()
                self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
                self.assertNotIn(CANARY, b"".join(seen))
                self.assertEqual(victim.reason(port), "protocol-violation")

    def test_two_clients_of_one_workload_are_judged_by_its_id(self):
        seen, _ = self.cross("app, expects itself", "app")
        self.assertEqual(seen, [(CANARY, "enough")] * 2)
        seen, _ = self.cross("db, app not allowed", "app")
        self.assertRefused(seen)


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of a relay end with it
