#!/usr/bin/env python3
"""The commands of tools/guides/two-machines, each on a machine of its own (a network namespace): what the guide
says they print is what they print. Root alone can make the machines."""

import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from hosts_test import Host
from support import BUILD, HERE, until

GUIDE = HERE.parents[1] / "tools" / "guides" / "two-machines"
PROMPT = re.compile(r"    ([a-z0-9-]+)# (.*)")


def steps(text):
    """(machine, command, the lines it prints) of each prompt."""
    found = []
    for line in text.splitlines():
        prompt = PROMPT.fullmatch(line)
        if prompt:
            found.append((prompt[1], prompt[2], []))
        elif found and line.startswith("    ") and printing:
            found[-1][2].append(line[4:])
        printing = line.startswith("    ")
    return found


def pattern(lines):
    """"…" stands for anything; as a line of its own, for any lines or none."""
    out = [r"(?:.*\n)*" if line.strip() == "…" else
           ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in lines]
    return re.compile("".join(out))


class Guide(unittest.TestCase):
    def setUp(self):
        ca = Host("ca", "10.88.0.1")
        self.hosts = {"ca": ca, "db-1": Host("db-1", "10.88.0.11", ca), "app-1": Host("app-1", "10.88.0.12", ca)}
        names = "".join(f"{host.address} {name}.example.org\n" for name, host in self.hosts.items())
        for host in self.hosts.values():
            # Its own /etc.
            host.do("cp", "-a", "/etc", "/run/etc")
            host.do("mount", "--bind", "/run/etc", "/etc")
            host.do("rm", "-rf", "/etc/inlay")
            host.do("sh", "-c", "cat >>/etc/hosts", input=names)

    def tearDown(self):
        for name in ("app-1", "db-1", "ca"):
            self.hosts[name].close()

    def words(self, command):
        return ["env", "-C", GUIDE, f"PATH={BUILD}/tools:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", command]

    def test_the_guide_does_what_it_says(self):
        token = ""
        listed = steps((GUIDE / "README.md").read_text())
        self.assertGreater(len(listed), 12)
        for machine, command, lines in listed:
            host = self.hosts[machine]
            if command.endswith(" &"):
                host.start(*self.words("exec " + command.removesuffix(" &")))
                continue
            said = ""

            def prints():
                nonlocal said
                done = host.run(*self.words(command), input=token)
                said = done.stdout + done.stderr
                return pattern(lines).fullmatch(said) if lines else done.returncode == 0

            with self.subTest(machine=machine, command=command):
                # What has just been started needs a moment; who reads a guide looks again, too.
                try:
                    until(prints, "what the guide says")
                except AssertionError as wrong:
                    raise AssertionError(f"{machine}# {command}\nprinted\n{said}") from wrong
            if command.startswith("inlay ca token"):
                token = said.splitlines()[0]
            if command.startswith("inlay enroll"):
                host.agent("/etc/inlay/agent.toml")


if __name__ == "__main__":
    unittest.main()
