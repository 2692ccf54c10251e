"""Starting and stopping programs on loopback, and what they cost: CPU time and memory."""

import dataclasses
import os
import resource
import signal
import socket
import subprocess
import time


class Failed(Exception):
    """A system did not do the work. One line that says what and why."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port):
    """Whether somebody listens on the port: the kernel's own list, since a probing connection would
    be one more handshake for the system under test."""
    suffix = ":%04X" % port
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                next(lines)
                for line in lines:
                    fields = line.split()
                    if fields[3] == "0A" and fields[1].endswith(suffix):
                        return True
        except FileNotFoundError:
            pass
    return False


def accepting(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def last_line(path):
    with open(path, errors="replace") as log:
        lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "it said nothing"


def descendants(pid):
    """The process and all below it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as stat:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    found, todo = [], [pid]
    while todo:
        process = todo.pop()
        found.append(process)
        todo += children.get(process, [])
    return found


def cpu_seconds(pid):
    """User and system time of a process, threads that have ended included. The clock of the process
    (clock_getcpuclockid(3)) counts in nanoseconds what /proc/PID/stat has in ticks of 10 ms."""
    scheduler_clock = 2  # CPUCLOCK_SCHED
    try:
        return time.clock_gettime_ns((~pid << 3) | scheduler_clock) / 1e9
    except OSError:
        with open("/proc/%d/stat" % pid) as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid):
    """Proportional set size: shared pages, an arena in shared memory among them, count once."""
    with open("/proc/%d/smaps_rollup" % pid) as rollup:
        for line in rollup:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise Failed("/proc/%d/smaps_rollup has no Pss" % pid)


def children_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Daemon:
    """A long-running process of a system: a server or a proxy."""

    def __init__(self, command, port, log, role):
        """It is there when it listens on `port`, or at the path of a Unix socket."""
        self.role = role
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 20
        while not (accepting(port) if isinstance(port, str) else listening(port)):
            if self.process.poll() is not None:
                raise Failed("%s ended early: %s" % (role, last_line(log)))
            if time.monotonic() > deadline:
                self.stop()
                raise Failed("%s does not listen on its port: %s" % (role, last_line(log)))
            time.sleep(0.01)

    def pids(self):
        return descendants(self.process.pid)

    def cpu_seconds(self):
        return sum(cpu_seconds(pid) for pid in self.pids())

    def memory_kib(self):
        return sum(memory_kib(pid) for pid in self.pids())

    def stop(self):
        if self.process.poll() is not None:
            return
        family = self.pids()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()


@dataclasses.dataclass
class Outcome:
    output: str
    cpu_seconds: float  # of the client


def run_client(command, timeout):
    """Runs a client to its end."""
    before = children_cpu_seconds()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise Failed("the client did not finish within %d s" % timeout) from None
    if done.returncode != 0:
        said = [line for line in (done.stderr.strip() or done.stdout).splitlines() if line.strip()]
        raise Failed(
            "the client ended with %d: %s"
            % (done.returncode, said[-1].strip() if said else "it said nothing")
        )
    return Outcome(done.stdout, children_cpu_seconds() - before)
