#!/usr/bin/env python3
"""EST (RFC 7030) as devices speak it: CSRs of openssl req, carried by curl, to a real inlay-ca.

est_test.py INLAY-CA
"""

import base64
import os
import subprocess
import sys
import unittest

import https_support
from https_support import curl, openssl

NODE = "spiffe://a.test/inlay/node/dev-1"


class Est(https_support.HttpsTest):
    def setUp(self):
        super().setUp()
        self.ca = self.authority("a", "a.test", '[est]\nlisten = "127.0.0.1:0"\nnames = ["localhost", "127.0.0.1"]\n')
        port = self.ca.start()["est"]
        self.url = f"https://localhost:{port}/.well-known/est"
        self.anchors = self.path / "anchors.pem"
        self.anchors.write_bytes(self.certificates(curl("-k", self.url + "/cacerts")))

    @staticmethod
    def certificates(answer):
        """PEM of all that is in a certs-only answer."""
        return subprocess.run(["openssl", "pkcs7", "-inform", "DER", "-print_certs"], check=True,
                              input=base64.b64decode(answer), capture_output=True).stdout

    def token(self, node):
        return self.ca.run("token", "--node", node).strip()

    def csr(self, name, *words, subject="/", key="ec"):
        """A CSR in EST's base64, and its key."""
        kind = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                "rsa": ["-newkey", "rsa:2048"], "weak": ["-newkey", "rsa:1024"]}[key]
        key_file, request = self.path / f"{name}-key.pem", self.path / f"{name}.csr"
        openssl("req", "-new", *kind, "-nodes", "-keyout", key_file, "-outform", "DER", "-out", request,
                "-subj", subject, *words)
        body = self.path / f"{name}.b64"
        body.write_bytes(base64.encodebytes(request.read_bytes()))
        return body, key_file

    def post(self, operation, body, *words):
        """Status, and the certificate as PEM or what was said instead."""
        answer = curl("--cacert", self.anchors, "-H", "Content-Type: application/pkcs10", "-w", "\n%{http_code}",
                      "--data-binary", f"@{body}", *words, f"{self.url}/{operation}")
        text, _, status = answer.rpartition(b"\n")
        return int(status), self.certificates(text) if status == b"200" else text.decode()

    def enrolled(self, name="dev-1", *words):
        """The device's certificate and key, as curl takes them."""
        body, key = self.csr(name, *words)
        status, certificate = self.post("simpleenroll", body, "-u", f"{name}:{self.token(name)}")
        self.assertEqual(status, 200, certificate)
        file = self.path / f"{name}.pem"
        file.write_bytes(certificate)
        return file, key

    def names(self, certificate):
        text = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=certificate,
                              capture_output=True, check=True).stdout.decode()
        return text.splitlines()[1].strip()

    def entry(self, spiffe_id, node="dev-*"):
        self.ca.run("entry", "add", "--id", spiffe_id, "--node", node, "--selector", "uid=0")

    def test_anybody_reads_the_authorities_and_what_key_to_make(self):
        self.assertEqual(self.anchors.read_text().count("BEGIN CERTIFICATE"), 2)  # a root, an intermediate
        head = curl("--cacert", self.anchors, "-i", self.url + "/label/cacerts").lower()
        self.assertIn(b"content-type: application/pkcs7-mime; smime-type=certs-only", head)
        self.assertIn(b"content-transfer-encoding: base64", head)
        attributes = base64.b64decode(curl("--cacert", self.anchors, self.url + "/csrattrs"))
        parsed = subprocess.run(["openssl", "asn1parse", "-inform", "DER"], input=attributes, check=True,
                                capture_output=True).stdout.decode()
        for word in ("id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"):
            self.assertIn(word, parsed)
        for path, status in (("/cacerts/x/y", "404"), ("/", "404"), ("//cacerts", "404"), ("/fullcmc", "404"),
                             ("/simpleenroll", "405"), ("/serverkeygen", "404")):
            with self.subTest(path):
                self.assertEqual(curl("--cacert", self.anchors, "-o", "/dev/null", "-w", "%{http_code}",
                                      "--path-as-is", self.url + path).decode(), status)
        self.assertEqual(curl("--cacert", self.anchors, "-d", "", "-o", "/dev/null", "-w", "%{http_code}",
                              self.url + "/cacerts").decode(), "405")

    def test_a_token_makes_a_device_a_node_once_and_its_certificate_renews_itself(self):
        body, key = self.csr("dev-1", "-addext", f"subjectAltName=URI:{NODE}")
        token = self.token("dev-1")
        status, certificate = self.post("simpleenroll", body, "-u", f"dev-1:{token}")
        self.assertEqual(status, 200, certificate)
        self.assertEqual(self.names(certificate), f"URI:{NODE}")
        again, same = self.post("simpleenroll", body, "-u", f"dev-1:{token}")
        self.assertEqual((again, self.names(same)), (200, f"URI:{NODE}"))  # an answer was lost
        other, _ = self.csr("other")
        self.assertEqual(self.post("simpleenroll", other, "-u", f"dev-1:{token}")[0], 401)
        file = self.path / "dev-1.pem"
        file.write_bytes(certificate)
        openssl("verify", "-CAfile", self.anchors, file)
        new, new_key = self.csr("new", "-addext", f"subjectAltName=critical,URI:{NODE}")
        status, renewed = self.post("simplereenroll", new, "--cert", file, "--key", key)
        self.assertEqual(status, 200, renewed)
        self.assertEqual(self.names(renewed), f"URI:{NODE}")
        # The new one works, in TLS 1.2 too.
        (self.path / "new.pem").write_bytes(renewed)
        self.assertEqual(self.post("simplereenroll", new, "--cert", self.path / "new.pem", "--key", new_key,
                                   "--tls-max", "1.2")[0], 200)
        events = [line for line in self.ca.lines() if '"event":"renewed"' in line]
        self.assertEqual(len(events), 2)

    def test_who_proves_nothing_is_asked_to_and_every_wrong_token_is_the_same(self):
        body, _ = self.csr("dev-1")
        head = curl("--cacert", self.anchors, "-i", "-H", "Content-Type: application/pkcs10", "--data-binary",
                    f"@{body}", self.url + "/simpleenroll")
        self.assertIn(b" 401 ", head.splitlines()[0])
        self.assertIn(b"www-authenticate: basic", head.lower())
        token = self.token("dev-1")
        wrong = {self.post("simpleenroll", body, "-u", credentials)
                 for credentials in (f"dev-2:{token}", f"dev-1:{token[:-1]}{'B' if token[-1] == 'A' else 'A'}",
                                     "dev-1:password", "dev-1:", f":{token}")}
        self.assertEqual(len(wrong), 1, wrong)
        self.assertEqual(wrong.pop()[0], 401)
        self.assertEqual(self.post("simpleenroll", body, "-H", "Authorization: Bearer x")[0], 401)
        self.assertEqual(self.post("simplereenroll", body, "-u", f"dev-1:{token}")[0], 401)
        self.assertEqual(self.post("simpleenroll", body, "-u", f"dev-1:{token}")[0], 200)  # still good
        self.assertNotIn(token, self.ca.log.read_text())
        self.assertNotIn(token[-43:], self.ca.log.read_text())

    def test_t70_a_csr_that_asks_for_more_than_there_is_is_refused(self):
        token = self.token("dev-1")
        san = "subjectAltName=URI:"
        for name, words in {"another's ID": ["-addext", f"{san}spiffe://a.test/inlay/node/dev-2"],
                            "the authority's": ["-addext", f"{san}spiffe://a.test/inlay/ca"],
                            "two": ["-addext", f"{san}{NODE},URI:{NODE}"],
                            "a host": ["-addext", f"{san}{NODE},DNS:a.test"],
                            "a host alone": ["-addext", "subjectAltName=DNS:a.test"],
                            "cA": ["-addext", "basicConstraints=critical,CA:TRUE"],
                            "keyCertSign": ["-addext", "keyUsage=keyCertSign"]}.items():
            with self.subTest(name):
                body, _ = self.csr("bad", *words)
                self.assertEqual(self.post("simpleenroll", body, "-u", f"dev-1:{token}")[0], 403)
        weak, _ = self.csr("weak", key="weak")
        self.assertEqual(self.post("simpleenroll", weak, "-u", f"dev-1:{token}")[0], 400)
        good, _ = self.csr("good", subject="/CN=anything")
        broken = self.path / "broken.b64"
        der = bytearray(base64.b64decode(good.read_bytes()))
        der[-1] ^= 1
        for content in (base64.encodebytes(bytes(der)), b"!", b"", good.read_bytes()[:-8]):
            broken.write_bytes(content)
            self.assertEqual(self.post("simpleenroll", broken, "-u", f"dev-1:{token}")[0], 400)
        self.assertEqual(self.post("simpleenroll", good, "-u", f"dev-1:{token}",
                                   "-H", "Content-Type: text/plain")[0], 400)
        self.assertIn("asks to be an authority", self.ca.log.read_text())
        # None of that has spent it; the subject is for people and not in what is issued.
        status, certificate = self.post("simpleenroll", good, "-u", f"dev-1:{token}")
        self.assertEqual(status, 200)
        subject = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=certificate, check=True,
                                 capture_output=True).stdout
        self.assertEqual(subject.strip(), b"subject=")

    def test_a_node_gets_the_svids_of_its_workloads_and_no_others(self):
        certificate, key = self.enrolled()
        shown = ("--cert", certificate, "--key", key)
        plain, _ = self.csr("plain")
        self.assertEqual(self.post("simpleenroll", plain, *shown)[0], 400)  # it has no entry
        self.entry("spiffe://a.test/meter")
        self.entry("spiffe://a.test/other", node="pc-1")
        status, svid = self.post("simpleenroll", plain, *shown)
        self.assertEqual((status, self.names(svid)), (200, "URI:spiffe://a.test/meter"))
        self.entry("spiffe://a.test/pump")
        status, said = self.post("simpleenroll", plain, *shown)
        self.assertEqual(status, 400)
        self.assertIn("several", said)
        for name, expected in (("pump", 200), ("meter", 200), ("other", 403), ("inlay/ca", 403),
                               ("inlay/node/dev-1", 403), ("inlay/node/dev-2", 403)):
            with self.subTest(name):
                body, _ = self.csr("w", "-addext", f"subjectAltName=URI:spiffe://a.test/{name}", key="rsa")
                status, svid = self.post("simpleenroll", body, *shown)
                self.assertEqual(status, expected, svid)
        # A workload's SVID is good for neither.
        body, workload_key = self.csr("pump", "-addext", "subjectAltName=URI:spiffe://a.test/pump")
        workload = self.path / "pump.pem"
        workload.write_bytes(self.post("simpleenroll", body, *shown)[1])
        for operation in ("simpleenroll", "simplereenroll"):
            self.assertEqual(self.post(operation, body, "--cert", workload, "--key", workload_key)[0], 403)

    def test_a_renewal_is_of_the_certificate_that_is_shown(self):
        certificate, key = self.enrolled()
        shown = ("--cert", certificate, "--key", key)
        for words, subject in ((["-addext", "subjectAltName=URI:spiffe://a.test/inlay/node/dev-2"], "/"),
                               (["-addext", f"subjectAltName=URI:{NODE}"], "/CN=x"), ([], "/")):
            body, _ = self.csr("bad", *words, subject=subject)
            self.assertEqual(self.post("simplereenroll", body, *shown)[0], 400)
        good, _ = self.csr("good", "-addext", f"subjectAltName=URI:{NODE}")
        self.assertEqual(self.post("simplereenroll", good, *shown)[0], 200)
        self.ca.run("revoke", "--node", "dev-1")
        self.assertEqual(self.post("simplereenroll", good, *shown)[0], 401)
        self.assertEqual(self.post("simpleenroll", good, *shown)[0], 401)


if __name__ == "__main__":
    https_support.INLAY_CA = os.path.abspath(sys.argv.pop(1))
    unittest.main()
