#!/usr/bin/python3
"""Runs every scenario of the program `behaviour` plain and with both ends under inlay, and compares.

    run.py --build DIR [--keep] [--jobs N] [SCENARIO-PATTERN ...]

What is compared: the records of both ends, line by line (threads and processes that gave themselves
a name are compared apart), and how both ends exited. Output is unittest's.
"""

import argparse
import concurrent.futures
import fnmatch
import json
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
# What is found is printed, which no scenario does.
SANITIZER_OPTIONS = {
    # A process may end in the middle of anything; the end of a thread is not for what it was cancelled in; a handshake
    # changes stacks, of which ASan's own for variables does not know.
    "ASAN_OPTIONS": "detect_leaks=0:use_sigaltstack=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"die_after_fork=0:report_thread_leaks=0:suppressions={FOLDER}/tsan_suppressions.txt",
}


def table(heading):
    """Name or pattern of scenarios -> reason, from the table of README.md under that heading."""
    found = {}
    section = (FOLDER / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 2:
            found |= {name.strip(" `"): cells[1] for name in cells[0].split(",")}
    return found


class World:
    """An authority and an identity in a folder, and a configuration for each scenario."""

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
        authority, self.own = folder / "authority", folder / "peer"
        self.checked("ca", "init", "--dir", authority, "--trust-domain", "differential.inlay")
        self.checked("ca", "issue", "--dir", authority, "--id",
                     "spiffe://differential.inlay/peer", "--out", self.own)

    def checked(self, *arguments):
        subprocess.run([self.inlay, *arguments], env=self.env, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def configure(self, config, log):
        config.write_text(f"""trust_domain = "differential.inlay"

[identity]
svid = "{self.own}/svid.pem"
key = "{self.own}/key.pem"
bundle = "{self.own}/bundle.pem"

[log]
file = "{log}"

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

    def run(self, scenario, config=None):
        """Both ends of one scenario, managed when there is a configuration; returns what is compared, as lines."""
        name = scenario.replace("/", "-") + ("-inlay" if config else "-plain")
        pair = socket.socketpair()
        processes, records = [], []
        for end, other in zip(ENDS, pair):
            record = self.folder / f"{name}-{end}"
            records.append(record)
            with open(record, "ab") as opened:
                command, executable = [self.program, scenario, end], None
                env = {**self.env, "BEHAVIOUR_RECORD": str(opened.fileno()),
                       "BEHAVIOUR_OTHER": str(other.fileno())}
                if config and self.sanitized:  # the shim is in it; called the same
                    executable = self.sanitized
                    env |= {"INLAY_CONFIG": str(config), **SANITIZER_OPTIONS}
                elif config:
                    command = [self.inlay, "run", "--config", config, *self.strict, "--", *command]
                with open(f"{record}.err", "wb") as errors:
                    processes.append(subprocess.Popen(
                        command, executable=executable, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
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


def is_under_tsan(build):
    options = json.loads((build / "meson-info" / "intro-buildoptions.json").read_text())
    return any(option["name"] == "b_sanitize" and option["value"] == "thread" for option in options)


def side_by_side(plain, managed):
    import difflib
    return "\n".join(difflib.unified_diff(plain, managed, "plain", "under inlay", lineterm="", n=4))


def run_both(world, scenario):
    """What was recorded plain and under inlay, and inlay's log."""
    name = scenario.replace("/", "-")
    config, log = world.folder / f"{name}.toml", world.folder / f"{name}.log"
    world.configure(config, log)
    plain = world.run(scenario)
    if "never" in " ".join(plain[:2]):
        return plain, None, ""
    managed = world.run(scenario, config)
    return plain, managed, log.read_bytes().decode() if log.exists() else ""


def printed(lines):
    return [line for line in lines if " printed " in line]


def make_test(outcome, reason):
    def test(self):
        plain, managed, log = outcome.result()
        self.assertIsNotNone(managed, "the scenario itself hangs: " + "\n".join(plain))
        if reason is not None:
            self.assertNotEqual(plain, managed, "no longer different: take it off README.md's list")
            for part in re.findall("`([^`]*)`", reason):
                self.assertIn(part, "\n".join(managed), "different in another way than README.md says")
            self.assertEqual(printed(plain), printed(managed))
            return
        if plain != managed:
            self.fail(side_by_side(plain, managed) + "\n\n" + log[-3000:])
        if any("digest" in line for line in plain):  # data crossed
            self.assertIn('"accepted"', log, "no session was made: nothing was compared")
    return test


def chosen(names, patterns):
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--build", required=True, type=pathlib.Path)
    arguments.add_argument("--keep", action="store_true", help="leave the records where they are")
    arguments.add_argument("--strict", action="store_true", help="under inlay run --strict")
    arguments.add_argument("--sanitized", metavar="DIR", type=pathlib.Path,
                           help="instead of inlay run: the program with the shim in it, of a build under sanitizers")
    arguments.add_argument("--jobs", type=int, default=1, help="so many scenarios at once: most of them wait")
    arguments.add_argument("-v", action="store_true")
    arguments.add_argument("patterns", nargs="*", default=["*"])
    options = arguments.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="inlay-differential-"))
    status = 1
    jobs = concurrent.futures.ThreadPoolExecutor(options.jobs)
    try:
        sanitized = options.sanitized and options.sanitized.resolve()
        world = World(options.build.resolve(), folder, options.strict, sanitized)
        listed = subprocess.run([world.program, "--list"], check=True, capture_output=True, text=True)
        names = sorted(listed.stdout.split())
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            sys.exit(f"the same name for two scenarios: {sorted(twice)}")
        different, unsanitized, untsanned = map(table, ("What differs, and why", "Not under sanitizers", "Nor under TSan"))
        unknown = set(different) - set(names)
        unknown |= {pattern for pattern in [*unsanitized, *untsanned] if not chosen(names, [pattern])}
        if unknown:
            sys.exit(f"README.md lists scenarios that are not there: {sorted(unknown)}")
        if sanitized:
            if is_under_tsan(sanitized):
                unsanitized |= untsanned
            names = [name for name in names if name not in chosen(names, unsanitized)]
        suite = unittest.TestSuite()
        for name in chosen(names, options.patterns):
            outcome = jobs.submit(run_both, world, name)
            case = type(name, (unittest.TestCase,), {name: make_test(outcome, different.get(name))})
            suite.addTest(case(name))
        result = unittest.TextTestRunner(verbosity=2 if options.v else 1).run(suite)
        status = 0 if result.wasSuccessful() else 1
    finally:
        jobs.shutdown(cancel_futures=True)
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
