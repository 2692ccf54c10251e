#!/usr/bin/env python3
"""The life of an enrolled machine beyond good days: an answer that is lost, restarts, an outage longer than its own
SVID lives. Root alone can make the machines."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import hosts_test
from hosts_test import CLIENT, DOMAIN, REDIS
from support import BUILD, INLAY, PATIENCE, until

RESTARTS = 100 if os.environ.get("INLAY_FULL") else 12
LATER = ["env", f"LD_PRELOAD={BUILD}/tests/faults/liblater.so", f"INLAY_TEST_LATER={2 * 86400}"]

# Lets all through to the authority, and of what it answers all until the token is spent: its audit log says so before
# the answer leaves it.
RELAY = """
import pathlib, socket, sys, threading
listener = socket.create_server((sys.argv[1], 9443))
print("up", flush=True)
client, server = listener.accept()[0], socket.create_connection((sys.argv[1], 8443))
def forward(source, to, cut):
    while data := source.recv(65536):
        if not cut(): to.sendall(data)
is_spent = lambda: '"event":"enrolled","node":"lost"' in pathlib.Path(sys.argv[2]).read_text()
threading.Thread(target=forward, args=(server, client, is_spent), daemon=True).start()
threading.Thread(target=forward, args=(client, server, lambda: False), daemon=True).start()
input()
"""


class NodeLife(hosts_test.Machines):
    MACHINES = 2

    def tearDown(self):
        for host in self.machines:
            host.stop()
            host.run(INLAY, "leave", "--config", "/var/lib/agent.toml")

    def joined(self):
        """A machine with one entry, its agent ready."""
        host = self.machines[0]
        self.entry("client", host.name, CLIENT, "")
        self.addCleanup(lambda: self.ca("entry", "remove", json.loads(self.ca("entry", "list", "--json"))[0]["id"]))
        host.join(self.authority, self.ca("token", "--node", host.name))
        until(host.ready, "the machine is ready")
        return host

    def test_a_lost_answer(self):
        """The connection is cut when the authority has answered, and nothing of that has arrived."""
        host, token = self.machines[0], self.ca("token", "--node", "lost")
        other = self.machines[1]
        enroll = lambda port: [INLAY, "enroll", f"https://{self.authority.address}:{port}", "--no-start", "--config",
                               "/var/lib/lost.toml", "--state", "/var/lib/lost"]
        relay = subprocess.Popen(self.authority.words([sys.executable, "-c", RELAY, self.authority.address,
                                                       self.folder / "audit.jsonl"]),
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(relay.kill)
        self.assertEqual(relay.stdout.readline(), "up\n")
        first = subprocess.Popen(host.words(enroll(9443)), text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(first.kill)
        first.stdin.write(token)
        first.stdin.flush()
        until(lambda: self.events(event="enrolled", node="lost"), "the token is spent")
        relay.communicate("cut\n", PATIENCE)
        out, complaint = first.communicate(timeout=PATIENCE)
        self.assertEqual((first.returncode, out), (1, ""), complaint)
        self.assertEqual(host.do("ls", "/var/lib/lost"), "enrolling.pem\n")
        self.assertEqual(host.do("stat", "-c", "%a", "/var/lib/lost/enrolling.pem"), "600\n")

        # The token is another machine's now, whoever has it.
        thief = other.run(*enroll(8443), input=token)
        self.assertEqual(thief.returncode, 1)
        self.assertIn("make another with inlay ca token", thief.stderr)
        self.assertEqual(other.do("ls", "/var/lib/lost"), "")
        again = host.run(*enroll(8443), input=token)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("inlay/node/lost", again.stdout)
        self.assertEqual(host.do("ls", "/var/lib/lost"), "authority.json\nnode.pem\n")

    def test_clocks_apart(self):
        host = self.machines[1]
        token = self.ca("token", "--node", "astray")
        for days in (-2, 2):
            done = host.run(*LATER[:-1], f"INLAY_TEST_LATER={days * 86400}", INLAY, "enroll",
                            f"https://{self.authority.address}:8443", "--config", "/var/lib/astray.toml",
                            "--state", "/var/lib/astray", "--no-start", input=token)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, "^inlay enroll: the authority at .*(not valid yet|expired).*; "
                                          "the clock here says [0-9-]{10}T[0-9:]{8}Z\n$")
        # The token was not spent.
        done = host.run(INLAY, "enroll", f"https://{self.authority.address}:8443", "--config",
                        "/var/lib/astray.toml", "--state", "/var/lib/astray", "--no-start", input=token)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_authority_comes_back_from_a_backup(self):
        """As the guide for operating one says: the database, copied while it serves, and the seal."""
        host = self.joined()
        state, backup = self.folder / "state", self.folder / "backup"
        backup.mkdir()
        with contextlib.closing(sqlite3.connect(state / "ca.db")) as live, \
                contextlib.closing(sqlite3.connect(backup / "ca.db")) as kept:
            live.backup(kept)
        shutil.copy(state / "seal.key", backup)
        forgotten = json.loads(self.ca("token", "--node", "later", "--json"))["token"]
        self.authority.stop()
        shutil.rmtree(state)
        state.mkdir(0o700)
        for name in ("ca.db", "seal.key"):
            shutil.copy(backup / name, state)
            (state / name).chmod(0o600)
        self.serve()
        self.entry("more", host.name, REDIS, "")
        self.addCleanup(lambda: self.ca("entry", "remove", json.loads(self.ca("entry", "list", "--json"))[-1]["id"]))
        until(lambda: {one["spiffe_id"] for one in host.status()["identities"] if one["ready"]} ==
              {f"spiffe://{DOMAIN}/client", f"spiffe://{DOMAIN}/more"}, "the machine goes on")
        # What came after the backup has not been.
        late = self.machines[1].run(INLAY, "enroll", f"https://{self.authority.address}:8443", "--no-start", "--config",
                                    "/var/lib/later.toml", "--state", "/var/lib/later", input=forgotten)
        self.assertEqual(late.returncode, 1)
        self.assertTrue(self.events(event="refused", detail="token unknown"))

    def test_many_restarts_and_a_new_boot(self):
        host = self.joined()
        state = lambda: {name: int(host.do("stat", "-c", "%s", f"/var/lib/inlay/node/{name}"))
                         for name in host.do("ls", "-A", "/var/lib/inlay/node").split()}
        svid, before = host.do("cat", "/var/lib/inlay/node/node.pem"), state()
        renewed = len(self.events(event="renewed"))
        for count in range(RESTARTS):
            host.stop((signal.SIGTERM, signal.SIGKILL)[count % 2])
            host.agent()
            until(host.ready, "the agent is ready again")
        self.assertEqual(host.do("cat", "/var/lib/inlay/node/node.pem"), svid)
        self.assertEqual(state().keys(), before.keys())
        self.assertLess(sum(state().values()), sum(before.values()) + 1024)
        self.assertEqual(len(self.events(event="renewed")), renewed)

        # /run is empty after a boot.
        host.stop()
        host.do("umount", "/run")
        host.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        host.agent()
        until(host.ready, "the agent is ready after a boot")

    def test_a_machine_that_is_off_while_the_root_changes_is_named_before_it_is_cut_off(self):
        host = self.joined()
        for node in json.loads(self.ca("agents", "--json")):
            if node["node"] != host.name:  # of other tests
                self.ca("revoke", "--node", node["node"])
        self.ca("rotate", "prepare")
        until(lambda: len(host.roots()) == 2, "the machine has the new root")
        host.stop()
        self.ca("rotate", "activate", "--now")
        self.ca("rotate", "taint")

        def resting():
            return [one["node"] for root in json.loads(self.ca("rotate", "status", "--json")) for one in root["resting"]]
        self.assertEqual(resting(), [host.name])
        done = self.authority.run(INLAY, "ca", "rotate", "revoke", "--config", self.folder / "ca.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"1 machine has SVIDs under the tainted root and nothing newer: {host.name} (2 SVIDs, until ",
                      done.stderr)
        host.agent()
        until(lambda: resting() == [], "it is back, and has replaced them")
        self.ca("rotate", "revoke")
        until(lambda: len(host.roots()) == 1 and host.ready(), "it goes on under the new root alone")

    def test_the_machine_s_own_svid_is_renewed_by_itself_at_half_its_life(self):
        host = self.joined()
        before = host.do("cat", "/var/lib/inlay/node/node.pem")
        renewed = len(self.events(event="renewed", node=host.name))
        host.stop()
        self.authority.stop()
        self.addCleanup(self.serve)
        self.addCleanup(self.authority.stop)
        half = [*LATER[:-1], f"INLAY_TEST_LATER={86400 // 2 + 60}"]
        self.serve(*half)
        host.agent(under=half)
        until(lambda: len(self.events(event="renewed", node=host.name)) > renewed, "it is renewed")
        until(lambda: host.do("cat", "/var/lib/inlay/node/node.pem") != before, "and kept")
        until(lambda: host.run(*half, INLAY, "status").returncode == 0, "it goes on")

    def test_an_outage_longer_than_the_machine_s_own_svid(self):
        host = self.joined()
        host.stop()
        self.authority.stop()
        self.addCleanup(self.serve)
        self.addCleanup(self.authority.stop)
        self.serve(*LATER)
        host.agent(under=LATER)
        status = lambda: host.run(*LATER, INLAY, "status")
        until(lambda: f"inlay ca agents approve {host.name}" in status().stdout, "status says what is to be done")
        self.assertEqual(status().returncode, 1)
        self.assertIn("the SVID of this machine ended at", status().stdout)
        self.assertIn("waiting", self.ca("agents"))
        self.assertIn("is let back in", self.ca("agents", "approve", host.name))
        until(lambda: status().returncode == 0 and "nothing is wrong" in status().stdout, "it goes on")
        self.assertEqual(len(self.events(event="rejoined", node=host.name)), 1)
        self.assertIn("enrolled", self.ca("agents"))

        # A machine that is revoked meanwhile stays outside.
        host.stop()
        self.ca("revoke", "--node", host.name, "--reason", "lost")
        twice = [*LATER[:-1], f"INLAY_TEST_LATER={4 * 86400}"]
        self.authority.stop()
        self.serve(*twice)
        host.agent(under=twice)
        until(lambda: "it is revoked" in host.run(*twice, INLAY, "status").stdout, "status says that it is out")


if __name__ == "__main__":
    unittest.main()
