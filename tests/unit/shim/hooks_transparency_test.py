#!/usr/bin/env python3
"""The preload changes nothing a program can see: not unset up, and not with everything plaintext.

hooks_transparency_test.py LIBINLAY FOLDER-OF-TEST-PROGRAMS
"""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

LIBRARY = os.path.abspath(sys.argv[1])
PROGRAMS = pathlib.Path(sys.argv[2]).absolute()

PLAINTEXT = """\
trust_domain = "example.org"
[identity]
svid = "svid.pem"
key = "key.pem"
bundle = "bundle.pem"
[defaults]
inbound = "plaintext"
outbound = "plaintext"
"""

PYTHON = """
import asyncio, os, socket, subprocess, threading
a, b = socket.socketpair(); a.sendall(b"x" * 10); print(b.recv(20))
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname()); peer, _ = server.accept()
client.sendall(b"hello"); print(peer.recv(5)); client.close(); print(peer.recv(5))
print(subprocess.run(["sh", "-c", "echo $0; exit 4", "sub"], capture_output=True))
print(subprocess.run(["cat"], input=b"piped", capture_output=True, close_fds=True).stdout)
async def main():
    async def serve(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_server(serve, "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    w.write(b"line\\n"); print(await r.read()); w.close(); s.close()
asyncio.run(main())
pid = os.fork()
if pid == 0: print("child", flush=True); os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

SHELL = r"""
exec 5>&1 6</etc/passwd; echo to five >&5; read -r first <&6; echo "$first"; exec 5>&- 6<&-
echo piped | cat | tr a-z A-Z; (exit 3); echo $?; ls /proc/self/fd | wc -l
cat <<END
here $((1 + 2))
END
env -i /bin/sh -c 'echo clean; exit 2'; echo $?
"""

# The log of the process itself: the logs of others that had its number may still be there.
SHELL_START = "start=$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f20)"
PYTHON_START = "open('/proc/self/stat').read().rsplit(') ', 1)[1].split()[19]"

COMMANDS = {
    "every hooked call": [str(PROGRAMS / "hooks_program")],
    "calls before any constructor": [str(PROGRAMS / "hooks_early")],
    "sh": ["sh", "-c", SHELL],
    "bash": ["bash", "-c", SHELL],
    "ls": ["ls", "/"],
    "python3": [sys.executable, "-c", PYTHON],
}


class Transparency(unittest.TestCase):
    maxDiff = None

    @classmethod
    def tearDownClass(cls):
        for log in pathlib.Path("/run/inlay/log").glob("*.log"):
            try:
                alive = pathlib.Path("/proc", log.name.split("-")[0]).exists()
                if not alive and bytes(PROGRAMS / "hooks_static") in log.read_bytes():
                    log.unlink()
            except OSError:
                pass  # another user's, or gone already

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o700)
        self.config = pathlib.Path(folder.name) / "inlay.toml"
        self.config.write_text(PLAINTEXT)

    def run_with(self, command, variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("INLAY_")}
        environment.pop("LD_PRELOAD", None)
        done = subprocess.run(command, env={**environment, **variables}, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=120)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_nothing_a_program_prints_changes(self):
        preload = {"LD_PRELOAD": LIBRARY}
        for name, command in COMMANDS.items():
            alone = self.run_with(command, {})
            for mode, variables in {
                "inert": preload,
                "all plaintext": {**preload, "INLAY_CONFIG": str(self.config)},
            }.items():
                with self.subTest(program=name, mode=mode):
                    self.assertEqual(alone, self.run_with(command, variables))

    def test_the_program_that_uses_every_call_works_at_all(self):
        code, output, _ = self.run_with(COMMANDS["every hooked call"], {})
        self.assertEqual(code, 0)
        self.assertIn("recv aio: 3", output)
        self.assertIn("from vfork", output)

    def test_a_child_with_a_fresh_environment_gets_the_variables_back(self):
        variables = {"LD_PRELOAD": LIBRARY, "INLAY_CONFIG": str(self.config)}
        show = "import os, subprocess; print(subprocess.run(['env'], env={}, capture_output=True).stdout)"
        self.assertEqual(
            self.run_with([sys.executable, "-c", show], variables)[1].strip(),
            repr(f"LD_PRELOAD={LIBRARY}\nINLAY_CONFIG={self.config}\n".encode()))
        self.assertIn("INLAY_STRICT=1",
                      self.run_with([sys.executable, "-c", show],
                                    {**variables, "INLAY_STRICT": "1"})[1])

    def test_the_order_of_a_preload_list_is_kept(self):
        variables = {"LD_PRELOAD": f"libSegFault-none.so:{LIBRARY}", "INLAY_CONFIG": str(self.config)}
        for given, wanted in {
            "libc.so.6": f"libc.so.6:{LIBRARY}",
            f"libc.so.6:{LIBRARY}": f"libc.so.6:{LIBRARY}",
            "": f"libSegFault-none.so:{LIBRARY}",
        }.items():
            with self.subTest(given=given):
                show = ("import subprocess; print(subprocess.run(['/usr/bin/env'], "
                        f"env={{'LD_PRELOAD': {given!r}}}, capture_output=True).stdout.decode())")
                output = self.run_with([sys.executable, "-c", show], variables)[1]
                self.assertIn(f"LD_PRELOAD={wanted}\n", output)

    def test_without_configuration_children_are_left_alone(self):
        show = "import subprocess; print(subprocess.run(['env'], env={}, capture_output=True).stdout)"
        self.assertEqual(
            self.run_with([sys.executable, "-c", show], {"LD_PRELOAD": LIBRARY})[1], "b''\n")

    def test_events_survive_an_exec_and_are_in_the_json_file(self):
        lines = pathlib.Path(self.config.parent) / "log.jsonl"
        self.config.write_text(PLAINTEXT + f'[log]\nfile = "{lines}"\n')
        variables = {"LD_PRELOAD": LIBRARY, "INLAY_CONFIG": str(self.config),
                     "XDG_RUNTIME_DIR": str(self.config.parent)}
        static = str(PROGRAMS / "hooks_static")
        # A spawn is an event; then the same process becomes another program.
        script = (f"import os, subprocess; subprocess.run(['{static}'], stdout=subprocess.DEVNULL); "
                  f"os.execv('/bin/sh', ['sh', '-c', {SHELL_START!r} + '; echo $$; "
                  "cat /run/inlay/log/$$-$start.log $XDG_RUNTIME_DIR/inlay/$$-$start.log 2>/dev/null | "
                  "grep -ac hooks_static; true'])")
        code, output, error = self.run_with([sys.executable, "-c", script], variables)
        self.assertEqual((code, error), (0, ""))
        pid, found = output.split()
        self.assertEqual(found, "1")
        events = [json.loads(line) for line in lines.read_text().splitlines()]
        self.assertEqual([(event["pid"], event["reason"], event["detail"]) for event in events],
                         [(int(pid), "exec-unprotected", f"statically linked: {static}")])
        self.assertEqual(stat.S_IMODE(lines.stat().st_mode), 0o600)

    def test_a_process_without_events_leaves_no_log_behind(self):
        variables = {"LD_PRELOAD": LIBRARY, "INLAY_CONFIG": str(self.config),
                     "XDG_RUNTIME_DIR": str(self.config.parent)}
        script = (f"import os, glob; name = f'{{os.getpid()}}-' + {PYTHON_START}; "
                  "print(len(glob.glob(f'/run/inlay/log/{name}.log') + "
                  "glob.glob(os.environ['XDG_RUNTIME_DIR'] + f'/inlay/{name}.log')), "
                  "name, flush=True)")
        for end in ("", "; os._exit(0)", "; os.execv('/bin/sh', ['sh', '-c', ':'])"):
            with self.subTest(end=end):
                program = [sys.executable, "-c", script + end]
                count, name = self.run_with(program, variables)[1].split()
                self.assertEqual(count, "1")
                self.assertEqual([*pathlib.Path("/run/inlay/log").glob(f"{name}.log"),
                                  *self.config.parent.glob(f"inlay/{name}.log")], [])

    def test_an_unreadable_policy_is_logged_not_printed(self):
        self.config.write_text("trust_domain = 1\n")
        self.addCleanup(lambda: [log.unlink() for log in pathlib.Path("/run/inlay/log").glob(f"{name}.log")])
        variables = {"LD_PRELOAD": LIBRARY, "INLAY_CONFIG": str(self.config),
                     "XDG_RUNTIME_DIR": str(self.config.parent)}
        name, found = self.run_with(
            ["sh", "-c", f"{SHELL_START}; echo $$-$start; cat /run/inlay/log/$$-$start.log "
             "$XDG_RUNTIME_DIR/inlay/$$-$start.log 2>/dev/null | grep -ac inlay.toml:1:"],
            variables)[1].split()
        self.assertEqual(found, "1")

    def test_logs_of_the_dead_are_removed_after_a_day(self):
        folder = pathlib.Path("/run/inlay/log")
        if not os.access(folder, os.W_OK):
            folder = self.config.parent / "inlay"
            folder.mkdir(mode=0o700)
        # No process has such an ID; the log reader does not take these for logs.
        old, young, other = (folder / f"400000000{i}-1.{end}"
                             for i, end in enumerate(("log", "log", "txt")))
        self.addCleanup(lambda: [file.unlink(missing_ok=True) for file in (old, young, other)])

        def make():
            for file in (old, young, other):
                file.write_bytes(b"")
            for file in (old, other):
                os.utime(file, (0, 0))

        def crowded():  # then the young may be one too many
            return len(list(folder.iterdir())) > 400

        crowded_before = crowded()
        variables = {"LD_PRELOAD": LIBRARY, "XDG_RUNTIME_DIR": str(self.config.parent)}
        for _ in range(20):  # until no process of somebody else's has tidied up meanwhile
            make()
            self.run_with(["true"], variables)
            if old.exists():
                break
        self.assertTrue(old.exists(), "inert, the library touches nothing")
        for _ in range(1000):  # one process in 64 does it
            self.run_with(["true"], {**variables, "INLAY_CONFIG": str(self.config)})
            if not old.exists():
                break
        self.assertEqual([old.exists(), other.exists()], [False, True])
        self.assertTrue(young.exists() or crowded_before or crowded())

    def test_a_static_program_is_logged_and_under_strict_refused(self):
        self.check_unprotected("hooks_static")

    def test_a_dynamic_go_program_is_logged_and_under_strict_refused(self):
        self.check_unprotected("hooks_go")

    def check_unprotected(self, program):
        variables = {"LD_PRELOAD": LIBRARY, "INLAY_CONFIG": str(self.config)}
        static = str(PROGRAMS / program)
        for start in ("import os; os.execv({0!r}, [{0!r}])",
                      "import subprocess; raise SystemExit(subprocess.run([{0!r}]).returncode)",
                      f"import os; os.execvp({program!r}, [{program!r}])"):
            with self.subTest(start=start):
                command = [sys.executable, "-c", start.format(static)]
                path = {"PATH": f"{PROGRAMS}:/usr/bin:/bin"}
                self.assertEqual(self.run_with(command, {**variables, **path})[1], "static ran\n")
                code, output, error = self.run_with(
                    command, {**variables, **path, "INLAY_STRICT": "1"})
                self.assertNotEqual(code, 0)
                self.assertNotIn("static ran", output)
                self.assertIn("PermissionError", error)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
