"""Clients of the SPIFFE Workload API as processes of their own users, and what they get, looked at by openssl."""

import atexit
import base64
import json
import os
import shutil
import subprocess
import tempfile

from support import BUILD, HERE

PROTO = HERE.parents[1] / "identity" / "agent" / "workload.proto"
_folder = None


def generated():
    """The folder of the messages in Python, that every user can read."""
    global _folder
    if _folder is None:
        _folder = tempfile.mkdtemp(prefix="inlay-workload-")
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
        os.chmod(_folder, 0o755)
        subprocess.run(["protoc", f"--proto_path={PROTO.parent}", f"--python_out={_folder}", PROTO.name],
                       check=True)
        shutil.copy(HERE / "workload_client.py", _folder)
    return _folder


class Call:
    """One call, in a process of its own that ends with it."""

    def __init__(self, agent, language, method, request, user, metadata="true"):
        # Debian's: the packages of gRPC are for no other.
        client = {"C++": [BUILD / "tests" / "faults" / "workload_client"],
                  "Python": ["/usr/bin/python3", f"{generated()}/workload_client.py"]}[language]
        self.child = subprocess.Popen(
            [*map(str, client), f"unix:{agent.socket}", method, json.dumps(request), metadata],
            stdout=subprocess.PIPE, user=user, group=user, extra_groups=[], cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": generated(), "PYTHONDONTWRITEBYTECODE": "1"})

    def _line(self):
        line = self.child.stdout.readline()
        assert line, f"the client ended with {self.child.wait()}"
        return json.loads(line)

    def message(self):
        line = self._line()
        assert "status" not in line, line
        return line

    def ended(self):
        """Status and message of a call without answers, or after all of them."""
        while "status" not in (line := self._line()):
            pass
        return int(line["status"]), line["why"]

    def status(self):
        line = self._line()
        assert "status" in line, line
        return int(line["status"])

    def end(self):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def _openssl(*words, data):
    done = subprocess.run(["openssl", *words], input=data, check=True, capture_output=True)
    return done.stdout.decode()


def each_der(text):
    """The DER elements of a message's field, one after the other."""
    data = base64.b64decode(text)
    while data:
        length, head = data[1], 2
        if length & 0x80:
            head += length & 0x7f
            length = int.from_bytes(data[2:head], "big")
        yield data[:head + length]
        data = data[head + length:]


def certificates(text):
    return [_openssl("x509", "-inform", "DER", "-noout", "-text", data=der) for der in each_der(text)]


def serials(text):
    return [_openssl("x509", "-inform", "DER", "-noout", "-serial", data=der) for der in each_der(text)]


def matching_pair(svid):
    leaf = next(each_der(svid["x509Svid"]))
    key = base64.b64decode(svid["x509SvidKey"])
    return _openssl("x509", "-inform", "DER", "-noout", "-pubkey", data=leaf) == \
        _openssl("pkey", "-inform", "DER", "-pubout", data=key)
