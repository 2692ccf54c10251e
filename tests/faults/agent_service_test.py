#!/usr/bin/env python3
"""The agent as a service: its socket's folder, reloading, systemd, its commands."""

import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import (AGENT, ALICE, ATTACH, BOB, ENTRIES, NOBODY, POLICY, PROBE, SNAPSHOT, STATUS, TEST, TEXT,
                           TRUST_DOMAIN, Agent, Client, Snapshot, WithAgent, as_user, attach_request, attached)
from support import INLAY, PATIENCE, until


class Sockets(unittest.TestCase):
    def setUp(self):
        self.agent = Agent(start=False)
        self.addCleanup(self.agent.close)

    def refused(self):
        self.agent.start(wait=False)
        self.assertEqual(self.agent.child.wait(PATIENCE), 1)
        return self.agent.child.stderr.read().decode()

    def test_a_folder_everyone_may_write_to(self):
        for mode in (0o777, 0o1777, 0o775):
            with self.subTest(mode=oct(mode)):
                shutil.rmtree(self.agent.socket.parent, ignore_errors=True)
                self.agent.socket.parent.mkdir()
                self.agent.socket.parent.chmod(mode)
                self.assertIn("run", self.refused())

    def test_a_folder_of_another_user(self):
        self.agent.socket.parent.mkdir()
        os.chown(self.agent.socket.parent, BOB, BOB)
        self.assertIn(f"belongs to user {BOB}", self.refused())

    def test_a_link_to_a_folder_of_another_user(self):
        other = self.agent.folder / "other"
        other.mkdir()
        os.chown(other, BOB, BOB)
        self.agent.socket.parent.symlink_to(other)
        self.assertIn(f"belongs to user {BOB}", self.refused())
        self.assertEqual(list(other.iterdir()), [])

    def test_something_else_with_the_sockets_name_is_left_alone(self):
        self.agent.socket.parent.mkdir()
        target = self.agent.folder / "precious"
        target.write_text("precious")
        self.agent.socket.symlink_to(target)
        self.assertIn("no socket has this name", self.refused())
        self.assertEqual(target.read_text(), "precious")

    def test_another_program_that_listens_is_left_alone(self):
        self.agent.socket.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(str(self.agent.socket))
            squatter.listen()
            self.assertIn("another program listens there", self.refused())

    def test_a_second_agent_does_not_take_the_socket(self):
        self.agent.start()
        second = subprocess.run([*map(str, (INLAY, "agent", "--config", self.agent.config))],
                                capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(second.returncode, 1)
        self.assertIn("another agent is running", second.stderr)
        self.assertTrue(self.agent.listens())

    def test_the_socket_of_a_killed_agent_is_taken_over(self):
        self.agent.start()
        first = as_user(ALICE, lambda: attached(self.agent)[1].epoch)
        self.agent.child.kill()
        self.agent.child.wait()
        self.agent.child.stderr.close()
        self.assertTrue(self.agent.socket.exists())
        self.agent.start()
        self.assertNotEqual(as_user(ALICE, lambda: attached(self.agent)[1].epoch), first)

    def test_it_ends_cleanly(self):
        self.agent.start()
        self.assertEqual(self.agent.stop(), 0)
        self.assertFalse(self.agent.socket.exists())


class Changes(unittest.TestCase):
    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.close)

    def reload(self):
        before = len(self.agent.events(event="agent"))
        self.agent.child.send_signal(signal.SIGHUP)
        return until(lambda: self.agent.events(event="agent")[before:], "a word about the reload")[0]

    def test_a_bad_configuration_changes_nothing(self):
        self.agent.config.write_text("trust_domain = 1")
        self.assertEqual(self.reload()["level"], "error")
        as_user(ALICE, lambda: bool(attached(self.agent)))
        self.assertIn("agent.toml", Client(self.agent).ask(STATUS)[1].decode())

    def test_a_log_that_was_moved_away_is_made_anew_with_the_next_line(self):
        moved = self.agent.folder / "audit.jsonl.1"
        self.assertEqual(as_user(NOBODY, lambda: Client(self.agent).refusal(ATTACH, attach_request())), "no-entry")
        self.agent.log.rename(moved)  # as logrotate does
        self.assertEqual(as_user(BOB, lambda: bool(attached(self.agent))), True)
        self.agent.audited(event="attached", uid=BOB)
        self.assertEqual(self.agent.events(uid=NOBODY), [])
        self.assertEqual(self.agent.log.stat().st_mode & 0o777, 0o640 & ~0o022)
        self.assertIn('"no-entry"', moved.read_text())
        self.assertNotIn("attached", moved.read_text())

    def test_a_new_policy_reaches_who_is_attached(self):
        ready, reloaded = socket.socketpair()

        def work():
            client, first = attached(self.agent)
            ready.sendall(b"x")
            frame, body, fd, request = client.receive()
            news = Snapshot(body, fd)
            return [frame, request, news.generation > first.generation, news.policy != first.policy,
                    news.svid == first.svid]
        pid = os.fork()
        if pid == 0:
            reloaded.recv(1)
            (self.agent.folder / "policy.toml").write_text(POLICY.replace('outbound = "deny"',
                                                                          'outbound = "strict"'))
            os.kill(self.agent.child.pid, signal.SIGHUP)
            os._exit(0)
        self.assertEqual(as_user(ALICE, work), [SNAPSHOT, 0, True, True, True])
        os.waitpid(pid, 0)

    def test_who_has_no_entry_any_more_is_told_when_it_asks(self):
        ready, reloaded = socket.socketpair()

        def work():
            client, _ = attached(self.agent)
            ready.sendall(b"x")
            gone = client.receive()
            return [gone, Client(self.agent).refusal(ATTACH, attach_request())]
        pid = os.fork()
        if pid == 0:
            reloaded.recv(1)
            self.agent.write_config(entries=ENTRIES.replace(str(BOB), str(NOBODY)))
            os.kill(self.agent.child.pid, signal.SIGHUP)
            os._exit(0)
        self.assertEqual(as_user(BOB, work), [None, "no-entry"])
        os.waitpid(pid, 0)
        self.agent.audited(event="refused", request="news", reason="no-entry", uid=BOB)


    def test_what_is_taken_at_the_start_alone_is_not_half_taken(self):
        self.agent.write_config(top="[svid]\nttl = '2h'", entries=ENTRIES.replace(str(BOB), str(NOBODY)))
        told = self.reload()
        self.assertEqual(told["level"], "error")
        self.assertIn("restart the agent", told["message"])
        self.assertIsNone(as_user(BOB, lambda: attached(self.agent) and None))
        self.assertEqual(as_user(NOBODY, lambda: Client(self.agent).refusal(ATTACH, attach_request())), "no-entry")


class OfAUser(unittest.TestCase):
    def test_the_agent_of_a_plain_user_is_his_alone_and_its_memory_not_even_his(self):
        agent = Agent(entries=f'[[entry]]\nid = "spiffe://{TRUST_DOMAIN}/alice"\nuid = {ALICE}\n', start=False,
                      prefix=("setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"))
        self.addCleanup(agent.close)
        for path in (agent.folder, *agent.folder.rglob("*")):
            os.chown(path, ALICE, ALICE)
        agent.start()
        pid = agent.child.pid
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        self.assertRegex(limits, r"Max core file size +0 +0 ")

        def look(other):
            """Whether the other's memory can be read, and its debugger be become."""
            try:
                with open(f"/proc/{other}/mem", "rb"):
                    memory = True
            except PermissionError:
                memory = False
            return [memory, ctypes.CDLL(None).ptrace(0x4206, other, None, None) == 0]  # PTRACE_SEIZE
        self.assertEqual(as_user(ALICE, look, pid), [False, False])
        sleeper = subprocess.Popen(["sleep", "1000"], user=ALICE, group=ALICE, extra_groups=[])
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        self.assertEqual(as_user(ALICE, look, sleeper.pid), [True, True], "the control: another process of hers")

        def reaches():
            try:
                return bool(Client(agent))
            except PermissionError:
                return False
        self.assertTrue(as_user(ALICE, lambda: bool(attached(agent))))
        self.assertFalse(as_user(BOB, reaches))
        self.assertEqual(agent.socket.stat().st_mode & 0o777, 0o600)


class Systemd(unittest.TestCase):
    def test_it_takes_the_socket_and_tells_of_itself(self):
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        agent.socket.parent.mkdir()
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(told.close)
        told.settimeout(PATIENCE)
        told.bind(str(agent.folder / "notify"))
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(agent.socket))
        listener.listen()
        os.chmod(agent.socket, 0o666)
        script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        os.set_inheritable(listener.fileno(), True)
        agent.prefix = ("bash", "-c", script, str(listener.fileno()))
        agent.child = subprocess.Popen([*agent.prefix, str(AGENT),
                                        "--config", str(agent.config)], close_fds=False,
                                       stderr=subprocess.PIPE,
                                       env={**os.environ, "NOTIFY_SOCKET": str(agent.folder / "notify"),
                                            "WATCHDOG_USEC": "2000000"})

        def wait_for(word):
            while True:
                text = told.recv(4096).decode()
                if word in text:
                    return text
        self.assertIn("STATUS=", wait_for("READY=1"))
        as_user(ALICE, lambda: bool(attached(agent)))
        wait_for("WATCHDOG=1")
        agent.child.send_signal(signal.SIGHUP)
        self.assertIn("MONOTONIC_USEC=", wait_for("RELOADING=1"))
        wait_for("READY=1")
        self.assertEqual(agent.stop(), 0)
        wait_for("STOPPING=1")
        self.assertTrue(agent.socket.exists())  # systemd's


    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
    def test_the_unit_files_are_good(self):
        units = pathlib.Path(__file__).resolve().parents[2] / "tools" / "systemd"
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        for name, scope in (("inlay-agent.service", "--system"), ("inlay-agent.user.service", "--user")):
            with self.subTest(name):
                text = (units / f"{name}.in").read_text().replace("@bindir@", str(AGENT.parent))
                (agent.folder / "inlay-agent.service").write_text(text)
                shutil.copy(units / "inlay-agent.socket", agent.folder)
                done = subprocess.run(["systemd-analyze", scope, "--man=no", "verify",
                                       agent.folder / "inlay-agent.service"], capture_output=True, text=True,
                                      env={**os.environ, "XDG_RUNTIME_DIR": str(agent.folder)})
                ours = [line for line in done.stderr.splitlines() if "inlay" in line]
                self.assertEqual((done.returncode, ours), (0, []), done.stderr)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
    def test_the_unit_of_the_system_stays_as_confined_as_it_is(self):
        units = pathlib.Path(__file__).resolve().parents[2] / "tools" / "systemd"
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        unit = agent.folder / "inlay-agent.service"
        unit.write_text((units / "inlay-agent.service.in").read_text().replace("@bindir@", str(AGENT.parent)))
        # In tenths; 2.9 with systemd 252, where "OK" begins at 5 and lower is better.
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", unit],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Metrics(unittest.TestCase):
    def test_refusals_and_signatures_are_counted(self):
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        listen = agent.folder / "run" / "metrics.sock"
        agent.write_config(top=f'[metrics]\nlisten = "unix://{listen}"')
        agent.start()
        as_user(NOBODY, lambda: Client(agent).refusal(ATTACH, attach_request()))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(listen))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
            text = b""
            while more := client.recv(65536):
                text += more
        self.assertRegex(text.decode(), r'no-entry"\} 1\n')


class Privileged(unittest.TestCase):
    def test_T68_a_set_user_id_program_asks_no_agent_that_its_environment_names(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-suid-"))
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "inlay").mkdir()
        program = folder / "program"
        shutil.copy(INLAY, program)
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(folder / "inlay" / "agent.sock"))
        listener.listen()
        listener.setblocking(False)
        os.chmod(folder / "inlay" / "agent.sock", 0o666)
        address = f"unix://{folder}/inlay/agent.sock"

        def asks(mode):
            """Whether it connects; a connection is closed at once, so that it ends."""
            program.chmod(mode)
            child = subprocess.Popen([program, "status"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     user=ALICE, group=ALICE, extra_groups=[], env={
                                         "XDG_RUNTIME_DIR": str(folder), "INLAY_CONFIG": address,
                                         "SPIFFE_ENDPOINT_SOCKET": address})
            asked = False
            while child.poll() is None or select.select([listener], [], [], 0)[0]:
                if select.select([listener], [], [], 0.01)[0]:
                    listener.accept()[0].close()
                    asked = True
            return asked
        self.assertTrue(asks(0o755), "the control: without the bit it asks there")
        self.assertFalse(asks(0o4755))


class Commands(WithAgent):
    def entries_test(self, *words, uid=0):
        def work():
            done = subprocess.run([str(INLAY), "agent", "entries", "test", "--socket",
                                   f"unix://{self.agent.socket}", *words], capture_output=True, text=True)
            return [done.returncode, done.stdout, done.stderr]
        return as_user(uid, work)

    def test_it_says_which_entry_matches_and_why_others_do_not(self):
        sleeper = subprocess.Popen(["sleep", "1000"], user=BOB)
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        code, out, _ = self.entries_test("--pid", str(sleeper.pid))
        self.assertEqual(code, 0)
        self.assertIn(f"entry 2 spiffe://{TRUST_DOMAIN}/bob: matches", out)
        self.assertIn(f"no  user {ALICE}; it has {BOB}", out)
        self.assertIn(f"it is spiffe://{TRUST_DOMAIN}/bob", out)
        code, out, _ = self.entries_test("--pid", str(sleeper.pid), "--json")
        self.assertEqual(json.loads(out)["spiffe_id"], f"spiffe://{TRUST_DOMAIN}/bob")
        code, out, _ = self.entries_test("--pid", str(os.getpid()))
        self.assertEqual(code, 1)
        self.assertIn("it gets nothing", out)

    def test_it_is_for_root_and_the_agents_user_alone(self):
        body = struct.pack("=I", os.getpid())
        self.assertEqual(as_user(BOB, lambda: Client(self.agent).refusal(TEST, body)), "not-permitted")
        self.assertEqual(Client(self.agent).ask(TEST, body)[0], TEXT)

    def test_a_launcher_learns_whether_a_program_would_have_an_entry(self):
        python = os.path.realpath(sys.executable).encode()

        def work():
            client = Client(self.agent)
            return [client.ask(PROBE, python)[1].decode(), client.refusal(PROBE, b"/usr/bin/env"),
                    client.refusal(PROBE, b"/no/such/program"), client.refusal(PROBE, b"/usr/bin"),
                    client.refusal(PROBE, b"python3"), client.refusal(PROBE, b"")]
        self.assertEqual(as_user(ALICE, work), [f"spiffe://{TRUST_DOMAIN}/alice"] + ["no-entry"] * 3 +
                         ["malformed"] * 2)

    def test_check(self):
        check = [str(INLAY), "agent", "check", "--config"]
        good = subprocess.run([*check, self.agent.config], capture_output=True, text=True)
        self.assertEqual((good.returncode, good.stdout), (0, f"good: 3 entries of {TRUST_DOMAIN}\n"))
        bad = self.agent.folder / "bad.toml"
        bad.write_text("trust_domain = 1\n")
        result = subprocess.run([*check, bad], capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{bad}:1:", result.stderr)

    def test_status_shows_a_user_its_own(self):
        ready, done = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            def hold():
                kept = attached(self.agent)
                ready.sendall(b"x")
                ready.recv(1)
                return bool(kept)
            as_user(ALICE, hold)
            os._exit(0)
        done.recv(1)
        everything = Client(self.agent).ask(STATUS)[1].decode()
        self.assertIn(f"spiffe://{TRUST_DOMAIN}/alice", everything)
        bobs = as_user(BOB, lambda: Client(self.agent).ask(STATUS)[1].decode())
        self.assertNotIn("alice", bobs)
        done.sendall(b"x")
        os.waitpid(pid, 0)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root can be several users; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
