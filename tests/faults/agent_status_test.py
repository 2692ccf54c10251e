#!/usr/bin/env python3
"""What `inlay status` says of a real agent while its identities come, renew, run out and come back."""

import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import NOBODY, TRUST_DOMAIN, Agent, as_user, run_inlay
from support import FOLDER, GREETING, INLAY, ClientVictim, ServerVictim, issue, until
from support import TRUST_DOMAIN as FAULTS_DOMAIN

WEB = f"spiffe://{TRUST_DOMAIN}/web"
ENTRY = f'\n[[entry]]\nid = "{WEB}"\nuid = 0\n'


def status(agent, *words):
    """Exit code, output and complaint of inlay status."""
    done = subprocess.run([str(INLAY), "status", *words, "--agent", f"unix://{agent.socket}"],
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def report(agent):
    return json.loads(status(agent, "--json")[1])


class Status(unittest.TestCase):
    def agent(self, **settings):
        agent = Agent(entries=ENTRY, start=False, **settings)
        self.addCleanup(agent.close)
        return agent

    def test_without_an_agent_nothing_is_said_to_be_ready_or_not(self):
        code, out, complaint = status(self.agent())
        self.assertEqual((code, out), (125, ""))
        self.assertIn("inlay agent --config", complaint)

    def test_ready_in_one_screen_and_as_json(self):
        agent = self.agent()
        agent.start()
        code, out, complaint = status(agent)
        self.assertEqual((code, complaint), (0, ""))
        for part in (": ready\n", WEB, "nothing is wrong"):
            self.assertIn(part, out)
        self.assertRegex(out, r"/web  in (59|60) min  in \d+ min  0  ")
        self.assertLess(len(out.splitlines()), 24)
        self.assertTrue(report(agent)["ready"])

    def test_a_user_without_an_entry_is_told_so(self):
        agent = self.agent()
        agent.start()
        code, out, _ = as_user(NOBODY, lambda: status(agent))
        self.assertEqual(code, 1)
        self.assertIn(f"no entry is for user {NOBODY}", out)
        self.assertNotIn(WEB, out)

    def test_T64_files_that_nobody_renews_run_out_and_come_back(self):
        agent = self.agent()
        own = agent.folder / "web"

        def issue(lifetime):
            run_inlay("ca", "issue", "--dir", agent.folder / "authority", "--id", WEB, "--out", own,
                      "--ttl", lifetime)
        issue("5s")
        text = agent.config.read_text().replace(
            'authority = "authority"',
            f'[[source.svid]]\nsvid = "{own}/svid.pem"\nkey = "{own}/key.pem"\n'
            f'bundle = "{own}/bundle.pem"')
        agent.config.write_text(text)
        agent.start()
        until(lambda: status(agent)[0] == 1, "the SVID runs out")
        code, out, _ = status(agent)
        self.assertEqual(code, 1)
        self.assertIn("NOT READY", out)
        self.assertRegex(out, r"error: no valid SVID for .*expired at .*")
        self.assertFalse(report(agent)["identities"][0]["ready"])

        issue("1h")
        until(lambda: status(agent)[0] == 0, "the new SVID is noticed")
        self.assertIn("nothing is wrong", status(agent)[1])

    def test_an_svid_is_renewed_by_time_and_sessions_go_on(self):
        agent = self.agent()
        client = ClientVictim(issue("client"))  # from files; its authority is the agent's
        agent.config.write_text(
            f'trust_domain = "{FAULTS_DOMAIN}"\nsocket = "{agent.socket}"\n[source]\n'
            f'authority = "{FOLDER / "authority"}"\n[svid]\nttl = "1m"\n[log]\nfile = "{agent.log}"\n'
            f'[[entry]]\nid = "spiffe://{FAULTS_DOMAIN}/server"\nuid = {os.getuid()}\n')
        agent.start()
        server = ServerVictim(None, agent=agent.socket)
        client.tell(port=server.port, tell=True)
        client.line()
        before = until(lambda: next((event for event in server.events() if event["event"] == "accepted"), None),
                       "an open session")
        # Half a minute, 10 % more or less by chance.
        while report(agent)["identities"][0]["rotations"] == 0:
            time.sleep(0.5)
        answer = ClientVictim(issue("client")).ask(port=server.port, enough=len(GREETING))
        self.assertEqual(bytes.fromhex(answer["received"]), GREETING)
        self.assertEqual([event for event in server.events() if event["event"] in ("cut", "refused")], [])
        self.assertEqual(before["peer_id"], f"spiffe://{FAULTS_DOMAIN}/client")
        client.child.kill()
        self.assertTrue(server.result(int(before["remote"].rpartition(":")[2]))["received"])

    def test_T20_another_authority_replaces_every_svid(self):
        agent = self.agent()
        agent.start()
        run_inlay("ca", "init", "--dir", agent.folder / "next", "--trust-domain", TRUST_DOMAIN)
        # By rename, one file after the other: the set is half-swapped for a moment.
        for name in ("ca-key.pem", "ca.pem", "bundle.pem"):
            os.replace(agent.folder / "next" / name, agent.folder / "authority" / name)
        until(lambda: report(agent)["identities"][0]["rotations"] == 1, "the SVID is replaced")
        self.assertEqual(status(agent)[0], 0)
        self.assertIn("nothing is wrong", status(agent)[1])


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root can be several users; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
