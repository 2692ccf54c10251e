#!/usr/bin/env python3
"""Each allocation of a session's life fails once: those of inlay, of the C++ library in it and of its OpenSSL, at the start of
the process, in the handshakes of two connections, in what they carry, at their end. And all fail from that one on.

A connection that cannot be had for it ends with an errno that inlay gives, and a reason in the log; or nothing happens. Never a
crash, a hang, a wrong byte, a byte in the clear, or a descriptor that is left over.

There are some 22,000 for each end. INLAY_FULL=1 takes more of them; ALL=1 takes each, in ten minutes for an end. A sample
is another one each day, so that in time all are met; its OFFSET is printed, and taken from the environment."""

import errno
import json
import os
import pathlib
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from failure_support import Failures, Run, World
from support import BUILD, FOLDER, INLAY, PATIENCE

STARVED = BUILD / "tests" / "faults" / "libstarved.so"
# Primes: what is asked for in turns is met in all of them.
STRIDE = 1 if os.environ.get("ALL") == "1" else 31 if os.environ.get("INLAY_FULL") == "1" else 211
OFFSET = int(os.environ.get("OFFSET") or time.time() // 86400) % STRIDE
AT_START = 150  # so many, and each takes another way
EVER = 2**64 - 1
DIET = struct.Struct("=QQQ")  # as starved_heap.cc has it


def setUpModule():
    global world
    world = World()
    print(f"every {STRIDE}th allocation, OFFSET={OFFSET}")


class Starved(Run):
    """One run of the program, which does not get what it asks for from the `first` to the `last` time."""

    def __init__(self, role, first=0, last=0):
        diet = FOLDER / "diet"
        diet.write_bytes(DIET.pack(first, last, 0))
        super().__init__(world, role, env={"LD_PRELOAD": str(STARVED), "INLAY_STARVED": str(diet),
                                           "INLAY_CONFIG": str(world.config[role.rpartition("-")[2]])})
        self.asked = DIET.unpack(diet.read_bytes())[2]


class FailedAllocations(Failures):
    def check(self, run, may_last=False):
        self.check_ending(run)
        self.check_connections(run, "ENOMEM")
        bad = run.bad()
        if bad and not run.reasons():
            # Without a policy the log it names is not known.
            kept = subprocess.run([INLAY, "log", str(run.pid), "--json"], capture_output=True, text=True, check=True)
            self.assertIn("policy-unreadable", kept.stdout, "no reason")
        if not may_last:
            self.assertLess(len(bad), 2, "what failed once fails for ever")

    def sweep(self, role):
        run = Starved(role)
        self.check(run)
        self.assertEqual(run.bad(), [])
        # Tables and a policy that are not there at the start are not made later; and what OpenSSL does once in a process, it
        # does not try again.
        before_second = Starved("single-" + role).asked
        self.assertGreater(run.asked, before_second + 1000)
        for first in sorted({*range(1, AT_START), *range(1 + OFFSET, run.asked + 1, STRIDE)}):
            with self.subTest(role=role, first=first):
                self.check(Starved(role, first, first), may_last=first <= before_second)
        for first in range(1 + OFFSET, run.asked + 1, STRIDE * 5):
            with self.subTest(role=role, first=first, last="ever"):
                self.check(Starved(role, first, EVER), may_last=True)

    def test_client(self):
        self.sweep("client")

    def test_server(self):
        self.sweep("server")


# With an environment that is not on the stack of the call, and that lost the preload.
EXECUTES = """
import ctypes, json, os, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.popen.restype = ctypes.c_void_p
for number in range(1100):
    os.environ["FILLER_%d" % number] = "1"
del os.environ["LD_PRELOAD"]
with open(os.environ["INLAY_STARVED"], "r+b") as diet:
    diet.write(struct.pack("=QQ", 1, 2**64 - 1))
said = {}
for name in ("execv", "execvp", "execve"):
    try:
        getattr(os, name)("/usr/bin/true", ["true"], *([os.environ] if name == "execve" else []))
    except OSError as error:
        said[name] = error.errno
for name in ("posix_spawn", "posix_spawnp"):
    try:
        said[name] = -getattr(os, name)("/usr/bin/true", ["true"], os.environ)
    except OSError as error:
        said[name] = error.errno
for name, failed in (("system", -1), ("popen", None)):
    got = getattr(libc, name)(b"true", b"r")
    said[name] = ctypes.get_errno() if got == failed else -1
print(json.dumps(said))
"""


class Executed(unittest.TestCase):
    def test_i6_no_program_is_started_without_the_preload_for_want_of_memory(self):
        diet = FOLDER / "diet-executed"
        diet.write_bytes(DIET.pack(0, 0, 0))
        done = subprocess.run([sys.executable, "-c", EXECUTES], capture_output=True, text=True, timeout=PATIENCE,
                              env={"LD_PRELOAD": str(STARVED), "INLAY_STARVED": str(diet),
                                   "INLAY_CONFIG": str(world.config["client"])}, check=False)
        self.assertEqual(done.stderr, "")
        ways = ("execv", "execvp", "execve", "posix_spawn", "posix_spawnp", "system", "popen")
        self.assertEqual(json.loads(done.stdout or "null"), dict.fromkeys(ways, errno.ENOMEM))


if __name__ == "__main__":
    unittest.main(warnings="ignore")
