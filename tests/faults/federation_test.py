#!/usr/bin/env python3
"""Two trust domains, each with an authority and a machine of its own: programs of one talk to programs of the other
where their entries federate, for as long as they do. Root alone can make the machines."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from hosts_test import CLIENT, PORT, REDIS, Host
from support import INLAY, until


class Domain:
    """An authority, and a machine that has joined it."""

    def __init__(self, folder, name, host, machine):
        self.folder, self.name, self.host, self.machine = folder, name, host, machine
        self.config, self.log = folder / f"{name}.toml", folder / f"{name}.jsonl"
        self.config.write_text(f'trust_domain = "{name}"\nlisten = "{host.address}:8443"\nstate = "{folder}/{name}"\n'
                               f'[log]\nfile = "{self.log}"\n')
        host.start(INLAY, "ca", "serve", "--config", self.config)
        until(lambda: self.log.exists() and '"event":"authority"' in self.log.read_text(), "the authority listens")
        machine.do(INLAY, "enroll", f"https://{host.address}:8443", "--config", "/var/lib/agent.toml", "--no-start",
                   input=self.ca("token", "--node", machine.name))
        machine.agent()

    def ca(self, *words):
        return self.host.do(INLAY, "ca", *words, "--config", self.config)

    def entry(self, name, executable, rule, *more):
        policy = self.folder / f"{name}.policy"
        policy.write_text(f'trust_domain = "{self.name}"\n[identity]\nagent = "unix:///run/inlay/agent.sock"\n'
                          f'[defaults]\ninbound = "deny"\noutbound = "deny"\n{rule}port = {PORT}\nmode = "strict"\n')
        return json.loads(self.ca("entry", "add", "--id", f"spiffe://{self.name}/{name}", "--node", "*", "--selector",
                                  f"executable={executable}", "--policy", policy, *more, "--json"))["id"]

    def trusts(self, other):
        bundle = self.folder / f"{other.name}.json"
        bundle.write_text(other.ca("bundle", "show"))
        self.ca("bundle", "set", other.name, bundle)

    def known(self):
        """The trust domains whose authorities the machine knows."""
        return {one["trust_domain"] for one in self.machine.status()["authorities"]}


class Federation(unittest.TestCase):
    def test_programs_of_two_trust_domains(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-federation-"))
        self.addCleanup(shutil.rmtree, folder)
        hosts = [Host("left", "10.89.0.1")]
        self.addCleanup(lambda: [host.close() for host in reversed(hosts)])
        for number, name in enumerate(("right", "server", "client"), 2):
            hosts.append(Host(name, f"10.89.0.{number}", hosts[0]))
        left = Domain(folder, "left.test", hosts[0], hosts[2])
        right = Domain(folder, "right.test", hosts[1], hosts[3])
        server, client = left.machine, right.machine
        left.entry("redis", REDIS, '[[inbound]]\nname = "redis"\nallow = ["spiffe://right.test/client"]\n',
                   "--federates-with", "right.test")
        outward = '[[outbound]]\nname = "redis"\nto = "10.89.0.0/24"\nexpect = ["spiffe://left.test/redis"]\n'
        entry = right.entry("client", CLIENT, outward)
        until(lambda: server.ready() and client.ready(), "the machines are ready")
        server.start(INLAY, "run", "--", REDIS, "--port", PORT, "--bind", server.address, "--save", "",
                     "--protected-mode", "no", "--dir", "/var/lib")
        asks = lambda: client.redis(server, "PING")

        # Each side has to say so: the bundle, and the entry.
        left.trusts(right)
        right.trusts(left)
        until(lambda: left.known() == {"left.test", "right.test"}, "the server knows the client's authority")
        self.assertEqual(right.known(), {"right.test"})
        self.assertEqual(asks(), "")
        right.ca("entry", "remove", entry)
        right.entry("client", CLIENT, outward, "--federates-with", "left.test")
        until(lambda: asks() == "PONG", "they talk")

        # And one side can take it back, from open sessions, too.
        client.start(INLAY, "run", "--", CLIENT, "-h", server.address, "-p", PORT, "BLPOP", "never", 0)
        until(lambda: "cmd=blpop" in client.redis(server, "CLIENT", "LIST"), "a session that stays open")
        waiting = client.started[-1]
        left.ca("bundle", "remove", "right.test")
        until(lambda: left.known() == {"left.test"}, "the server no longer knows it")
        until(lambda: waiting.poll() is not None, "the open session is cut")
        self.assertEqual(asks(), "")


if __name__ == "__main__":
    unittest.main()
