"""What tests of the agent share: a real inlay-agent with an authority, and clients of its protocol.

Clients are processes of their own, with users of their own: who asks is for the kernel to say.
"""

import array
import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import traceback
import unittest

from support import BUILD, INLAY, PATIENCE, until

AGENT = BUILD / "identity" / "agent" / "inlay-agent"
TRUST_DOMAIN = "agent.test"
MAGIC, VERSION = 0x594C4E49, 1
ATTACH, SIGN, PROBE, STATUS, TEST = 1, 2, 3, 4, 5
SNAPSHOT, UNCHANGED, SIGNATURE, TEXT, REFUSED = 65, 66, 67, 68, 69
REFUSALS = ["malformed", "no-entry", "several-entries", "no-svid", "unknown-key", "not-a-handshake",
            "rate-limited", "not-permitted", "process-gone", "traced", "internal"]
ECDSA_P256 = 0x0403
ALICE, BOB, NOBODY, TRACED, FLOODER = 41001, 41002, 41003, 41004, 41005  # two without an entry

POLICY = f"""trust_domain = "{TRUST_DOMAIN}"
[identity]
agent = "unix:///run/inlay/agent.sock"
[defaults]
inbound = "deny"
outbound = "deny"
"""
ENTRIES = f"""
[[entry]]
id = "spiffe://{TRUST_DOMAIN}/alice"
policy = "policy.toml"
uid = {ALICE}
executable = "{os.path.realpath('/proc/self/exe')}"
[[entry]]
id = "spiffe://{TRUST_DOMAIN}/bob"
uid = {BOB}
[[entry]]
id = "spiffe://{TRUST_DOMAIN}/traced"
uid = {TRACED}
refuse_traced = true
"""


def run_inlay(*words):
    return subprocess.run([str(INLAY), *map(str, words)], check=True, capture_output=True, text=True)


class Agent:
    """One agent, with a folder of its own that every user can look into."""

    def __init__(self, entries=ENTRIES, top="", prefix=(), env=None, start=True):
        # Not below the test's own folder: /tmp is sticky, and all above must be root's.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-agent-"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "run" / "agent.sock"
        self.log = self.folder / "audit.jsonl"
        self.config = self.folder / "agent.toml"
        self.prefix, self.env = prefix, env
        run_inlay("ca", "init", "--dir", self.folder / "authority", "--trust-domain", TRUST_DOMAIN)
        (self.folder / "policy.toml").write_text(POLICY)
        self.write_config(entries, top)
        self.child = None
        if start:
            self.start()

    def write_config(self, entries=ENTRIES, top=""):
        fresh = self.config.with_suffix(".new")
        fresh.write_text(f'trust_domain = "{TRUST_DOMAIN}"\nsocket = "{self.socket}"\n{top}\n'
                         f'[source]\nauthority = "authority"\n[log]\nfile = "{self.log}"\n{entries}')
        os.replace(fresh, self.config)

    def start(self, wait=True):
        before = len(self.events(event="agent"))
        self.child = subprocess.Popen([*map(str, self.prefix), str(AGENT), "--config", str(self.config)],
                                      stderr=subprocess.PIPE, env={**os.environ, **(self.env or {})})
        if wait:
            until(lambda: self.child.poll() is not None or len(self.events(event="agent")) > before,
                  "the agent listens")
            assert self.child.poll() is None, self.child.stderr.read().decode()

    def listens(self):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return True
        except OSError:
            return False

    def events(self, **wanted):
        """The lines of the audit log with these values."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if all(event.get(k) == v for k, v in wanted.items())]

    def audited(self, **wanted):
        """Waits for such a line."""
        return until(lambda: self.events(**wanted), f"{wanted} in the audit log")[-1]

    def stop(self):
        self.child.terminate()
        code = self.child.wait(PATIENCE)
        self.child.stderr.close()
        return code

    def close(self):
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
            self.child.wait()
        if self.child is not None and not self.child.stderr.closed:
            self.child.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def as_user(uid, work, *arguments):
    """What work(*arguments) returns, in a process of that user; it must be JSON."""
    result, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(result)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            # A change of user makes a process undumpable, and the rest of its own /proc root's.
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            with os.fdopen(into, "w") as out:
                json.dump(work(*arguments), out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(result) as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the process of user {uid} failed"
    return json.loads(text)


class Crowd:
    """A process of each of these users, which holds what fill() returned in it; one after the other has filled."""

    def __init__(self, users, fill):
        held, self._release = os.pipe()
        self._pids = []
        for user in users:
            filled, full = os.pipe()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.close(self._release)
                    os.setresuid(user, user, user)
                    kept = fill()
                    os.write(full, b"x")
                    os.read(held, 1)
                    code = 0 if kept else 1
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            self._pids.append(pid)
            os.close(full)
            came = os.read(filled, 1)  # nothing: it ended
            os.close(filled)
            if not came:
                self.leave()
                raise AssertionError(f"the process of user {user} failed")
        os.close(held)

    def leave(self):
        os.close(self._release)  # first: it is what they wait for
        for pid in self._pids:
            os.waitpid(pid, 0)


def header(frame, length, request=1, magic=MAGIC, version=VERSION):
    return struct.pack("=IHHII", magic, version, frame, length, request)


def attach_request(epoch=0, generation=0):
    return struct.pack("=QQ16s", epoch, generation, b"test")


def verify_input(role=b"client", digest=b"\x11" * 32):
    """A TLS 1.3 CertificateVerify's (RFC 8446 §4.4.3)."""
    return b" " * 64 + b"TLS 1.3, " + role + b" CertificateVerify\0" + digest


def sign_request(key, data, scheme=ECDSA_P256, hash_length=32):
    return struct.pack("=32sHHI", key, scheme, 0, hash_length) + data


class Client:
    """A connection to the agent, or one that somebody else made."""

    def __init__(self, agent, sock=None):
        self.socket = sock
        if sock is None:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(agent.socket))  # waits where others wait, as with a time limit it would not
        # The kernel's O_NONBLOCK is whoever's else has the connection too.
        self.socket.settimeout(PATIENCE)
        self.request = 0

    def send(self, frame, body=b""):
        self.request += 1
        self.socket.sendall(header(frame, len(body), self.request) + body)
        return self.request

    def receive(self):
        """Frame, bytes, descriptor or None, number of the request; None at the end."""
        fds, data = [], b""
        while len(data) < 16:
            more, control, _, _ = self.socket.recvmsg(16 - len(data), socket.CMSG_SPACE(4))
            for level, kind, content in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.extend(array.array("i", content))
            if not more:
                return None
            data += more
        _, _, frame, length, request = struct.unpack("=IHHII", data)
        body = b""
        while len(body) < length:
            body += self.socket.recv(length - len(body))
        return frame, body, (fds or [None])[0], request

    def ask(self, frame, body=b""):
        number = self.send(frame, body)
        while True:
            answer = self.receive()
            if answer is None:
                return None
            if answer[3] == number:
                return answer[:3]
            if answer[2] is not None:
                os.close(answer[2])

    def refusal(self, frame, body=b""):
        """The name of the refusal, or what came instead."""
        answer = self.ask(frame, body)
        if answer is None or answer[0] != REFUSED:
            return answer if answer is None else f"frame {answer[0]}"
        return REFUSALS[struct.unpack_from("=H", answer[1])[0]]

    def attach(self):
        answer = self.ask(ATTACH, attach_request())
        assert answer is not None and answer[0] == SNAPSHOT, answer
        return Snapshot(answer[1], answer[2])

    def sign(self, key, data=None, **options):
        return self.refusal(SIGN, sign_request(key, data or verify_input(), **options))

    def end(self):
        """What comes until the other side's end; "" for nothing."""
        data = b""
        try:
            while more := self.socket.recv(65536):
                data += more
        except ConnectionResetError:
            pass
        return data.hex()


class Snapshot:
    """What agent_snapshot.h describes, as far as tests need it."""

    def __init__(self, answer, fd):
        self.epoch, self.generation = struct.unpack("=QQ", answer)
        with os.fdopen(fd, "rb") as file:
            block = file.read()
        assert block.startswith(b"INLYSNP1")
        self._rest = block[8:]
        self.policy = self._text()
        self.svid = [self._text() for _ in range(self._number())]
        self.why_no_svid = self._text().decode()
        self.key = hashlib.sha256(self.public_key()).digest() if self.svid else None

    def _number(self):
        value, = struct.unpack_from("=I", self._rest)
        self._rest = self._rest[4:]
        return value

    def _text(self):
        length = self._number()
        value, self._rest = self._rest[:length], self._rest[length:]
        return value

    def public_key(self):
        pem = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-pubkey"],
                             input=self.svid[0], check=True, capture_output=True).stdout
        return subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem,
                              check=True, capture_output=True).stdout

    def spiffe_id(self):
        text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-ext", "subjectAltName"],
                              input=self.svid[0], check=True, capture_output=True, text=False).stdout
        return text.decode().split("URI:")[1].strip()


def attached(agent):
    client = Client(agent)
    return client, client.attach()


class WithAgent(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = Agent()
        cls.addClassCleanup(cls.agent.close)
