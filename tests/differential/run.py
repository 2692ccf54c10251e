#!/usr/bin/python3
"""Runs every scenario of the program `behaviour` plain and with both ends under inlay, and compares.

    run.py --build DIR [--keep] [SCENARIO-PATTERN ...]

What is compared: the records of both ends, line by line (threads and processes that gave themselves
a name are compared apart), and how both ends exited. Output is unittest's.
"""

import argparse
import fnmatch
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent
LIMIT = 20  # seconds; a safety net, not a measure
SANITIZED_LIMIT = 90
ENDS = ("server", "client")
# What runs in one image of the program: others get the shim from LD_PRELOAD, and are not sanitized.
SANITIZED = ("blocking/*", "calls/*", "closing/*", "connecting/*", "descriptors/*", "early/*", "events/*",
             "flags/*", "left/*", "more/*", "options/*")
# What is found is printed, which no scenario does.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # a process may end in the middle of anything
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "die_after_fork=0",
}


def differences():
    """Scenario -> reason, from the table of README.md."""
    found = {}
    for line in (FOLDER / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 2:
            found[cells[0].strip("`")] = cells[1]
    return found


class World:
    """An authority, an identity and a configuration in a folder."""

    def __init__(self, build, folder, strict=False, sanitized=None):
        self.strict = ["--strict"] if strict else []
        self.inlay = build / "tools" / "inlay"
        self.program = build / "tests" / "differential" / "behaviour"
        self.limit = SANITIZED_LIMIT if sanitized else LIMIT
        self.sanitized = sanitized and sanitized / "tests" / "differential" / "sanitized_behaviour"
        self.folder = folder
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        self.env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder),
                    "LANG": "C.UTF-8", "XDG_RUNTIME_DIR": str(runtime)}
        authority, own = folder / "authority", folder / "peer"
        self.checked("ca", "init", "--dir", authority, "--trust-domain", "differential.inlay")
        self.checked("ca", "issue", "--dir", authority, "--id",
                     "spiffe://differential.inlay/peer", "--out", own)
        self.config = folder / "inlay.toml"
        self.log = folder / "inlay.log"
        self.config.write_text(f"""trust_domain = "differential.inlay"

[identity]
svid = "{own}/svid.pem"
key = "{own}/key.pem"
bundle = "{own}/bundle.pem"

[log]
file = "{self.log}"

[defaults]
inbound = "deny"
outbound = "deny"

[[inbound]]
name = "all"
port = "*"
mode = "strict"
allow = ["spiffe://differential.inlay/peer"]

[[outbound]]
name = "all"
to = ["127.0.0.1"]
port = "*"
mode = "strict"
expect = ["spiffe://differential.inlay/peer"]
""")

    def checked(self, *arguments):
        subprocess.run([self.inlay, *arguments], env=self.env, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def run(self, scenario, managed):
        """Both ends of one scenario; returns what is compared, as lines."""
        name = scenario.replace("/", "-") + ("-inlay" if managed else "-plain")
        pair = socket.socketpair()
        processes, records = [], []
        for end, other in zip(ENDS, pair):
            record = self.folder / f"{name}-{end}"
            records.append(record)
            with open(record, "ab") as opened:
                command = [self.program, scenario, end]
                env = {**self.env, "BEHAVIOUR_RECORD": str(opened.fileno()),
                       "BEHAVIOUR_OTHER": str(other.fileno())}
                if managed and self.sanitized:  # the shim is in it
                    command[0] = self.sanitized
                    env |= {"INLAY_CONFIG": str(self.config), **SANITIZER_OPTIONS}
                elif managed:
                    command = [self.inlay, "run", "--config", self.config, *self.strict, "--", *command]
                with open(f"{record}.err", "wb") as errors:
                    processes.append(subprocess.Popen(
                        command, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                        pass_fds=(opened.fileno(), other.fileno()), start_new_session=True))
        for other in pair:
            other.close()
        lines = []
        until = time.monotonic() + self.limit
        try:
            for end, process in zip(ENDS, processes):
                try:
                    status = process.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    status = "never"
                lines.append(f"{end} exit: {status}")
        finally:
            for process in processes:  # and what it left behind: its group is its own
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        for end, record in zip(ENDS, records):
            # By the name a thread or process gave itself; within one, in order.
            rows = record.read_text(errors="replace").splitlines()
            lines += [f"{end} {row}" for row in sorted(rows, key=lambda row: row.split("|")[0])]
            errors = pathlib.Path(f"{record}.err").read_text(errors="replace")
            # Said by the launcher, before the program starts.
            rows = [row for row in errors.splitlines() if not row.startswith("inlay: --strict: ")]
            lines += [f"{end} printed {row}" for row in rows]
        return lines


def side_by_side(plain, managed):
    import difflib
    return "\n".join(difflib.unified_diff(plain, managed, "plain", "under inlay", lineterm="", n=4))


def make_test(world, scenario, reason):
    def test(self):
        plain = world.run(scenario, managed=False)
        self.assertNotIn("never", " ".join(plain[:2]), "the scenario itself hangs: " + "\n".join(plain))
        before = world.log.stat().st_size if world.log.exists() else 0
        managed = world.run(scenario, managed=True)
        log = world.log.read_bytes()[before:].decode() if world.log.exists() else ""
        if reason is not None:
            self.assertNotEqual(plain, managed, "no longer different: take it off README.md's list")
            for part in re.findall("`([^`]*)`", reason):
                self.assertIn(part, "\n".join(managed), "different in another way than README.md says")
            return
        if plain != managed:
            self.fail(side_by_side(plain, managed) + "\n\n" + log[-3000:])
        if any("digest" in line for line in plain):  # data crossed
            self.assertIn('"accepted"', log, "no session was made: nothing was compared")
    return test


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--build", required=True, type=pathlib.Path)
    arguments.add_argument("--keep", action="store_true", help="leave the records where they are")
    arguments.add_argument("--strict", action="store_true", help="under inlay run --strict")
    arguments.add_argument("--sanitized", metavar="DIR", type=pathlib.Path,
                           help="instead of inlay run: the program with the shim in it, of a build under sanitizers")
    arguments.add_argument("-v", action="store_true")
    arguments.add_argument("patterns", nargs="*", default=["*"])
    options = arguments.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-differential-"))
    status = 1
    try:
        sanitized = options.sanitized and options.sanitized.resolve()
        world = World(options.build.resolve(), folder, options.strict, sanitized)
        listed = subprocess.run([world.program, "--list"], check=True, capture_output=True, text=True)
        names = sorted(listed.stdout.split())
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            sys.exit(f"the same name for two scenarios: {sorted(twice)}")
        different = differences()
        unknown = set(different) - set(names)
        if unknown:
            sys.exit(f"README.md lists scenarios that are not there: {sorted(unknown)}")
        suite = unittest.TestSuite()
        for name in names:
            if sanitized and not any(fnmatch.fnmatch(name, pattern) for pattern in SANITIZED):
                continue
            if any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns):
                case = type(name, (unittest.TestCase,),
                            {name: make_test(world, name, different.get(name))})
                suite.addTest(case(name))
        result = unittest.TextTestRunner(verbosity=2 if options.v else 1).run(suite)
        status = 0 if result.wasSuccessful() else 1
    finally:
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
