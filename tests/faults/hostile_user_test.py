#!/usr/bin/env python3
"""Files, environment and descriptors in the hands of others; configuration and identity that change."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (BUILD, CANARY, FOLDER, GREETING, INLAY, PATIENCE, PYTHON, TRUST_DOMAIN, ClientVictim,
                     ServerVictim, Victim, checked, config_text, issue, until)

NOBODY = 65534


def setUpModule():
    global SERVER_ID, CLIENT_ID
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")


def replace(path, text):
    """As an administrator should: a new file, moved over the old."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


# Holds connections open and answers each command with what it sees.
HOLDER = """
import errno, json, os, socket, sys
conns = {}
for line in sys.stdin:
    task = json.loads(line)
    answer = {}
    try:
        if task["do"] == "connect":
            conn = conns[task["name"]] = socket.create_connection(("127.0.0.1", task["port"]))
        conn = conns[task["name"]]
        if task["do"] in ("connect", "exchange"):
            conn.sendall(b"ping")
            got = b""
            while not got.endswith(b"ping"):
                data = conn.recv(4096)
                if not data: break
                got += data
            answer["got"] = got.decode()
        if task["do"] == "wait":
            answer["got"] = conn.recv(4096).decode()
        if task["do"] == "close":
            conns.pop(task["name"]).close()
    except OSError as error:
        answer["error"] = errno.errorcode[error.errno]
    os.write(1, json.dumps(answer).encode() + b"\\n")
"""


class LiveConfiguration(unittest.TestCase):
    def setUp(self):
        self.server = ServerVictim(SERVER_ID)
        self.holder = Victim(HOLDER, CLIENT_ID)

    def tearDown(self):
        for victim in (self.server, self.holder):
            victim.child.kill()
            victim.child.wait()

    def exchange(self, name, do="exchange"):
        return self.holder.ask(do=do, name=name, port=self.server.port)

    def test_t51_a_broken_configuration_leaves_the_last_good_one_in_force(self):
        good = {"got": GREETING.decode() + "ping"}
        self.assertEqual(self.exchange("first", "connect"), good)
        replace(self.server.config, "[[inbound]\nallow = broken")
        until(lambda: [e for e in self.server.events() if e["event"] == "notice"],
              "the log to say that the new configuration is not taken")
        self.assertEqual(self.exchange("first"), {"got": "ping"})
        self.assertEqual(self.exchange("second", "connect"), good)
        self.assertIn("policy-unreadable", [e["reason"] for e in self.server.events()])

    def test_t54_a_policy_that_no_longer_allows_a_session_cuts_it_inbound(self):
        self.exchange("open", "connect")
        # Nothing moves on the connection: the server's own look at the file must find it.
        replace(self.server.config, config_text(SERVER_ID, allow=("server",), log=self.server.log))
        self.assertEqual(self.holder.ask(do="wait", name="open"), {"error": "ECONNRESET"})
        cut = [e for e in self.server.events() if e["event"] == "cut"]
        self.assertEqual([e["reason"] for e in cut], ["policy-changed"])
        self.assertEqual(cut[0]["peer_id"], f"spiffe://{TRUST_DOMAIN}/client")
        self.assertTrue(cut[0]["remote"].startswith("127.0.0.1:"))
        self.assertIn(self.exchange("new", "connect"), ({"error": "ECONNRESET"}, {"error": "EPIPE"}))

    def test_t54_a_policy_that_no_longer_expects_the_server_cuts_the_session_outbound(self):
        self.exchange("open", "connect")
        replace(self.holder.config, config_text(CLIENT_ID, allow=("client",), log=self.holder.log))
        self.assertEqual(self.holder.ask(do="wait", name="open"), {"error": "ECONNRESET"})
        self.assertEqual([e["reason"] for e in self.holder.events() if e["event"] == "cut"],
                         ["policy-changed"])

    def test_i11_a_policy_that_still_allows_a_session_leaves_it_alone(self):
        self.exchange("open", "connect")
        before = self.server.config.read_text()
        replace(self.server.config, before.replace('name = "all inbound"', 'name = "renamed"'))
        # A new connection shows the new rule's name: the policy has changed by then.
        def renamed():
            self.exchange("other", "connect")
            self.holder.ask(do="close", name="other")
            return [e for e in self.server.events() if e.get("rule") == "renamed"]
        until(renamed, "the new policy")
        self.assertEqual(self.exchange("open"), {"got": "ping"})

    def test_i11_a_new_svid_is_used_by_new_handshakes_and_open_sessions_go_on(self):
        self.exchange("open", "connect")
        fresh = issue("client2")
        shutil.copytree(SERVER_ID, FOLDER / "rotated")
        moved = ServerVictim(FOLDER / "rotated", allow=("client", "client2", "server"))
        holder = Victim(HOLDER, fresh, allow=("server", "client"))
        try:
            first = holder.ask(do="connect", name="a", port=moved.port)
            self.assertEqual(first, {"got": GREETING.decode() + "ping"})
            serial = checked("openssl", "x509", "-in", FOLDER / "rotated" / "svid.pem", "-noout", "-serial")
            checked(INLAY, "ca", "issue", "--dir", FOLDER / "authority", "--id",
                    f"spiffe://{TRUST_DOMAIN}/server", "--out", FOLDER / "rotated")
            now = checked("openssl", "x509", "-in", FOLDER / "rotated" / "svid.pem", "-noout", "-serial")
            self.assertNotEqual(serial, now)

            def presented():
                shown = subprocess.run(
                    ["openssl", "s_client", "-connect", f"127.0.0.1:{moved.port}", "-cert",
                     CLIENT_ID / "svid.pem", "-key", CLIENT_ID / "key.pem"], input=b"",
                    capture_output=True, timeout=PATIENCE).stdout
                serial = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown,
                                        capture_output=True, timeout=PATIENCE).stdout
                return serial.decode() == now
            until(presented, "the new SVID in a handshake")
            self.assertEqual(holder.ask(do="exchange", name="a"), {"got": "ping"})
        finally:
            moved.child.kill()
            holder.child.kill()

    def test_t64_an_expired_svid_fails_closed_with_its_reason(self):
        shutil.copytree(CLIENT_ID, FOLDER / "short")
        checked(INLAY, "ca", "issue", "--dir", FOLDER / "authority", "--id",
                f"spiffe://{TRUST_DOMAIN}/client", "--out", FOLDER / "short", "--ttl", "2s")
        holder = Victim(HOLDER, FOLDER / "short")
        try:
            # In the second it ends, the peer may be the one that refuses: that one is "cut" here.
            def refusals():
                error = holder.ask(do="connect", name="x", port=self.server.port).get("error")
                self.assertIn(error, (None, "ECONNRESET", "EPIPE"))
                return [e["reason"] for e in holder.events() if e["event"] == "refused"]
            reasons = until(refusals, "a refusal for the SVID's end")
            self.assertIn(reasons[0], ("svid-expired", "identity-unreadable"))
        finally:
            holder.child.kill()


class Environment(unittest.TestCase):
    CONNECT = """
import socket, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.sendall(b"ping")
got = b""
while not got.endswith(b"ping"):
    data = conn.recv(4096)
    if not data: break
    got += data
print(got.decode())
"""

    def setUp(self):
        self.server = ServerVictim(SERVER_ID)
        self.config = FOLDER / "environment.toml"
        self.config.write_text(config_text(CLIENT_ID))

    def tearDown(self):
        self.server.child.kill()
        self.server.child.wait()

    def test_a_child_with_a_stripped_environment_is_still_protected(self):
        done = subprocess.run([INLAY, "run", "--config", self.config, "--", "env", "-i", PYTHON, "-c",
                               self.CONNECT, str(self.server.port)], capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.stdout.decode().strip(), GREETING.decode() + "ping", done.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to make a setuid program")
    def test_t68_a_setuid_program_ignores_what_its_caller_says(self):
        folder = FOLDER / "setuid"
        folder.mkdir()
        FOLDER.chmod(0o755)
        program = folder / "cat"
        shutil.copy("/bin/cat", program)
        shutil.copy(BUILD / "shim" / "libinlay.so", folder / "libinlay.so")
        os.chown(program, 0, 0)
        os.chmod(program, 0o4755)
        log = folder / "log.jsonl"
        env = {"LD_PRELOAD": str(folder / "libinlay.so"), "INLAY_CONFIG": str(self.config), "PATH": "/bin"}
        maps = subprocess.run([program, "/proc/self/maps"], env=env, user=NOBODY, group=NOBODY,
                              extra_groups=[], capture_output=True, timeout=PATIENCE)
        FOLDER.chmod(0o700)
        self.assertEqual(maps.returncode, 0, maps.stderr)
        self.assertNotIn(b"libinlay", maps.stdout)
        self.assertFalse(log.exists())


class Files(unittest.TestCase):
    CONNECT = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).sendall(b"x")
    print("connected")
except OSError as error: print(error.errno)
"""

    def run_preloaded(self, config, **options):
        """Without the launcher, which would refuse first: what the shim itself says."""
        with socket.create_server(("127.0.0.1", 0)) as target:
            env = {**os.environ, "LD_PRELOAD": str(BUILD / "shim" / "libinlay.so"),
                   "INLAY_CONFIG": str(config), **options.pop("env", {})}
            return subprocess.run([PYTHON, "-c", self.CONNECT, str(target.getsockname()[1])], env=env,
                                  capture_output=True, text=True, timeout=PATIENCE, **options).stdout.strip()

    def test_a_configuration_others_can_write_lets_nothing_out(self):
        config = FOLDER / "open.toml"
        config.write_text(config_text(CLIENT_ID).replace('outbound = "deny"', 'outbound = "plaintext"')
                          .split("[[inbound]]")[0])
        self.assertEqual(self.run_preloaded(config), "connected")
        config.chmod(0o666)
        self.assertEqual(self.run_preloaded(config), "13")
        config.chmod(0o644)
        folder = FOLDER / "open-folder"
        folder.mkdir()
        shutil.copy(config, folder / "a.toml")
        folder.chmod(0o777)
        self.assertEqual(self.run_preloaded(folder / "a.toml"), "13")

    @unittest.skipUnless(os.geteuid() == 0, "needs root to own files as others")
    def test_a_configuration_of_another_user_lets_nothing_out(self):
        config = FOLDER / "foreign.toml"
        config.write_text(config_text(CLIENT_ID).split("[[inbound]]")[0])
        os.chown(config, NOBODY, NOBODY)
        self.assertEqual(self.run_preloaded(config), "13")

    def test_a_log_file_that_is_a_symlink_is_not_followed(self):
        victim = FOLDER / "precious"
        victim.write_text("precious")
        log = FOLDER / "log-link"
        log.symlink_to(victim)
        config = FOLDER / "log-link.toml"
        config.write_text(config_text(CLIENT_ID, log=log).split("[[inbound]]")[0])
        self.assertEqual(self.run_preloaded(config), "13")  # denied by default, and said nowhere else
        self.assertEqual(victim.read_text(), "precious")

    def test_a_runtime_folder_that_is_a_symlink_gets_no_log(self):
        runtime = FOLDER / "runtime-trap"
        elsewhere = FOLDER / "elsewhere"
        runtime.mkdir(mode=0o700)
        elsewhere.mkdir()
        (runtime / "inlay").symlink_to(elsewhere)
        config = FOLDER / "trap.toml"
        config.write_text(config_text(CLIENT_ID).split("[[inbound]]")[0])
        self.assertEqual(self.run_preloaded(config, env={"XDG_RUNTIME_DIR": str(runtime)}), "13")
        self.assertEqual(list(elsewhere.iterdir()), [])


class Churn(unittest.TestCase):
    SERVER = """
import json, os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
def state():
    with open("/proc/self/status") as text:
        memory = [int(l.split()[1]) for l in text if l.startswith(("VmRSS", "RssAnon", "RssShmem"))]
    return {"memory": memory, "descriptors": len(os.listdir("/proc/self/fd"))}
print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
rounds = int(sys.argv[1])
for _ in range(2):
    for _ in range(rounds):
        conn, _ = listener.accept()
        conn.sendall(conn.recv(100))
        conn.recv(1)
        conn.close()
    print(json.dumps(state()), flush=True)
sys.stdin.read()
"""
    CLIENT = """
import json, os, socket, sys
port, rounds = int(sys.argv[1]), int(sys.argv[2])
exec(sys.argv[3])
for _ in range(2):
    for _ in range(rounds):
        conn = socket.create_connection(("127.0.0.1", port))
        conn.sendall(b"ping")
        assert conn.recv(100) == b"ping"
        conn.close()
    print(json.dumps(state()), flush=True)
"""

    def test_connections_by_the_thousand_leave_nothing_behind(self):
        rounds = 1000  # twice
        server = Victim(self.SERVER, SERVER_ID, rounds)
        state = self.SERVER[self.SERVER.index("def state"):self.SERVER.index("print")]
        client = Victim(self.CLIENT, CLIENT_ID, server.line()["port"], rounds, state)
        for victim in (server, client):
            first, second = victim.line(), victim.line()
            self.assertLessEqual(second["descriptors"], first["descriptors"] + 2)
            # A slot is half a page: 1000 that are not reused would be far above this.
            for before, after in zip(first["memory"], second["memory"]):
                self.assertLess(after - before, 700, (first, second))
            victim.child.kill()


if __name__ == "__main__":
    unittest.main()
