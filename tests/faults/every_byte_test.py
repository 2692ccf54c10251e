#!/usr/bin/env python3
"""A network that cuts a connection at each of its bytes, or changes it (T42). INLAY_FULL=1 does every
byte; otherwise a sample that always has the ends of records in it."""

import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (CANARY, GREETING, ClientVictim, Relay, ServerVictim, Stop, issue, records)

FULL = os.environ.get("INLAY_FULL") == "1"
DATA = 23
STEP = 1 if FULL else 149
WHOLE = GREETING + CANARY  # what the client waits for: the server echoes
VERSION, LENGTH = 2, (3, 4)  # bytes of a record's header


def setUpModule():
    global server, client, patient_server, patient_client
    patient_server, patient_client = ServerVictim(issue("server")), ClientVictim(issue("client"))
    # A record that claims more bytes than come is waited for: in a handshake, this long.
    short = 'handshake_timeout = "200ms"'
    server = ServerVictim(issue("server"), defaults=short)
    client = ClientVictim(issue("client"), defaults=short)


def tearDownModule():
    for victim in (server, client, patient_server, patient_client):
        victim.child.kill()
        victim.child.wait()


class EveryByte(unittest.TestCase):
    def exchange(self, hand, victims=None):
        server_, client_ = victims or (server, client)
        relay = Relay(server_.port, hand)
        ours = client_.ask(port=relay.port, enough=len(WHOLE))
        relay.join()
        theirs = server_.result(relay.server_side_port)
        up, down = bytes.fromhex(theirs["received"]), bytes.fromhex(ours["received"])
        self.assertEqual(up, CANARY[:len(up)], "wrong data")
        self.assertEqual(down, WHOLE[:len(down)], "wrong data")
        self.assertEqual(ours["end"] == "enough", down == WHOLE)
        self.assertIn(ours["end"], ("enough", "ECONNRESET", "EPIPE"))
        self.assertIn(theirs["end"], ("eof", "ECONNRESET", "EPIPE"))
        return ours, theirs, relay

    def points(self):
        """(direction, record, byte in it) over a whole connection."""
        ours, theirs, relay = self.exchange(lambda direction, index, record: record, (patient_server, patient_client))
        self.assertEqual((ours["end"], theirs["end"]), ("enough", "eof"))
        for direction in ("up", "down"):
            found, at = records(relay.seen[direction]), 0
            self.assertEqual(b"".join(found), relay.seen[direction])
            self.assertGreater(len(found), 3)
            for number, record in enumerate(found):
                for byte in range(len(record)):
                    edge = byte < 6 or byte == len(record) - 1
                    if edge or (at + byte) % STEP == 0:
                        yield direction, number, byte, record[0], number == len(found) - 1
                at += len(record)

    def test_t42_a_cut_at_any_byte_is_an_error_never_an_end_of_the_data(self):
        for direction, number, byte, _, _ in list(self.points()):
            for kind in ("fin", "rst", "half"):
                def hand(d, index, record):
                    if (d, index) == (direction, number):
                        raise Stop(kind, record[:byte])
                    return record

                with self.subTest(direction=direction, record=number, byte=byte, kind=kind):
                    ours, theirs, _ = self.exchange(hand)
                    if direction == "up":  # what is missing is at least the end of close_notify
                        self.assertNotEqual(theirs["end"], "eof")
                    elif ours["end"] != "enough":
                        self.assertNotEqual(theirs["end"], "eof")

    def test_any_changed_byte_is_an_error_or_makes_no_difference(self):
        for direction, number, byte, kind, last in list(self.points()):
            def hand(d, index, record):
                if (d, index) != (direction, number):
                    return record
                changed = bytearray(record)
                changed[byte] ^= 1 << (byte % 8)
                if byte in LENGTH:
                    raise Stop("fin", bytes(changed))
                return bytes(changed)

            with self.subTest(direction=direction, record=number, byte=byte):
                ours, theirs, _ = self.exchange(hand)
                # A version may be ignored (RFC 8446 §5.1); in a protected record it is authenticated.
                if byte == VERSION and kind != DATA and ours["end"] == "enough":
                    self.assertEqual(theirs["end"], "eof")
                elif not (last and direction == "down"):  # the server's close_notify finds nobody
                    self.assertIn("ECONNRESET", (ours["end"], theirs["end"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
