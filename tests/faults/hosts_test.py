#!/usr/bin/env python3
"""Machines that join an authority: each in a network namespace of its own, with its own agent, and redis
between them, under nothing but `inlay run --`. Root alone can make them."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import BUILD, INLAY, PATIENCE, until

DOMAIN = "hosts.test"
REDIS, CLIENT = "/usr/bin/redis-server", "/usr/bin/redis-cli"
PORT = 6379
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
POLICY = f"""trust_domain = "{DOMAIN}"
[identity]
agent = "unix:///run/inlay/agent.sock"
[defaults]
inbound = "deny"
outbound = "deny"
"""
class Host:
    """A machine: own network, own name, own /run and /var/lib."""

    def __init__(self, name, address, switch=None):
        self.name, self.address = name, address
        self.started = []
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", sys.executable, "-c", "input('up\\n')"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.holder.stdout.readline()
        self.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        self.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib")
        self.do("hostname", name)
        self.do("ip", "link", "set", "lo", "up")
        if switch is None:
            self.do("ip", "link", "add", "eth0", "type", "bridge")
        else:
            switch.do("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns",
                      str(self.holder.pid))
            switch.do("ip", "link", "set", name, "master", "eth0", "up")
        self.do("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        self.do("ip", "link", "set", "eth0", "up")

    def words(self, command):
        return ["nsenter", "-t", str(self.holder.pid), "-n", "-m", "-u", *map(str, command)]

    def run(self, *command, **more):
        return subprocess.run(self.words(command), capture_output=True, text=True, timeout=PATIENCE, **more)

    def do(self, *command, **more):
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command):
        self.started.append(subprocess.Popen(self.words(command), stdout=subprocess.DEVNULL,
                                             stderr=subprocess.DEVNULL))

    def stop(self, how=signal.SIGTERM):
        for child in self.started:
            child.send_signal(how)
        for child in self.started:
            child.wait(PATIENCE)
        self.started = []

    def close(self):
        self.stop()
        self.holder.communicate("\n", PATIENCE)

    def join(self, authority, token):
        out = self.do(INLAY, "enroll", f"https://{authority.address}:8443", "--config", "/var/lib/agent.toml",
                      "--no-start", input=token)
        assert f"this machine is now spiffe://{DOMAIN}/inlay/node/{self.name}\n" in out, out
        self.agent()

    def agent(self, config="/var/lib/agent.toml", under=()):
        self.start(*under, INLAY, "agent", "--config", config)
        until(lambda: self.run(INLAY, "status", "--json").stdout, f"the agent of {self.name} answers")

    def ready(self):
        return self.run(INLAY, "status").returncode == 0

    def status(self):
        done = self.run(INLAY, "status", "--json")
        assert done.stdout, f"{self.name}: {done.stderr}"
        return json.loads(done.stdout)

    def roots(self):
        """The authorities that this machine's agent trusts."""
        return {root["subject"] for root in self.status()["authorities"]}

    def intermediates(self, of):
        """Of the machine's own SVID, or as the redis of another shows them to whoever connects."""
        text = self.do("cat", "/var/lib/inlay/node/node.pem") if of is self else self.run(
            "openssl", "s_client", "-connect", f"{of.address}:{PORT}", "-showcerts", input="").stdout
        return CERTIFICATE.findall(text)[1:]

    def redis(self, to, *words):
        done = self.run(INLAY, "run", "--", CLIENT, "-h", to.address, "-p", PORT, *words)
        return done.stdout.strip() if done.returncode == 0 else ""


class Machines(unittest.TestCase):
    """An authority, and machines that can reach it."""

    MACHINES = 3

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-hosts-"))
        cls.authority = Host("authority", "10.87.0.1")
        cls.machines = [Host(f"host-{n}", f"10.87.0.{10 + n}", cls.authority) for n in range(1, cls.MACHINES + 1)]
        (cls.folder / "ca.toml").write_text(
            f'trust_domain = "{DOMAIN}"\nlisten = "{cls.authority.address}:8443"\n'
            f'state = "{cls.folder}/state"\n[log]\nfile = "{cls.folder}/audit.jsonl"\n')
        cls.serve()

    @classmethod
    def serve(cls, *under):
        before = len(cls.events(event="authority"))
        cls.authority.start(*under, INLAY, "ca", "serve", "--config", cls.folder / "ca.toml")
        until(lambda: len(cls.events(event="authority")) > before, "the authority listens")

    @classmethod
    def tearDownClass(cls):
        for host in (*cls.machines, cls.authority):
            host.close()
        shutil.rmtree(cls.folder)

    @classmethod
    def ca(cls, *words):
        return cls.authority.do(INLAY, "ca", *words, "--config", cls.folder / "ca.toml")

    @classmethod
    def events(cls, **wanted):
        log = cls.folder / "audit.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if all(event.get(k) == v for k, v in wanted.items())]

    def entry(self, name, node, executable, rule):
        policy = self.folder / f"{name}-{node.strip('*')}.toml"
        policy.write_text(POLICY + rule)
        self.ca("entry", "add", "--id", f"spiffe://{DOMAIN}/{name}", "--node", node, "--selector",
                f"executable={executable}", "--policy", policy)


class Hosts(Machines):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.first, cls.second, cls.third = cls.machines

    def rotate_the_root(self):
        """From one root to another, while the second machine asks the first without a pause."""
        hosts = (self.first, self.second, self.third)
        old_root, old = self.first.roots(), self.first.intermediates(self.first)
        self.assertEqual(self.third.intermediates(self.first), old)
        answers, ending = [], threading.Event()

        def ask():
            while not ending.is_set():
                answers.append(self.second.redis(self.first, "GET", "key"))

        def waiting_client():
            lines = self.second.redis(self.first, "CLIENT", "LIST").splitlines()
            return [line.split()[0] for line in lines if "cmd=blpop" in line]

        asking = threading.Thread(target=ask)
        asking.start()
        self.addCleanup(asking.join)
        self.addCleanup(ending.set)
        self.second.start(INLAY, "run", "--", CLIENT, "-h", self.first.address, "-p", PORT, "BLPOP", "never", 0)
        session = until(waiting_client, "a session that stays open")

        self.ca("rotate", "prepare")
        until(lambda: all(len(host.roots()) == 2 for host in hosts), "all have the new root")
        self.ca("rotate", "activate", "--now")
        self.assertEqual(self.third.intermediates(self.first), old)
        self.ca("rotate", "taint")
        until(lambda: all(host.intermediates(host) != old for host in hosts), "the machines rest on the new root")
        new = self.first.intermediates(self.first)
        until(lambda: self.third.intermediates(self.first) == new, "and so does redis")
        until(lambda: all(one["rotations"] for host in hosts for one in host.status()["identities"]), "and clients")
        self.assertEqual(waiting_client(), session)
        # What is asked now began with an SVID of the new root: the end of the old one cuts sessions of the old.
        count = len(answers)
        until(lambda: len(answers) > count + 1, "who asks has the new SVID")
        self.ca("rotate", "revoke")
        until(lambda: all(len(host.roots()) == 1 for host in hosts), "the old root is gone")
        self.assertTrue(old_root.isdisjoint(self.first.roots()))
        until(lambda: waiting_client() != session, "what rested on it is cut")
        count = len(answers)
        until(lambda: len(answers) > count + 2, "they go on")
        ending.set()
        asking.join()
        self.assertEqual(set(answers), {"value"})

    def test_the_life_of_machines(self):
        outward = (f'[[outbound]]\nname = "redis"\nto = "{self.first.address}"\nport = {PORT}\nmode = "strict"\n'
                   f'expect = ["spiffe://{DOMAIN}/redis"]\n')
        self.entry("redis", "host-1", REDIS, f'[[inbound]]\nname = "redis"\nport = {PORT}\nmode = "strict"\n'
                   f'allow = ["spiffe://{DOMAIN}/client"]\n')
        self.entry("client", "host-2", CLIENT, outward)
        self.entry("stranger", "host-3", CLIENT, outward)
        for host in (self.first, self.second, self.third):
            host.join(self.authority, self.ca("token", "--node", host.name))
            until(host.ready, f"{host.name} is ready")

        self.first.start(INLAY, "run", "--", REDIS, "--port", PORT, "--bind", self.first.address, "--save", "",
                         "--protected-mode", "no", "--dir", "/var/lib")
        until(lambda: self.second.redis(self.first, "SET", "key", "value") == "OK", "redis answers")
        self.assertEqual(self.second.redis(self.first, "GET", "key"), "value")

        # Another identity, and none at all.
        self.assertEqual(self.third.redis(self.first, "GET", "key"), "")
        bare = self.second.run(CLIENT, "-h", self.first.address, "-p", PORT, "GET", "key")
        self.assertNotIn("value", bare.stdout)

        # The authority is away: what was issued goes on, and so does an agent that starts now.
        self.authority.stop()
        self.assertEqual(self.second.redis(self.first, "GET", "key"), "value")
        self.serve()

        self.rotate_the_root()

        # A machine that was stolen.
        self.ca("revoke", "--node", "host-2", "--reason", "stolen")
        until(lambda: self.second.redis(self.first, "GET", "key") == "", "the revoked machine is refused")
        serial = self.events(event="renewed", node="host-2")[-1]["serial"]
        until(lambda: self.events(event="refused", serial=serial, node="host-2"), "and has nothing to say to the authority")
        self.assertIn("revoked", self.ca("agents"))

        # And one that leaves.
        said = self.third.do(INLAY, "leave", "--config", "/var/lib/agent.toml")
        self.assertIn("has left", said)
        self.assertIn("stopped the agent", said)
        self.assertEqual([child.wait(PATIENCE) for child in self.third.started], [0])
        self.assertNotEqual(self.third.run("ls", "/var/lib/inlay").returncode, 0)
        again = self.third.run(INLAY, "leave", "--config", "/var/lib/agent.toml")
        self.assertEqual(again.returncode, 1)

    def test_tokens(self):
        host = self.third
        token = self.ca("token", "--node", "spare")
        state = "/var/lib/spare"

        def enroll(url, text, state=state):
            return host.run(INLAY, "enroll", url, "--config", f"{state}.toml", "--state", state, "--no-start",
                            input=text)

        url = f"https://{self.authority.address}:8443"
        for wrong in ("", "nonsense", token.strip()[:-1], token.replace("inlay1", "inlay2")):
            done = enroll(url, wrong)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        other = token[:6] + ("A" if token[6] != "A" else "B") + token[7:]
        done = enroll(url, other)
        self.assertEqual(done.returncode, 1)
        self.assertIn("pin", done.stderr)
        self.assertEqual(enroll(f"{url[:-4]}1", token).returncode, 1)
        done = enroll(url, token)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = enroll(url, token)
        self.assertIn("enrolled already", done.stderr)
        done = enroll(url, token, "/var/lib/spare-2")
        self.assertEqual(done.returncode, 1)
        self.assertIn("inlay ca token", done.stderr)
        pasted = self.ca("token", "--node", "pasted").strip()
        done = enroll(f"{url}#{pasted}", "", "/var/lib/pasted")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("warning", done.stderr)


if __name__ == "__main__":
    unittest.main()
