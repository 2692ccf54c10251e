#!/usr/bin/env python3
"""Peers with a right SVID, and so with the right keys, that break the protocol after the handshake."""

import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import PATIENCE, PEER, TRUST_DOMAIN, ClientVictim, ServerVictim, issue


def setUpModule():
    global SERVER_ID, CLIENT_ID, server, client
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")
    server, client = ServerVictim(SERVER_ID), ClientVictim(CLIENT_ID)


def tearDownModule():
    for victim in (server, client):
        victim.child.kill()
        victim.child.wait()


class DishonestPeer(unittest.TestCase):
    """Peers with a right SVID that break the protocol afterwards (faults_peer)."""

    # scenario: (what the program gets, how its reads end, the reason logged)
    SCENARIOS = {
        "honest": (b"good", "eof", None),
        "oversize": (b"good", "ECONNRESET", "record-overflow"),
        "empty-flood": (b"good", "ECONNRESET", "protocol-violation"),
        "alert-flood": (b"good", "ECONNRESET", "protocol-violation"),
        "key-update-flood": (b"good", "ECONNRESET", "protocol-violation"),
        "key-updates": (b"good" * 200, "eof", None),
        "ticket-flood": (b"good", "ECONNRESET", "protocol-violation"),
        "fragment-flood": (b"good", "ECONNRESET", "protocol-violation"),
        "interrupted-message": (b"good", "ECONNRESET", "protocol-violation"),
        "interrupted-by-alert": (b"good", "ECONNRESET", "protocol-violation"),
        "renegotiation": (b"good", "ECONNRESET", "protocol-violation"),
        "change-cipher-spec": (b"good", "ECONNRESET", "protocol-violation"),
        "clear-record": (b"good", "ECONNRESET", "record-authentication"),
        "clear-text": (b"good", "ECONNRESET", "protocol-violation"),
        "unknown-type": (b"good", "ECONNRESET", "protocol-violation"),
        "empty-handshake": (b"good", "ECONNRESET", "protocol-violation"),
        "again": (b"good", "ECONNRESET", "record-authentication"),
        "skipped": (b"good", "ECONNRESET", "record-authentication"),
        "data-after-close": (b"good", "eof", None),
        "bare-fin": (b"good", "ECONNRESET", "bare-fin"),
        "fin-inside": (b"good", "ECONNRESET", "truncated"),
        "rst-inside": (None, "ECONNRESET", ("reset-by-peer", "truncated")),
        "fatal-alert": (b"good", "ECONNRESET", "refused-by-peer"),
    }

    def assertSaw(self, result, data, end):
        received = bytes.fromhex(result["received"])
        # A reset takes along what was not read yet.
        self.assertEqual((received, result["end"]),
                         (b"good"[:len(received)] if data is None else data, end))

    # Another certificate would be another peer than policy judged.
    ANOTHER_PEER = {
        "another-certificate": (b"good", "ECONNRESET", "protocol-violation"),
        "certificate-request": (b"good", "ECONNRESET", "protocol-violation"),
    }

    def clients_against_a_server(self, scenarios):
        for name, (data, end, reason) in scenarios.items():
            with self.subTest(name):
                peer = subprocess.run([PEER, "connect", str(server.port), CLIENT_ID, TRUST_DOMAIN, name],
                                      capture_output=True, timeout=PATIENCE)
                self.assertNotEqual(peer.returncode, 2, peer.stderr)
                self.assertNotEqual(peer.returncode, 3, peer.stderr)
                port = int(peer.stderr.split()[0])
                result = server.result(port)
                self.assertSaw(result, data, end)
                if reason is not None:
                    self.assertIn(server.reason(port), (reason,) if isinstance(reason, str) else reason)

    def test_t39_what_a_dishonest_client_does_to_a_server(self):
        self.clients_against_a_server(self.SCENARIOS)

    def test_t39_what_a_dishonest_server_does_to_a_client(self):
        self.servers_against_a_client(self.SCENARIOS)

    def test_t46_a_peer_stays_who_it_was_when_it_was_judged(self):
        self.clients_against_a_server(self.ANOTHER_PEER)
        self.servers_against_a_client(self.ANOTHER_PEER)
        for victim, peer in ((server, "client"), (client, "server")):
            cut = [event for event in victim.events() if event["event"] == "cut"][-1]
            self.assertEqual(cut["peer_id"], f"spiffe://{TRUST_DOMAIN}/{peer}")

    def servers_against_a_client(self, scenarios):
        for name, (data, end, reason) in scenarios.items():
            with self.subTest(name):
                peer = subprocess.Popen([PEER, "listen", "0", SERVER_ID, TRUST_DOMAIN, name],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                port, before = int(peer.stdout.readline()), len(client.events())
                got = client.ask(port=port)
                said, complaint = peer.communicate(timeout=PATIENCE)
                self.assertNotEqual(peer.returncode, 2, complaint)
                self.assertNotEqual(peer.returncode, 3, complaint)
                self.assertSaw(got, data, end)
                if reason is not None:
                    self.assertIn(client.reason(port, before), (reason,) if isinstance(reason, str) else reason)


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of a relay end with it
