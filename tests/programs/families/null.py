"""Programs that inlay has no business with behave as without it.

null/   under `inlay run` with a configuration whose defaults are plaintext
inert/  with the library preloaded and INLAY_CONFIG unset
Each compares exit status, stdout and stderr with a run of the same command without inlay.
"""

import os
import pty
import select
import signal

from harness import registry
from harness.context import PYTHON, SCRIPTS
from harness.process import until
from harness.registry import case

# The launcher adds these variables; the library gives all but the last to children with a fresh
# environment; anything else that differs is a fault.
ENVIRONMENT = """
import os
for name in sorted(os.environ):
    if name not in ("LD_PRELOAD", "INLAY_CONFIG", "INLAY_SNAPSHOT"):
        print(name, os.environ[name])
"""
# The numbers a program gets for its descriptors are visible to it.
DESCRIPTORS = """
import os
print(sorted(os.listdir("/proc/self/fd"), key=int), os.open("/dev/null", os.O_RDONLY))
"""
THREADS_AND_CHILDREN = """
import concurrent.futures, os, subprocess, threading
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    print(list(pool.map(abs, range(-5, 0))))
threads = [threading.Thread(target=os.getpid) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(subprocess.run(["sh", "-c", "exit 9"]).returncode)
print(subprocess.check_output(["true"], env={}))
"""
# A ClientHello from the program's own libssl, while inlay carries another version of it (T79).
OWN_LIBSSL = """
import hashlib, ssl
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
connection = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
try:
    connection.do_handshake()
except ssl.SSLWantReadError:
    print(outgoing.read()[:3].hex(), ssl.OPENSSL_VERSION, hashlib.sha256(b"x").hexdigest())
"""
# Libssl comes late, goes, and comes again (T78).
LATE_LIBSSL = """
import _ctypes, ctypes
for _ in range(3):
    library = ctypes.CDLL("libssl.so.3")
    library.OpenSSL_version.restype = ctypes.c_char_p
    print(library.OpenSSL_version(0), _ctypes.dlclose(library._handle))
"""
SIGNAL_STATE = ["grep", "-E", "^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt)", "/proc/self/status"]

COMMANDS = {
    "true": ["true"],
    "exit-code-T82": ["sh", "-c", "exit 7"],
    "killed-by-TERM-T82": ["sh", "-c", "kill -TERM $$"],
    "killed-by-KILL-T82": ["sh", "-c", "kill -KILL $$"],
    "killed-by-SEGV-T82": ["sh", "-c", "ulimit -c 0; kill -SEGV $$"],
    "killed-by-ABRT-T82": ["sh", "-c", "ulimit -c 0; kill -ABRT $$"],
    "caught-signal-T82": ["bash", "-c", "trap 'echo caught; exit 3' USR1; kill -USR1 $$; echo no"],
    "signal-state-T82": SIGNAL_STATE,
    "ls": ["ls", "-la", "/usr/share"],
    "python": [PYTHON, "-c", "print(sum(range(1000)))"],
    "python-raises": [PYTHON, "-c", "raise SystemExit('an error')"],
    "perl": ["perl", "-e", "print join ' ', map { $_ * 2 } 1 .. 9"],
    "pipeline": ["bash", "-c", "seq 100000 | sort -rn | head -3; echo ${PIPESTATUS[@]}"],
    "sigpipe": ["bash", "-c", "yes | head -1; echo ${PIPESTATUS[@]}"],
    "background-jobs": ["bash", "-c", "(exit 4) & wait $!; echo $?; sleep 0 & wait; echo $?"],
    "subshells": ["bash", "-c", "x=$(echo $(echo deep)); echo $x; exec ls /etc/passwd"],
    "here-document": ["bash", "-c", "cat <<< hello; cat <(echo there)"],
    "redirections": ["bash", "-c", "exec 5>&1 6<&0 1>&2; echo to-stderr; echo to-stdout >&5"],
    "limits-and-umask": ["bash", "-c", "umask 027; ulimit -a; umask; pwd; nice"],
    "few-descriptors": ["bash", "-c", "ulimit -n 8; ls /usr | head -2; cat /etc/hostname"],
    "environment": [PYTHON, "-c", ENVIRONMENT],
    "empty-environment": ["env", "-i", "A=b", PYTHON, "-c", ENVIRONMENT],
    "descriptors": [PYTHON, "-c", DESCRIPTORS],
    "threads-and-children": [PYTHON, "-c", THREADS_AND_CHILDREN],
    "own-libssl-T79": [PYTHON, "-c", OWN_LIBSSL],
    "late-libssl-T78": [PYTHON, "-c", LATE_LIBSSL],
    # A preload of the program's own, beside inlay's: it changes how the C library buffers.
    "another-preload-T80": ["stdbuf", "-o0", PYTHON, "-c",
                            "import os; print('first'); os.system('echo second'); print('third')"],
    "user-namespace-T81": ["unshare", "--user", "--map-root-user", "sh", "-c",
                           "id -u; cat /etc/hostname; exit 3"],
    "command-not-found-by-shell": ["sh", "-c", "/no/such/command"],
}


def outcome(ctx, name, argv, config, **options):
    process = ctx.start(name, argv, config, **options)
    status = ctx.finish(process)
    return {"status": status, "stdout": process.stdout, "stderr": process.stderr}


def null_config(ctx):
    return ctx.config("null", default="plaintext")


def compare(wanted, got):
    for part, value in wanted.items():
        assert got[part] == value, f"{part} differs: without inlay {value!r}, with it {got[part]!r}"


def under_both(name, argv_of, **options):
    """Registers null/NAME and inert/NAME: argv_of(ctx) gives the command."""

    def null(ctx):
        argv = argv_of(ctx)
        compare(outcome(ctx, "without", argv, None, **options),
                outcome(ctx, "with", argv, null_config(ctx), **options))

    def inert(ctx):
        argv = argv_of(ctx)
        wanted = outcome(ctx, "without", argv, None, **options)
        ctx.preload_inert()
        compare(wanted, outcome(ctx, "with", argv, None, **options))

    registry.add(f"null/{name}", null, plain=True)
    registry.add(f"inert/{name}", inert)


for command_name, command in COMMANDS.items():
    under_both(command_name, lambda _, argv=command: argv)

under_both("standard-input", lambda _: ["sha256sum"], stdin=os.urandom(8 << 20))
# Each start gets this state; restore_signals=False keeps what is ignored here ignored there.
under_both("ignored-signals-T82", lambda _: SIGNAL_STATE, restore_signals=False)
under_both("socket-calls-T75",
           lambda ctx: [PYTHON, SCRIPTS / "socket_calls.py", ctx.port(), ctx.port()])


@case("null/address-sanitizer-T80")
def address_sanitizer(ctx):
    """Its runtime ends a program that has another library in front of it."""
    gcc = ctx.checked(["gcc", "-print-file-name=libasan.so"]).decode().strip()
    env = {**ctx.env, "LD_PRELOAD": gcc, "ASAN_OPTIONS": "detect_leaks=0"}
    argv = [PYTHON, "-c", "import socket; a, b = socket.socketpair(); print(a.send(b'abc'))"]
    compare(outcome(ctx, "alone", argv, None, env=env),
            outcome(ctx, "inlay", argv, null_config(ctx), env=env))


@case("null/the-library-is-there")
def library_is_there(ctx):
    """What the other cases compare is a program with the library in it, and its children too."""
    process = ctx.start("grep", ["sh", "-c", "grep -c libinlay.so /proc/self/maps; :"],
                        null_config(ctx))
    assert int(ctx.succeed(process)) > 0
    ctx.preload_inert()
    process = ctx.start("grep", ["sh", "-c", "grep -c libinlay.so /proc/self/maps; :"])
    assert int(ctx.succeed(process)) > 0


@case("null/same-pid-T82", plain=True)
def same_pid(ctx):
    process = ctx.start("shell", ["sh", "-c", "echo $$"], null_config(ctx))
    assert ctx.succeed(process) == b"%d\n" % process.pid


@case("null/closed-standard-descriptors", plain=True)
def closed_standard_descriptors(ctx):
    """0, 1 and 2 closed: what the program opens gets these numbers, as without inlay."""
    results = []
    for config in (None, null_config(ctx)):
        for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
            file = ctx.folder / f"descriptors-{len(results)}"
            argv = ctx.under([PYTHON, SCRIPTS / "descriptors.py", file], config)
            outcome(ctx, "shell", ["sh", "-c", f'exec "$@" {closed}', "sh", *argv], None)
            results.append(file.read_text())
    assert results[:4] == results[4:], results


class Terminal:
    """An interactive bash on a terminal of its own."""

    def __init__(self, ctx):
        self.pid, self._terminal = pty.fork()
        self._said = b""
        if self.pid == 0:
            try:
                # A shell cannot give its jobs back what was ignored when it started.
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
                    signal.signal(number, signal.SIG_DFL)
                os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"],
                          {**ctx.env, "PS1": "ready> ", "TERM": "dumb"})
            finally:
                os._exit(70)

    def type(self, text):
        os.write(self._terminal, text)

    def read_until(self, text):
        while text not in self._said:
            ready, _, _ = select.select([self._terminal], [], [], 30)
            assert ready, f"the terminal shows only {self._said!r}"
            self._said += os.read(self._terminal, 4096)
        self._said = self._said.partition(text)[2]

    def until_a_job_has_it(self):
        """Typed before, a line would go to the shell's editor, not to the job."""
        until(lambda: os.tcgetpgrp(self._terminal) != self.pid, "a job in the foreground")

    def close(self):
        os.close(self._terminal)  # hangs up: bash and its jobs end
        os.waitpid(self.pid, 0)


@case("null/job-control-T82", plain=True)
def job_control(ctx):
    """In an interactive shell: ^Z stops, fg goes on, ^C ends by SIGINT."""
    command = " ".join(str(word) for word in ctx.under(["cat"], null_config(ctx)))
    terminal = Terminal(ctx)
    try:
        terminal.read_until(b"ready> ")
        terminal.type(command.encode() + b"\n")
        terminal.read_until(b"cat\r\n")
        terminal.until_a_job_has_it()
        for text in (b"first", b"second"):
            terminal.type(text + b"\n")
            terminal.read_until(text + b"\r\n")  # what was typed, shown by the terminal
            terminal.read_until(text + b"\r\n")  # what cat wrote
            if text == b"first":
                terminal.type(b"\x1a")
                terminal.read_until(b"Stopped")
                terminal.read_until(b"ready> ")
                terminal.type(b"echo status $?\n")
                terminal.read_until(b"status 148\r\nready> ")  # 128 + SIGTSTP
                terminal.type(b"fg\n")
                terminal.read_until(b"cat\r\n")
                terminal.until_a_job_has_it()
        terminal.type(b"\x03")
        terminal.read_until(b"ready> ")
        terminal.type(b"echo status $?\n")
        terminal.read_until(b"status 130\r\n")  # 128 + SIGINT
    finally:
        terminal.close()


@case("null/plaintext-connections-are-counted")
def plaintext_is_logged(ctx):
    """A plaintext default is in the log: nothing goes in the clear unseen."""
    config = null_config(ctx)
    process = ctx.start("script", [PYTHON, SCRIPTS / "socket_calls.py", ctx.port(), ctx.port()],
                        config)
    ctx.succeed(process)
    ctx.expect_event(event="plaintext", reason="plaintext-default", direction="outbound")
    ctx.expect_event(event="plaintext", reason="plaintext-default", direction="inbound")


@case("strict/socket-calls-T75")
def strict_socket_calls(ctx):
    """The same calls and errnos when both ends are one process under strict rules."""
    ports = [ctx.port(), ctx.port()]
    argv = [PYTHON, SCRIPTS / "socket_calls.py", *ports]
    config = ctx.config(
        "self",
        inbound=[{"name": "in", "port": ports, "mode": "strict", "allow": [ctx.spiffe_id("self")]}],
        outbound=[{"name": "out", "to": ["127.0.0.1"], "port": ports, "mode": "strict",
                   "expect": [ctx.spiffe_id("self")]}])
    wanted = outcome(ctx, "without", argv, None)
    assert wanted["status"] == 0, "the script fails without inlay"
    compare(wanted, outcome(ctx, "with", argv, config))
