#!/usr/bin/env python3
"""The administrator's commands of inlay-ca, on a state of the test's own.

command_test.py INLAY-CA
"""

import contextlib
import json
import os
import pathlib
import pwd
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

POLICY = """trust_domain = "example.org"
[identity]
agent = "unix:///run/inlay/agent.sock"
[defaults]
inbound = "plaintext"
outbound = "plaintext"
"""


class Commands(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name).resolve()
        self.config = self.path / "ca.toml"
        self.config.write_text('trust_domain = "example.org"\nstate = "state"\n'
                               'advertise = "https://ca.example.org:8443"\n')

    def run_ca(self, *words, code=0):
        done = subprocess.run([INLAY_CA, *words, "--config", self.config], capture_output=True,
                              text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        if code != 0:
            self.assertEqual(done.stdout, "")
            self.assertRegex(done.stderr, r"\Ainlay ca: [^\n]+\n\Z")
        return done

    def ask(self, *words):
        return json.loads(self.run_ca(*words, "--json").stdout)

    def test_a_token_is_alone_on_stdout_and_never_the_same(self):
        first, second = (self.run_ca("token", "--node", "web-1") for _ in range(2))
        self.assertRegex(first.stdout, r"\Ainlay1[\w-]{86}\n\Z")
        self.assertEqual(first.stdout[:49], second.stdout[:49])  # the pin
        self.assertNotEqual(first.stdout, second.stdout)
        self.assertIn("inlay enroll https://ca.example.org:8443\n", first.stderr)
        kept = b"".join(p.read_bytes() for p in (self.path / "state").iterdir())
        self.assertNotIn(first.stdout[49:].strip().encode(), kept)
        for bad in ("a/b", "", "..", "a b"):
            self.run_ca("token", "--node", bad, code=1)
        self.run_ca("token", "--node", "web-1", "--ttl", "2d", code=1)

    def test_entries_are_added_listed_and_removed(self):
        policy = self.path / "redis.toml"
        policy.write_text(POLICY)
        words = ("entry", "add", "--id", "spiffe://example.org/redis", "--node", "web-*",
                 "--selector", "user=redis", "--selector=executable=/usr/bin/redis-server",
                 "--policy", policy, "--federates-with", "partner.test", "--ttl", "30m",
                 "--hint", "db")
        added = self.ask(*words)
        self.assertEqual(added["selectors"], ["user=redis", "executable=/usr/bin/redis-server"])
        self.assertEqual(added["policy"], POLICY)
        self.assertEqual(added["svid_ttl"], 1800)
        self.assertEqual(self.ask("entry", "list"), [added])
        self.assertIn("spiffe://example.org/redis", self.run_ca("entry", "list").stdout)
        self.run_ca(*words, code=1)
        self.run_ca("entry", "remove", added["id"])
        self.run_ca("entry", "remove", added["id"], code=1)
        self.assertEqual(self.ask("entry", "list"), [])

    def test_what_an_administrator_does_is_in_the_audit_log(self):
        log = self.path / "audit.jsonl"
        with self.config.open("a") as config:
            config.write(f'[log]\nfile = "{log}"\n')
        token = self.run_ca("token", "--node", "web-1").stdout.strip()
        entry = self.ask("entry", "add", "--id", "spiffe://example.org/a", "--node", "web-*",
                         "--selector", "user=a")
        self.run_ca("entry", "remove", entry["id"])
        self.run_ca("rotate", "prepare")
        self.run_ca("rotate", "prepare", code=1)
        self.run_ca("rotate", "status")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self.assertEqual([line["event"] for line in lines],
                         ["token", "entry-added", "entry-removed", "rotated"])
        me = pwd.getpwuid(os.getuid()).pw_name
        self.assertEqual({line["by"] for line in lines}, {me})
        self.assertEqual(lines[0]["node"], "web-1")
        self.assertNotIn(token, log.read_text())
        self.assertEqual(lines[1]["spiffe_id"], "spiffe://example.org/a")
        # A log that cannot be written keeps nobody from what is right.
        log.unlink()
        log.mkdir()
        done = self.run_ca("token", "--node", "web-2")
        self.assertIn("not in the audit log", done.stderr)

    def test_a_root_that_ends_soon_is_named(self):
        with self.config.open("a") as config:
            config.write('listen = "127.0.0.1:0"\n[rotation]\nroot_ttl = "40d"\nintermediate_ttl = "10d"\n')
        self.assertRegex(self.run_ca("rotate", "status").stdout,
                         r"\nthe root ends at .*, in (40|39) days: inlay ca rotate prepare begins")
        server = subprocess.Popen([INLAY_CA, "serve", "--config", self.config], text=True,
                                  stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with server:
            self.assertIn("the root ends at ", server.stderr.readline())
            server.terminate()
        self.assertNotIn("begins", self.run_ca("rotate", "prepare").stdout)

    def test_a_new_authority_says_that_it_is_one(self):
        """Whoever named the wrong folder, or forgot a disk, hears of it."""
        told = f"there was no authority in {self.path}/state: a new one begins"
        self.assertIn(told, self.run_ca("token", "--node", "web-1").stderr)
        self.assertNotIn("a new one begins", self.run_ca("token", "--node", "web-1").stderr)

    def test_an_entry_for_a_trust_domain_without_a_bundle_says_so(self):
        def add(name):
            return self.run_ca("entry", "add", "--id", f"spiffe://example.org/{name}", "--node", "n",
                               "--selector", f"user={name}", "--federates-with", "partner.test").stderr
        self.assertIn("no bundle of partner.test yet", add("first"))
        bundle = self.path / "bundle.json"
        bundle.write_text(self.run_ca("bundle", "show").stdout)
        self.run_ca("bundle", "set", "partner.test", bundle)
        self.assertEqual(add("second"), "")

    def test_a_log_that_was_moved_away_is_made_anew_by_whoever_writes_next(self):
        log = self.path / "audit.jsonl"
        with self.config.open("a") as config:
            config.write(f'listen = "127.0.0.1:0"\n[log]\nfile = "{log}"\n')

        def lines():
            return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

        def wait_for(message):
            while not any(message in line.get("message", "") for line in lines()):
                self.assertIsNone(server.poll(), message)
                time.sleep(0.01)
        server = subprocess.Popen([INLAY_CA, "serve", "--config", self.config], stdin=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait_for("listens at")
        log.rename(self.path / "audit.jsonl.1")
        self.run_ca("token", "--node", "web-1")
        self.assertEqual([line["event"] for line in lines()], ["token"])
        log.rename(self.path / "audit.jsonl.2")
        server.send_signal(signal.SIGHUP)  # no need, and no harm
        wait_for("the log is open anew")
        log.rename(self.path / "audit.jsonl.3")
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertEqual([line["message"] for line in lines()], ["inlay-ca ends"])

    def test_what_an_entry_must_not_be(self):
        policy = self.path / "bad.toml"
        policy.write_text(POLICY + "unknown = 1\n")
        good = {"--id": "spiffe://example.org/a", "--node": "n", "--selector": "user=a"}
        for change in ({"--id": "spiffe://example.com/a"}, {"--id": "spiffe://example.org"},
                       {"--id": "spiffe://example.org/inlay/ca"},
                       {"--id": "spiffe://example.org/inlay/node/x"}, {"--node": "a/b"},
                       {"--selector": "user"}, {"--selector": "user="}, {"--selector": "shoe=43"},
                       {"--selector": "executable=bin"}, {"--selector": "sha256=00"},
                       {"--selector": "uid=root"}, {"--selector": "user=a\nuid=0"},
                       {"--policy": policy}, {"--policy": self.path / "none.toml"},
                       {"--federates-with": "example.org"}, {"--ttl": "1s"}):
            with self.subTest(change):
                words = [word for pair in {**good, **change}.items() for word in pair]
                self.run_ca("entry", "add", *words, code=1)
        self.run_ca("entry", "add", "--id", "spiffe://example.org/a", "--node", "n", code=2)
        self.assertEqual(self.ask("entry", "list"), [])

    def test_the_root_is_rotated_in_its_order(self):
        def roots():
            return [row["state"] for row in self.ask("rotate", "status") if row["kind"] == "root"]
        self.assertEqual(roots(), ["active"])
        for early in ("activate", "taint", "revoke"):
            self.run_ca("rotate", early, code=1)
        self.run_ca("rotate", "prepare")
        self.run_ca("rotate", "activate", code=1)
        before = self.run_ca("token", "--node", "a").stdout[:49]
        self.run_ca("rotate", "activate", "--now")
        self.assertEqual(sorted(roots()), ["active", "retired"])
        self.assertNotEqual(self.run_ca("token", "--node", "a").stdout[:49], before)
        self.run_ca("rotate", "taint")
        self.run_ca("rotate", "revoke")
        self.assertEqual(sorted(roots()), ["active", "revoked"])

    def test_who_still_rests_on_a_tainted_root_is_named_before_it_goes(self):
        def issue(serial, node):
            """As a server would, under what signs now."""
            issuer = next(row["id"] for row in self.ask("rotate", "status")
                          if (row["kind"], row["state"]) == ("intermediate", "active"))
            with contextlib.closing(sqlite3.connect(self.path / "state" / "ca.db")) as database, database:
                database.execute("INSERT INTO issued VALUES (?, 'spiffe://example.org/a', ?, ?, 1, ?, 0, '')",
                                 (serial, node, issuer, int(time.time()) + 1000))

        def resting():
            return {row["state"]: [one["node"] for one in row["resting"]]
                    for row in self.ask("rotate", "status") if row["kind"] == "root"}
        log = self.path / "audit.jsonl"
        with self.config.open("a") as config:
            config.write(f'[log]\nfile = "{log}"\n')
        nodes = [f"web-{n:02}" for n in range(11)]
        for node in nodes:
            issue(f"old-{node}", node)
        self.assertEqual(resting(), {"active": []})
        for step in (("prepare",), ("activate", "--now"), ("taint",)):
            self.run_ca("rotate", *step)
        self.assertEqual(resting(), {"active": [], "tainted": nodes})
        self.assertIn("still under the tainted root ", self.run_ca("rotate", "status").stdout)
        refused = self.run_ca("rotate", "revoke", code=1).stderr
        self.assertRegex(refused, r"11 machines have SVIDs .*web-00 \(1 SVID, until 20.*, web-07 \(.*\) and 3 more.*--force")
        self.assertEqual(resting()["tainted"], nodes)
        for node in nodes[1:]:
            issue(f"new-{node}", node)
        self.assertRegex(self.run_ca("rotate", "revoke", code=1).stderr, "ca: 1 machine has SVIDs .*: web-00 ")
        # A second one that is tainted goes with the first, and so do its machines.
        for step in (("prepare",), ("activate", "--now"), ("taint",)):
            self.run_ca("rotate", *step)
        self.assertRegex(self.run_ca("rotate", "revoke", code=1).stderr, "ca: 11 machines have SVIDs .*: web-00 ")
        for node in nodes[1:]:
            issue(f"newest-{node}", node)
        self.assertRegex(self.run_ca("rotate", "revoke", code=1).stderr, "ca: 1 machine has SVIDs .*: web-00 ")
        self.run_ca("rotate", "revoke", "--force")
        self.assertIn("revoke, which cuts off web-00 (1 SVID,", json.loads(log.read_text().splitlines()[-1])["detail"])

    def test_bundles_of_others_are_kept_when_they_are_bundles(self):
        own = json.loads(self.run_ca("bundle", "show").stdout)
        self.assertEqual(sorted(key["use"] for key in own["keys"]), ["jwt-svid", "x509-svid"])
        file = self.path / "partner.json"
        file.write_text(json.dumps(own))
        self.run_ca("bundle", "set", "partner.test", file)
        self.assertEqual([b["trust_domain"] for b in self.ask("bundle", "list")], ["partner.test"])
        self.run_ca("bundle", "set", "example.org", file, code=1)
        file.write_text("{")
        self.run_ca("bundle", "set", "partner.test", file, code=1)
        self.run_ca("bundle", "remove", "partner.test")
        self.run_ca("bundle", "remove", "partner.test", code=1)

    def test_each_command_speaks_json(self):
        token = self.ask("token", "--node", "web-1")
        self.assertEqual((token["node"], token["url"]), ("web-1", "https://ca.example.org:8443"))
        self.assertRegex(token["token"], r"\Ainlay1[\w-]{86}\Z")
        self.assertRegex(token["expires"], r"\A20[\d-]+T[\d:]+Z\Z")
        entry = self.ask("entry", "add", "--id", "spiffe://example.org/a", "--node", "n", "--selector", "user=a")
        self.assertEqual(self.ask("entry", "remove", entry["id"])["id"], entry["id"])
        states = [(row["kind"], row["state"]) for row in self.ask("rotate", "prepare")]
        self.assertIn(("root", "prepared"), states)
        bundle = self.path / "bundle.json"
        bundle.write_text(json.dumps(self.ask("bundle", "show")))
        self.assertEqual(self.ask("bundle", "set", "partner.test", bundle), {"trust_domain": "partner.test"})
        self.assertEqual(self.ask("bundle", "remove", "partner.test"), {"trust_domain": "partner.test"})
        with contextlib.closing(sqlite3.connect(self.path / "state" / "ca.db")) as database, database:
            database.execute("INSERT INTO nodes VALUES ('web-1', 1, x'00', 'host', '192.0.2.1', 1, 2, 3)")
            database.execute("INSERT INTO issued VALUES ('ff', 'spiffe://example.org/a', 'web-1', '', 1, ?, 0, '')",
                             (int(time.time()) + 1000,))
        self.assertEqual([(one["node"], one["state"]) for one in self.ask("agents")], [("web-1", "waiting")])
        self.assertEqual(self.ask("agents", "approve", "web-1"), {"approved": "web-1"})
        self.assertEqual(self.ask("revoke", "--serial", "FF"), {"serial": "ff", "spiffe_id": "spiffe://example.org/a"})
        self.assertEqual(self.ask("revoke", "--node", "web-1"), {"node": "web-1", "svids": 0})

    def test_what_is_not_there_is_said_in_one_line(self):
        self.run_ca("agents", "approve", "web-1", code=1)
        self.run_ca("revoke", "--node", "web-1", code=1)
        self.run_ca("revoke", "--serial", "ff", code=1)
        self.assertEqual(self.ask("agents"), [])
        for words in ((), ("nonsense",), ("revoke",), ("token",), ("entry",), ("entry", "remove"),
                      ("rotate", "status", "--now"), ("rotate", "taint", "--force"), ("bundle", "set", "x")):
            self.run_ca(*words, code=2)
        self.config.write_text("trust_domain = 1\n")
        self.run_ca("agents", code=1)


if __name__ == "__main__":
    INLAY_CA = os.path.abspath(sys.argv.pop(1))
    unittest.main()
