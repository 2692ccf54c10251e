#!/usr/bin/env python3
"""Peers that are trusted no more: revoked certificates, authorities that leave a bundle."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import Agent
from support import FOLDER, GREETING, INLAY, TRUST_DOMAIN, ClientVictim, ServerVictim, checked, issue, until


def replace(path, data):
    """As an administrator should: a new file, moved over the old."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)


def make_crl(*revoked, until=("-crldays", 1)):
    """A CRL of the authority's that names these certificates, as the openssl command makes one."""
    home = FOLDER / "openssl-ca"
    home.mkdir(exist_ok=True)
    (home / "index").write_text("".join(
        "R\t350101000000Z\t250101000000Z\t" + subprocess.run(
            ["openssl", "x509", "-in", svid / "svid.pem", "-noout", "-serial"], check=True,
            capture_output=True, text=True).stdout.strip().partition("=")[2] + "\tunknown\t/CN=x\n"
        for svid in revoked))
    (home / "config").write_text(f"[ca]\ndefault_ca = a\n[a]\ndatabase = {home}/index\n"
                                 "default_md = sha256\n")
    authority = FOLDER / "authority"
    checked("openssl", "ca", "-gencrl", "-config", home / "config", "-keyfile",
            authority / "ca-key.pem", "-cert", authority / "ca.pem", *until, "-out", home / "crl.pem")
    return (home / "crl.pem").read_bytes()


class Revocation(unittest.TestCase):
    def setUp(self):
        self.name = self.id().rpartition(".")[2]
        self.server_svid = issue("server")
        self.client_svid = issue("client")
        self.crl = FOLDER / f"{self.name}.crl"

    def server(self, crl=None, **options):
        replace(self.crl, crl or make_crl())
        return ServerVictim(self.server_svid, **{"identity": f'crl = "{self.crl}"', **options})

    def client(self):
        return ClientVictim(self.client_svid)

    def open_session(self, server, client):
        """One that stays: the client waits for more after the greeting."""
        client.tell(port=server.port, tell=True)
        client.line()
        return until(lambda: next((event for event in server.events()
                                   if event["event"] == "accepted"), None), "an open session")

    def test_t21_a_revoked_client_is_refused_and_its_open_session_cut(self):
        server, client = self.server(), self.client()
        opened = self.open_session(server, client)
        replace(self.crl, make_crl(self.client_svid))
        port = int(opened["remote"].rpartition(":")[2])
        self.assertEqual(server.reason(port), "certificate-revoked")
        self.assertEqual(client.line()["end"], "ECONNRESET")
        again = client.ask(port=server.port, enough=len(GREETING))
        self.assertEqual((again["received"], again["end"]), ("", "ECONNRESET"))
        self.assertEqual(server.reason(again["port"]), "certificate-revoked")

    def test_t22_a_stale_list_refuses_unless_it_is_to_be_accepted(self):
        stale = make_crl(until=("-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250102000000Z"))
        server, client = self.server(), self.client()
        opened = self.open_session(server, client)
        replace(self.crl, stale)
        refused = self.until_refused(server)
        self.assertEqual(server.reason(refused["port"]), "crl-stale")
        port = opened["remote"].rpartition(":")[2]  # what is open stays open
        self.assertFalse([event for event in server.events() if event["remote"].endswith(":" + port)
                          and event["event"] == "cut"])

        accepting = self.server(stale, identity=f'crl = "{self.crl}"\nstale_crl = "accept"')
        answer = self.client().ask(port=accepting.port, enough=len(GREETING))
        self.assertTrue(bytes.fromhex(answer["received"]).startswith(GREETING), answer)

    def until_refused(self, server):
        client = self.client()
        return until(lambda: (answer := client.ask(port=server.port, enough=len(GREETING)))["end"]
                     == "ECONNRESET" and answer, "the list to be in force")

    def test_t20_an_authority_that_leaves_the_bundle_takes_open_sessions_with_it(self):
        server, client = self.server(), self.client()
        opened = self.open_session(server, client)
        # Another authority of the same trust domain; the list of the old one goes with it.
        issue("other", authority="successor")
        bundle = self.server_svid / "bundle.pem"
        kept = bundle.read_bytes()
        self.addCleanup(replace, bundle, kept)
        successor = (FOLDER / "successor" / "ca.pem").read_bytes()
        replace(self.crl, self.crl_of_successor())
        replace(bundle, successor)
        port = int(opened["remote"].rpartition(":")[2])
        self.assertEqual(server.reason(port), "authority-removed")
        self.assertEqual(client.line()["end"], "ECONNRESET")

    def crl_of_successor(self):
        home = FOLDER / "openssl-ca"
        (home / "index").write_text("")
        authority = FOLDER / "successor"
        checked("openssl", "ca", "-gencrl", "-config", home / "config", "-keyfile",
                authority / "ca-key.pem", "-cert", authority / "ca.pem", "-crldays", 1, "-out",
                home / "successor.pem")
        return (home / "successor.pem").read_bytes()

    def test_open_sessions_stay_where_the_configuration_keeps_them(self):
        server, client = self.server(defaults='distrusted = "keep"'), self.client()
        opened = self.open_session(server, client)
        replace(self.crl, make_crl(self.client_svid))
        # New ones are refused: the list is in force. The open one has been judged by then, or never is.
        refused = self.until_refused(server)
        self.assertEqual(server.reason(refused["port"]), "certificate-revoked")
        port = opened["remote"].rpartition(":")[2]
        self.assertFalse([event for event in server.events() if event["event"] == "cut" and
                          event["remote"].endswith(":" + port)])

    def test_a_list_cuts_open_sessions_of_a_process_whose_own_svid_ended(self):
        replace(self.crl, make_crl())
        agent = Agent(start=False)
        self.addCleanup(agent.close)
        agent.config.write_text(f"""trust_domain = "{TRUST_DOMAIN}"
socket = "{agent.socket}"
[source]
crl = ["{self.crl}"]
[[source.svid]]
svid = "{self.server_svid}/svid.pem"
key = "{self.server_svid}/key.pem"
bundle = "{self.server_svid}/bundle.pem"
[log]
file = "{agent.log}"
[[entry]]
id = "spiffe://{TRUST_DOMAIN}/server"
uid = {os.getuid()}
""")
        self.addCleanup(issue, "server")
        for lifetime in ("5s", "20s", "60s"):  # long enough for one session
            issue("server", "--ttl", lifetime)
            agent.start()
            server, client = ServerVictim(self.server_svid, agent=agent.socket), self.client()
            client.tell(port=server.port, tell=True)
            opened = until(lambda: next(iter(server.events()), None), "a session, or its refusal")
            if opened["event"] == "accepted":
                break
            agent.stop()

        def ready():
            done = subprocess.run([str(INLAY), "status", "--json", "--agent", f"unix://{agent.socket}"],
                                  capture_output=True)
            return json.loads(done.stdout)["ready"]

        client.line()
        until(lambda: not ready(), "the server's own SVID to end")
        replace(self.crl, make_crl(self.client_svid))
        self.assertEqual(server.reason(opened["remote"].rpartition(":")[2]), "certificate-revoked")
        self.assertEqual(client.line()["end"], "ECONNRESET")


if __name__ == "__main__":
    unittest.main()
