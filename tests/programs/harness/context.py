"""What a case is given: a folder, ports, identities, processes, taps, the log and a clean end."""

import datetime
import json
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time

from harness.process import Process, descendants, until
from harness.tap import Tap

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "tests" / "programs" / "scripts"
PYTHON = "/usr/bin/python3"  # the distribution's, whatever else is in PATH


def nanoseconds(timestamp):
    """Since the epoch, of RFC 3339 in UTC with any fraction."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    seconds = datetime.datetime.fromisoformat(whole + "+00:00").timestamp()
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


def open_to_all(path):
    """Whether any user may walk to the file and read it."""
    return path.stat().st_mode & 0o4 and \
        all(folder.stat().st_mode & 0o1 for folder in path.resolve().parents)


def left_running():
    """The command lines of all processes below this one, zombies apart."""
    lines = []
    for pid in descendants(os.getpid()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
        except (ProcessLookupError, FileNotFoundError):
            continue
        if words:
            lines.append(f"{pid}: {words.replace(bytes(1), b' ').decode(errors='replace')}")
    return lines


class Context:
    def __init__(self, folder, build, plain):
        self.folder = pathlib.Path(folder)
        self.build = pathlib.Path(build)
        self.inlay_command = self.build / "tools" / "inlay"
        self.library = self.build / "shim" / "libinlay.so"
        self.strict = False  # under `inlay run --strict`
        self.plain = plain  # nothing runs under inlay: proves the case itself
        self.canary = b"CANARY-" + secrets.token_hex(16).encode()
        # Each case has an authority of its own: its events are told from others' by the name.
        self.trust_domain = f"case-{secrets.token_hex(8)}.inlay"
        self._authority = self.folder / "authority"
        self.processes = []
        self.taps = []
        self._reserved = []
        self._config_number = 0
        self._begin = time.time_ns()
        self._pids = set()  # of every process of this case that was seen
        self._user = None  # whom programs are started as, None: whoever runs the cases
        runtime = self.folder / "runtime"
        runtime.mkdir(mode=0o700)
        # A bare environment: no proxies, no locale of the machine.
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(self.folder), "TMPDIR": str(self.folder), "LANG": "C.UTF-8",
                    "XDG_RUNTIME_DIR": str(runtime)}

    def preload_inert(self):
        """From here on: everything without a configuration, but with the library preloaded."""
        self.plain = True
        if not self.library.exists():
            raise AssertionError(f"{self.library} is not built")
        self.env = {**self.env, "LD_PRELOAD": str(self.library)}

    def become_unprivileged(self, user="nobody"):
        """From here on root's cases start programs as this user: some refuse to run as root."""
        if os.geteuid() != 0:
            return
        entry = pwd.getpwnam(user)
        self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        if not open_to_all(self.library) or not open_to_all(self.inlay_command):
            # As in a build folder under a home of root's.
            copy = self.folder / "build"
            for file in (self.inlay_command, self.library):
                target = copy / file.relative_to(self.build)
                target.parent.mkdir(parents=True)
                shutil.copy(file, target)
            self.inlay_command = copy / self.inlay_command.relative_to(self.build)
            self.library = copy / self.library.relative_to(self.build)

        # All but the authority's, which stays whoever's the cases run as.
        self._give(self.folder)
        for entry in self.folder.iterdir():
            if entry != self._authority:
                self._give(entry)
                for below in entry.rglob("*"):
                    self._give(below)

    def _give(self, path):
        os.chown(path, self._user["user"], self._user["group"])

    # --- ports ---

    def port(self):
        """A free port of 127.0.0.1, kept from others until the case ends.

        A bound socket that never listens keeps it: with SO_REUSEADDR and SO_REUSEPORT the program
        under test may bind and listen beside it, while a search like this one finds it taken.
        Below the ephemeral range, so no outgoing connection can sit on it.
        """
        for _ in range(200):
            number = 10000 + secrets.randbelow(20000)
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            finally:
                probe.close()
            keeper = socket.socket()
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keeper.bind(("127.0.0.1", number))
            self._reserved.append(keeper)
            return number
        raise AssertionError("no free port")

    def until_listening(self, port, process):
        """Waits for a listener by looking, not by connecting: a probe would be a client."""

        def listening():
            if process.status is not None:
                raise AssertionError(f"{process.name} ended before it listened on {port}")
            wanted = f":{port:04X} "
            for table in ("/proc/net/tcp", "/proc/net/tcp6"):
                with open(table, encoding="ascii") as rows:
                    for row in rows:
                        fields = row.split()
                        if fields[3] == "0A" and (fields[1] + " ").endswith(wanted):
                            return True
            return False

        until(listening, f"{process.name} to listen on {port}")

    def tap(self, target_port):
        tap = Tap(target_port, self.canary)
        self.taps.append(tap)
        return tap

    # --- identities and configurations ---

    def spiffe_id(self, path):
        return f"spiffe://{self.trust_domain}/{path}"

    def issue(self, path, ttl=None):
        """The folder with svid.pem, key.pem and bundle.pem of the workload PATH."""
        if not self._authority.exists():
            self.checked([self.inlay_command, "ca", "init", "--dir", self._authority,
                          "--trust-domain", self.trust_domain])
        out = self.folder / "svid" / path.replace("/", "_")
        if not out.exists() or ttl:
            out.mkdir(parents=True, exist_ok=True)
            self.checked([self.inlay_command, "ca", "issue", "--dir", self._authority, "--id",
                          self.spiffe_id(path), "--out", out] + (["--ttl", ttl] if ttl else []))
            if self._user is not None:
                for path in (out, *out.iterdir()):
                    self._give(path)
        return out

    def config(self, path, inbound=(), outbound=(), default="deny"):
        """Writes the configuration of the workload PATH; rules are dictionaries. None if plain."""
        if self.plain:
            return None
        svid = self.issue(path)
        lines = [f'trust_domain = "{self.trust_domain}"', "", "[identity]",
                 f'svid = "{svid}/svid.pem"', f'key = "{svid}/key.pem"',
                 f'bundle = "{svid}/bundle.pem"', "", "[defaults]",
                 f'inbound = "{default}"', f'outbound = "{default}"']
        for table, rules in (("inbound", inbound), ("outbound", outbound)):
            for rule in rules:
                lines += ["", f"[[{table}]]"]
                lines += [f"{key} = {json.dumps(value)}" for key, value in rule.items()]
        self._config_number += 1
        file = self.folder / f"{path.replace('/', '_')}-{self._config_number}.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    def server_config(self, port, allow="client", own="server"):
        """Strict on its port, for the one identity."""
        return self.config(own, inbound=[{"name": "service", "port": port, "mode": "strict",
                                          "allow": [self.spiffe_id(allow)]}])

    def client_config(self, port, expect="server", own="client"):
        """Strict towards the port (the tap's, usually), expecting the one identity."""
        return self.config(own, outbound=[{"name": "to the service", "to": ["127.0.0.1"],
                                           "port": port, "mode": "strict",
                                           "expect": [self.spiffe_id(expect)]}])

    # --- processes ---

    def under(self, argv, config):
        """The command line that runs argv under inlay; argv itself without a configuration."""
        if config is None:
            return list(argv)
        strict = ["--strict"] if self.strict else []
        return [self.inlay_command, "run", "--config", config, *strict, "--", *argv]

    def start(self, name, argv, config=None, **options):
        names = [process.name for process in self.processes]
        if name in names:
            name += f"-{len(names)}"
        options.setdefault("env", self.env)
        if self._user is not None:
            options = {**self._user, **options}
        process = Process(name, self.under(argv, config), folder=self.folder, config=config,
                          **options)
        self.processes.append(process)
        return process

    def finish(self, process, timeout=120):
        """Waits for its end and returns its status."""
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{process.name} did not end in {timeout} s") from None

    def succeed(self, process, timeout=120):
        """Waits for it to end well; returns its output."""
        status = self.finish(process, timeout)
        if status != 0:
            raise AssertionError(f"{process.name} ended with {status}")
        return process.stdout

    def checked(self, argv):
        """Runs a tool of ours, outside inlay, to its end."""
        done = subprocess.run([str(part) for part in argv], env=self.env, capture_output=True,
                              timeout=60, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: status {done.returncode}: "
                                 f"{done.stderr.decode()}")
        return done.stdout

    # --- the log ---

    def events(self):
        """All events of the processes of this case, as `inlay log --json` prints them.

        It prints those of other cases as well, and of earlier processes with the same pids. A
        process that has no identity is known by its pid.
        """
        self._pids |= {process.pid for process in self.processes}
        self._pids.update(descendants(os.getpid()))
        out = self.checked([self.inlay_command, "log", "--json"])
        events = [json.loads(line) for line in out.decode().splitlines()]
        return [event for event in events
                if event["own_id"].startswith(f"spiffe://{self.trust_domain}/") or
                event["pid"] in self._pids and nanoseconds(event["time"]) >= self._begin]

    def expect_event(self, **wanted):
        """Waits for an event with these values; a set of values means one of them."""
        if self.plain:
            return None

        def matches(event):
            return all(event.get(key) in value if isinstance(value, (set, frozenset))
                       else event.get(key) == value for key, value in wanted.items())

        return until(lambda: next(filter(matches, self.events()), None), f"the event {wanted}")

    # --- what the tap must and must not have seen ---

    def check_wire(self, expect_plaintext=False):
        """Under inlay: no canary and TLS records only. Without: the canary, so the check works."""
        streams = [stream for tap in self.taps for stream in tap.streams]
        seen = [stream.label for stream in streams if stream.canary_at is not None]
        if self.plain or expect_plaintext:
            assert seen, "the canary should have crossed the tap in the clear"
            return
        assert not seen, f"the canary crossed in the clear: {seen}"
        for stream in streams:
            assert stream.records.error is None, f"{stream.label}: {stream.records.error}"

    # --- the end ---

    def close(self):
        """Stops everything; returns the command lines of what was left beside it."""
        for process in reversed(self.processes):
            process.stop()
        for tap in self.taps:
            tap.stop()
        try:
            # A server's process for one connection ends some time after its client.
            until(lambda: not left_running(), "the end of all processes")
        except AssertionError:
            pass
        left = left_running()
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        for keeper in self._reserved:
            keeper.close()
        return left

    def report(self):
        """Everything that helps to understand a failure."""
        lines = [process.report() for process in self.processes]
        lines += [tap.report() for tap in self.taps]
        if not self.plain:
            try:
                events = self.events()
            except (AssertionError, OSError, ValueError) as error:
                events = [f"unreadable: {error}"]
            lines.append(f"  inlay log, {len(events)} events:")
            usual = ("allowed", "closed")
            lines += [f"    {event}" for event in events
                      if isinstance(event, str) or event["reason"] not in usual][:30]
            lines += [f"    {event}" for event in events[-15:]]
        print("\n".join(lines), file=sys.stderr)
