#!/usr/bin/env python3
"""inlay-agent's units, as they are shipped, under a live systemd; programs that live through what becomes of it."""

import json
import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from live_systemd import Machine, skip_unless_available
from support import CANARY, GREETING, SERVER, until
from units_support import HOLDER, Program, SOCKET, policy, users_agent

DOMAIN = "units.test"


def make_machine(config=""):
    """With an agent that is configured, and has not been started."""
    machine = Machine()
    inlay = machine.installed("bin/inlay")
    try:
        machine.do(inlay, "ca", "init", "--dir", "/etc/inlay/authority", "--trust-domain", DOMAIN)
        text = f'trust_domain = "{DOMAIN}"\n{config}'
        for name in ("server", "client", "hasty"):
            machine.do(inlay, "ca", "issue", "--dir", "/etc/inlay/authority", "--id", f"spiffe://{DOMAIN}/{name}",
                       "--out", f"/etc/inlay/{name}")
            text += (f'[[source.svid]]\nsvid = "{name}/svid.pem"\nkey = "{name}/key.pem"\nbundle = "{name}/bundle.pem"\n'
                     f'[[entry]]\nid = "spiffe://{DOMAIN}/{name}"\nunit = "{name}.service"\npolicy = "{name}.toml"\n')
        text += (f'[[entry]]\nid = "spiffe://{DOMAIN}/client"\npolicy = "client.toml"\n'
                 'cgroup = "/**/grouped-*.service"\ngroup = "daemon"\ngroups = ["adm", "audio"]\n')
        machine.write("/etc/inlay/agent.toml", text)
        for name, patience in (("server", "60s"), ("client", "60s"), ("hasty", "1s")):
            machine.write(f"/etc/inlay/{name}.toml", policy(DOMAIN, patience=patience))
    except BaseException:
        machine.close()
        raise
    return machine


class SystemUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = make_machine()
        cls.addClassCleanup(cls.machine.close)

    def setUp(self):
        self.machine.systemctl("start", "inlay-agent.service")
        self.addCleanup(self.machine.run, "systemctl", "reset-failed", "inlay-agent.service", "inlay-agent.socket")

    def program(self, *words, **options):
        program = Program(self.machine, *words, **options)
        self.addCleanup(program.stop)
        return program

    def server(self):
        server = self.program("server", SERVER, GREETING.decode())
        server.port = server.line()["port"]
        return server

    def pid(self):
        return self.machine.main_pid("inlay-agent.service")

    def kill(self, number, pid=None):
        self.machine.do("kill", f"-{int(number)}", pid or self.pid())

    def test_services_are_given_the_identity_of_their_unit_through_the_standard_socket(self):
        server, client = self.server(), self.program("client", HOLDER)
        self.assertEqual(client.open("first", server.port), {"got": GREETING.decode() + "hello"})
        status = json.loads(self.machine.do("inlay", "status", "--json"))
        self.assertEqual({identity["spiffe_id"] for identity in status["identities"]},
                         {f"spiffe://{DOMAIN}/{name}" for name in ("server", "client", "hasty")})

    def test_a_unit_without_an_entry_gets_nothing(self):
        server = self.server()
        stranger = self.machine.run("systemd-run", "--quiet", "--pipe", "--wait", "--unit=stranger",
                                    self.machine.installed("bin/inlay"), "run", "--", "/usr/bin/true")
        self.assertEqual(stranger.returncode, 125, stranger.stderr)
        self.assertIn("no entry matches this process", stranger.stderr)
        plain = self.program("plain", HOLDER, inlay=False)
        self.assertIn("error", plain.open("first", server.port))

    def test_all_of_a_cgroup_and_groups_must_match(self):
        for unit, group, groups, good in (("grouped-1", "daemon", "adm audio games", True), ("grouped-2", "daemon", "adm", False),
                                          ("grouped-3", "nogroup", "adm audio", False),
                                          ("ungrouped", "daemon", "adm audio", False)):
            with self.subTest(unit):
                done = self.machine.run("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}",
                                        f"--property=Group={group}", f"--property=SupplementaryGroups={groups}",
                                        self.machine.installed("bin/inlay"), "run", "--", "/usr/bin/true")
                self.assertEqual(done.returncode, 0 if good else 125, done.stderr)
                if not good:
                    self.assertIn("no entry matches this process", done.stderr)

    def test_a_client_finds_the_agent_at_its_standard_socket(self):
        told = self.machine.run("inlay", "doctor", "--json", "/usr/bin/python3")
        self.assertEqual(json.loads(told.stdout)["config"], {"file": f"unix://{SOCKET}", "error": ""})
        self.assertIn("no entry matches this process", told.stdout)  # said by the agent itself
        self.assertIn(SOCKET, self.machine.do("inlay", "status"))

    def test_it_tells_systemd_that_it_is_ready_and_how_it_is(self):
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState"), "active")
        self.assertIn(f"4 entries of {DOMAIN}", self.machine.property("inlay-agent.service", "StatusText"))

    def test_programs_of_every_user_have_a_place_for_their_logs(self):
        self.assertEqual(self.machine.do("stat", "--format=%a %U", "/run/inlay/log"), "1777 root\n")

    def test_a_reload_reaches_it(self):
        self.machine.systemctl("reload", "inlay-agent.service")
        until(lambda: "reloaded: 4 entries" in self.machine.journal("inlay-agent.service"), "a word about the reload")
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState"), "active")

    def test_the_first_who_asks_starts_it(self):
        self.machine.systemctl("stop", "inlay-agent.service")
        self.assertEqual(self.machine.property("inlay-agent.socket", "SubState"), "listening")
        server, client = self.server(), self.program("client", HOLDER)
        self.assertEqual(client.open("first", server.port), {"got": GREETING.decode() + "hello"})
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState"), "active")

    def test_one_that_hangs_is_started_again(self):
        self.machine.write("/etc/systemd/system/inlay-agent.service.d/soon.conf", "[Service]\nWatchdogSec=2\n")
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("restart", "inlay-agent.service")
        first = self.pid()
        self.kill(signal.SIGSTOP, first)
        until(lambda: self.pid() not in (0, first) and
              self.machine.property("inlay-agent.service", "ActiveState") == "active", "systemd starts it again")
        until(lambda: "watchdog" in self.machine.journal("inlay-agent.service").lower(), "the reason in the journal")
        self.machine.do("rm", "-r", "/etc/systemd/system/inlay-agent.service.d")
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("restart", "inlay-agent.service")

    def test_another_version_takes_over_under_running_programs(self):
        server, client = self.server(), self.program("client", HOLDER)
        self.assertIn("got", client.open("first", server.port))
        first, path = self.pid(), self.machine.path("installed" + self.machine.installed("bin/inlay-agent"))
        fresh = path.with_suffix(".new")
        fresh.write_bytes(path.read_bytes() + b"another version")
        fresh.chmod(0o755)
        os.replace(fresh, path)
        self.assertIn("(deleted)", self.machine.do("readlink", f"/proc/{first}/exe"))
        self.machine.systemctl("restart", "inlay-agent.service")
        self.assertNotIn("(deleted)", self.machine.do("readlink", f"/proc/{self.pid()}/exe"))
        self.assertEqual(client.use("first"), {"got": "again"})
        self.assertEqual(client.open("second", server.port), {"got": GREETING.decode() + "hello"})

    def test_killed_while_a_handshake_waits_for_its_signature(self):
        server, client = self.server(), self.program("client", HOLDER)
        self.assertIn("got", client.open("first", server.port))
        first = self.pid()
        self.kill(signal.SIGSTOP, first)
        client.tell(open="second", port=server.port, say="hello", enough=len(GREETING) + len("hello"))

        def asked():
            """Whether a request lies unread at the agent: bytes in one of its connections' queues."""
            queues = self.machine.do("ss", "-xH", "state", "connected", "src", SOCKET).splitlines()
            return any(int(line.split()[2]) > 0 for line in queues)
        until(asked, "the server asks for a signature")
        self.kill(signal.SIGKILL, first)
        # Its keys are files, so the one that comes after it can sign what was waiting.
        self.assertEqual(client.line(), {"got": GREETING.decode() + "hello"})
        self.assertNotEqual(self.pid(), first)
        self.assertEqual(client.use("first"), {"got": "again"})
        self.assertEqual(client.open("third", server.port), {"got": GREETING.decode() + "hello"})

    def test_away_for_good_it_is_missed_by_new_connections_alone(self):
        server, client, hasty = self.server(), self.program("client", HOLDER), self.program("hasty", HOLDER)
        self.assertIn("got", client.open("first", server.port))
        self.machine.systemctl("stop", "inlay-agent.service", "inlay-agent.socket")
        self.assertEqual(client.use("first"), {"got": "again"})
        self.assertEqual(hasty.open("second", server.port), {"error": "ECONNRESET"})
        self.machine.systemctl("start", "inlay-agent.socket")
        self.assertEqual(client.open("third", server.port), {"got": GREETING.decode() + "hello"})


class UserUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = make_machine()
        cls.addClassCleanup(cls.machine.close)
        cls.machine.add_lingering_user("alice")

    def test_a_plain_users_agent_serves_that_users_programs(self):
        socket = users_agent(self.machine, "alice", DOMAIN)
        self.machine.systemctl("enable", "--now", "inlay-agent.service", user="alice")
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState", user="alice"), "active")
        self.assertIn(socket, self.machine.do("inlay", "status", user="alice"))
        talk = ("import socket, threading\n"
                "listener = socket.create_server(('127.0.0.1', 0))\n"
                "client = socket.create_connection(listener.getsockname())\n"
                "conn, _ = listener.accept()\n"
                "threading.Thread(target=lambda: print(conn.recv(100).decode())).start()\n"
                f"client.sendall({CANARY!r})\n")
        self.assertEqual(self.machine.do("inlay", "run", "--", "/usr/bin/python3", "-c", talk, user="alice"),
                         CANARY.decode() + "\n")
        self.machine.reboot()
        until(lambda: self.machine.run("inlay", "status", user="alice").returncode == 0, "it is there after a reboot")


if __name__ == "__main__":
    skip_unless_available()
    unittest.main(warnings="ignore")
