"""What an authority does: SVIDs a second, its memory, and how soon a machine that joins talks."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time

import programs
from processes import Daemon, Failed, free_port, last_line, run_client

DOMAIN = "bench.test"
WORKLOAD = "spiffe://%s/load" % DOMAIN
POSTGRES = "/usr/lib/postgresql/15/bin"
MACHINES = 8  # that ask at once: what is issued to one machine comes one after the other


class Postgres:
    """It refuses to run as root."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="inlay-bench-postgres-")
        os.chmod(self.folder, 0o755)
        self.user = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.user = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
        self.log = self.folder + ".log"
        with open(self.log, "w") as log:
            subprocess.run([*self.user, POSTGRES + "/initdb", "-D", self.folder + "/data", "-U", "inlay", "-A",
                            "trust", "--no-locale", "-E", "UTF8"], check=True, stdout=log, stderr=log)
        self.server = Daemon([*self.user, POSTGRES + "/postgres", "-D", self.folder + "/data", "-k", self.folder,
                              "-c", "listen_addresses=", "-c", "max_connections=200"],
                             self.folder + "/.s.PGSQL.5432", self.log, "PostgreSQL")
        self.address = "postgresql:///postgres?host=%s&user=inlay" % self.folder

    def stop(self):
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.unlink(self.log)


class Deployment:
    """One authority or several replicas, and the port to ask."""

    def __init__(self, bench, folder, database, replicas):
        os.makedirs(folder)
        self.bench, self.servers, self.proxy = bench, [], None
        ports = [free_port() for _ in range(replicas)]
        for number, port in enumerate(ports):
            text = ('trust_domain = "%s"\nlisten = "127.0.0.1:%d"\nstate = "%s/state-%d"\nseal = "%s/seal.key"\n'
                    % (DOMAIN, port, folder, number, folder))
            if database:
                text += 'database = "%s"\n' % database
            text += ("[limits]\nenrolments_per_second = 10000\nrequests_per_second = 100000\n"
                     'connections_of_an_address = 4096\n[log]\nfile = "%s/audit-%d.jsonl"\n' % (folder, number))
            config = os.path.join(folder, "ca-%d.toml" % number)
            with open(config, "w") as file:
                file.write(text)
            self.config = config
            self.servers.append(Daemon([bench.inlay, "ca", "serve", "--config", config], port,
                                       os.path.join(folder, "ca-%d.out" % number), "the authority"))
        self.port = ports[0]
        if replicas > 1:
            self.port = free_port()
            config = os.path.join(folder, "haproxy.cfg")
            with open(config, "w") as file:
                file.write("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
                           "listen authority\n  bind 127.0.0.1:%d\n  balance leastconn\n" % self.port)
                for number, port in enumerate(ports):
                    file.write("  server replica-%d 127.0.0.1:%d\n" % (number, port))
            self.proxy = Daemon(["haproxy", "-db", "-f", config], self.port, config + ".out", "haproxy")

    def ca(self, *words):
        done = subprocess.run([self.bench.inlay, "ca", *words, "--config", self.config], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        return done.stdout

    def memory_kib(self):
        return sum(server.memory_kib() for server in self.servers)

    def cpu_seconds(self):
        return sum(server.cpu_seconds() for server in self.servers)

    def stop(self):
        for daemon in [self.proxy, *self.servers]:
            if daemon:
                daemon.stop()


class Authority:
    name = "authority"

    def __init__(self, bench, folder):
        # Beside the run's own development authority, which has that name.
        self.bench, self.folder = bench, folder + "-replicas"
        os.makedirs(self.folder)
        self.program = os.path.join(bench.binaries, "bench_authority")

    def rates(self, count):
        """[{"what", ...}]: for each kind of deployment, `count` SVIDs for each of MACHINES."""
        found = [self.rate("SQLite", "", 1, count)]
        if not os.path.exists(POSTGRES):
            return found + [{"what": "PostgreSQL", "left_out": "skipped: it is not installed"}]
        for replicas in (1, 3):
            what = "PostgreSQL, %d replica%s" % (replicas, "s behind haproxy" if replicas > 1 else "")
            missing = programs.missing(["haproxy"] if replicas > 1 else [])
            if missing:
                found.append({"what": what, "left_out": "skipped: %s is not installed" % missing})
                continue
            database = Postgres()
            try:
                found.append(self.rate(what, database.address, replicas, count))
            finally:
                database.stop()
        return found

    def rate(self, what, database, replicas, count):
        deployment = Deployment(self.bench, os.path.join(self.folder, "rate-%s-%d" % (what.split(",")[0], replicas)),
                                database, replicas)
        try:
            deployment.ca("entry", "add", "--id", WORKLOAD, "--node", "*", "--selector", "uid=0")
            tokens = "".join(deployment.ca("token", "--node", "machine-%d" % number) for number in range(MACHINES))
            idle, before = deployment.memory_kib(), deployment.cpu_seconds()
            done = subprocess.run([self.program, "127.0.0.1:%d" % deployment.port, "--sign", str(count), WORKLOAD],
                                  input=tokens, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                raise Failed("bench_authority: " + done.stderr.strip())
            figures = json.loads(done.stdout.splitlines()[-1])
            return {"what": what, "per_second": figures["svids"] / figures["seconds"],
                    "cpu_ms": (deployment.cpu_seconds() - before) * 1000 / figures["svids"],
                    "idle_kib": idle, "kib": deployment.memory_kib()}
        finally:
            deployment.stop()

    def joining(self):
        """Milliseconds from `inlay enroll` to each step: the machine is one, its agent is ready, a client has had its
        answer from a server."""
        folder = os.path.join(self.folder, "machine")
        deployment = Deployment(self.bench, os.path.join(self.folder, "joining"), "", 1)
        agent = server = None
        try:
            os.makedirs(folder)
            socket, config = os.path.join(folder, "agent.sock"), os.path.join(folder, "agent.toml")
            with open(config, "w") as file:
                file.write('trust_domain = "%s"\nsocket = "%s"\n[source]\nenrolled = "%s/node"\n[log]\nfile = "%s.log"\n'
                           % (DOMAIN, socket, folder, socket))
            port = free_port()
            self.entries(deployment, folder, socket, port)
            token = deployment.ca("token", "--node", "machine")
            begin = time.monotonic()
            since = lambda: (time.monotonic() - begin) * 1000
            done = subprocess.run([self.bench.inlay, "enroll", "https://127.0.0.1:%d" % deployment.port, "--config",
                                   config, "--state", folder + "/node", "--no-start"],
                                  input=token, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(done.stderr.strip())
            found = {"enrolled_ms": since()}
            agent = Daemon([self.bench.inlay, "agent", "--config", config], socket, socket + ".out", "the agent")
            while subprocess.run([self.bench.inlay, "status", "--agent", "unix://" + socket],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                if agent.process.poll() is not None or since() > 30000:
                    raise Failed("the agent is not ready: " + last_line(socket + ".out"))
            found["ready_ms"] = since()
            run = [self.bench.inlay, "run", "--config", os.path.join(folder, "policy.toml"), "--"]
            tool = programs.Tool(self.bench, "echo", "ping-pong")
            server = Daemon([*run, *tool.server(folder, port, None)], port, folder + "/server.out", "the server")
            run_client([*run, *tool.client(port, None, "--seconds", "0.001")], 30)
            found["answered_ms"] = since()
            return found
        finally:
            for daemon in (server, agent):
                if daemon:
                    daemon.stop()
            deployment.stop()

    def entries(self, deployment, folder, socket, port):
        ids = {which: "spiffe://%s/%s" % (DOMAIN, which) for which in ("server", "client")}
        policy = os.path.join(folder, "policy.toml")
        with open(policy, "w") as file:
            file.write("""trust_domain = "%s"
[identity]
agent = "unix://%s"
[defaults]
inbound = "deny"
outbound = "deny"
[[inbound]]
name = "server"
port = %d
mode = "strict"
allow = ["%s"]
[[outbound]]
name = "server"
to = ["127.0.0.1"]
port = %d
mode = "strict"
expect = ["%s"]
""" % (DOMAIN, socket, port, ids["client"], port, ids["server"]))
        for which, spiffe_id in ids.items():
            executable = os.path.join(self.bench.binaries, "bench_%s_plain" % which)
            deployment.ca("entry", "add", "--id", spiffe_id, "--node", "machine", "--selector",
                          "executable=" + executable, "--policy", policy)
