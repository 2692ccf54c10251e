"""inlay-ca as a process, and certificates of the web's kind, for the tests that ask it by HTTPS."""

import pathlib
import re
import secrets
import socket
import subprocess
import tempfile
import time
import unittest

INLAY_CA = None  # set by the test


_kept = []


def free_port():
    """For a program that cannot be given a socket. One that is bound keeps the port from others, and below the
    ephemeral range no outgoing connection can have it; a listener with SO_REUSEADDR may be beside it."""
    while True:
        keeper = socket.socket()
        try:
            keeper.bind(("127.0.0.1", 10000 + secrets.randbelow(20000)))
        except OSError:
            keeper.close()
            continue
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _kept.append(keeper)
        return keeper.getsockname()[1]


def openssl(*words):
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True).stdout


class WebAuthority:
    """A CA of the web's kind, and certificates of it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.root = folder / "root.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-keyout", folder / "root-key.pem", "-out", self.root, "-subj", "/CN=web root",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")

    def issue(self, name, host="localhost"):
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-CA", self.root,
                "-CAkey", self.folder / "root-key.pem", "-addext", f"subjectAltName=DNS:{host}",
                "-addext", "basicConstraints=critical,CA:FALSE")
        key.chmod(0o600)
        return certificate, key


class Authority:
    """An inlay-ca with its state, which serves until stop()."""

    def __init__(self, folder, trust_domain, more=""):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.trust_domain = trust_domain
        self.config = folder / "ca.toml"
        self.log = folder / "log.jsonl"
        self.process = None
        self.configure(more)

    def configure(self, more):
        self.config.write_text(f'trust_domain = "{self.trust_domain}"\nstate = "state"\n'
                               f'listen = "127.0.0.1:0"\n{more}\n[log]\nfile = "log.jsonl"\n')

    def run(self, *words):
        return subprocess.run([INLAY_CA, *words, "--config", self.config], capture_output=True, text=True,
                              timeout=300, check=True).stdout

    def start(self):
        before = len(self.lines())
        self.process = subprocess.Popen([INLAY_CA, "serve", "--config", self.config],
                                        stderr=subprocess.PIPE, text=True)
        return self.ports(self.wait_for("listens at", after=before))

    @staticmethod
    def ports(line):
        return {name or "grpc": int(port)
                for port, name in re.findall(r"127\.0\.0\.1:(\d+)(?: \((\w+)\))?", line)}

    def lines(self):
        """Of its log: the whole ones."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return [line for line in lines if line.endswith("\n")]

    def wait_for(self, *parts, after=0):
        """The line of its log that has all of them, once there is one; of those after so many."""
        while True:
            for line in self.lines()[after:]:
                if all(part in line for part in parts):
                    return line
            if self.process.poll() is not None:
                raise AssertionError(self.process.stderr.read())
            time.sleep(0.02)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.communicate()
            self.process = None


def curl(*words, code=0):
    done = subprocess.run(["curl", "-s", "--noproxy", "*", *map(str, words)], capture_output=True, timeout=60,
                          check=False)
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stdout


class HttpsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name).resolve()
        self.web = WebAuthority(self.path / "web")

    def authority(self, name, trust_domain, more=""):
        made = Authority(self.path / name, trust_domain, more)
        self.addCleanup(made.stop)
        return made
