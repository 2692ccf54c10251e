#!/usr/bin/env python3
"""A real inlay-agent whose source is EST, at a real inlay-ca.

est_agent_test.py INLAY-CA INLAY-AGENT
"""

import base64
import http.client
import os
import re
import socket
import subprocess
import sys
import time
import unittest

import https_support
from https_support import curl

INLAY_AGENT = None
METER = "spiffe://a.test/meter"


class EstAgent(https_support.HttpsTest):
    def start_agent(self):
        with (self.path / "agent.log").open("a") as log:
            self.agent = subprocess.Popen([INLAY_AGENT, "--config", self.path / "agent.toml"], stderr=log)
        self.addCleanup(self.stop_agent, self.agent)

    @staticmethod
    def stop_agent(agent):
        if agent.poll() is None:
            agent.terminate()
            agent.wait()

    def metrics(self):
        connection = http.client.HTTPConnection("agent")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.path / "metrics.sock"))
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        except OSError:
            return ""
        finally:
            connection.close()

    def wait_for_metric(self, pattern):
        while not re.search(pattern, self.metrics(), re.MULTILINE):
            self.assertIsNone(self.agent.poll(), "the agent has ended")
            time.sleep(0.05)

    def test_a_machine_is_enrolled_by_a_token_once_and_then_by_what_it_got(self):
        ca = self.authority("a", "a.test", '[est]\nlisten = "127.0.0.1:0"\nnames = ["localhost"]\n')
        url = f"https://localhost:{ca.start()['est']}/.well-known/est"
        anchors = self.path / "anchors.pem"
        anchors.write_bytes(subprocess.run(["openssl", "pkcs7", "-inform", "DER", "-print_certs"], check=True,
                                           input=base64.b64decode(curl("-k", url + "/cacerts")),
                                           capture_output=True).stdout)
        ca.run("entry", "add", "--id", METER, "--node", "dev-*", "--selector", "uid=0")
        password = self.path / "password"
        password.write_text(ca.run("token", "--node", "dev-1"))
        password.chmod(0o600)
        (self.path / "agent.toml").write_text(f"""
trust_domain = "a.test"
socket = "agent.sock"
[source]
est = "{url}"
est_ca = "anchors.pem"
est_user = "dev-1"
est_password_file = "password"
state = "state"
[metrics]
listen = "unix://{self.path}/metrics.sock"
[[entry]]
id = "{METER}"
uid = {os.getuid()}
""")
        self.start_agent()
        up = rf'^inlay_svid_up{{spiffe_id="{METER}"}} 1$'
        self.wait_for_metric(up)
        self.assertEqual(sum('"event":"enrolled"' in line for line in ca.lines()), 1)
        self.assertTrue(any('"event":"issued"' in line and METER in line for line in ca.lines()))
        kept = self.path / "state" / "client.pem"
        self.assertEqual(kept.stat().st_mode & 0o7777, 0o600)
        # Started again it needs no password.
        self.stop_agent(self.agent)
        password.unlink()
        self.start_agent()
        self.wait_for_metric(up)
        self.assertEqual(sum('"event":"enrolled"' in line for line in ca.lines()), 1)
        # Without the authority the bundle is there, and it is said what is wrong.
        self.stop_agent(self.agent)
        ca.stop()
        self.start_agent()
        self.wait_for_metric(r'^inlay_bundle_authority_expiry_timestamp_seconds{trust_domain="a\.test"')
        self.wait_for_metric(rf'^inlay_svid_up{{spiffe_id="{METER}"}} 0$')


if __name__ == "__main__":
    INLAY_AGENT = os.path.abspath(sys.argv.pop(2))
    https_support.INLAY_CA = os.path.abspath(sys.argv.pop(1))
    unittest.main()
