#!/usr/bin/env python3
"""An inlay-ca that is an intermediate of a corporate root, and a machine that joins it.

upstream_test.py INLAY-CA INLAY-AGENT
"""

import json
import os
import subprocess
import sys
import unittest

import https_support
from https_support import openssl

INLAY_AGENT = None
EXTENSIONS = """basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Upstream(https_support.HttpsTest):
    def make_intermediate(self):
        """By the web authority's root; in the authority's folder."""
        folder = self.path / "a"
        folder.mkdir()
        (folder / "extensions").write_text(EXTENSIONS)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=inlay",
                "-keyout", folder / "upstream-key.pem", "-out", folder / "upstream.csr")
        openssl("x509", "-req", "-in", folder / "upstream.csr", "-CA", self.web.root, "-days", "50", "-extfile",
                folder / "extensions", "-CAkey", self.web.folder / "root-key.pem", "-out", folder / "upstream.pem")
        (folder / "upstream-key.pem").chmod(0o600)

    def test_a_machine_joins_below_a_corporate_root(self):
        self.make_intermediate()
        ca = self.authority("a", "a.test", '[upstream]\ncertificate = "upstream.pem"\nkey = "upstream-key.pem"\n'
                            f'bundle = "{self.web.root}"\n')
        refused = subprocess.run([https_support.INLAY_CA, "rotate", "prepare", "--config", ca.config], text=True,
                                 capture_output=True, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("the root is the upstream's and rotated there", refused.stderr)
        self.assertEqual({row["kind"] for row in json.loads(ca.run("rotate", "status", "--json"))}, {"jwt"})
        port = ca.start()["grpc"]
        ca.wait_for("the intermediate of [upstream] ends at")

        # The token is in a file this time.
        token, state = self.path / "token", self.path / "node"
        token.write_text(ca.run("token", "--node", "web-1"))
        joined = subprocess.run([INLAY_AGENT, "enroll", f"https://127.0.0.1:{port}", "--token-file", token, "--state",
                                 state, "--config", self.path / "agent.toml", "--no-start"], text=True,
                                capture_output=True, stdin=subprocess.DEVNULL, check=False)
        self.assertEqual(joined.returncode, 0, joined.stderr)
        self.assertIn("this machine is now spiffe://a.test/inlay/node/web-1\n", joined.stdout)
        self.assertEqual(joined.stderr, "")
        # As any other program sees it that has the corporate root alone.
        openssl("verify", "-CAfile", self.web.root, "-untrusted", state / "node.pem", "-purpose", "sslclient",
                state / "node.pem")


if __name__ == "__main__":
    INLAY_AGENT = os.path.abspath(sys.argv.pop(2))
    https_support.INLAY_CA = os.path.abspath(sys.argv.pop(1))
    unittest.main()
