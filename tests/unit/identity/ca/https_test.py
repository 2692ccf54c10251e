#!/usr/bin/env python3
"""What inlay-ca serves by HTTPS and what it fetches, as real processes: two authorities that
federate, curl, and an nginx that gives all that an endpoint should not.

https_test.py INLAY-CA
"""

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import unittest

import https_support
from https_support import WebAuthority, curl, free_port


class Https(https_support.HttpsTest):
    @staticmethod
    def wait_for_port(port):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)

    def test_the_bundle_is_there_for_everybody_to_read(self):
        ca = self.authority("a", "a.test", '[bundle_endpoint]\nlisten = "127.0.0.1:0"\npath = "/b.json"\n')
        url = f"https://127.0.0.1:{ca.start()['bundle_endpoint']}"
        given = json.loads(curl("-k", url + "/b.json?x"))
        shown = json.loads(ca.run("bundle", "show"))
        self.assertEqual(given, shown)
        self.assertGreater(given["spiffe_refresh_hint"], 0)
        self.assertIn(b"content-type: application/json", curl("-kI", url + "/b.json").lower())
        for request, status in (((url + "/b.json",), "200"), ((url + "/",), "404"), ((url + "/b.json/",), "404"),
                                (("-d", "x", url + "/b.json"), "405"), ((url + "/%62.json",), "404"),
                                (("-XDELETE", url + "/b.json"), "405"),
                                (("--tls-max", "1.2", url + "/b.json"), "200")):
            with self.subTest(request):
                self.assertEqual(curl("-k", "-o", "/dev/null", "-w", "%{http_code}", *request).decode(), status)
        curl("-k", "--tls-max", "1.1", url, code=35)
        # What it shows is the authority's own SVID.
        roots = [key["x5c"][0] for key in given["keys"] if key["use"] == "x509-svid"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=b"".join(map(base64.b64decode, roots)))
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as plain, \
                context.wrap_socket(plain) as secured:
            self.assertIn(("URI", "spiffe://a.test/inlay/ca"), secured.getpeercert()["subjectAltName"])

    def test_a_certificate_of_the_web_is_taken_up_when_it_is_renewed(self):
        certificate, key = self.web.issue("one")
        ca = self.authority("a", "a.test", '[bundle_endpoint]\nlisten = "127.0.0.1:0"\nprofile = "https_web"\n'
                            f'certificate = "{certificate}"\nkey = "{key}"\n')
        url = f"https://localhost:{ca.start()['bundle_endpoint']}/"
        curl("--cacert", self.web.root, url)
        other = WebAuthority(self.path / "other")
        for old, new in zip((certificate, key), other.issue("two")):
            new.rename(old)
        ca.run("rotate", "prepare")  # it looks when something has changed, and once a minute
        while subprocess.run(["curl", "-s", "--noproxy", "*", "--cacert", other.root, url],
                             capture_output=True, check=False).returncode != 0:
            time.sleep(0.1)

    def test_two_authorities_fetch_each_others_bundles(self):
        certificate, key = self.web.issue("b")
        b = self.authority("b", "b.test", '[bundle_endpoint]\nlisten = "127.0.0.1:0"\nprofile = "https_web"\n'
                           f'certificate = "{certificate}"\nkey = "{key}"\n')
        port_of_b = b.start()["bundle_endpoint"]
        a = self.authority("a", "a.test", f"""
[bundle_endpoint]
listen = "127.0.0.1:0"
[[federation]]
trust_domain = "b.test"
url = "https://localhost:{port_of_b}/"
profile = "https_web"
ca_file = "{self.web.root}"
""")
        port_of_a = a.start()["bundle_endpoint"]
        a.wait_for("bundle-fetched", "b.test")
        self.assertEqual([row["trust_domain"] for row in json.loads(a.run("bundle", "list", "--json"))],
                         ["b.test"])
        b.stop()
        (self.path / "b" / "a.json").write_text(a.run("bundle", "show"))
        b.configure(f"""
[[federation]]
trust_domain = "a.test"
url = "https://127.0.0.1:{port_of_a}/"
profile = "https_spiffe"
endpoint_spiffe_id = "spiffe://a.test/inlay/ca"
bundle = "a.json"
""")
        b.start()
        b.wait_for("bundle-fetched", "a.test")

    def test_what_a_hostile_endpoint_gives_is_refused_with_its_reason(self):
        good, key = self.web.issue("good")
        elsewhere, elsewhere_key = self.web.issue("elsewhere", host="elsewhere.test")
        strange = self.authority("strange", "strange.test")
        pages = self.path / "pages"
        pages.mkdir()
        (pages / "other").write_text(strange.run("bundle", "show"))
        (pages / "large").write_text("x" * (10 << 20))
        (pages / "garbage").write_text("[not a bundle")
        (pages / "empty").write_text('{"keys": []}')
        ended = json.loads((pages / "other").read_text())
        for entry in ended["keys"]:
            del entry["use"]
        (pages / "useless").write_text(json.dumps(ended))
        ports = free_port(), free_port()
        config = self.path / "nginx.conf"
        config.write_text(f"""
daemon off; pid {self.path}/nginx.pid; error_log {self.path}/nginx.log; events {{}}
http {{
  access_log off; client_body_temp_path {self.path}/t; proxy_temp_path {self.path}/t;
  fastcgi_temp_path {self.path}/t; uwsgi_temp_path {self.path}/t; scgi_temp_path {self.path}/t;
  root {pages};
  server {{
    listen 127.0.0.1:{ports[0]} ssl; ssl_certificate {good}; ssl_certificate_key {key};
    location /redirect {{ return 302 https://localhost:{ports[0]}/other; }}
  }}
  server {{ listen 127.0.0.1:{ports[1]} ssl; ssl_certificate {elsewhere}; ssl_certificate_key {elsewhere_key}; }}
}}""")
        # As whoever owns the pages: nginx of root would read them as another user.
        nginx = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-c", config, "-g",
                                  "user root;" if os.geteuid() == 0 else ""], stderr=subprocess.PIPE)
        self.addCleanup(nginx.communicate)
        self.addCleanup(nginx.terminate)
        for port in ports:
            self.wait_for_port(port)
        expected = {"redirect": "redirects to", "large": "longer than 1048576 bytes", "garbage": "not valid JSON",
                    "empty": "no X.509 authority", "useless": "no X.509 authority", "other": "is not of other.test",
                    "absent": "status 404", "host": "elsewhere"}
        ca = self.authority("a", "a.test", "".join(f"""
[[federation]]
trust_domain = "{name}.test"
url = "https://localhost:{ports[1] if name == 'host' else ports[0]}/{'other' if name == 'host' else name}"
profile = "https_web"
ca_file = "{self.web.root}"
""" for name in expected) + f"""
[[federation]]
trust_domain = "strange.test"
url = "https://localhost:{ports[0]}/other"
profile = "https_web"
ca_file = "{self.web.root}"
[[federation]]
trust_domain = "system.test"
url = "https://localhost:{ports[0]}/other"
profile = "https_web"
""")
        ca.start()
        ca.wait_for("bundle-fetched", "strange.test")  # the endpoint works
        ca.wait_for("system.test is not fetched")
        for name, why in expected.items():
            with self.subTest(name):
                line = ca.wait_for(f"{name}.test is not fetched")
                if name != "host":  # libcurl's words
                    self.assertIn(why, line)
        kept = json.loads(ca.run("bundle", "list", "--json"))
        self.assertEqual([row["trust_domain"] for row in kept], ["strange.test"])
        # Told once, however often it is tried.
        self.assertEqual(sum("the bundle of garbage.test is not fetched" in line for line in ca.lines()), 2)


if __name__ == "__main__":
    https_support.INLAY_CA = os.path.abspath(sys.argv.pop(1))
    unittest.main()
