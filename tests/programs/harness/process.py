"""A started program: its own process group, its output in files, stopped by pid."""

import os
import signal
import subprocess
import time


class Process:
    def __init__(self, name, argv, *, folder, env, cwd=None, stdin=None, config=None, **options):
        self.name = name
        self.argv = [str(part) for part in argv]
        self.config = config  # the configuration it runs under, None without inlay
        self._output = [folder / f"{name}.stdout", folder / f"{name}.stderr"]
        source = subprocess.DEVNULL if stdin is None else stdin
        if isinstance(source, bytes):
            path = folder / f"{name}.stdin"
            path.write_bytes(source)
            source = path.open("rb")
        with self._output[0].open("wb") as out, self._output[1].open("wb") as err:
            self._child = subprocess.Popen(
                self.argv, stdin=source, stdout=out, stderr=err, env=env, cwd=cwd or folder,
                start_new_session=True, **options)
        if hasattr(source, "close"):
            source.close()
        self.pid = self._child.pid

    @property
    def input(self):
        """The write end of its standard input, when started with stdin=subprocess.PIPE."""
        return self._child.stdin

    @property
    def stdout(self) -> bytes:
        return self._output[0].read_bytes()

    @property
    def stderr(self) -> bytes:
        return self._output[1].read_bytes()

    @property
    def status(self):
        """Exit code, minus the signal number, or None while it runs."""
        return self._child.poll()

    def wait(self, timeout):
        return self._child.wait(timeout)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def stop(self):
        """Ends it, politely first, and whatever is left of its process group."""
        if self.input is not None and not self.input.closed:
            try:
                self.input.close()
            except OSError:
                pass  # the reader has gone
        if self.status is None:
            self._child.terminate()
            try:
                self._child.wait(60)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def report(self) -> str:
        def tail(data):
            text = data[-4000:].decode("utf-8", "backslashreplace").rstrip("\n")
            if "\0" in text:  # nothing a terminal should see
                text = repr(data[-100:])
            return "\n".join("    | " + line for line in text.splitlines())

        lines = [f"  {self.name} (pid {self.pid}, status {self.status}): {' '.join(self.argv)}"]
        for label, path in zip(("stdout", "stderr"), self._output):
            data = path.read_bytes()
            if data:
                lines.append(f"    {label}, {len(data)} bytes:\n{tail(data)}")
        return "\n".join(lines)


def until(condition, what, timeout=60):
    """Polls until condition() is true and returns its value. The timeout is a safety net."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)  # the pace of the poll, not a synchronisation


def descendants(pid):
    """The pids below this one, from /proc."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # gone meanwhile
        children.setdefault(parent, []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found
