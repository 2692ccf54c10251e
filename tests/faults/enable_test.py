#!/usr/bin/env python3
"""inlay enable and inlay disable, on Debian's own services under a live systemd."""

import json
import os
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from live_systemd import Machine, skip_unless_available
from support import BUILD, until
from units_support import policy, users_agent

DOMAIN = "enable.test"
DROP_IN = "/etc/systemd/system/{}.d/zz-inlay.conf"
ENTRIES = "".join(f"""
[[entry]]
id = "spiffe://{DOMAIN}/{name}"
unit = "{unit}"
policy = "policy.toml"
""" for name, unit in (("redis", "redis-server.service"), ("nginx", "nginx.service"), ("client", "client.service"),
                       ("greeter", "greeter*.service")))
# Greets whoever connects to the socket that systemd hands over, or to a port.
GREETER = """
import os, socket, sys
if len(sys.argv) > 1:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
else:
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    listener = socket.socket(fileno=3)
while True:
    conn, _ = listener.accept()
    try:
        if conn.recv(5) == b"hello": conn.sendall(b"welcome")
    except OSError: pass
    conn.close()
"""
READ = """
import socket, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.sendall(b"hello")
got = b""
while data := conn.recv(100): got += data
print(got.decode())
"""


class Enable(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)
        cls.started_by = f"{cls.machine.installed('bin/inlay')} run --config unix:///run/inlay/agent.sock"
        for folder in ("/var/lib/redis", "/var/log/redis"):
            cls.machine.make_folder(folder, "redis")
        cls.machine.make_folder("/var/log/nginx")
        cls.machine.make_folder("/var/lib/nginx")
        cls.machine.make_folder("/var/www/html")
        cls.machine.write("/var/www/html/index.html", "good day\n")
        cls.machine.do("inlay", "ca", "init", "--dir", "/etc/inlay/authority", "--trust-domain", DOMAIN)
        cls.machine.write("/etc/inlay/policy.toml", policy(DOMAIN, allow="client greeter"))
        cls.machine.write("/etc/inlay/agent.toml",
                          f'trust_domain = "{DOMAIN}"\n[source]\nauthority = "authority"\n{ENTRIES}')
        cls.machine.systemctl("enable", "--now", "inlay-agent.service")

    def plain(self, *command):
        return self.machine.run(*command).stdout

    def protected(self, *command):
        """The same, as the client that the policy lets in."""
        self.machine.await_forgotten("client.service")
        return self.machine.run("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=client",
                                self.machine.installed("bin/inlay"), "run", "--", *command).stdout

    def files(self):
        kept = set()
        for folder, folders, names in os.walk(self.machine.folder / "etc"):
            kept |= {os.path.join(folder, name) for name in folders + names}
        return kept

    def start(self, unit):
        self.machine.systemctl("start", unit)
        self.addCleanup(self.machine.run, "systemctl", "stop", unit)
        self.addCleanup(self.machine.run, "inlay", "disable", "--yes", "--force", "--no-restart", unit)

    def service(self, name, settings):
        self.machine.unit(name, f"[Service]\n{settings}")
        self.addCleanup(self.machine.path(f"/etc/systemd/system/{name}").unlink, missing_ok=True)

    def refused(self, *words):
        done = self.machine.run("inlay", "enable", "--yes", *words)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        return done.stderr

    def test_redis_goes_under_inlay_and_back(self):
        ping = ("redis-cli", "ping")
        self.machine.systemctl("enable", "redis-server.service")
        self.start("redis-server.service")
        self.assertEqual(self.plain(*ping), "PONG\n")
        before = self.files()

        out = self.machine.do("inlay", "enable", "--dry-run", "redis")  # an alias
        self.assertIn(f"+ ExecStart={self.started_by} -- "
                      "/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no\n", out)
        self.assertIn("runs, and will be started anew", out)
        unasked = self.machine.run("inlay", "enable", "redis-server", input="")
        self.assertEqual(unasked.returncode, 2)
        self.assertIn("--yes", unasked.stderr)
        self.assertEqual(self.files(), before)
        self.assertEqual(self.plain(*ping), "PONG\n")

        self.assertIn("redis-server.service is under inlay", self.machine.do("inlay", "enable", "--yes", "redis-server"))
        self.assertEqual(self.protected(*ping), "PONG\n")
        self.assertNotIn("PONG", self.plain(*ping))
        self.machine.systemctl("restart", "redis-server.service")
        self.assertEqual(self.protected(*ping), "PONG\n")
        self.machine.reboot()
        self.assertEqual(self.protected(*ping), "PONG\n")
        self.assertNotIn("PONG", self.plain(*ping))
        self.machine.do("inlay", "disable", "--yes", "redis-server")
        self.machine.do("inlay", "enable", "--strict", "--yes", "redis-server")
        self.assertEqual(self.protected(*ping), "PONG\n")
        self.assertIn("already", self.machine.do("inlay", "enable", "--strict", "--yes", "redis-server"))
        self.assertIn(f'"own_id":"spiffe://{DOMAIN}/redis"', self.machine.do("inlay", "log", "--json"))

        drop_in = DROP_IN.format("redis-server.service")
        text = self.machine.path(drop_in).read_text()
        self.machine.write(drop_in, text + "Nice=5\n")
        for command in ("enable", "disable"):
            done = self.machine.run("inlay", command, "--yes", "redis-server")
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("has been changed since", done.stderr)
        self.machine.do("inlay", "enable", "--strict", "--yes", "--force", "redis-server")
        self.assertEqual(self.machine.path(drop_in).read_text(), text)

        self.assertIn("- ExecStart=", self.machine.do("inlay", "disable", "--yes", "redis-server"))
        self.assertEqual(self.plain(*ping), "PONG\n")
        self.assertEqual(self.files(), before)
        self.assertIn("is not under inlay", self.machine.do("inlay", "disable", "--yes", "redis-server"))

    def test_nginx_which_forks_goes_under_inlay_and_survives_a_reload(self):
        page = ("curl", "--silent", "--max-time", "20", "http://127.0.0.1/")
        self.start("nginx.service")
        self.assertEqual(self.plain(*page), "good day\n")
        self.machine.do("inlay", "enable", "--yes", "nginx")
        self.assertEqual(self.protected(*page), "good day\n")
        self.assertEqual(self.plain(*page), "")
        self.machine.systemctl("reload", "nginx.service")
        self.assertEqual(self.protected(*page), "good day\n")
        self.machine.do("inlay", "disable", "--yes", "nginx")
        self.assertEqual(self.plain(*page), "good day\n")

    def test_a_service_whose_socket_systemd_holds(self):
        self.machine.write("/etc/greeter.py", GREETER)
        self.service("greeter.socket", "\n[Socket]\nListenStream=127.0.0.1:7001\n")
        self.service("greeter.service", "ExecStart=@/usr/bin/python3 \"-a greeter\" /etc/greeter.py\nDynamicUser=yes\n")
        self.start("greeter.socket")
        self.addCleanup(self.machine.run, "systemctl", "stop", "greeter.service")
        self.machine.do("inlay", "enable", "--yes", "greeter")
        self.addCleanup(self.machine.run, "inlay", "disable", "--yes", "greeter")
        self.assertEqual(self.protected("/usr/bin/python3", "-c", READ, "7001"), "welcome\n")
        self.assertNotIn("welcome", self.plain("/usr/bin/python3", "-c", READ, "7001"))
        argv = self.machine.do("cat", f"/proc/{self.machine.main_pid('greeter.service')}/cmdline")
        self.assertEqual(argv.split("\0")[0], "-a greeter")

    def test_sandboxes_in_which_it_works(self):
        self.machine.write("/etc/greeter.py", GREETER)
        rows = ["TemporaryFileSystem=/run",
                "ProtectHome=tmpfs\nPrivateTmp=yes\nProtectSystem=strict",
                "RestrictAddressFamilies=AF_INET",
                "RestrictAddressFamilies=~AF_UNIX",
                "SystemCallFilter=@system-service\nSystemCallFilter=~process_vm_readv memfd_create",
                "SystemCallFilter=~memfd_create eventfd2 process_vm_readv",
                "NoExecPaths=/\nExecPaths=/usr/bin/python3.11 /usr/lib /lib /lib64",
                "PrivateUsers=yes\nUser=redis\nProtectProc=invisible\nProcSubset=pid",
                "DynamicUser=yes\nPrivateDevices=yes\nPrivateMounts=yes\nRestrictNamespaces=yes",
                "NoNewPrivileges=yes\nMemoryDenyWriteExecute=yes\nLockPersonality=yes\nRestrictRealtime=yes\n"
                "RestrictSUIDSGID=yes\nCapabilityBoundingSet=\nSystemCallArchitectures=native",
                "User=redis\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nLimitNOFILE=64\nTasksMax=8",
                "Environment=LD_PRELOAD=/lib/x86_64-linux-gnu/libm.so.6 INLAY_CONFIG=/nowhere\nUnsetEnvironment=PATH"]
        for row in rows:
            with self.subTest(row):
                self.service("greeter-6.service", f"Restart=no\nExecStart=/usr/bin/python3 /etc/greeter.py 7003\n{row}\n")
                self.machine.systemctl("restart", "greeter-6.service")
                self.machine.do("inlay", "enable", "--yes", "greeter-6")
                read = ("/usr/bin/python3", "-c", READ, "7003")
                until(lambda: self.protected(*read) == "welcome\n", "it greets under inlay")
                self.assertNotIn("welcome", self.plain(*read))
                self.assertIn(f"{DOMAIN}/greeter", self.machine.do(
                    "inlay", "log", self.machine.main_pid("greeter-6.service"), "--json"))
                self.machine.do("inlay", "disable", "--yes", "greeter-6")
        self.machine.systemctl("stop", "greeter-6.service")

    def test_a_service_that_does_not_come_up_is_put_back(self):
        self.service("sleeper.service", "ExecStart=/usr/bin/sleep infinity\nRestart=always\n")
        self.start("sleeper.service")
        before = self.files()
        errors = self.refused("sleeper")
        self.assertIn("no entry matches this process", errors)
        self.assertIn("all is as it was before", errors)
        self.assertEqual(self.files(), before)
        self.assertEqual(self.machine.property("sleeper.service", "ActiveState"), "active")
        exe = f"/proc/{self.machine.main_pid('sleeper.service')}/exe"
        until(lambda: self.machine.do("readlink", exe) == "/usr/bin/sleep\n", "it is executed")

    def test_a_service_that_ends_up_in_a_program_out_of_reach_is_put_back(self):
        shutil.copy("/usr/bin/sleep", self.machine.path("/etc/setuid-sleep"))
        self.machine.path("/etc/setuid-sleep").chmod(0o4755)
        # Ready when it has become the other program, whose /proc its first user may not look into.
        self.machine.write("/etc/becomes.sh", """
(while readlink /proc/$$/exe; do sleep 0.01; done; systemd-notify --ready) &
exec /etc/setuid-sleep infinity
""")
        self.service("greeter-7.service", "Type=notify\nNotifyAccess=all\nUser=redis\nExecStart=/bin/sh /etc/becomes.sh\n")
        self.start("greeter-7.service")
        before = self.files()
        self.assertIn("/etc/setuid-sleep runs without libinlay.so in it; all is as it was before",
                      self.refused("greeter-7"))
        self.assertEqual(self.files(), before)

    def test_what_cannot_be_protected_is_refused_before_anything_is_changed(self):
        programs = self.machine.path("/etc/programs")
        programs.mkdir()
        self.addCleanup(shutil.rmtree, programs)
        shutil.copy(BUILD / "tests/faults/static_writer", programs / "static")
        for name in ("setuid", "capable"):
            shutil.copy("/usr/bin/sleep", programs / name)
        (programs / "setuid").chmod(0o4755)
        os.setxattr(programs / "capable", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        rows = [("ExecStart=/etc/programs/static", "static"),
                ("ExecStart=/etc/programs/setuid 1\nUser=redis", "set-user-ID"),
                ("ExecStart=/etc/programs/capable 1\nUser=redis", "file capabilities"),
                ("ExecStart=/usr/bin/sleep 1\nRootDirectory=/srv", "a root of its own"),
                ("ExecStart=/usr/bin/sleep 1\nInaccessiblePaths=/run/inlay", "InaccessiblePaths=/run/inlay hides"),
                ("ExecStart=/usr/bin/sleep 1\nAppArmorProfile=a", "AppArmorProfile=a"),
                ("ExecStart=/no/such/program", "program"),
                ("ExecStart=%h/sleep 1", "%h in the path"),
                ("ExecStart=/usr/bin/sleep 1\nUser=nobody-at-all", "no such user"),
                ("ExecStop=/usr/bin/true\nType=oneshot\nRemainAfterExit=yes", "no ExecStart="),
                ("Nice=5", "bad-setting")]
        for settings, reason in rows:
            with self.subTest(settings):
                self.service("unfit.service", settings + "\n")
                before = self.files()
                self.assertIn(reason, self.refused("unfit"))
                self.assertEqual(self.files(), before)
                self.machine.unit("unfit.service", "")
        for unit, reason in (("no-such", "knows no no-such.service"), ("inlay-agent", "inlay's own"), ("greeter.socket", "no service"),
                             ("getty@", "template")):
            with self.subTest(unit):
                self.assertIn(reason, self.refused(unit))

    def test_a_library_that_may_not_be_executed_is_noticed_by_inlay_run(self):
        """The loader would go on without it."""
        done = self.machine.run("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=client",
                                f"--property=NoExecPaths={self.machine.installed('lib')}",
                                self.machine.installed("bin/inlay"), "run", "--", "/usr/bin/true")
        self.assertEqual(done.returncode, 125, done.stderr)
        self.assertIn("NoExecPaths", done.stderr)

    def test_a_later_drop_in_that_would_take_it_back_is_named(self):
        self.service("sleeper.service", "ExecStart=/usr/bin/sleep infinity\n")
        later = "/etc/systemd/system/sleeper.service.d/zzz.conf"
        self.machine.write(later, "[Service]\nExecStart=\nExecStart=/usr/bin/sleep 1000\n")
        self.addCleanup(shutil.rmtree, self.machine.path(later).parent)
        self.machine.systemctl("daemon-reload")
        self.assertIn(later, self.refused("sleeper"))

    def test_a_users_own_service(self):
        self.machine.add_lingering_user("alice")
        socket = f"unix://{users_agent(self.machine, 'alice', DOMAIN)}"
        self.machine.do("mkdir", "-p", "/home/alice/.config/systemd/user", user="alice")
        self.machine.write("/etc/greeter.py", GREETER)
        self.machine.write("/home/alice/.config/systemd/user/greeter.service",
                           "[Service]\nExecStart=/usr/bin/python3 /etc/greeter.py 7002\n", owner="alice")
        self.machine.systemctl("daemon-reload", user="alice")
        self.machine.systemctl("start", "inlay-agent.service", "greeter.service", user="alice")
        read = ("/usr/bin/python3", "-c", READ, "7002")
        until(lambda: self.machine.run(*read, user="alice").stdout == "welcome\n", "it greets")
        before = sorted(self.machine.path("/home/alice/.config/systemd").rglob("*"))

        self.machine.do("inlay", "enable", "--user", "--yes", "--config", socket, "greeter", user="alice")
        protected = ("inlay", "run", "--config", socket, "--", *read)
        until(lambda: self.machine.run(*protected, user="alice").stdout == "welcome\n", "it greets under inlay")
        self.assertNotIn("welcome", self.machine.run(*read, user="alice").stdout)
        self.machine.do("inlay", "disable", "--user", "--yes", "greeter", user="alice")
        until(lambda: self.machine.run(*read, user="alice").stdout == "welcome\n", "it greets as before")
        self.assertEqual(sorted(self.machine.path("/home/alice/.config/systemd").rglob("*")), before)

    def test_it_asks_on_a_terminal(self):
        self.service("greeter-3.service", "ExecStart=/usr/bin/sleep infinity\n")
        before = self.files()
        for answer, code in (("n\n", 1), ("\n", 1), ("y\n", 0)):
            self.assertEqual(self.files(), before)
            done = self.machine.run("script", "--quiet", "--return", "--echo", "never", "--command",
                                    "inlay enable greeter-3", "/dev/null", input=answer)
            self.assertIn("Go on? [y/N]", done.stdout)
            self.assertEqual(done.returncode, code, done.stdout)
        self.machine.do("inlay", "disable", "--yes", "greeter-3")
        self.assertEqual(self.files(), before)

    def test_an_upgrade_that_changes_the_command_is_taken_over_by_enabling_again(self):
        self.service("greeter-4.service", "ExecStart=/usr/bin/sleep 1000\n")
        self.machine.do("inlay", "enable", "--yes", "greeter-4")
        self.assertEqual(self.machine.do("inlay", "enable", "--list"), "greeter-4.service: under inlay\n")
        self.service("greeter-4.service", "ExecStart=/usr/bin/sleep 2000\n")
        listed = self.machine.run("inlay", "enable", "--list", "--json")
        self.assertEqual(listed.returncode, 1)
        listed = json.loads(listed.stdout)
        self.assertEqual([one["unit"] for one in listed], ["greeter-4.service"])
        self.assertIn("another one since inlay enable copied it", listed[0]["problem"])
        for words in ((), ("--json",)):
            told = self.machine.run("inlay", "status", *words).stdout
            self.assertIn(f"greeter-4.service: {listed[0]['problem']}", told)
            self.assertIn("inlay enable greeter-4.service shows the difference and takes it over", told)
        out = self.machine.do("inlay", "enable", "--yes", "greeter-4")
        self.assertNotIn("greeter-4.service:", self.machine.run("inlay", "status").stdout)
        self.assertIn(f"- ExecStart={self.started_by} -- /usr/bin/sleep 1000\n",
                      out)
        self.assertIn(f"+ ExecStart={self.started_by} -- /usr/bin/sleep 2000\n",
                      out)
        later = "/etc/systemd/system/greeter-4.service.d/zzz.conf"
        self.machine.write(later, "[Service]\nExecStart=\nExecStart=/usr/bin/sleep 3000\n")
        self.machine.systemctl("daemon-reload")
        self.assertIn(f"{later} says, which comes later", self.machine.run("inlay", "enable", "--list").stdout)
        self.machine.path(later).unlink()

        # Its package is removed, and what enable wrote goes with a word.
        self.machine.path("/etc/systemd/system/greeter-4.service").unlink()
        self.machine.systemctl("daemon-reload")
        self.assertIn("no such service any more\n    inlay disable greeter-4.service\n",
                      self.machine.run("inlay", "enable", "--list").stdout)
        self.machine.do("inlay", "disable", "--yes", "greeter-4")
        self.assertEqual(self.machine.do("inlay", "enable", "--list", "--json"), "[]\n")
        self.assertIn("knows no greeter-4.service", self.machine.run("inlay", "disable", "--yes", "greeter-4").stderr)

    def test_another_command_of_the_unit_has_the_services_identity_under_inlay_run(self):
        """As the manual says of a reload that connects to the service itself."""
        self.machine.write("/etc/greeter.py", GREETER)
        self.machine.write("/etc/read.py", READ + "assert got\n")
        run = f"{self.machine.installed('bin/inlay')} run -- "
        read = "/usr/bin/python3 /etc/read.py 7008"
        for prefix, reloads in (("", False), (run, True)):
            self.service("greeter-8.service", "ExecStart=/usr/bin/python3 /etc/greeter.py 7008\n"
                         f"ExecReload={prefix}{read}\n")
            out = self.machine.do("inlay", "enable", "--yes", "greeter-8")
            self.assertEqual(f"note not under inlay: ExecReload={read}\n" in out, not reloads)
            self.start("greeter-8.service")
            until(lambda: self.protected("/usr/bin/python3", "-c", READ, "7008") == "welcome\n", "it greets")
            self.assertEqual(self.machine.run("systemctl", "reload", "greeter-8.service").returncode == 0, reloads)
            self.machine.systemctl("stop", "greeter-8.service")
            self.machine.do("inlay", "disable", "--yes", "greeter-8")

    def test_what_others_may_change_starts_no_service(self):
        self.service("greeter-5.service", "ExecStart=/usr/bin/sleep infinity\n")
        library = next(self.machine.path("installed" + self.machine.prefix).rglob("libinlay.so"))
        library.chmod(0o777)
        self.addCleanup(library.chmod, 0o755)
        self.assertIn("libinlay.so", self.refused("greeter-5"))

    def test_for_programs(self):
        self.service("greeter-2.service", "ExecStart=/usr/bin/sleep infinity\nExecReload=/bin/kill -HUP $MAINPID\n")
        told = json.loads(self.machine.do("inlay", "enable", "--json", "--dry-run", "greeter-2"))
        self.assertEqual((told["unit"], told["changes"], told["restart"], told["applied"], told["refusals"]),
                         ("greeter-2.service", True, False, False, []))
        self.assertIn("not under inlay: ExecReload=/bin/kill -HUP $MAINPID", told["notes"])
        told = json.loads(self.machine.do("inlay", "enable", "--json", "--yes", "greeter-2"))
        self.assertTrue(told["applied"])
        self.machine.systemctl("start", "greeter-2.service")
        self.addCleanup(self.machine.run, "systemctl", "stop", "greeter-2.service")
        told = json.loads(self.machine.do("inlay", "disable", "--json", "--yes", "greeter-2"))
        self.assertEqual((told["restart"], told["applied"]), (True, True))


if __name__ == "__main__":
    skip_unless_available()
    unittest.main(warnings="ignore")
