"""What an agent costs: a signature, memory for each process attached, how soon a new SVID is everywhere."""

import json
import os
import shutil
import subprocess

from processes import Daemon, Failed, run_client

COUNTS = (1, 100, 1000)  # processes attached, up to the run's number of connections


class Agent:
    name = "agent"

    def __init__(self, bench, folder):
        """`folder` holds nothing yet: the agent's files go there."""
        self.bench, self.folder = bench, folder
        os.makedirs(folder)
        # A copy: its SVID is replaced while processes are attached.
        self.svid = os.path.join(folder, "svid")
        shutil.copytree(os.path.dirname(bench.server.certificate), self.svid)
        self.program = os.path.join(bench.binaries, "bench_agent")
        self.socket = os.path.join(folder, "agent.sock")
        domain = bench.server.spiffe_id.split("/")[2]
        self.write("policy.toml", """trust_domain = "%s"
[identity]
agent = "unix://%s"
[defaults]
inbound = "deny"
outbound = "deny"
""" % (domain, self.socket))
        self.config = self.write("agent.toml", """trust_domain = "%s"
socket = "%s"
[log]
file = "%s.log"
[limits]
signatures_per_second = 1000000
[[source.svid]]
svid = "%s"
key = "%s"
bundle = "%s"
[[entry]]
id = "%s"
policy = "policy.toml"
executable = "%s"
""" % (domain, self.socket, self.socket, *(os.path.join(self.svid, os.path.basename(path)) for path in (
            bench.server.certificate, bench.server.key, bench.server.authority)),
       bench.server.spiffe_id, self.program))

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o600)
        return path

    def start(self):
        return Daemon([self.bench.inlay, "agent", "--config", self.config], self.socket,
                      os.path.join(self.folder, "agent.out"), "the agent")

    def signatures(self, count):
        """[{"what", "median_us", "p10_us", "p90_us"}]: through the agent, and in the process."""
        agent = self.start()
        try:
            output = run_client([self.program, self.socket, "--signatures", str(count)], 120).output
        finally:
            agent.stop()
        return [json.loads(line) for line in output.splitlines()]

    def attached(self, most):
        """For each of COUNTS up to `most`: KiB of the agent, and milliseconds from a new SVID in its files to the first
        and the last process that was told."""
        found = {}
        for count in (count for count in COUNTS if count <= most):
            agent = self.start()
            holder = subprocess.Popen([self.program, self.socket, "--attach", str(count)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                if "attached" not in holder.stdout.readline():
                    raise Failed("%d processes could not attach" % count)
                memory = agent.memory_kib()
                holder.stdin.write("now\n")
                holder.stdin.flush()
                self.renew()
                found[count] = {"kib": memory, **json.loads(holder.stdout.readline())}
            finally:
                holder.kill()
                holder.wait()
                agent.stop()
        return found

    def renew(self):
        subprocess.run([self.bench.inlay, "ca", "issue", "--dir",
                        os.path.join(os.path.dirname(self.bench.server.certificate), "..", "authority"),
                        "--id", self.bench.server.spiffe_id, "--out", self.svid],
                       check=True, stdout=subprocess.DEVNULL)
