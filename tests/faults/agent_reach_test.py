#!/usr/bin/env python3
"""Programs that give up what it takes to reach the agent: a root of their own, few descriptors, none kept."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from agent_support import BOB, Agent
from support import FOLDER, GREETING, INLAY, TRUST_DOMAIN, ClientVictim, Victim, issue, until

# Gives something up before its first handshake, then greets one connection after another, each
# until its peer ends.
SERVER = """
import json, os, resource, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
what = sys.argv[1]
if what == "chroot":
    os.chroot(sys.argv[2])
    os.chdir("/")
elif what == "limit":
    resource.setrlimit(resource.RLIMIT_NOFILE, (listener.fileno() + 2,) * 2)
elif what == "close":
    os.closerange(listener.fileno() + 1, 1 << 20)
os.write(1, json.dumps({"port": port}).encode() + b"\\n")
while True:
    conn, _ = listener.accept()
    try:
        conn.sendall(sys.argv[3].encode())
        while conn.recv(65536): pass
    except OSError as error: pass
    conn.close()
"""


class Reach(unittest.TestCase):
    def setUp(self):
        self.agent = Agent(start=False)
        self.addCleanup(self.agent.close)
        self.svid = issue("server")
        self.agent.config.write_text(f"""trust_domain = "{TRUST_DOMAIN}"
socket = "{self.agent.socket}"
[[source.svid]]
svid = "{self.svid}/svid.pem"
key = "{self.svid}/key.pem"
bundle = "{self.svid}/bundle.pem"
[log]
file = "{self.agent.log}"
[[entry]]
id = "spiffe://{TRUST_DOMAIN}/server"
uid = {os.getuid()}
""")
        self.agent.start()
        self.client_svid = issue("client")

    def server(self, what):
        empty = FOLDER / "empty"
        empty.mkdir(exist_ok=True)
        server = Victim(SERVER, self.svid, what, empty, GREETING.decode(), agent=self.agent.socket)
        self.addCleanup(server.child.kill)
        server.port = server.line()["port"]
        return server

    def events(self, server):
        """From inlay's own log: the configured one needs a descriptor and the old root at each event."""
        done = subprocess.run([str(INLAY), "log", str(server.child.pid), "--json"], capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def greeted(self, server):
        answer = ClientVictim(self.client_svid).ask(port=server.port, enough=len(GREETING))
        self.assertEqual((bytes.fromhex(answer["received"]), answer["end"]), (GREETING, "enough"), self.events(server))

    def rotations(self):
        done = subprocess.run([str(INLAY), "status", "--json", "--agent", f"unix://{self.agent.socket}"],
                              capture_output=True)
        return json.loads(done.stdout)["identities"][0]["rotations"]

    def rotate(self):
        before = self.rotations()
        issue("server")
        until(lambda: self.rotations() > before, "the new SVID")

    def restart(self):
        self.agent.stop()
        self.agent.start()

    def test_T67_another_user_in_its_place_is_not_asked(self):
        server = self.server("nothing")
        self.greeted(server)
        self.agent.stop()
        folder = self.agent.socket.parent
        for place in ("the socket itself", "a link to it"):
            with self.subTest(place):
                folder.chmod(0o1777)
                ours, told = os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.setresuid(BOB, BOB, BOB)
                    path = self.agent.socket if place == "the socket itself" else folder / "bobs"
                    squatter = socket.socket(socket.AF_UNIX)
                    squatter.bind(str(path))
                    path.chmod(0o777)
                    squatter.listen()
                    if path != self.agent.socket:
                        self.agent.socket.symlink_to(path)
                    os.write(told, b"x")
                    conn, _ = squatter.accept()
                    os.write(told, conn.recv(4096) or b"-")
                    os._exit(0)
                self.assertEqual(os.read(ours, 1), b"x")
                answer = ClientVictim(self.client_svid).ask(port=server.port, enough=len(GREETING))
                self.assertEqual((answer["received"], answer["end"]), ("", "ECONNRESET"))
                self.assertEqual(os.read(ours, 4096), b"-", "it was asked something")
                os.waitpid(pid, 0)
                until(lambda: [event for event in self.events(server) if event["reason"] == "agent-unavailable"],
                      "the reason in the log")
                for left in (self.agent.socket, folder / "bobs"):
                    left.unlink(missing_ok=True)
        folder.chmod(0o755)
        self.agent.start()
        self.greeted(server)

    def test_in_a_root_of_its_own_the_link_stays(self):
        server = self.server("chroot")
        self.greeted(server)
        self.rotate()
        self.greeted(server)

    def test_in_a_root_of_its_own_another_agent_is_not_found_and_the_log_says_so(self):
        server = self.server("chroot")
        self.greeted(server)
        self.restart()
        answer = ClientVictim(self.client_svid).ask(port=server.port, enough=len(GREETING))
        self.assertEqual((answer["received"], answer["end"]), ("", "ECONNRESET"))
        until(lambda: [event for event in self.events(server) if event["reason"] == "agent-unavailable"],
              "the reason in the log")

    def test_where_the_socket_is_in_that_root_another_agent_is_found(self):
        inside = FOLDER / "empty" / str(self.agent.socket.parent).lstrip("/")
        inside.mkdir(parents=True)
        subprocess.run(["mount", "--bind", self.agent.socket.parent, inside], check=True)
        self.addCleanup(subprocess.run, ["umount", inside], check=True)
        server = self.server("chroot")
        self.greeted(server)
        self.restart()
        self.greeted(server)

    def test_without_a_descriptor_to_spare_the_link_stays(self):
        server = self.server("limit")
        self.greeted(server)

    def test_news_that_finds_no_descriptor_is_asked_for_again(self):
        server, open_one = self.server("limit"), ClientVictim(self.client_svid)
        open_one.tell(port=server.port, tell=True)
        until(lambda: self.events(server), "the open session")
        self.rotate()
        open_one.child.kill()  # the last number is free again
        self.greeted(server)

    def test_what_closes_every_number_keeps_its_identity(self):
        server = self.server("close")
        self.greeted(server)
        self.restart()
        self.greeted(server)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("only root may have another root; skipped")
        sys.exit(77)
    unittest.main(warnings="ignore")
