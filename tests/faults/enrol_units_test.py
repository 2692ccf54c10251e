#!/usr/bin/env python3
"""inlay-ca's unit, and a machine that joins and leaves by one command each, under a live systemd."""

import os
import pathlib
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from live_systemd import Machine, skip_unless_available
from support import GREETING, SERVER, until
from units_support import HOLDER, Program, policy

DOMAIN = "units.test"
URL = "https://127.0.0.1:8443"


class Enrolment(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)
        cls.machine.write("/etc/inlay/ca.toml", f'trust_domain = "{DOMAIN}"\nlisten = "127.0.0.1:8443"\n')
        cls.machine.write("/etc/inlay/policy.toml", policy(DOMAIN))
        cls.machine.systemctl("enable", "--now", "inlay-ca.service")
        for name in ("server", "client"):
            cls.machine.do("inlay", "ca", "entry", "add", "--id", f"spiffe://{DOMAIN}/{name}", "--node", "*",
                           "--selector", f"unit={name}.service", "--policy", "/etc/inlay/policy.toml")
        cls.machine.add_lingering_user("alice")

    def token(self, node):
        return self.machine.do("inlay", "ca", "token", "--node", node)

    def files(self):
        """All that is not the authority's, and that systemd and its like do not keep for any program."""
        kept = set()
        for top in ("etc", "var", "home"):
            for folder, folders, names in os.walk(self.machine.folder / top):
                kept |= {os.path.join(folder, name).removeprefix(str(self.machine.folder)) for name in folders + names}
        others = ("/var/lib/inlay-ca", "/var/log/journal", "/var/log/wtmp", "/var/lib/systemd/", "/var/tmp/systemd-private",
                  "/home/alice/.config/systemd")
        return {path for path in kept if not path.startswith(others)} - {
            f"/home/alice/{name}" for name in (".config", ".local", ".local/state")}

    def talk(self):
        server, client = Program(self.machine, "server", SERVER, GREETING.decode()), None
        try:
            client = Program(self.machine, "client", HOLDER)
            self.assertEqual(client.open("first", server.line()["port"]), {"got": GREETING.decode() + "hello"})
        finally:
            server.stop()
            if client is not None:
                client.stop()

    def test_the_authority_tells_systemd_that_it_serves(self):
        self.assertIn(f"serves {DOMAIN} at 127.0.0.1:8443", self.machine.property("inlay-ca.service", "StatusText"))

    def test_an_authority_that_hangs_is_started_again(self):
        self.machine.write("/etc/systemd/system/inlay-ca.service.d/soon.conf", "[Service]\nWatchdogSec=2\n")
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("restart", "inlay-ca.service")
        first = self.machine.main_pid("inlay-ca.service")
        self.machine.do("kill", f"-{int(signal.SIGSTOP)}", first)
        until(lambda: self.machine.main_pid("inlay-ca.service") not in (0, first) and
              self.machine.property("inlay-ca.service", "ActiveState") == "active", "systemd starts it again")
        self.machine.do("rm", "-r", "/etc/systemd/system/inlay-ca.service.d")
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("restart", "inlay-ca.service")

    def test_the_authoritys_unit_stays_as_confined_as_it_is(self):
        text = self.machine.path("installed" + self.machine.installed("lib/systemd/system/inlay-ca.service"))
        # In tenths; lower is better.
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=22", text],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_machine_joins_reboots_and_leaves_without_a_trace(self):
        before = self.files()
        out = self.machine.do("inlay", "enroll", URL, input=self.token("machine"))
        self.assertIn("the agent runs, and starts with the machine", out)
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState"), "active")
        until(lambda: self.machine.run("inlay", "status").returncode == 0, "the agent is ready")
        self.talk()
        # What it is granted, and its own SVID when that is renewed, must be kept.
        self.assertTrue(self.machine.path("/var/lib/inlay/node/granted.pb").exists())

        self.machine.reboot()
        until(lambda: self.machine.run("inlay", "status").returncode == 0, "the agent is ready again")
        self.talk()
        self.assertIn("machine", self.machine.do("inlay", "ca", "agents"))

        # What it was told last outlives the authority, and a reboot.
        self.machine.systemctl("disable", "--now", "inlay-ca.service")
        self.machine.reboot()
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState"), "active")
        self.machine.systemctl("enable", "--now", "inlay-ca.service")
        until(lambda: self.machine.run("inlay", "status").returncode == 0, "the agent is ready once more")
        self.talk()

        self.machine.unit("sleeper.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
        self.machine.do("inlay", "enable", "--yes", "sleeper")
        left = self.machine.run("inlay", "leave")
        self.assertIn("has left", left.stdout)
        self.assertIn("inlay disable sleeper.service", left.stderr)
        self.machine.do("inlay", "disable", "--yes", "sleeper")
        self.machine.path("/etc/systemd/system/sleeper.service").unlink()
        self.assertEqual(self.files(), before)
        for unit in ("inlay-agent.service", "inlay-agent.socket"):
            self.assertEqual(self.machine.property(unit, "ActiveState"), "inactive", unit)
        self.assertEqual(self.machine.run("ls", "/run/inlay/agent.sock").returncode, 2)

    def test_a_plain_user_joins_with_a_unit_of_its_own(self):
        self.machine.await_systemd_of("alice")  # after a reboot of another test's
        before = self.files()
        out = self.machine.do("inlay", "enroll", URL, input=self.token("alice"), user="alice")
        self.assertIn("the agent runs, and starts with the machine\n", out)
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState", user="alice"), "active")
        self.machine.reboot()
        until(lambda: self.machine.run("inlay", "status", user="alice").returncode == 0, "it is there after a reboot")
        self.assertIn("has left", self.machine.do("inlay", "leave", user="alice"))
        self.assertEqual(self.files(), before)
        self.assertEqual(self.machine.property("inlay-agent.service", "ActiveState", user="alice"), "inactive")

    def test_a_user_who_does_not_linger_is_told_that_the_agent_ends_with_the_session(self):
        self.machine.do("useradd", "--create-home", "bob")
        self.machine.systemctl("start", f"user@{self.machine.user('bob').pw_uid}.service")
        out = self.machine.do("inlay", "enroll", URL, input=self.token("bob"), user="bob")
        self.assertIn("the agent runs, and starts with the session\n", out)
        self.assertIn("loginctl enable-linger bob", out)


if __name__ == "__main__":
    skip_unless_available()
    unittest.main(warnings="ignore")
