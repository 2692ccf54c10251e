#!/usr/bin/env python3
"""The C library's resolver with a name server that insists on TCP: never in the clear without a rule that says
so (architecture I1). Name server and program have a network and an /etc/resolv.conf of their own."""

import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import FOLDER, INLAY, PATIENCE, PYTHON, config_text, issue

# Under `unshare`: answers on 127.0.0.1:53, over datagrams with half of the answer and the bit that says so; then
# runs the command and prints what came over TCP.
AROUND = """
import fcntl, json, socket, struct, subprocess, sys, threading
options, command = sys.argv[1], sys.argv[2:]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(udp, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
for name, text in (("resolv.conf", "nameserver 127.0.0.1\\noptions timeout:2 attempts:1 " + options + "\\n"),
                   ("nsswitch.conf", "hosts: files dns\\nnetworks: files dns\\n"), ("hosts", "127.0.0.9 here.faults.test\\n")):
    own = sys.argv[0] + name
    open(own, "w").write(text)
    subprocess.run(["mount", "--bind", own, "/etc/" + name], check=True)
def answer(query, count, short):
    flags = b"\\x86\\x00" if short else b"\\x84\\x00"
    wanted = query[query.index(b"\\0", 12) + 1:][:2]
    count = count if wanted == b"\\0\\1" else 0
    said = b"".join(b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x7f\\0\\0" + bytes([i + 1]) for i in range(count))
    return query[:2] + flags + b"\\0\\1" + count.to_bytes(2, "big") + b"\\0\\0\\0\\0" + \\
        query[12:query.index(b"\\0", 12) + 5] + said
udp.bind(("127.0.0.1", 53))
tcp = socket.create_server(("127.0.0.1", 53))
came = []
def datagrams():
    while True:
        query, peer = udp.recvfrom(4096)
        udp.sendto(answer(query, 2, True), peer)
def stream(conn):
    rest = conn.makefile("rb")
    while head := rest.read(2):
        query = rest.read(int.from_bytes(head, "big"))
        came.append(query[12:].split(b"\\0")[0].decode(errors="replace"))
        said = answer(query, 4, False)
        conn.sendall(len(said).to_bytes(2, "big") + said)
def streams():
    while True: threading.Thread(target=stream, args=(tcp.accept()[0],), daemon=True).start()
for run in (datagrams, streams): threading.Thread(target=run, daemon=True).start()
done = subprocess.run(command, capture_output=True, text=True)
print(json.dumps({"tcp": len(came), "said": done.stdout, "errors": done.stderr}))
"""

# Through getaddrinfo(), gethostbyname() and the resolver's own interface.
ASKS = """
import ctypes, json, socket
found = {}
def ask(what, run):
    try: found[what] = run()
    except OSError as error: found[what] = error.args[0]
ask("getaddrinfo", lambda: len(socket.getaddrinfo("name.faults.test", 1, socket.AF_INET, socket.SOCK_STREAM)))
ask("file", lambda: socket.getaddrinfo("here.faults.test", 1, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
ask("gethostbyname", lambda: len(socket.gethostbyname_ex("name.faults.test")[2]))
room = ctypes.create_string_buffer(4096)
libc = ctypes.CDLL(None)
for call in (libc.res_query, libc.res_search):
    ask(call.__name__, lambda: call(b"name.faults.test", 1, 1, room, 4096) > 0)
class Request(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("service", ctypes.c_char_p), ("hints", ctypes.c_void_p),
                ("result", ctypes.c_void_p), ("status", ctypes.c_int), ("unused", ctypes.c_int * 5)]
request = Request(b"name.faults.test", None, None, None, 0)
libc.getaddrinfo_a(0, (ctypes.POINTER(Request) * 1)(ctypes.pointer(request)), 1, None)
ask("getaddrinfo_a", lambda: libc.gai_error(ctypes.byref(request)))
# Of these only what they ask is watched.
libc.getnetbyname(b"net.faults.test")
libc.getnetbyname_r(b"net.faults.test", room, room, 0, room, room)
libc.getnetbyaddr(127 << 24, 2)
libc.getnetbyaddr_r(127 << 24, 2, room, room, 0, room, room)
libc.gethostid()
libc.getrpcport(b"rpc.faults.test", 100000, 2, 17)
libc.callrpc(b"rpc.faults.test", 100000, 2, 0, None, None, None, None)
libc.clnt_create(b"rpc.faults.test", 100000, 2, b"udp")
libc.ruserok(b"host.faults.test", 0, b"somebody", b"root")
libc.ruserok_af(b"host.faults.test", 0, b"somebody", b"root", 2)
print(json.dumps(found))
"""
EAI_AGAIN = -3

IN_THE_CLEAR = """[[outbound]]
name = "name server"
to = ["127.0.0.1"]
port = 53
mode = "plaintext"
"""


class Resolver(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.svid = issue("client")

    def go(self, options, rule=""):
        log, config, around = FOLDER / "resolver.jsonl", FOLDER / "resolver.toml", FOLDER / "around.py"
        log.unlink(missing_ok=True)
        config.write_text(config_text(self.svid, log=log).replace("[[outbound]]", rule + "[[outbound]]", 1))
        around.write_text(AROUND)
        done = subprocess.run(["unshare", "--map-root-user", "--mount", "--net", PYTHON, around, options,
                               INLAY, "run", "--config", config, "--", PYTHON, "-c", ASKS], capture_output=True,
                              text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(result["errors"], "")
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        refused = {(event["reason"], event["remote"]) for event in events if event["event"] == "refused"}
        return json.loads(result["said"]), result["tcp"], refused

    def test_i1_a_name_server_that_is_asked_over_tcp_only_is_not_asked(self):
        said, tcp, refused = self.go("use-vc")
        self.assertEqual(tcp, 0)
        self.assertEqual(said, {"getaddrinfo": EAI_AGAIN, "file": "127.0.0.9", "gethostbyname": EAI_AGAIN,
                                "res_query": False, "res_search": False, "getaddrinfo_a": EAI_AGAIN})
        self.assertEqual(refused, {("unsupported-socket", "127.0.0.1:53")})

    def test_i1_an_answer_that_was_cut_short_stands_as_it_is(self):
        said, tcp, refused = self.go("")
        self.assertEqual(tcp, 0)
        self.assertEqual(said, {"getaddrinfo": 2, "file": "127.0.0.9", "gethostbyname": 2, "res_query": True,
                                "res_search": True, "getaddrinfo_a": 0})
        self.assertEqual(refused, set())

    def test_with_a_rule_the_resolver_does_as_it_likes(self):
        for options in ("use-vc", ""):
            with self.subTest(options):
                said, tcp, refused = self.go(options, IN_THE_CLEAR)
                self.assertGreaterEqual(tcp, 5)
                self.assertEqual(said, {"getaddrinfo": 4, "file": "127.0.0.9", "gethostbyname": 4, "res_query": True,
                                        "res_search": True, "getaddrinfo_a": 0})
                self.assertEqual(refused, set())


if __name__ == "__main__":
    unittest.main()
