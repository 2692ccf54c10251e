"""Memory of idle connections and of processes, and what the library costs those who make none."""

import json
import os
import subprocess
import time

from processes import Failed, children_cpu_seconds, last_line, memory_kib, run_client
from programs import Tool


class IdleConnections:
    """Holds connections after one byte there and back on each. The first connection is opened
    before the first look, so that what a process sets up once counts as the process's."""

    name = "idle"
    title = "memory of idle connections, after one byte there and back"

    def __init__(self, bench, connections):
        self.connections = connections
        self.program = Tool(bench, "echo", "idle", idle=True)

    def measure(self, deployment):
        """KiB by role: of the processes with one connection, and of each further connection."""
        log = os.path.join(deployment.folder, "client.log")
        with open(log, "w") as errors:
            client = subprocess.Popen(
                deployment.client("--count", str(self.connections)),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            process = look(client, deployment, "one", log)
            client.stdin.write("\n")
            client.stdin.flush()
            holding = look(client, deployment, "holding", log)
            client.stdin.close()
            if client.wait(60) != 0:
                raise Failed("the client ended with %d: %s" % (client.returncode, last_line(log)))
        except (subprocess.TimeoutExpired, BrokenPipeError):
            raise Failed("the client did not leave: " + last_line(log)) from None
        finally:
            if client.poll() is None:
                client.kill()
                client.wait()
            client.stdout.close()
        return {"process": process,
                "connection": {role: (holding[role] - process[role]) / self.connections
                               for role in process}}


def look(client, deployment, expected, log):
    """KiB by role once the client says `expected`: the least of ten looks over a second, which is
    what is left when the work of opening is done."""
    if client.stdout.readline().strip() != expected:
        raise Failed("the client ended early: " + last_line(log))
    least = {}
    for _ in range(10):
        now = {"client": memory_kib(client.pid), "server": 0, "proxies": 0}
        for daemon in deployment.daemons:
            role = "server" if daemon.role.endswith("server") else "proxies"
            now[role] += daemon.memory_kib()
        least = {role: min(least.get(role, kib), kib) for role, kib in now.items()}
        time.sleep(0.1)
    return least


class Library:
    """What it costs a process to have the library loaded: time, and memory that is its alone."""

    def __init__(self, bench, folder):
        """`folder` holds nothing yet; a configuration is written there."""
        config = configuration(bench, folder)
        inert = dict(os.environ, LD_PRELOAD=bench.library)
        self.variants = {
            "without": ([], dict(os.environ)),
            "preloaded, no INLAY_CONFIG": ([], inert),
            "preloaded": ([], dict(inert, INLAY_CONFIG=config)),
            "inlay run": ([bench.inlay, "run", "--config", config, "--"], dict(os.environ)),
        }

    def load_times(self, runs):
        """Milliseconds and CPU milliseconds of `true`, variants interleaved."""
        found = {name: {"ms": [], "cpu_ms": []} for name in self.variants}
        for _ in range(runs):
            for name, (prefix, environment) in self.variants.items():
                cpu, begin = children_cpu_seconds(), time.perf_counter()
                done = subprocess.run(prefix + ["true"], env=environment, capture_output=True,
                                      text=True)
                found[name]["ms"].append((time.perf_counter() - begin) * 1e3)
                found[name]["cpu_ms"].append((children_cpu_seconds() - cpu) * 1e3)
                if done.returncode != 0:
                    raise Failed("%s: true ended with %d: %s"
                                 % (name, done.returncode, done.stderr.strip()))
        return found

    def process_memory(self):
        """KiB of a sleeping process; see private_memory()."""
        found = {}
        for name, (prefix, environment) in self.variants.items():
            process = subprocess.Popen(prefix + ["sleep", "60"], env=environment,
                                       stderr=subprocess.DEVNULL)
            try:
                wait_for_sleep(process)
                found[name] = private_memory(process.pid)
            finally:
                process.kill()
                process.wait()
        return found


class Unmanaged:
    """What a call on a descriptor costs that inlay has nothing to do with; see unmanaged.cc."""

    def __init__(self, bench, folder):
        """`folder` holds nothing yet; a configuration is written there."""
        self.command = [bench.inlay, "run", "--config", configuration(bench, folder), "--",
                        os.path.join(bench.binaries, "bench_unmanaged"), "--pairs"]

    def measure(self, pairs):
        return json.loads(run_client([*self.command, str(pairs)], 60 + pairs).output)


def configuration(bench, folder):
    os.makedirs(folder)
    path = os.path.join(folder, "inlay.toml")
    with open(path, "w") as text:
        text.write(bench.configuration(bench.client, ""))
    os.chmod(path, 0o600)
    return path


def wait_for_sleep(process):
    """Until the process has become `sleep` and is sleeping: constructors have run then."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed("sleep ended with %d" % process.returncode)
        with open("/proc/%d/stat" % process.pid) as stat:
            head, _, tail = stat.read().rpartition(")")
        if head.endswith("(sleep") and tail.split()[0] == "S":
            with open("/proc/%d/wchan" % process.pid) as wchan:
                if "nanosleep" in wchan.read():
                    return
        time.sleep(0.01)
    raise Failed("sleep does not sleep")


def private_memory(pid):
    """KiB that no other process can share: written pages. Text is left out, which counts as private
    (clean) for as long as no second process has the library loaded."""
    found = {"private_kib": 0, "library_private_kib": 0, "library_resident_kib": 0}
    in_library = False
    with open("/proc/%d/smaps" % pid) as smaps:
        for line in smaps:
            fields = line.split()
            if not fields[0].endswith(":"):
                in_library = line.rstrip().endswith("libinlay.so")
            elif fields[0] == "Private_Dirty:":
                found["private_kib"] += int(fields[1])
                found["library_private_kib"] += int(fields[1]) if in_library else 0
            elif fields[0] == "Rss:" and in_library:
                found["library_resident_kib"] += int(fields[1])
    return found
