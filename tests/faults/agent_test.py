#!/usr/bin/env python3
"""Hostile local users against a real inlay-agent: refused, audited with a reason, nobody else disturbed."""

import ctypes
import fcntl
import mmap
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import (ALICE, ATTACH, BOB, FLOODER, NOBODY, PROBE, REFUSED, SIGN, SIGNATURE, SNAPSHOT,
                           STATUS, TEST, TRACED, TRUST_DOMAIN, Client, WithAgent, as_user, attach_request,
                           attached, header, sign_request, verify_input)
from support import until

LIBC = ctypes.CDLL(None, use_errno=True)
MANY = 600  # connections, well above what may wait


class Hostile(WithAgent):
    def assert_alice_is_served(self):
        def work():
            client, snapshot = attached(self.agent)
            return client.sign(snapshot.key)
        self.assertEqual(as_user(ALICE, work), f"frame {SIGNATURE}")


class Oracle(Hostile):
    def test_a_handshake_of_its_own_is_signed(self):
        def work():
            client, snapshot = attached(self.agent)
            _, signature, _ = client.ask(SIGN, sign_request(snapshot.key, verify_input()))
            return [signature.hex(), snapshot.public_key().hex(), snapshot.spiffe_id()]
        signature, key, name = as_user(ALICE, work)
        self.assertEqual(name, f"spiffe://{TRUST_DOMAIN}/alice")
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "key").write_bytes(bytes.fromhex(key))
        (folder / "signature").write_bytes(bytes.fromhex(signature))
        subprocess.run(["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify", folder / "key",
                        "-signature", folder / "signature"], input=verify_input(), check=True,
                       capture_output=True)
        line = self.agent.audited(event="signature", uid=ALICE)
        self.assertEqual(line["spiffe_id"], name)
        self.assertEqual(line["role"], "client")
        self.assertTrue(line["executable"].startswith("/"))

    def test_T61_it_signs_nothing_but_a_certificate_verify(self):
        good = verify_input()
        rows = [("arbitrary bytes", b"A" * len(good), {}),
                ("nothing", b" ", {}),
                ("63 spaces", good[1:], {}),
                ("another prefix", b"\0" + good[1:], {}),
                ("another context", good.replace(b"TLS 1.3", b"TLS 1.2"), {}),
                ("another role", good.replace(b"client", b"sender"), {}),
                ("no NUL", good.replace(b"\0", b"x"), {}),
                ("a longer hash", good + b"\x11", {}),
                ("a hash of 48 said to be 32", verify_input(digest=b"1" * 48), {}),
                ("a hash of 20", verify_input(digest=b"1" * 20), {"hash_length": 20}),
                ("another scheme", good, {"scheme": 0x0804}),
                ("PKCS #1", good, {"scheme": 0x0401})]

        def work():
            client, snapshot = attached(self.agent)
            return [client.refusal(SIGN, sign_request(snapshot.key, data, **options))
                    for _, data, options in rows]
        for (what, _, _), result in zip(rows, as_user(ALICE, work)):
            with self.subTest(what):
                self.assertEqual(result, "not-a-handshake")
        self.agent.audited(event="refused", request="sign", reason="not-a-handshake", uid=ALICE)

    def test_T61_nobody_signs_with_anothers_key(self):
        key = as_user(ALICE, lambda: attached(self.agent)[1].key.hex())

        def work():
            client, _ = attached(self.agent)
            return client.sign(bytes.fromhex(key))
        self.assertEqual(as_user(BOB, work), "unknown-key")
        self.agent.audited(event="refused", reason="unknown-key", uid=BOB,
                           spiffe_id=f"spiffe://{TRUST_DOMAIN}/bob")
        self.assertEqual(as_user(NOBODY, lambda: Client(self.agent).sign(bytes.fromhex(key))), "no-entry")
        self.agent.audited(event="refused", request="sign", reason="no-entry", uid=NOBODY)

    def test_T61_a_passed_connection_is_whose_process_writes_on_it(self):
        ours, theirs = socket.socketpair()

        def give():
            client, snapshot = attached(self.agent)
            socket.send_fds(ours, [snapshot.key], [client.socket.fileno()])
            return True
        as_user(ALICE, give)

        def use():
            key, fds, _, _ = socket.recv_fds(theirs, 32, 1)
            return Client(self.agent, socket.socket(fileno=fds[0])).sign(key)
        self.assertEqual(as_user(NOBODY, use), "no-entry")
        self.agent.audited(event="refused", request="sign", reason="no-entry", uid=NOBODY)

    def test_T61_a_traced_process_gets_nothing_where_its_entry_says_so(self):
        go, told = os.pipe()

        def work():
            first = Client(self.agent)
            snapshot = first.attach()
            os.write(told, str(os.getpid()).encode())
            os.kill(os.getpid(), signal.SIGSTOP)
            return [first.sign(snapshot.key), Client(self.agent).refusal(ATTACH, attach_request())]
        tracer = os.fork()
        if tracer == 0:
            pid = int(os.read(go, 16))
            LIBC.ptrace(0x4206, pid, None, None)  # PTRACE_SEIZE
            os.kill(pid, signal.SIGCONT)
            LIBC.ptrace(7, pid, None, None)
            while True:
                try:
                    _, status = os.waitpid(pid, 0)
                except ChildProcessError:
                    os._exit(0)
                if os.WIFEXITED(status):
                    os._exit(0)
                LIBC.ptrace(7, pid, None, None)  # PTRACE_CONT
        self.assertEqual(as_user(TRACED, work), ["traced", "traced"])
        os.waitpid(tracer, 0)
        self.agent.audited(event="refused", request="sign", reason="traced", uid=TRACED)

    def test_T61_a_program_that_executes_another_after_attaching_is_that_other(self):
        copy = self.agent.folder / "other"
        shutil.copy(os.path.realpath("/proc/self/exe"), copy)
        copy.chmod(0o755)

        def work():
            client, snapshot = attached(self.agent)
            os.set_inheritable(client.socket.fileno(), True)
            client.socket.settimeout(None)  # the other program reads without waiting for it first
            program = ("import os,sys\nfd=int(sys.argv[1])\nos.write(fd, bytes.fromhex(sys.argv[2]))\n"
                       "print(os.read(fd, 4096).hex())")
            data = sign_request(snapshot.key, verify_input())
            result = subprocess.run([copy, "-c", program, str(client.socket.fileno()),
                                     (header(SIGN, len(data), 7) + data).hex()],
                                    close_fds=False, capture_output=True, text=True, check=True)
            return result.stdout.strip()
        answer = bytes.fromhex(as_user(ALICE, work))
        self.assertEqual(struct.unpack_from("=H", answer, 6)[0], REFUSED)
        self.agent.audited(event="refused", request="sign", reason="no-entry", executable=str(copy))


    def test_what_one_process_is_given_it_cannot_change_for_others(self):
        """Whoever has the same entry gets the same memory."""
        def work():
            _, _, fd = Client(self.agent).ask(ATTACH, attach_request())
            attempts = [lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 1 << 20), lambda: os.ftruncate(fd, 1),
                        lambda: mmap.mmap(fd, 1, mmap.MAP_SHARED, mmap.PROT_WRITE),
                        lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)]
            fds = [fd]
            try:
                fds.append(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
            except PermissionError:
                pass
            done = []
            for fd in fds:
                for attempt in attempts:
                    try:
                        attempt()
                        done.append(attempts.index(attempt))
                    except OSError:
                        pass
            return done
        self.assertEqual(as_user(ALICE, work), [])

    def test_a_launcher_cannot_find_out_what_files_there_are(self):
        """The agent sees folders that whoever asks does not."""
        hidden = self.agent.folder / "hidden"
        hidden.mkdir(mode=0o700)
        (hidden / "file").write_bytes(b"")

        def work():
            client = Client(self.agent)
            return [client.ask(PROBE, str(hidden / name).encode())[1].hex() for name in ("file", "none")]
        there, not_there = as_user(ALICE, work)
        self.assertEqual(there, not_there)


class Gone(Hostile):
    """While the agent is stopped, whoever has asked ends."""

    def ask_and_end(self, then=lambda pid: None):
        def work():
            client, snapshot = attached(self.agent)
            asked, ready = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(asked, 1)
                client.send(SIGN, sign_request(snapshot.key, verify_input()))
                os._exit(0)
            return_to.sendall(str(pid).encode())
            return_to.recv(1)  # the agent is stopped
            os.write(ready, b"x")
            os.waitpid(pid, 0)
            return_to.sendall(b"e")
            return_to.recv(1)  # the agent goes on
            return client.receive()[0]
        return_to, ours = socket.socketpair()
        agent = self.agent.child.pid
        conductor = os.fork()
        if conductor == 0:
            pid = int(ours.recv(16))
            os.kill(agent, signal.SIGSTOP)
            until(lambda: "T" in pathlib.Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[0],
                  "the agent is stopped")
            ours.sendall(b"s")
            ours.recv(1)
            child = then(pid)
            os.kill(agent, signal.SIGCONT)
            ours.sendall(b"c")
            if child:
                os.read(child[1], 1)
                os.kill(child[0], signal.SIGKILL)
            os._exit(0)
        end_of_conductor = return_to  # kept open here
        try:
            return as_user(ALICE, work)
        finally:
            end_of_conductor.close()
            ours.close()
            os.waitpid(conductor, 0)

    def test_T61_a_process_that_has_ended_gets_nothing(self):
        self.assertEqual(self.ask_and_end(), REFUSED)
        self.agent.audited(event="refused", request="sign", reason="process-gone")

    def test_T61_a_reused_pid_is_not_the_one_that_asked(self):
        before = len(self.agent.events(event="refused", request="sign", reason="process-gone"))
        took = self.agent.folder / "took"

        def take_over(pid):
            """A process of alice's with that pid, which would be given what the other asked for."""
            class CloneArguments(ctypes.Structure):
                _fields_ = [(name, ctypes.c_uint64) for name in (
                    "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
                    "tls", "set_tid", "set_tid_size", "cgroup")]
            tid = ctypes.c_int32(pid)
            wanted = CloneArguments(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(tid), set_tid_size=1)
            up, down = os.pipe()
            made = LIBC.syscall(435, ctypes.byref(wanted), ctypes.sizeof(wanted))  # clone3
            if made == 0:
                os.setresuid(ALICE, ALICE, ALICE)
                LIBC.prctl(4, 1, 0, 0, 0)
                os.close(down)
                signal.pause()
                os._exit(0)
            took.write_text(str(made))
            return None
        self.assertEqual(self.ask_and_end(take_over), REFUSED)
        if took.read_text() == "-1":
            self.skipTest("the kernel lets nobody choose a pid")
        os.kill(int(took.read_text()), signal.SIGKILL)
        self.assertGreater(len(self.agent.events(event="refused", request="sign", reason="process-gone")),
                           before)


class Floods(Hostile):
    def test_a_request_of_100_mb_is_cut_off_at_its_header(self):
        def memory():
            text = pathlib.Path(f"/proc/{self.agent.child.pid}/status").read_text()
            return int(text.split("VmRSS:")[1].split()[0])
        before = memory()

        def work():
            client = Client(self.agent)
            client.socket.sendall(header(SIGN, 100 << 20))
            return client.end()
        self.assertEqual(as_user(BOB, work), "")
        self.assertLess(memory() - before, 20 << 10)
        self.agent.audited(event="cut-off", reason="malformed", uid=BOB,
                           detail="a request longer than any can be")
        self.assert_alice_is_served()

    def test_what_is_not_of_the_protocol_is_cut_off(self):
        rows = [("not of the protocol", b"\0" * 16), ("not of the protocol", b"GET / HTTP/1.1\r\n\r\n"),
                ("not of the protocol", header(ATTACH, 0, magic=0x494C4E49)),
                ("of another version of the protocol", header(ATTACH, 0, version=9)),
                ("a request without a number", header(ATTACH, 0, request=0))]

        def work():
            ends = []
            for _, data in rows:
                client = Client(self.agent)
                client.socket.sendall(data)
                ends.append(client.end())
            return ends
        self.assertEqual(as_user(BOB, work), [""] * len(rows))
        for detail in {row[0] for row in rows}:
            self.agent.audited(event="cut-off", reason="malformed", uid=BOB, detail=detail)

        def strange():
            client = Client(self.agent)
            return [client.refusal(99), client.refusal(ATTACH, b"short"), client.refusal(SIGN, b"short"),
                    client.refusal(TEST, b"x"), client.refusal(SNAPSHOT, b"")]
        self.assertEqual(as_user(BOB, strange), ["malformed"] * 5)

    def test_descriptors_with_a_request_are_closed_and_it_is_cut_off(self):
        def work():
            client = Client(self.agent)
            end, other = os.pipe()
            socket.send_fds(client.socket, [header(ATTACH, 32) + attach_request()], [other] * 3)
            os.close(other)
            cut = client.end()
            return [cut, os.read(end, 1).hex()]  # the end: nobody has the pipe any more
        self.assertEqual(as_user(BOB, work), ["", ""])
        self.agent.audited(event="cut-off", detail="descriptors came with the request")

    def test_one_request_has_one_writer(self):
        data = header(ATTACH, 32) + attach_request()

        def work():
            client = Client(self.agent)
            client.socket.sendall(data[:20])
            pid = os.fork()
            if pid == 0:
                client.socket.sendall(data[20:])
                os._exit(0)
            os.waitpid(pid, 0)
            return client.end()
        self.assertEqual(as_user(BOB, work), "")
        self.agent.audited(event="cut-off", detail="two processes wrote parts of one request")

    def test_a_slow_sender_and_a_silent_one_are_cut_off(self):
        def work():
            slow, silent = Client(self.agent), Client(self.agent)
            slow.socket.sendall(header(ATTACH, 32)[:5])
            return [slow.end(), silent.end()]
        self.assertEqual(as_user(BOB, work), ["", ""])
        self.agent.audited(event="cut-off", uid=BOB, detail="no whole request within 5 s")

    def test_who_takes_no_answers_is_cut_off(self):
        def work():
            client = Client(self.agent)
            client.socket.setblocking(False)
            try:
                while True:
                    client.socket.send(header(STATUS, 0))
            except BlockingIOError:
                pass
            until(lambda: self.agent.events(event="cut-off", uid=BOB, detail="it does not take its answer"),
                  "the end of who takes no answers")
            return True
        self.agent.log.chmod(0o644)
        as_user(BOB, work)
        self.assert_alice_is_served()

    def test_many_connections_of_one_user_leave_room_for_others(self):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (MANY + 100, MANY + 100))
            os.setresuid(FLOODER, FLOODER, FLOODER)
            kept = [Client(self.agent) for _ in range(MANY)]
            for client in kept:
                try:
                    client.socket.sendall(b"I")
                except OSError:
                    pass
            theirs.sendall(b"x")
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        ours.recv(1)
        self.assert_alice_is_served()
        self.agent.audited(event="cut-off", reason="rate-limited", uid=FLOODER)
        ours.close()
        os.waitpid(pid, 0)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root can be several users; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
