"""What the tests under a live systemd share: policies, a user's own agent, and programs in units of their own."""

import json
import subprocess

from support import GREETING

SOCKET = "/run/inlay/agent.sock"


def policy(domain, allow="**", socket=SOCKET, patience="60s"):
    """All there is, strictly: to anybody of the domain, and from whom `allow` names."""
    return f"""trust_domain = "{domain}"
[identity]
agent = "unix://{socket}"
[defaults]
inbound = "deny"
outbound = "deny"
handshake_timeout = "{patience}"
[[inbound]]
name = "all"
port = "*"
mode = "strict"
allow = {json.dumps([f"spiffe://{domain}/{name}" for name in allow.split()])}
[[outbound]]
name = "all"
port = "*"
mode = "strict"
expect = ["spiffe://{domain}/**"]
"""


def users_agent(machine, name, domain):
    """Configures a user's own agent, for that user's programs, with an authority of its own; its socket's path."""
    home, socket = f"/home/{name}/.config/inlay", f"/run/user/{machine.user(name).pw_uid}/inlay/agent.sock"
    machine.do("mkdir", "-p", home, user=name)
    machine.do("inlay", "ca", "init", "--dir", f"{home}/authority", "--trust-domain", domain, user=name)
    machine.write(f"{home}/policy.toml", policy(domain, allow=name, socket=socket), owner=name)
    machine.write(f"{home}/agent.toml", f"""trust_domain = "{domain}"
[source]
authority = "authority"
[[entry]]
id = "spiffe://{domain}/{name}"
user = "{name}"
policy = "policy.toml"
""", owner=name)
    return socket


# Holds connections under names that it is told.
HOLDER = """
import errno, json, os, socket, sys
held = {}
for line in sys.stdin:
    task = json.loads(line)
    try:
        if "open" in task:
            held[task["open"]] = socket.create_connection(("127.0.0.1", task["port"]))
            conn = held[task["open"]]
        else:
            conn = held[task["use"]]
        conn.sendall(task["say"].encode())
        got = b""
        while len(got) < task["enough"]:
            data = conn.recv(65536)
            if not data: raise ConnectionAbortedError(errno.ECONNABORTED, "the end")
            got += data
        answer = {"got": got.decode()}
    except OSError as error:
        answer = {"error": errno.errorcode[error.errno]}
    os.write(1, json.dumps(answer).encode() + b"\\n")
"""


class Program:
    """A Python program under `inlay run`, without any configuration, in a unit of its own."""

    def __init__(self, machine, unit, text, *arguments, inlay=True):
        self.machine, self.unit = machine, unit
        run = (machine.installed("bin/inlay"), "run", "--") if inlay else ()
        self.child = subprocess.Popen(
            machine.words("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}", *run,
                          "/usr/bin/python3", "-u", "-c", text, *arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.child.stdout.readline()
        assert line, f"{self.unit} ended: {self.machine.journal(self.unit)}"
        return json.loads(line)

    def tell(self, **what):
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()

    def ask(self, **what):
        self.tell(**what)
        return self.line()

    def open(self, name, port):
        return self.ask(open=name, port=port, say="hello", enough=len(GREETING) + len("hello"))

    def use(self, name):
        return self.ask(use=name, say="again", enough=len("again"))

    def stop(self):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait()
        self.machine.await_forgotten(self.unit)
