#!/usr/bin/env python3
"""What goes past the hooks, without and with `inlay run --strict`: the table in README.md (architecture I1, T77)."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (BUILD, CANARY, FOLDER, INLAY, PATIENCE, PYTHON, Relay, ServerVictim, config_text, issue,
                     listener)

BYPASS = BUILD / "tests/faults/bypass"
IN_THE_GATE = BUILD / "tests/faults/in_the_gate"
LIBRARY = BUILD / "tests/faults/libbypass.so"
STATIC = BUILD / "tests/faults/bypass_static"
COST = "--strict: sudo"


def setUpModule():
    global CLIENT_ID, SERVER_ID
    CLIENT_ID, SERVER_ID = issue("client"), issue("server")


class Recorder:
    """A server without inlay: every byte that reaches it over TCP."""

    def __init__(self):
        self.listener = listener()
        self.port = self.listener.getsockname()[1]
        self.seen = b""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            conn, peer = self.listener.accept()
            with conn:
                if peer[1] == self.last:
                    return
                try:
                    while data := conn.recv(65536):
                        self.seen += data
                except OSError:
                    pass

    last = None

    def all(self):
        """After the program's end: connections are taken in order, so one more says it was the last."""
        with socket.socket() as end:
            end.bind(("127.0.0.1", 0))
            self.last = end.getsockname()[1]
            end.connect(("127.0.0.1", self.port))
            self.thread.join(PATIENCE)
        self.listener.close()
        return self.seen


def command(way, port, *, strict, library=False, defaults=""):
    config = FOLDER / "bypass.toml"
    config.write_text(config_text(CLIENT_ID, defaults=defaults, log=FOLDER / "bypass.jsonl"))
    return [INLAY, "run", "--config", config, *(["--strict"] if strict else []), "--", BYPASS, way, str(port),
            CANARY.decode(), *([LIBRARY] if library else [])]


def go(way, port, **options):
    """The steps of one way: ok, or the errno's name."""
    done = subprocess.run(command(way, port, **options), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE, env={**os.environ, "STATIC_HELPER": str(STATIC)})
    strict = options["strict"]
    notes = done.stderr.splitlines()
    if strict != (len(notes) == 1 and COST in notes[0]) or len(notes) > strict:
        raise AssertionError(done.stderr)
    if done.returncode != 0:
        raise AssertionError(f"{way}: {done.returncode}: {done.stderr}")
    steps = {}
    for line in done.stdout.splitlines():
        steps.update(json.loads(line))
    return steps


class PastTheHooks(unittest.TestCase):
    """Ways to make a connection: without --strict the canary leaves in the clear, with it nothing does."""

    ALL = {"socket": "ok", "connect": "ok", "write": "ok"}
    REFUSED = {"socket": "EACCES"}
    WAYS = {
        # way: without --strict, with it
        "raw": (ALL, REFUSED),
        "handle": (ALL, REFUSED),
        "dlmopen": (ALL, REFUSED),
        "io_uring": ({"io_uring_setup": "ok", **ALL}, {"io_uring_setup": "ENOSYS"}),
        "fast open": ({"socket": "ok", "sendto": "ok"}, {"socket": "ok", "sendto": "EOPNOTSUPP"}),
        # A static program: started through a hook, and past it.
        "exec": (ALL, {"exec": "EACCES"}),
        "raw exec": (ALL, REFUSED),
    }

    def test_i1_what_goes_past_the_hooks_is_held_by_strict(self):
        for way, (loose, strict) in self.WAYS.items():
            for is_strict, steps in ((False, loose), (True, strict)):
                with self.subTest(way, strict=is_strict):
                    recorder = Recorder()
                    self.assertEqual(go(way, recorder.port, strict=is_strict), steps)
                    self.assertEqual(recorder.all(), b"" if is_strict else CANARY)

    def test_i1_the_same_from_a_library_that_the_program_loads(self):
        for way in ("raw", "handle", "io_uring"):
            for is_strict in (False, True):
                with self.subTest(way, strict=is_strict):
                    recorder = Recorder()
                    self.assertEqual(go(way, recorder.port, strict=is_strict, library=True), self.WAYS[way][is_strict])
                    self.assertEqual(recorder.all(), b"" if is_strict else CANARY)

    def test_i1_a_library_that_is_bound_to_its_own_libraries_first(self):
        # RTLD_DEEPBIND; the same calls of one that is loaded without it are the hooks'.
        for is_strict, steps in ((False, self.ALL), (True, self.REFUSED)):
            with self.subTest(strict=is_strict):
                recorder = Recorder()
                self.assertEqual(go("deep binding", recorder.port, strict=is_strict, library=True), steps)
                self.assertEqual(recorder.all(), b"" if is_strict else CANARY)
                recorder = Recorder()
                steps_by_name = go("by name", recorder.port, strict=is_strict, library=True)
                self.assertEqual(steps_by_name["connect"], "ok")
                self.assertNotIn(CANARY, recorder.all())

    def test_i1_a_connection_made_past_the_hooks_is_refused_by_the_next_hook(self):
        for is_strict in (False, True):
            with self.subTest(strict=is_strict):
                recorder = Recorder()
                self.assertEqual(go("raw connect between hooks", recorder.port, strict=is_strict),
                                 {"socket": "ok", "connect": "ok", "send": "ECONNRESET"})
                self.assertEqual(recorder.all(), b"")

    def test_a_hook_s_socket_connected_and_written_past_the_hooks_is_in_the_clear(self):
        for way in ("raw connect", "handle connect"):
            for is_strict in (False, True):
                with self.subTest(way, strict=is_strict):
                    recorder = Recorder()
                    self.assertEqual(go(way, recorder.port, strict=is_strict), self.ALL)
                    self.assertEqual(recorder.all(), CANARY)

    def test_i1_an_accept_past_the_hooks(self):
        for is_strict, steps in ((False, {"socket": "ok", "accept": "ok", "write": "ok"}),
                                 (True, {"socket": "ok", "accept": "EACCES"})):
            with self.subTest(strict=is_strict):
                told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                told.bind(("127.0.0.1", 0))
                told.settimeout(PATIENCE)
                seen = []

                def client():
                    try:
                        with socket.create_connection(("127.0.0.1", int(told.recv(16)))) as conn:
                            while data := conn.recv(4096):
                                seen.append(data)
                    except OSError:
                        pass

                thread = threading.Thread(target=client)
                thread.start()
                self.assertEqual(go("raw accept", told.getsockname()[1], strict=is_strict), steps)
                thread.join(PATIENCE)
                told.close()
                self.assertEqual(b"".join(seen), b"" if is_strict else CANARY)


class Launcher(unittest.TestCase):
    def test_a_nested_run_stays_strict_and_says_it_once(self):
        recorder = Recorder()
        inner = command("raw", recorder.port, strict=False)
        done = subprocess.run([*inner[:4], "--strict", "--", *inner], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=PATIENCE)
        self.assertEqual(json.loads(done.stdout), PastTheHooks.REFUSED)
        self.assertEqual(done.stderr.count(COST), 1, done.stderr)
        self.assertEqual(recorder.all(), b"")

    def test_the_filter_outlives_the_variables(self):
        recorder = Recorder()
        plain = command("raw", recorder.port, strict=True)
        at = plain.index("--") + 1
        # env(1) is under the hooks, which would put INLAY_STRICT back.
        drop = "import os, sys; os.environ['INLAY_STRICT'] = '0'; os.environ['LD_PRELOAD'] = ''; " \
            "os.execv(sys.argv[1], sys.argv[1:])"
        done = subprocess.run([*plain[:at], PYTHON, "-c", drop, *plain[at:]], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(json.loads(done.stdout), PastTheHooks.REFUSED)
        self.assertEqual(recorder.all(), b"")

    def test_where_there_is_no_room_for_the_gate_nothing_passes_and_the_log_says_why(self):
        recorder = Recorder()
        log = FOLDER / "bypass.jsonl"
        before = log.stat().st_size if log.exists() else 0
        occupied = [IN_THE_GATE if part is BYPASS else part
                    for part in command("raw connect between hooks", recorder.port, strict=True)]
        done = subprocess.run(occupied, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(json.loads(done.stdout)["socket"], "EACCES")
        self.assertEqual(recorder.all(), b"")
        self.assertIn("no room for the gate page", log.read_text()[before:])

    def test_doctor_says_what_strict_changes(self):
        config = FOLDER / "doctor.toml"
        config.write_text(config_text(CLIENT_ID))
        done = subprocess.run([INLAY, "doctor", "--config", config, BYPASS], capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertRegex(done.stdout, "(?m)^--strict .*sudo")
        done = subprocess.run([INLAY, "doctor", "--json", "--config", config, STATIC], capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertTrue(any("EACCES, even" in line for line in json.loads(done.stdout)["strict"]), done.stdout)


class Tap(Relay):
    """Passes bytes on as they come: what is in the clear is no record."""

    def pump(self, direction):
        source, sink = self.sides[direction]
        while data := source.recv(65536):
            self.seen[direction] += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class OnAManagedConnection(unittest.TestCase):
    """Calls of the program's own machine code on a connection that the hooks made: --strict changes nothing."""

    def go(self, way, strict):
        server = ServerVictim(SERVER_ID)
        relay = Tap(server.port, None)
        steps = go(way, relay.port, strict=strict)
        seen = relay.join()
        result = server.result(relay.server_side_port)
        server.child.kill()
        return steps, CANARY in seen["up"], bytes.fromhex(result["received"]), result["end"]

    def both(self, way, check):
        for strict in (False, True):
            with self.subTest(way, strict=strict):
                check(*self.go(way, strict))

    def test_syscall_the_function_is_hooked(self):
        def check(steps, in_the_clear, received, end):
            self.assertEqual(set(steps.values()), {"ok"}, steps)
            self.assertEqual((in_the_clear, received, end), (False, CANARY + b"on the copy", "eof"))

        self.both("managed syscall", check)

    def test_a_raw_write_leaves_in_the_clear_and_ends_the_connection(self):
        def check(steps, in_the_clear, received, end):
            self.assertEqual((steps["write"], steps["recv"]), ("ok", "ECONNRESET"))
            self.assertEqual((in_the_clear, received, end), (True, b"before", "ECONNRESET"))

        self.both("managed write", check)

    def test_a_raw_read_gets_ciphertext_and_ends_the_connection(self):
        def check(steps, in_the_clear, received, _):
            self.assertEqual((steps["read"], steps["what was read is no data"]), ("ok", "ok"))
            self.assertEqual(steps["recv"], "ECONNRESET")
            self.assertFalse(in_the_clear)
            self.assertTrue(received.startswith(b"before" + CANARY))

        self.both("managed read", check)

    def test_a_raw_copy_is_protected(self):
        def check(steps, in_the_clear, received, end):
            self.assertEqual(set(steps.values()), {"ok"}, steps)
            self.assertEqual((in_the_clear, received, end), (False, CANARY + b"both work", "eof"))

        self.both("managed dup", check)

    def test_after_a_raw_close_the_number_is_whose_it_is(self):
        def check(steps, in_the_clear, received, _):
            self.assertEqual(set(steps.values()), {"ok"}, steps)
            self.assertEqual((in_the_clear, received), (False, b"before"))

        self.both("managed close", check)


class Resolver(unittest.TestCase):
    """The C library's resolver makes sockets by itself: datagrams pass, TCP does not."""

    @staticmethod
    def answer(query):
        return query[:2] + b"\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + query[12:query.index(b"\0", 12) + 5] + \
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01"

    def serve(self):
        """A port of a name server, over UDP and TCP; and whether anything came over TCP."""
        while True:
            tcp, udp = listener(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                udp.bind(tcp.getsockname())
                break
            except OSError:
                tcp.close()
        came = []

        def over_udp():
            while True:
                try:
                    query, peer = udp.recvfrom(4096)
                except OSError:
                    return
                udp.sendto(self.answer(query), peer)

        def over_tcp():
            while True:
                try:
                    conn, _ = tcp.accept()
                except OSError:
                    return
                with conn:
                    data = conn.recv(4096)
                    came.append(data)
                    answer = self.answer(data[2:])
                    conn.sendall(len(answer).to_bytes(2, "big") + answer)

        for run in (over_udp, over_tcp):
            threading.Thread(target=run, daemon=True).start()
        return tcp, udp, came

    def test_names_are_looked_up_over_datagrams_only(self):
        for way, strict, query in (("resolver", False, "ok"), ("resolver", True, "ok"),
                                   ("resolver over TCP", False, "refused"), ("resolver over TCP", True, "refused")):
            with self.subTest(way, strict=strict):
                tcp, udp, came = self.serve()
                steps = go(way, tcp.getsockname()[1], strict=strict)
                self.assertEqual(came, [])
                self.assertEqual(steps["query"] == "ok", query == "ok", steps)
                tcp.close()
                udp.close()


if __name__ == "__main__":
    unittest.main()
