#!/usr/bin/env python3
"""The agent's SPIFFE Workload API, asked by clients that others could have written, in C++ and in Python."""

import base64
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import (ALICE, BOB, NOBODY, SIGNATURE, TRUST_DOMAIN, Agent, Client, Crowd, as_user, attached,
                           run_inlay)

from workload_support import Call, certificates, matching_pair, serials

ID = f"spiffe://{TRUST_DOMAIN}/alice"
ENTRY = f'[[entry]]\nid = "{ID}"\nuid = {ALICE}\n'
OWN = f"spiffe://{TRUST_DOMAIN}"
BOTH = ("C++", "Python")
INVALID_ARGUMENT, PERMISSION_DENIED = 3, 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # RFC 9113 §3.4
METHODS = {"FetchX509SVID": {}, "FetchX509Bundles": {}, "FetchJWTSVID": {"audience": ["db"]},
           "FetchJWTBundles": {}, "ValidateJWTSVID": {"audience": "db", "svid": "a.b.c"}}


class WorkloadApi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = Agent(entries=ENTRY)
        cls.addClassCleanup(cls.agent.close)

    def call(self, language, method, request=None, user=ALICE, **options):
        call = Call(self.agent, language, method, request or {}, user, **options)
        self.addCleanup(call.end)
        return call

    def each(self):
        for language in BOTH:
            with self.subTest(language):
                yield language

    def test_an_svid_with_its_key_and_bundle(self):
        for language in self.each():
            message = self.call(language, "FetchX509SVID").message()
            svid, = message["svids"]
            self.assertEqual(svid["spiffeId"], ID)
            self.assertTrue(matching_pair(svid), "the key is not the certificate's")
            self.assertIn(ID, certificates(svid["x509Svid"])[0])
            self.assertIn("CA:TRUE", certificates(svid["bundle"])[0])

    def test_bundles_of_both_kinds(self):
        for language in self.each():
            bundles = self.call(language, "FetchX509Bundles").message()["bundles"]
            self.assertEqual(list(bundles), [OWN])
            self.assertIn("CA:TRUE", certificates(bundles[OWN])[0])
            sets = self.call(language, "FetchJWTBundles").message()["bundles"]
            self.assertIn(b'"keys"', base64.b64decode(sets[OWN]))

    def test_a_jwt_svid_is_valid_for_its_audience_alone(self):
        for language in self.each():
            token, = self.call(language, "FetchJWTSVID", {"audience": ["db", "cache"]}).message()["svids"]
            self.assertEqual(token["spiffeId"], ID)
            good = self.call(language, "ValidateJWTSVID", {"audience": "cache", "svid": token["svid"]}).message()
            self.assertEqual((good["spiffeId"], good["claims"]["aud"]), (ID, ["db", "cache"]))
            other = self.call(language, "ValidateJWTSVID", {"audience": "web", "svid": token["svid"]})
            self.assertEqual(other.status(), INVALID_ARGUMENT)

    def test_T72_without_the_metadata_no_method_answers(self):
        for language in self.each():
            for method, request in METHODS.items():
                for metadata in ("", "false"):
                    with self.subTest(method=method, metadata=metadata):
                        call = self.call(language, method, request, metadata=metadata)
                        self.assertEqual(call.status(), INVALID_ARGUMENT)

    def test_who_has_no_entry_is_denied_and_logged(self):
        for language in self.each():
            for method, request in METHODS.items():
                with self.subTest(method):
                    before = len(self.agent.events(event="refused", uid=NOBODY))
                    self.assertEqual(self.call(language, method, request, user=NOBODY).status(), PERMISSION_DENIED)
                    self.assertGreater(len(self.agent.events(event="refused", uid=NOBODY)), before)

    def test_an_entry_may_keep_its_key_in_the_agent(self):
        agent = Agent(entries=ENTRY + f'workload_api = false\n[[entry]]\nid = "{OWN}/bob"\nuid = {BOB}\n')
        self.addCleanup(agent.close)
        for method, request in METHODS.items():
            with self.subTest(method):
                call = Call(agent, "C++", method, request, ALICE)
                self.addCleanup(call.end)
                self.assertEqual(call.status(), PERMISSION_DENIED)
        line = agent.audited(event="refused", request="FetchX509SVID", uid=ALICE)
        self.assertEqual((line["reason"], line["detail"]),
                         ("no-entry", "the entry of this process gives no private key away"))
        self.assertTrue(as_user(ALICE, lambda: bool(attached(agent))), "libinlay.so has it all the same")
        other = Call(agent, "C++", "FetchX509SVID", {}, BOB)
        self.addCleanup(other.end)
        other.message()
        line = agent.audited(event="fetched", request="FetchX509SVID", uid=BOB)
        self.assertEqual(line["spiffe_id"], f"{OWN}/bob")

    def test_T66_connections_of_many_users_leave_descriptors_for_others(self):
        agent = Agent(entries=ENTRY, prefix=("prlimit", "--nofile=256"))
        self.addCleanup(agent.close)
        users = range(42001, 42010)

        def fill():
            kept = [Client(agent) for _ in range(60)]
            for client in kept:
                try:
                    client.socket.sendall(PREFACE)
                    client.socket.recv(1)  # the server's own
                except OSError:
                    pass  # it was cut off: there were too many
            return kept
        self.addCleanup(Crowd(users, fill).leave)

        def work():
            client, snapshot = attached(agent)
            return client.sign(snapshot.key)
        self.assertEqual(as_user(ALICE, work), f"frame {SIGNATURE}")
        call = Call(agent, "C++", "FetchX509SVID", {}, ALICE)
        self.addCleanup(call.end)
        self.assertEqual(call.message()["svids"][0]["spiffeId"], ID)
        for event in (agent.audited(event="cut-off", detail="too many connections to the Workload API"),
                      agent.audited(event="cut-off", detail="its user has the most connections to the Workload API")):
            self.assertEqual(event["reason"], "rate-limited")
            self.assertIn(event["uid"], users)

    def test_each_open_stream_gets_the_whole_new_state(self):
        streams = {(language, method): self.call(language, method) for language in BOTH
                   for method in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")}
        first = {key: call.message() for key, call in streams.items()}
        run_inlay("ca", "init", "--dir", self.agent.folder / "next", "--trust-domain", TRUST_DOMAIN)
        for name in ("ca-key.pem", "ca.pem", "jwt-key.pem", "bundle.pem"):
            os.replace(self.agent.folder / "next" / name, self.agent.folder / "authority" / name)
        for (language, method), call in streams.items():
            with self.subTest(language, method=method):
                # The new bundle may come before the new SVID: each message is the whole state of its moment.
                message = call.message()
                while method == "FetchX509SVID" and \
                        serials(message["svids"][0]["x509Svid"]) == \
                        serials(first[language, method]["svids"][0]["x509Svid"]):
                    message = call.message()
                self.assertNotEqual(message, first[language, method])
                if method == "FetchX509SVID":
                    self.assertTrue(matching_pair(message["svids"][0]))
                    self.assertNotEqual(message["svids"][0]["bundle"], first[language, method]["svids"][0]["bundle"])


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root can be several users; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
