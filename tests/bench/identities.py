"""Certificates of the bench: one authority, a P-256 identity each for the server and the client."""

import dataclasses
import os
import subprocess

TRUST_DOMAIN = "bench.inlay"


@dataclasses.dataclass(frozen=True)
class Credentials:
    spiffe_id: str
    certificate: str
    key: str
    authority: str
    combined: str  # certificate and key in one file, as haproxy wants them


def quietly(*command, **options):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE, text=True, **options)


def has_authority(inlay):
    """Whether this `inlay` has the command `ca`."""
    if not os.path.exists(inlay):
        return False
    asked = subprocess.run([inlay, "ca", "init", "--help"], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True)
    return asked.returncode == 0 and "--trust-domain" in asked.stdout


def with_inlay(inlay, folder):
    authority = os.path.join(folder, "authority")
    quietly(inlay, "ca", "init", "--dir", authority, "--trust-domain", TRUST_DOMAIN)
    for name in ("server", "client"):
        quietly(inlay, "ca", "issue", "--dir", authority,
                "--id", "spiffe://%s/%s" % (TRUST_DOMAIN, name),
                "--out", os.path.join(folder, name))


def with_openssl(folder):
    authority = os.path.join(folder, "authority")
    os.mkdir(authority)
    config = os.path.join(authority, "openssl.cnf")
    with open(config, "w") as text:
        text.write("[req]\ndistinguished_name = name\nprompt = no\n[name]\nO = inlay bench\n"
                   "[authority]\nbasicConstraints = critical, CA:true\n"
                   "keyUsage = critical, keyCertSign, cRLSign\n"
                   "subjectAltName = URI:spiffe://%s\n" % TRUST_DOMAIN)
        for name in ("server", "client"):
            text.write("[%s]\nbasicConstraints = critical, CA:false\n"
                       "keyUsage = critical, digitalSignature\n"
                       "extendedKeyUsage = serverAuth, clientAuth\n"
                       "subjectAltName = URI:spiffe://%s/%s\n" % (name, TRUST_DOMAIN, name))
    root, root_key = os.path.join(authority, "bundle.pem"), os.path.join(authority, "key.pem")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    quietly("openssl", "req", "-x509", "-config", config, "-extensions", "authority", *new_key,
            "-keyout", root_key, "-out", root, "-days", "2")
    for name in ("server", "client"):
        out = os.path.join(folder, name)
        os.mkdir(out)
        request, key = os.path.join(out, "request.pem"), os.path.join(out, "key.pem")
        quietly("openssl", "req", "-new", "-config", config, *new_key, "-keyout", key,
                "-out", request)
        quietly("openssl", "x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key,
                "-CAcreateserial", "-extfile", config, "-extensions", name, "-days", "1",
                "-out", os.path.join(out, "svid.pem"))
        os.chmod(key, 0o600)
        with open(root) as source, open(os.path.join(out, "bundle.pem"), "w") as bundle:
            bundle.write(source.read())


def make(inlay, folder):
    """Returns the server's and the client's credentials and who made them."""
    if has_authority(inlay):
        with_inlay(inlay, folder)
        made_by = "inlay ca"
    else:
        with_openssl(folder)
        made_by = "openssl"
    found = []
    for name in ("server", "client"):
        out = os.path.join(folder, name)
        certificate, key = os.path.join(out, "svid.pem"), os.path.join(out, "key.pem")
        combined = os.path.join(out, "combined.pem")
        with open(combined, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as both:
            for part in (certificate, key):
                with open(part) as source:
                    both.write(source.read())
        found.append(Credentials("spiffe://%s/%s" % (TRUST_DOMAIN, name), certificate, key,
                                 os.path.join(out, "bundle.pem"), combined))
    return found[0], found[1], made_by
