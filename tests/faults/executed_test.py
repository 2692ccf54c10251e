#!/usr/bin/env python3
"""Programs that are executed with a connection open, and what they are told about it (architecture I1, I7)."""

import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import (BUILD, CANARY, FOLDER, INLAY, PATIENCE, PYTHON, Relay, ServerVictim, Victim, config_text,
                     drain, issue, listener, records)


def setUpModule():
    global SERVER_ID, CLIENT_ID
    SERVER_ID, CLIENT_ID = issue("server"), issue("client")


class ForgedVariable(unittest.TestCase):
    # What became of the variable and of the descriptor it names, and whether a connection works.
    PROGRAM = """
import json, os, socket, subprocess, sys
fd, port = int(sys.argv[1]), int(sys.argv[2])
def size():
    try: return os.fstat(fd).st_size
    except OSError: return None
conn = socket.create_connection(("127.0.0.1", port))
conn.sendall(b"ping")
got = b""
while not got.endswith(b"ping"): got += conn.recv(100)
facts = {"size": size(), "seen": "INLAY_ARENA" in os.environ, "got": got[-4:].decode()}
child = subprocess.run(["env"], stdout=subprocess.PIPE, env={"INLAY_ARENA": "3:4;0;5:6:7", "INLAY_SNAPSHOT": "3:4"})
facts["passed on"] = [line for line in child.stdout.decode().split()
                      if line.startswith(("INLAY_ARENA", "INLAY_SNAPSHOT"))]
print(json.dumps(facts))
"""

    def facts(self, fd, value):
        server = ServerVictim(SERVER_ID)
        config = FOLDER / "forged.toml"
        config.write_text(config_text(CLIENT_ID))
        done = subprocess.run([INLAY, "run", "--config", config, "--", PYTHON, "-c", self.PROGRAM, str(fd),
                               str(server.port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
                              timeout=PATIENCE, pass_fds=(fd,), env={**os.environ, "INLAY_ARENA": value})
        server.child.kill()
        return json.loads(done.stdout)

    def test_a_forged_arena_is_ignored_and_its_descriptor_left_alone(self):
        sealed = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
        os.truncate(sealed, 1 << 20)
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        plain = os.open(FOLDER / "forged", os.O_RDWR | os.O_CREAT, 0o600)
        os.truncate(plain, 1 << 30)  # sparse
        for fd, value in ((sealed, "{fd}:{inode};0;0:0:0"), (sealed, "{fd}:1;0;0:0:0"),
                          (sealed, "{fd}:{inode},{fd}:{inode};7;{fd}:{inode}:1"), (plain, "{fd}:{inode};0;{fd}:{inode}:1"),
                          (plain, "nonsense"), (plain, "0:0;0;0:0:0"), (plain, "{fd}:{inode};0" + "9" * 5000)):
            state = os.fstat(fd)
            with self.subTest(value):
                self.assertEqual(self.facts(fd, value.format(fd=fd, inode=state.st_ino)),
                                 {"size": state.st_size, "seen": False, "got": "ping", "passed on": []})

    def test_the_program_does_not_see_what_was_handed_over(self):
        program = """
import os, socket, sys
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
conn.recv(1)
os.set_inheritable(conn.fileno(), True)
before = [name for name in os.environ if name.startswith("INLAY_")]
os.execv(sys.executable, [sys.executable, "-c", '''
import json, os, sys
from os import environ, readlink, listdir
arenas = [fd for fd in listdir("/proc/self/fd") if "inlay-arena" in (os.path.islink("/proc/self/fd/" + fd)
          and readlink("/proc/self/fd/" + fd) or "")]
print(json.dumps([sorted(name for name in environ if name.startswith("INLAY_")) == sorted(sys.argv[1:]),
                  len(arenas), [os.get_inheritable(int(fd)) for fd in arenas]]))
''', *before])
"""
        server = ServerVictim(SERVER_ID)
        victim = Victim(program, CLIENT_ID, server.port)
        self.assertEqual(victim.line(), [True, 1, [False]])
        server.child.kill()


class Inherited(unittest.TestCase):
    def test_an_outbound_connection_without_a_session_is_refused_and_not_taken_for_an_inbound_one(self):
        program = """
import errno, json, socket, sys
conn = socket.socket(fileno=int(sys.argv[1]))
try: end = conn.recv(1).hex()
except OSError as error: end = errno.errorcode[error.errno]
print(json.dumps(end))
"""
        peer = listener()
        conn = socket.create_connection(peer.getsockname())
        victim = Victim(program, CLIENT_ID, conn.fileno(), pass_fds=(conn.fileno(),))
        self.assertEqual(victim.line(), "ECONNRESET")
        self.assertEqual(victim.reason(peer.getsockname()[1]), "inherited-unknown")
        self.assertEqual(drain(peer.accept()[0]), b"")

    def test_what_cannot_be_handed_over_is_said_and_the_next_connection_is(self):
        program = """
import json, os, resource, socket, subprocess, sys
ASK = '''
import errno, socket, sys
conn = socket.socket(fileno=int(sys.argv[1]))
got = b""
try:
    conn.sendall(b"more")
    while not got.endswith(b"more"): got += conn.recv(100) or sys.exit("it ended")
except OSError as error: sys.exit(errno.errorcode[error.errno])
sys.exit("more")
'''
def ask_in_another_image():
    conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    conn.recv(1)
    fd = conn.fileno()
    return subprocess.run([sys.executable, "-c", ASK, str(fd)], pass_fds=[fd], stderr=subprocess.PIPE).stderr.decode()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))  # of a file: an arena is one
first = ask_in_another_image()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([first.strip(), ask_in_another_image().strip()]))
"""
        server = ServerVictim(SERVER_ID)
        victim = Victim(program, CLIENT_ID, server.port)
        self.assertEqual(victim.line(), ["ECONNRESET", "more"])
        self.assertEqual([event["reason"] for event in victim.events() if event["event"] in ("notice", "refused")],
                         ["inherited-unknown", "inherited-unknown"])
        server.child.kill()


class OutOfReach(unittest.TestCase):
    """A static program inherits a managed connection: nothing it writes may reach the wire."""

    # Each way to start it once, on a descriptor of its own; then the connection is used again.
    PROGRAM = """
import json, os, resource, signal, socket, subprocess, sys
port, writer, canary = int(sys.argv[1]), sys.argv[2], sys.argv[3]
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
conn = socket.create_connection(("127.0.0.1", port))
fd = conn.fileno()
def asked(text):
    conn.sendall(text)
    got = b""
    while not got.endswith(text): got += conn.recv(4096)
    return True
def child(run):
    pid = os.fork()
    if pid == 0:
        try: run()
        finally: os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def execute(*on): os.execv(writer, [writer, *map(str, on), canary])
def over_1():
    os.dup2(fd, 1)
    execute(1)
def spawned(**how):
    try: return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(writer, [writer, "1", canary], {}, **how), 0)[1])
    except OSError as error: return error.strerror
# Nothing can be opened any more, and the descriptor's number is above the limit.
def limited(run):
    os.dup2(fd, 90)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    run()
def spawned_90(): os._exit(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(writer, [writer, "90", canary], {}), 0)[1]))
asked(b"first")
os.set_inheritable(fd, True)
ways = {
  "fork, limited": child(lambda: limited(lambda: execute(90))),
  "spawn, limited": child(lambda: limited(spawned_90)),
  "fork": child(lambda: execute(fd)),
  "fork, 1": child(over_1),
  "vfork": subprocess.run([writer, str(fd), canary], pass_fds=[fd]).returncode,
  "vfork, 1": subprocess.run([writer, "1", canary], stdout=conn, restore_signals=False).returncode,
  "spawn": subprocess.run([writer, str(fd), canary], close_fds=False).returncode,
  "spawn, 1": spawned(file_actions=[(os.POSIX_SPAWN_DUP2, fd, 1)]),
  "system": os.waitstatus_to_exitcode(os.system(f"{writer} {fd} {canary}")),
  "shell": subprocess.run(["sh", "-c", f"{writer} {fd} {canary}; exit $?"], pass_fds=[fd]).returncode,
}
os.write(1, json.dumps([ways, os.get_inheritable(fd), asked(b"last")]).encode() + b"\\n")
os.dup2(fd, 1)
try: os.execv("/dev/null", ["x"])
except OSError: pass
asked(b"still")
execute(fd)
"""

    def test_i1_what_a_static_program_writes_does_not_reach_the_wire(self):
        server = ServerVictim(SERVER_ID)
        relay = Relay(server.port, lambda direction, index, record: record)
        victim = Victim(self.PROGRAM, CLIENT_ID, relay.port, BUILD / "tests/faults/static_writer", CANARY.decode())
        ways, inheritable, asked = victim.line()
        self.assertEqual(set(ways.values()), {1, "Permission denied"}, ways)
        self.assertTrue(inheritable and asked)
        self.assertEqual(victim.child.wait(PATIENCE), 1)
        seen = relay.join()
        self.assertNotIn(CANARY, seen["up"])
        self.assertEqual(len(b"".join(records(seen["up"]))), len(seen["up"]))
        result = server.result(relay.server_side_port)
        self.assertEqual((bytes.fromhex(result["received"]), result["end"]), (b"firstlaststill", "eof"))
        server.child.kill()

    # The kernel has the loader ignore the preload where the effective user is not the real one. Each way to
    # start a shell then, with the connection open as 9 and as its 1; and with the users the same again.
    AS_ANOTHER = """
import json, os, signal, socket, subprocess, sys
port, shell, writer, canary = int(sys.argv[1]), *sys.argv[2:]
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
conn = socket.create_connection(("127.0.0.1", port))
os.dup2(conn.fileno(), 9, inheritable=True)
def asked(text):
    got = b""
    try:
        conn.sendall(text)
        while not got.endswith(text): got += conn.recv(4096) or sys.exit("it ended")
    except OSError: return False
    return True
def child(run):
    pid = os.fork()
    if pid == 0:
        try: run()
        finally: os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def words(text): return [shell, "-c", f"echo {text} >&9 && exit 0; exit 1"]
def over_1():
    os.dup2(9, 1)
    os.execv(shell, [shell, "-c", f"echo {canary} && exit 0; exit 1"])
def spawned(**how):
    try: return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(shell, words(canary), {}, **how), 0)[1])
    except OSError as error: return error.strerror
asked(b"first")
os.setresuid(65534, 0, 0)
ways = {
  "fork": child(lambda: os.execv(shell, words(canary))),
  "fork, 1": child(over_1),
  "vfork": subprocess.run(words(canary), pass_fds=[9]).returncode,
  "spawn": spawned(),
  "spawn, 1": spawned(file_actions=[(os.POSIX_SPAWN_DUP2, 9, 1)]),
  "system": os.waitstatus_to_exitcode(os.system(words(canary)[2])),
}
os.setresuid(0, 0, 0)
def as_nobody():
    os.setuid(65534)
    os.execv(writer, [writer, "9", canary])
ways["unreadable"] = child(as_nobody)
good = child(lambda: os.execv(shell, words("good")))
os.write(1, json.dumps([ways, os.get_inheritable(9), good, asked(b"last")]).encode() + b"\\n")
"""

    @unittest.skipUnless(os.getuid() == 0, "becomes another user, which needs root")
    def test_i1_what_is_executed_as_another_effective_user_does_not_reach_the_wire(self):
        server = ServerVictim(SERVER_ID)
        relay = Relay(server.port, lambda direction, index, record: record)
        (FOLDER / "private").mkdir(0o700)
        shell = shutil.copy("/bin/sh", FOLDER / "private")  # where the real user may not go
        os.chmod(FOLDER, 0o711)
        writer = shutil.copy(BUILD / "tests/faults/static_writer", FOLDER)
        os.chmod(writer, 0o111)  # to be executed, and not to be read
        victim = Victim(self.AS_ANOTHER, CLIENT_ID, relay.port, shell, writer, CANARY.decode())
        ways, inheritable, good, asked = victim.line()
        seen = relay.join()
        self.assertNotIn(CANARY, seen["up"])
        self.assertNotIn(0, ways.values())
        self.assertTrue(inheritable and asked)
        self.assertEqual(good, 0)
        self.assertEqual({event["reason"] for event in victim.events() if event["event"] == "notice"},
                         {"exec-unprotected"})
        server.child.kill()


class NotLoaded(unittest.TestCase):
    """The preload names a library that the loader cannot have in what is executed: it only says so, and starts it."""

    PROGRAM = """
import ctypes, json, os, signal, socket, struct, subprocess, sys
port, condition, library, root, canary = int(sys.argv[1]), *sys.argv[2:]
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
conn = socket.create_connection(("127.0.0.1", port))
os.dup2(conn.fileno(), 9, inheritable=True)
def asked(text):
    got = b""
    try:
        conn.sendall(text)
        while not got.endswith(text): got += conn.recv(4096) or sys.exit("it ended")
    except OSError: return False
    return True
def child(run):
    pid = os.fork()
    if pid == 0:
        try: run()
        finally: os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def words(text): return ["/bin/sh", "-c", f"echo {text} >&9 && exit 0; exit 1"]
def over_1():
    os.dup2(9, 1)
    os.execv("/bin/sh", ["/bin/sh", "-c", f"echo {canary} && exit 0; exit 1"])
def spawned(**how):
    try: return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/sh", words(canary), os.environ, **how), 0)[1])
    except OSError as error: return error.strerror
def piped():
    libc = ctypes.CDLL(None)
    libc.popen.restype = ctypes.c_void_p
    stream = libc.popen(words(canary)[2].encode(), b"r")
    return libc.pclose(ctypes.c_void_p(stream)) if stream else -1
WAYS = {
  "fork": lambda: child(lambda: os.execv("/bin/sh", words(canary))),
  "fork, 1": lambda: child(over_1),
  "vfork": lambda: subprocess.run(words(canary), pass_fds=[9]).returncode,
  "spawn": spawned,
  "spawn, 1": lambda: spawned(file_actions=[(os.POSIX_SPAWN_DUP2, 9, 1)]),
  "system": lambda: os.waitstatus_to_exitcode(os.system(words(canary)[2])),
  "popen": piped,
}
def short():
    os.rename(library, library + ".whole")
    with open(library + ".whole", "rb") as whole, open(library, "wb") as part: part.write(whole.read(50))
def unreadable():
    os.chmod(os.path.dirname(library), 0o700)
    os.setresuid(65534, 65534, 65534)
# Too little address space for inlay, and enough for the C library. Of the shells that the C library starts
# by itself nothing is held back for what cannot be foreseen.
def memory():
    subprocess.run(["prlimit", "--pid", str(os.getpid()), f"--as={5 << 20}:"], check=True)
    del WAYS["system"], WAYS["popen"]
# In a seccomp filter, which lets everything through.
def sandbox():
    class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_char_p)]
    rules = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)  # return, SECCOMP_RET_ALLOW
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(Program(1, rules)), 0, 0) != 0: os._exit(98)
    memory()
CONDITIONS = {"memory": memory, "sandbox": sandbox, "gone": lambda: os.rename(library, library + ".whole"), "short": short,
              "unreadable": unreadable, "chroot": lambda: (os.chroot(root), os.chdir("/"))}
def try_each():
    CONDITIONS[condition]()
    ways = {name: way() for name, way in WAYS.items()}
    os.write(1, json.dumps(ways).encode() + b"\\n")
    os._exit(0)
asked(b"first")
child(try_each)
if os.path.exists(library + ".whole"): os.rename(library + ".whole", library)
os.write(1, json.dumps([os.get_inheritable(9), child(lambda: os.execv("/bin/sh", words("good"))), asked(b"last")]).encode() + b"\\n")
"""

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(dir=FOLDER))
        for name in ("tools/inlay", "shim/libinlay.so"):
            (self.place / name).parent.mkdir()
            shutil.copy(BUILD / name, self.place / name)
        self.root = self.place / "root"
        needed = subprocess.run(["ldd", "/bin/sh"], stdout=subprocess.PIPE, check=True).stdout.decode()
        for name in ["/bin/sh", *re.findall(r"(/\S+) \(", needed)]:
            copy = self.root / name.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, copy)
        for folder in (FOLDER, self.place):
            os.chmod(folder, 0o711)

    def nothing_in_the_clear(self, condition, is_logged=True):
        server = ServerVictim(SERVER_ID)
        relay = Relay(server.port, lambda direction, index, record: record)
        victim = Victim(self.PROGRAM, CLIENT_ID, relay.port, condition, self.place / "shim/libinlay.so", self.root,
                        CANARY.decode(), inlay=self.place / "tools/inlay")
        ways = victim.line()
        inheritable, good, asked = victim.line()
        seen = relay.join()
        self.assertNotIn(CANARY, seen["up"])
        self.assertNotIn(0, ways.values(), ways)
        self.assertTrue(inheritable and asked)
        self.assertEqual(good, 0)
        notices = {(event["reason"], event["detail"]) for event in victim.events() if event["event"] == "notice"}
        why = "the loader would not find a whole libinlay.so: /bin/sh"
        self.assertEqual(notices, {("exec-unprotected", why)} if is_logged else set())
        self.errors = victim.errors
        server.child.kill()

    def test_i1_a_library_that_is_gone(self):
        self.nothing_in_the_clear("gone")

    def test_i1_a_library_that_is_being_written(self):
        self.nothing_in_the_clear("short")

    def test_i1_a_library_that_there_is_no_room_for(self):
        self.nothing_in_the_clear("memory", is_logged=False)
        self.assertIn(b"cannot be preloaded", self.errors)

    def test_i1_a_library_that_there_is_no_room_for_in_a_seccomp_filter(self):
        self.nothing_in_the_clear("sandbox", is_logged=False)
        self.assertIn(b"cannot be preloaded", self.errors)

    @unittest.skipUnless(os.getuid() == 0, "becomes another user, which needs root")
    def test_i1_a_library_that_this_user_may_not_read(self):
        self.nothing_in_the_clear("unreadable", is_logged=False)  # nor may it write the log

    @unittest.skipUnless(os.getuid() == 0, "changes its root, which needs root")
    def test_i1_another_root_without_the_library(self):
        self.nothing_in_the_clear("chroot", is_logged=False)


if __name__ == "__main__":
    unittest.main()
