#!/usr/bin/env python3
"""An authority as several replicas on one PostgreSQL behind haproxy: a replica killed, and the database restarted,
under load. And SQLite that is full, held by another, or damaged. Root alone can make the machines."""

import json
import pathlib
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from hosts_test import DOMAIN, Host
from support import BUILD, INLAY, PATIENCE, until

POSTGRES = pathlib.Path("/usr/lib/postgresql/15/bin")
LOAD = BUILD / "tests" / "bench" / "bench_authority"
WORKLOAD = f"spiffe://{DOMAIN}/load"
HAPROXY = """
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  option redispatch
frontend authority
  bind :8443
  default_backend replicas
backend replicas
  balance roundrobin
  default-server check inter 100ms fall 1 rise 1
"""
# All that come through a balancer are of one address.
LIMITS = "[limits]\nenrolments_per_second = 1000\nconnections_of_an_address = 4096\n"


class Authority:
    """One inlay-ca: a replica, or alone."""

    def __init__(self, host, folder, name, port, extra):
        self.host, self.name, self.port, self.process = host, name, port, None
        self.log, self.config = folder / f"{name}.jsonl", folder / f"{name}.toml"
        self.config.write_text(f'trust_domain = "{DOMAIN}"\nlisten = "0.0.0.0:{port}"\n{extra}'
                               f'{LIMITS}[log]\nfile = "{self.log}"\n')

    def start(self):
        before = len(self.events(event="authority"))
        self.process = subprocess.Popen(self.host.words([INLAY, "ca", "serve", "--config", self.config]),
                                        stderr=subprocess.PIPE, text=True)
        until(lambda: len(self.events(event="authority")) > before, f"{self.name} listens")

    def end(self, how=signal.SIGTERM):
        if self.process:
            self.process.send_signal(how)
            self.process.communicate(timeout=PATIENCE)
            self.process = None

    def ca(self, *words):
        return self.host.do(INLAY, "ca", *words, "--config", self.config)

    def events(self, **wanted):
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if all(event.get(k) == v for k, v in wanted.items())]

    def complaints(self, words):
        return [event for event in self.events() if words in event.get("detail", "") + event.get("message", "")]


class Load:
    """Machines that obtain SVIDs, one after the other: as many as they are let, and in the end the rest."""

    def __init__(self, authority, port, machines, svids):
        authority.ca("entry", "add", "--id", WORKLOAD, "--node", f"{machines}-*", "--selector", "uid=0")
        tokens = [authority.ca("token", "--node", f"{machines}-{n}") for n in range(4)]
        self.process = subprocess.Popen(
            authority.host.words([LOAD, f"127.0.0.1:{port}", "--sign", svids, WORKLOAD]), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.process.stdin.write("".join(tokens) + "\n")
        self.process.stdin.flush()
        self.serials, self.wanted = [], 4 + 4 * svids
        self.read(4)

    def read(self, count):
        for _ in range(count):
            self.serials.append(self.process.stdout.readline().strip())

    def let(self, count):
        self.process.stdin.write(count * "one\n")
        self.process.stdin.flush()

    def rest(self):
        self.process.stdin.close()
        self.read(self.wanted - len(self.serials))
        figures = json.loads(self.process.stdout.readline())
        assert self.process.wait(PATIENCE) == 0, self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        assert len(set(self.serials)) == self.wanted
        return figures


class Machine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-replicas-"))
        cls.folder.chmod(0o755)
        cls.host = Host("authority", "10.87.0.1")

        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.addClassCleanup(cls.host.close)


class Replicas(Machine):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        user = pwd.getpwnam("postgres")
        cls.data = cls.folder / "postgres"
        cls.data.mkdir()
        shutil.chown(cls.data, user.pw_uid, user.pw_gid)
        cls.as_postgres = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
        cls.host.do(*cls.as_postgres, POSTGRES / "initdb", "-D", cls.data / "data", "-U", "inlay", "-A", "trust", "-N",
                    "--no-locale", "-E", "UTF8")
        cls.start_database()
        cls.addClassCleanup(lambda: cls.end_database())
        database = f'database = "postgresql:///postgres?host={cls.data}&user=inlay"\nseal = "{cls.folder}/seal.key"\n'
        cls.replicas = [Authority(cls.host, cls.folder, f"replica-{n}", 8450 + n,
                                  f'{database}state = "{cls.folder}/state-{n}"\n') for n in (1, 2, 3)]
        cls.replicas[0].ca("rotate", "status")  # the first one makes the keys
        for replica in cls.replicas:
            cls.addClassCleanup(replica.end)
            replica.start()
        (cls.folder / "haproxy.cfg").write_text(HAPROXY + "".join(
            f"  server {replica.name} 127.0.0.1:{replica.port}\n" for replica in cls.replicas))
        cls.host.start("haproxy", "-db", "-f", cls.folder / "haproxy.cfg")
        until(lambda: cls.host.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8443").returncode == 0, "haproxy listens")

    @classmethod
    def start_database(cls):
        cls.postgres = subprocess.Popen(
            cls.host.words([*cls.as_postgres, POSTGRES / "postgres", "-D", cls.data / "data", "-k", cls.data, "-c",
                            "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=100"]),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: cls.host.run(POSTGRES / "pg_isready", "-h", cls.data).returncode == 0, "PostgreSQL answers")

    @classmethod
    def end_database(cls):
        cls.postgres.send_signal(signal.SIGQUIT)  # at once, as in a crash
        cls.postgres.wait(PATIENCE)

    def forgotten(self, serials):
        known = self.host.do(POSTGRES / "psql", "-h", self.data, "-U", "inlay", "-d", "postgres", "-At", "-c",
                             "SELECT serial FROM issued WHERE revoked_at = 0").split()
        return set(serials) - set(known)

    def events(self, **wanted):
        return [event for replica in self.replicas for event in replica.events(**wanted)]

    def test_t69_a_hundred_machines_with_one_token(self):
        token = self.replicas[0].ca("token", "--node", "contended")
        self.assertEqual(self.host.do(LOAD, "127.0.0.1:8443", "--enroll", 100, input=token), "1\n")
        self.assertEqual(len(self.events(event="enrolled", node="contended")), 1)
        self.assertEqual(len(self.events(event="refused", detail="token used")), 99)

    def test_a_replica_is_killed_under_load(self):
        load = Load(self.replicas[0], 8443, "killed", 40)
        load.let(80)
        load.read(16)
        self.replicas[1].end(signal.SIGKILL)
        try:
            load.rest()
        finally:
            self.replicas[1].start()
        self.assertEqual(self.forgotten(load.serials), set())

    def test_the_database_is_restarted_under_load(self):
        load = Load(self.replicas[0], 8443, "restarted", 40)
        load.let(80)
        load.read(16)
        self.end_database()
        try:
            load.let(40)
            until(lambda: all(replica.complaints("the database postgresql") for replica in self.replicas),
                  "each replica says that its database is gone")
        finally:
            self.start_database()
        load.rest()
        self.assertEqual(self.forgotten(load.serials), set())

    def test_an_agent_goes_on_with_whichever_replica_there_is(self):
        machine = Host("host-1", "10.87.0.11", self.host)
        self.addCleanup(machine.close)
        machine.join(self.host, self.replicas[0].ca("token", "--node", "host-1"))
        for replica in self.replicas:
            replica.end(signal.SIGKILL)
            try:
                other = next(one for one in self.replicas if one is not replica)
                other.ca("entry", "add", "--id", f"spiffe://{DOMAIN}/{replica.name}", "--node", "host-1", "--selector",
                         f"uid={replica.port}")
                until(lambda: any(one["ready"] and one["spiffe_id"].endswith(replica.name)
                                  for one in machine.status()["identities"]), f"an entry made without {replica.name}")
            finally:
                replica.start()


class Sqlite(Machine):
    def authority(self, name, port, state):
        authority = Authority(self.host, self.folder, name, port, f'state = "{state}"\n')
        authority.start()
        self.addCleanup(authority.end)
        return authority

    def test_a_full_disk_is_waited_out(self):
        disk = self.folder / "disk"
        disk.mkdir()
        self.host.do("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
        authority = self.authority("full", 8460, disk / "state")
        load = Load(authority, 8460, "full", 5)
        self.host.run("dd", "if=/dev/zero", f"of={disk}/filler", "bs=4k")
        load.let(4)
        until(lambda: authority.complaints("its disk is full: make room"), "the authority says so")
        self.host.do("rm", disk / "filler")
        load.rest()

    def test_a_database_that_another_holds_is_waited_for(self):
        state = self.folder / "held"
        authority = self.authority("held", 8461, state)
        load = Load(authority, 8461, "held", 5)
        other = sqlite3.connect(state / "ca.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        load.let(4)
        until(lambda: authority.complaints("is held by another process"), "the authority says so")
        other.execute("ROLLBACK")
        other.close()
        load.rest()

    def test_a_damaged_database_is_called_that(self):
        state = self.folder / "damaged"
        authority = self.authority("damaged", 8462, state)
        authority.end()
        with open(state / "ca.db", "r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * 8192)
        done = self.host.run(INLAY, "ca", "serve", "--config", authority.config)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is damaged", done.stderr)
        self.assertIn("restore the last backup", done.stderr)
        self.assertTrue(authority.complaints("is damaged"), "not in the audit log")


if __name__ == "__main__":
    unittest.main()
