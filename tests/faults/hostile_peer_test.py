#!/usr/bin/env python3
"""What a hostile or broken peer, or a network in between, can do to programs under inlay."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (CANARY, GREETING, INLAY, PATIENCE, ClientVictim, Relay,
                     ServerVictim, Stop, Victim, checked, drain, issue, listener, records)

ALERT, HANDSHAKE, DATA = 21, 22, 23


def setUpModule():
    global SERVER_ID, CLIENT_ID, STRANGER_ID, server, client, server_eof
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")
    STRANGER_ID = issue("client", authority="stranger")
    server, client = ServerVictim(SERVER_ID), ClientVictim(CLIENT_ID)
    server_eof = ServerVictim(SERVER_ID, defaults='bare_fin = "eof"')


def tearDownModule():
    for victim in (server, client, server_eof):
        victim.child.kill()
        victim.child.wait()


def say(peer, data):
    """The other side may have refused before all is said."""
    try:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Case(unittest.TestCase):
    def assertOnlyTls(self, data, *secrets):
        """Nothing but TLS records, and none of the application's bytes."""
        for secret in secrets:
            self.assertNotIn(secret, data)
        self.assertEqual(b"".join(records(data)), data)
        for record in records(data):
            self.assertIn(record[0], (20, 21, 22, 23))

    def assertServes(self):
        """An honest client is still served."""
        relay = Relay(server.port, lambda direction, index, record: record)
        got = client.ask(port=relay.port, enough=len(GREETING + CANARY))
        self.assertEqual((bytes.fromhex(got["received"]), got["end"]), (GREETING + CANARY, "enough"))
        relay.join()
        result = server.result(relay.server_side_port)
        self.assertEqual((bytes.fromhex(result["received"]), result["end"]), (CANARY, "eof"))
        return relay


class Plaintext(Case):
    CLIENTS = {
        "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "smtp": b"EHLO example.org\r\n",
        "redis": b"*1\r\n$4\r\nPING\r\n",
        "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
        "postgres": bytes.fromhex("00000008 04d2162f"),
        "mysql": bytes.fromhex("20000001 85a20f00 00000001 21000000"),
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "sslv2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600800700c0"),
        "binary": bytes(range(256)),
        "zeros": bytes(64),
        "empty handshake record": bytes.fromhex("1603010000"),
        "application data first": bytes.fromhex("1703030004") + b"data",
        "alert first": bytes.fromhex("15030300020100"),
        "record too long": bytes.fromhex("160301ffff") + b"x" * 65535,
    }

    def test_t28_no_byte_of_a_plaintext_client_reaches_a_strict_server_nor_its_greeting_the_client(self):
        for name, sent in self.CLIENTS.items():
            with self.subTest(name), socket.create_connection(("127.0.0.1", server.port)) as peer:
                port = peer.getsockname()[1]
                say(peer, sent)
                answer = drain(peer)
                self.assertOnlyTls(answer, GREETING)
                result = server.result(port)
                self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
                self.assertIn(server.reason(port), ("peer-not-tls", "protocol-violation", "tls-version",
                                                    "record-overflow", "refused-by-peer",
                                                    "peer-closed-in-handshake"))
        self.assertServes()
        shown = {words: {json.loads(line)["event"] for line in checked(
            INLAY, "log", server.child.pid, "--json", *words).splitlines()} for words in ((), ("--problems",))}
        self.assertIn("accepted", shown[()])
        self.assertIn("refused", shown[("--problems",)])
        self.assertLessEqual(shown[("--problems",)], {"refused", "cut", "notice"})

    def test_a_few_bytes_that_no_record_begins_with_are_refused_at_once(self):
        for sent in (b"x", b"GE", b"220", b"\0\0\0\4", b"\x16\x02"):
            for ends in (False, True):
                with self.subTest(sent, ends=ends), socket.create_connection(("127.0.0.1", server.port)) as peer:
                    port = peer.getsockname()[1]
                    peer.sendall(sent)
                    if ends:
                        peer.shutdown(socket.SHUT_WR)
                    self.assertOnlyTls(drain(peer), GREETING)
                    server.result(port)
                    self.assertEqual(server.reason(port), "peer-not-tls")

    def test_t29_a_strict_client_sends_a_plaintext_server_no_application_byte(self):
        for name, sent in {"http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
                           "smtp": b"220 mail.example.org ESMTP\r\n", "redis": b"-ERR unknown\r\n",
                           "mysql": bytes.fromhex("4a0000000a382e302e33300000000000"),
                           "alert": bytes.fromhex("15030100020228"), "nothing": b"",
                           "echo": None}.items():
            with self.subTest(name), listener() as fake:
                port = fake.getsockname()[1]
                client.tell(port=port)
                peer, _ = fake.accept()
                with peer:
                    head = peer.recv(65536)
                    say(peer, head if sent is None else sent)
                    self.assertOnlyTls(head + drain(peer), CANARY)
                result = client.line()
                self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
                client.reason(port)


class StockPeers(Case):
    """openssl s_client and s_server, both roles."""

    def s_client(self, port, *options, text=b""):
        asked = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile",
                                str(SERVER_ID / "bundle.pem"), *map(str, options)], input=text,
                               capture_output=True, timeout=PATIENCE)
        return asked.stdout + asked.stderr

    def last_result(self):
        return server.line()

    def test_t30_a_client_without_tls_1_3_is_refused(self):
        own = ("-cert", CLIENT_ID / "svid.pem", "-key", CLIENT_ID / "key.pem")
        said = self.s_client(server.port, "-tls1_2", *own, text=b"bad\n")
        self.assertNotIn(GREETING, said)
        result = self.last_result()
        self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
        self.assertEqual(server.reason(result["port"]), "tls-version")

    def test_t35_a_client_without_a_certificate_is_refused(self):
        said = self.s_client(server.port, "-tls1_3", text=b"bad\n")
        self.assertNotIn(GREETING, said)
        result = self.last_result()
        self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
        self.assertEqual(server.reason(result["port"]), "no-peer-certificate")

    def test_a_client_of_another_authority_is_refused(self):
        said = self.s_client(server.port, "-cert", STRANGER_ID / "svid.pem", "-key",
                             STRANGER_ID / "key.pem", text=b"bad\n")
        self.assertNotIn(GREETING, said)
        result = self.last_result()
        self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
        self.assertEqual(server.reason(result["port"]), "certificate-untrusted")

    def test_a_stock_client_with_an_svid_is_served_through_key_updates(self):
        child = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}",
                                  "-CAfile", str(SERVER_ID / "bundle.pem"), "-cert",
                                  str(CLIENT_ID / "svid.pem"), "-key", str(CLIENT_ID / "key.pem")],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        said = b""

        def read_to(wanted, count=1):
            nonlocal said
            while said.count(wanted) < count:
                chunk = os.read(child.stdout.fileno(), 65536)
                self.assertTrue(chunk, said)
                said += chunk

        sent = b""
        for step in range(6):
            line = b"line %d\n" % step
            child.stdin.write(line)
            child.stdin.flush()
            read_to(line)
            sent += line
            # A command is one line that begins with its letter, read on its own.
            child.stdin.write(b"K\n" if step % 2 else b"k\n")
            child.stdin.flush()
            read_to(b"KEYUPDATE", step + 1)
        child.stdin.close()
        child.wait(PATIENCE)
        child.stdout.close()
        self.assertIn(GREETING, said)
        result = self.last_result()
        self.assertEqual((bytes.fromhex(result["received"]), result["end"]), (sent, "eof"))

    def s_server(self, svid, *options):
        # What it says comes to a pipe at once: the tests wait for it.
        child = subprocess.Popen(["stdbuf", "-o0", "openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1",
                                  "-cert", str(svid / "svid.pem"), "-key", str(svid / "key.pem"),
                                  "-CAfile", str(SERVER_ID / "bundle.pem"), *options],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        said = b""
        while not (accepts := re.search(rb"^ACCEPT .*:(\d+)\n", said, re.MULTILINE)):
            chunk = os.read(child.stdout.fileno(), 65536)
            self.assertTrue(chunk, said)
            said += chunk
        return child, int(accepts[1])

    def finish(self, child):
        child.stdin.close()
        child.kill()  # it may wait for its standard input or for another byte
        said = child.stdout.read()
        child.wait(PATIENCE)
        child.stdout.close()
        return said

    def test_t33_a_stock_server_with_tickets_and_key_updates_serves_a_client_under_inlay(self):
        child, port = self.s_server(SERVER_ID, "-Verify", "3", "-num_tickets", "4")
        client.tell(port=port, enough=30)
        said = b""
        while CANARY not in said:
            said += os.read(child.stdout.fileno(), 65536)
        for count, command in enumerate((b"k\n", b"K\n", b"k\n")):
            child.stdin.write(command)
            child.stdin.flush()
            while said.count(b"SSL_do_handshake -> 1") <= count:
                chunk = os.read(child.stdout.fileno(), 65536)
                self.assertTrue(chunk, said)
                said += chunk
        child.stdin.write(b"0123456789" * 3 + b"\n")
        child.stdin.flush()
        result = client.line()
        self.assertEqual(result["end"], "enough")
        self.assertEqual(bytes.fromhex(result["received"])[:30], b"0123456789" * 3)
        self.finish(child)

    def test_i4_a_refusal_is_told_once_as_a_reset_is(self):
        asks = """
import json, os, select, socket, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
failed = select.poll()
failed.register(conn, 0)
failed.poll()
told = [conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)]
told.append(len(conn.recv(9)))
try: conn.send(b"x")
except OSError as error: told.append(error.errno)
print(json.dumps([told[0] and os.strerror(told[0]), *told[1:3], os.strerror(told[3])]), flush=True)
"""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            victim = Victim(asks, CLIENT_ID, listening.getsockname()[1])
            with listening.accept()[0] as conn:
                conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self.assertEqual(victim.line(), ["Connection reset by peer", 0, 0, "Broken pipe"])
        self.assertEqual(victim.stop(), 0)

    def test_servers_that_are_not_the_expected_one_get_no_application_byte(self):
        for svid, options in ((SERVER_ID, ("-Verify", "3", "-tls1_2")), (STRANGER_ID, ("-Verify", "3"))):
            with self.subTest(options=options, svid=svid.name):
                child, port = self.s_server(svid, *options)
                result = client.ask(port=port)
                self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
                self.assertNotIn(CANARY, self.finish(child))


class InBetween(Case):
    """A network that changes, cuts, repeats."""

    def exchange(self, hand, port=None, victim=None):
        """What client and server saw of a connection through a relay with this hand."""
        victim = victim or server
        relay = Relay(victim.port, hand)
        ours = client.ask(port=relay.port, enough=len(GREETING + CANARY))
        relay.join()
        theirs = victim.result(relay.server_side_port)
        up, down = bytes.fromhex(theirs["received"]), bytes.fromhex(ours["received"])
        self.assertEqual(up, CANARY[:len(up)], "wrong data")
        # The echo may be cut anywhere, and has no greeting behind it.
        whole = GREETING + CANARY
        self.assertEqual(down, whole[:len(down)], "wrong data")
        return ours, theirs, relay

    def baseline(self):
        relay = self.assertServes()
        return {d: len(records(relay.seen[d])) for d in relay.seen}, relay

    def test_every_record_changed_in_turn_is_an_error_never_wrong_data(self):
        counts, _ = self.baseline()
        self.assertGreater(min(counts.values()), 3)
        for direction, count in counts.items():
            for number in range(count):
                # Type, length (a smaller change of it is waited for, as a slow network is), first
                # and last byte of the fragment.
                for where, bit in ((0, 1), (3, 0x80), (5, 1), (-1, 1)):
                    def hand(d, index, record):
                        if (d, index) != (direction, number):
                            return record
                        changed = bytearray(record)
                        changed[where] ^= bit
                        return bytes(changed)

                    with self.subTest(direction=direction, record=number, where=where):
                        ours, theirs, relay = self.exchange(hand)
                        changed_last = number == count - 1 and direction == "down"
                        if not changed_last:  # the server's close_notify: the client has closed already
                            self.assertIn("ECONNRESET", (ours["end"], theirs["end"]))

    def test_t42_fin_and_rst_at_the_bytes_of_the_handshake_are_errors(self):
        _, relay = self.baseline()
        for direction in ("up", "down"):
            ends, at = [0], 0
            for record in records(relay.seen[direction])[:5]:
                at += len(record)
                ends.append(at)
            points = sorted({max(0, e + d) for e in ends for d in (-1, 0, 1, 5)} |
                            set(range(0, ends[-1], 211)))
            for kind in ("fin", "rst"):
                for point in points:
                    passed = {"n": 0}

                    def hand(d, index, record):
                        if d != direction:
                            return record
                        if passed["n"] + len(record) >= point:
                            raise Stop(kind, record[:point - passed["n"]])
                        passed["n"] += len(record)
                        return record

                    with self.subTest(direction=direction, kind=kind, byte=point):
                        ours, theirs, _ = self.exchange(hand)
                        self.assertNotEqual(theirs["end"], "eof")
                        self.assertNotEqual(ours["end"], "eof")

    def test_t44_an_end_without_close_notify_is_an_error_after_the_data(self):
        def drop_close_notify(direction, index, record):
            if direction == "up" and record[0] == DATA and len(record) == 5 + 2 + 1 + 16:
                raise Stop("fin", b"")
            return record

        _, theirs, relay = self.exchange(drop_close_notify)
        self.assertEqual((bytes.fromhex(theirs["received"]), theirs["end"]), (CANARY, "ECONNRESET"))
        self.assertEqual(server.reason(relay.server_side_port), "bare-fin")

    def test_bare_fin_eof_makes_it_an_end_of_file(self):
        def drop_close_notify(direction, index, record):
            if direction == "up" and record[0] == DATA and len(record) == 5 + 2 + 1 + 16:
                raise Stop("fin", b"")
            return record

        _, theirs, _ = self.exchange(drop_close_notify, victim=server_eof)
        self.assertEqual((bytes.fromhex(theirs["received"]), theirs["end"]), (CANARY, "eof"))

    def test_t45_a_recorded_client_hello_is_answered_anew_and_leads_nowhere(self):
        _, relay = self.baseline()
        hello = records(relay.seen["up"])[0]
        answers = []
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port)) as peer:
                port = peer.getsockname()[1]
                say(peer, hello)
                answers.append(drain(peer))
            self.assertOnlyTls(answers[-1], GREETING)
            result = server.result(port)
            self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
        first, second = (records(answer)[0] for answer in answers)
        self.assertEqual(first[:11], second[:11])  # ServerHello: up to its random
        self.assertNotEqual(first[11:43], second[11:43])

    def test_t45_a_recorded_connection_played_again_is_refused(self):
        _, relay = self.baseline()
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            port = peer.getsockname()[1]
            say(peer, relay.seen["up"])
            self.assertOnlyTls(drain(peer), GREETING)
        result = server.result(port)
        self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))
        with listener() as fake:
            client.tell(port=fake.getsockname()[1])
            peer, _ = fake.accept()
            with peer:
                say(peer, relay.seen["down"])
                self.assertOnlyTls(drain(peer), CANARY)
            result = client.line()
        self.assertEqual((result["received"], result["end"]), ("", "ECONNRESET"))

    def test_t43_a_server_whose_own_records_are_sent_back_does_not_take_them(self):
        caught = []
        ready = threading.Event()

        def hand(direction, index, record):
            if direction == "down":
                caught.append(record)
                # The greeting is the first record of its length.
                if len(record) == 5 + len(GREETING) + 17:
                    ready.set()
                return record
            if len(record) == 5 + len(CANARY) + 17:
                ready.wait(PATIENCE)
                return caught[-1]
            return record

        _, theirs, relay = self.exchange(hand)
        self.assertEqual((theirs["received"], theirs["end"]), ("", "ECONNRESET"))
        self.assertEqual(server.reason(relay.server_side_port), "record-authentication")


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of a relay end with it
