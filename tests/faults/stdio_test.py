#!/usr/bin/env python3
"""The C library's own ways to write into a descriptor, on a protected connection: none leaves in the clear
(architecture I1), whatever the program did with its streams before."""

import errno
import json
import pathlib
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import BUILD, CANARY, FOLDER, GREETING, INLAY, PATIENCE, Relay, ServerVictim, config_text, issue

PROGRAM = BUILD / "tests/faults/stdio_ways"
FAILING = BUILD / "tests/faults/failing"

# Arrives under the protection of the session.
PROTECTED = ["fdopen", "fdopen before connect", "fdopen, exit without fflush", "putc", "fwprintf", "fputws", "freopen",
             "freopen of stdout", "freopen in vain", "cout", "cerr", "wcout", "wcout, exit without flush", "stdout kept",
             "stdout kept, unbuffered", "stdout kept, line by line", "stdout kept, putc_unlocked", "stdout kept, fwprintf",
             "stdout kept, exit", "stdout kept, fflush of all", "stdout kept, fclose", "stdout kept, freopen",
             "stdout kept, closed and connected", "stdout kept, its number", "stdout kept, used before and after",
             "a file's stream, then dup2", "a file's stream, then dup2, exit", "a file's stream, then dup3",
             "a file's stream, then fcntl", "a file's stream, then connect", "a file's stream, received in a message",
             "a wide stream, then dup2", "a pipe's stream, then dup2",
             "tmpfile, then dup2", "two streams, then dup2", "dprintf", "vdprintf", "stdio_filebuf", "_IO_file_write",
             "_IO_file_attach", "printf", "puts, exit without fflush", "cout without stdio", "perror",
             "perror on a wide stream", "warn", "error", "psignal", "getopt", "syslog to standard error", "getpass",
             "closed 1, connected", "stdout's buffer", "pwritev2", "pwritev64v2", "system", "popen", "wordexp"]
# Goes nowhere: the call fails, and the connection does not end as if all had been said.
REFUSED = ["psiginfo"]
# The call fails, by the kernel or by inlay; the connection lives on.
FAILS = ["rexec", "rcmd", "Sun RPC", "Sun RPC, to serve", "pwrite", "pwritev", "vmsplice", "splice", "tee", "copy_file_range", "aio_write"]


class Tap(Relay):
    """Passes bytes on as they come: what is in the clear is no record."""

    def pump(self, direction):
        source, sink = self.sides[direction]
        while data := source.recv(65536):
            self.seen[direction] += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Ways(unittest.TestCase):
    # What goes to standard output instead.
    PRINTED = {"freopen of stdout": b"goes on\n", "stdout kept, used before and after": b"before after"}

    @classmethod
    def setUpClass(cls):
        cls.server = ServerVictim(issue("server"))
        cls.log = FOLDER / "stdio.jsonl"
        cls.config = FOLDER / "stdio.toml"
        cls.config.write_text(config_text(issue("client"), log=cls.log))

    def go(self, way):
        """What the tap saw, what arrived, and the log's reasons."""
        self.log.unlink(missing_ok=True)
        relay = Tap(self.server.port, None)
        done = subprocess.run([INLAY, "run", "--config", self.config, "--", PROGRAM, way, str(relay.port),
                               CANARY.decode(), GREETING.decode()], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, self.PRINTED.get(way, b""))
        seen = relay.join()["up"]
        received = bytes.fromhex(self.server.result(relay.server_side_port)["received"])
        reasons = [json.loads(line)["reason"] for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return seen, received, reasons

    def test_i1_what_streams_and_calls_write_is_protected(self):
        for way in PROTECTED:
            with self.subTest(way):
                seen, received, reasons = self.go(way)
                self.assertNotIn("stdio-unprotected", reasons)
                self.assertNotIn(CANARY, seen)
                self.assertIn(CANARY, received)

    def test_i1_what_cannot_be_protected_ends_the_connection_with_a_reason(self):
        for way in REFUSED:
            with self.subTest(way):
                seen, received, reasons = self.go(way)
                self.assertNotIn(CANARY, seen)
                self.assertNotIn(CANARY, received)
                self.assertIn("stdio-unprotected", reasons)

    def test_i1_what_no_socket_takes_goes_nowhere(self):
        for way in FAILS:
            with self.subTest(way):
                seen, received, _ = self.go(way)
                self.assertNotIn(CANARY, seen)
                self.assertNotIn(CANARY, received)

    @unittest.skipUnless(FAILING.exists(), "system calls are made to fail on x86-64 only")
    def test_where_streams_cannot_be_reached_every_connection_is_refused(self):
        outcome = FOLDER / "failing"
        for number in (1, 2):  # made writable; and read-only again
            with self.subTest(number):
                self.log.unlink(missing_ok=True)
                done = subprocess.run([FAILING, outcome, "mprotect", str(number), f"error={errno.ENOMEM}", "--", INLAY, "run", "--config",
                                       self.config, "--", PROGRAM, "fdopen", str(self.server.port), CANARY.decode(), "-"],
                                      stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
                self.assertTrue(json.loads(outcome.read_text().splitlines()[-1])["met"])
                self.assertEqual(done.returncode, 3, "connect() succeeded")
                first = json.loads(self.log.read_text().splitlines()[0])
                self.assertEqual(first["reason"], "stdio-unprotected")

    def test_i1_a_backtrace_is_protected(self):
        seen, received, _ = self.go("backtrace_symbols_fd")
        self.assertNotIn(b"stdio_ways", seen)
        self.assertIn(b"stdio_ways", received)


if __name__ == "__main__":
    unittest.main()
