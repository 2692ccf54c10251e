"""The systems a program is measured under: what stands between its client and its server."""

import os
import shutil
import socket

from processes import Daemon, Failed, free_port
from programs import missing


class Unprotected(Failed):
    """A system that ought to protect its traffic does not."""


class Deployment:
    """A program's server and what stands before it, running; and how its client is called."""

    def __init__(self, system, program, folder):
        self.system, self.program, self.folder = system, program, folder
        self.daemons = []
        self.port = free_port()  # where the client connects
        self.credentials = None  # of a client with native TLS
        self.prefix = []         # of the client's command
        self.guarded_port = None  # where only mutual TLS may get an answer
        os.makedirs(folder)

    def start(self, command, port, role):
        log = os.path.join(self.folder, role + ".log")
        self.daemons.append(Daemon(command, port, log, "%s's %s" % (self.system.name, role)))

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o600)
        return path

    def client(self, *arguments):
        return self.prefix + self.program.client(self.port, self.credentials, *arguments)

    def check_guarded(self):
        """Figures of a protection that is not there would be the best of all."""
        if self.guarded_port is None:
            return
        question, answer = self.program.plain_question()
        with socket.create_connection(("127.0.0.1", self.guarded_port)) as connection:
            connection.settimeout(10)
            got = b""
            try:
                connection.sendall(question)
                while len(got) < len(answer) and (more := connection.recv(4096)):
                    got += more
            except (ConnectionError, socket.timeout):
                pass
        if got.startswith(answer):
            raise Unprotected("%s's server answers a plaintext client" % self.system.name)

    def cpu_seconds(self):
        return sum(daemon.cpu_seconds() for daemon in self.daemons)

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.stop()


class System:
    needs = ()

    def __init__(self, name, bench):
        self.name, self.bench = name, bench

    def unavailable(self, program):
        """Why the system can not run here, or None."""
        command = missing((*self.needs, *program.needs))
        return "%s is not installed" % command if command else None

    def deploy(self, program, folder):
        """Starts everything, with three attempts: a chosen port may be taken before it is bound."""
        for attempt in range(3):
            deployment = Deployment(self, program, "%s-%d" % (folder, attempt))
            try:
                self.arrange(deployment)
                deployment.check_guarded()
                return deployment
            except Unprotected:
                deployment.stop()
                raise
            except Failed as failure:
                last = failure
                deployment.stop()
            except BaseException:
                deployment.stop()
                raise
        raise last

    def arrange(self, deployment):
        raise NotImplementedError


class Plaintext(System):
    def arrange(self, deployment):
        deployment.start(deployment.program.server(deployment.folder, deployment.port, None),
                         deployment.port, "server")


class Native(System):
    def arrange(self, deployment):
        deployment.credentials = self.bench.client
        deployment.guarded_port = deployment.port
        command = deployment.program.server(deployment.folder, deployment.port, self.bench.server)
        deployment.start(command, deployment.port, "server")


class Inlay(System):
    def unavailable(self, program):
        for part in (self.bench.library, self.bench.inlay):
            if not os.path.exists(part):
                return "%s is not built" % part
        return super().unavailable(program)

    def arrange(self, deployment):
        deployment.guarded_port = deployment.port
        config = deployment.write("server.toml", self.config(self.bench.server, """
[[inbound]]
name = "bench server"
port = %d
mode = "strict"
allow = ["%s"]
""" % (deployment.port, self.bench.client.spiffe_id)))
        server = deployment.program.server(deployment.folder, deployment.port, None)
        deployment.start(self.under(config) + server, deployment.port, "server")
        config = deployment.write("client.toml", self.config(self.bench.client, """
[[outbound]]
name = "bench client"
to = ["127.0.0.1/32"]
port = %d
mode = "strict"
expect = ["%s"]
""" % (deployment.port, self.bench.server.spiffe_id)))
        deployment.prefix = self.under(config)

    def under(self, config):
        return [self.bench.inlay, "run", "--config", config, "--"]

    @staticmethod
    def config(credentials, rules):
        return """trust_domain = "%s"

[identity]
svid = "%s"
key = "%s"
bundle = "%s"

[defaults]
inbound = "plaintext"
outbound = "plaintext"
%s""" % (credentials.spiffe_id.split("/")[2], credentials.certificate, credentials.key,
         credentials.authority, rules)


class Keyless(Inlay):
    """As Inlay, but the keys are the agent's: it signs every handshake of either side."""

    def unavailable(self, program):
        if not os.path.exists(self.bench.agent):
            return "%s is not built" % self.bench.agent
        return super().unavailable(program)

    def arrange(self, deployment):
        deployment.guarded_port = deployment.port
        address = os.path.join(deployment.folder, "agent.sock")
        rules = {
            "server": ("inbound", deployment.port, "allow", self.bench.client.spiffe_id),
            "client": ("outbound", deployment.port, "expect", self.bench.server.spiffe_id)}
        for role, (direction, port, key, peer) in rules.items():
            deployment.write(role + ".toml", """trust_domain = "%s"
[identity]
agent = "unix://%s"
[defaults]
inbound = "plaintext"
outbound = "plaintext"
[[%s]]
name = "bench"
port = %d
mode = "strict"
%s = ["%s"]
""" % (self.bench.server.spiffe_id.split("/")[2], address, direction, port, key, peer))
        server = deployment.program.server(deployment.folder, deployment.port, None)
        client = deployment.program.client(deployment.port, None)
        config = deployment.write("agent.toml", self.agent(address, server[0], client[0]))
        deployment.start([self.bench.inlay, "agent", "--config", config], address, "agent")
        deployment.prefix = self.under("unix://" + address)
        deployment.start(deployment.prefix + server, deployment.port, "server")

    def agent(self, address, server, client):
        text = ("trust_domain = \"%s\"\nsocket = \"%s\"\n[log]\nfile = \"%s.log\"\n"
                "[limits]\nsignatures_per_second = 1000000\n") % (
            self.bench.server.spiffe_id.split("/")[2], address, address)
        for credentials in (self.bench.server, self.bench.client):
            text += "[[source.svid]]\nsvid = \"%s\"\nkey = \"%s\"\nbundle = \"%s\"\n" % (
                credentials.certificate, credentials.key, credentials.authority)
        for credentials, role, program in ((self.bench.server, "server", server),
                                           (self.bench.client, "client", client)):
            text += "[[entry]]\nid = \"%s\"\npolicy = \"%s.toml\"\nexecutable = \"%s\"\n" % (
                credentials.spiffe_id, role, shutil.which(program))
        return text


class ProxyPair(System):
    """Two sidecars: plain to the program on both ends, mutual TLS 1.3 between them."""

    def arrange(self, deployment):
        server_port, tls_port = free_port(), free_port()
        deployment.guarded_port = tls_port
        deployment.start(deployment.program.server(deployment.folder, server_port, None),
                         server_port, "server")
        command = self.proxy(deployment, "inbound", tls_port, server_port, self.bench.server)
        deployment.start(command, tls_port, "inbound-proxy")
        command = self.proxy(deployment, "outbound", deployment.port, tls_port, self.bench.client)
        deployment.start(command, deployment.port, "outbound-proxy")

    def proxy(self, deployment, direction, accept, connect, credentials):
        raise NotImplementedError


class Stunnel(ProxyPair):
    needs = ("stunnel",)

    def proxy(self, deployment, direction, accept, connect, credentials):
        config = deployment.write(direction + ".conf", """foreground = yes
pid =
syslog = no
debug = 3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[bench]
client = %s
accept = 127.0.0.1:%d
connect = 127.0.0.1:%d
cert = %s
key = %s
CAfile = %s
verifyChain = yes
sslVersion = TLSv1.3
ciphersuites = %s
sessionResume = no
TIMEOUTclose = 0
""" % ("yes" if direction == "outbound" else "no", accept, connect, credentials.certificate,
           credentials.key, credentials.authority, self.bench.ciphersuite))
        return ["stunnel", config]


class Haproxy(ProxyPair):
    needs = ("haproxy",)

    def proxy(self, deployment, direction, accept, connect, credentials):
        tls = ("ssl crt %s ca-file %s verify required ssl-min-ver TLSv1.3 ciphersuites %s"
               % (credentials.combined, credentials.authority, self.bench.ciphersuite))
        # haproxy's own default curve is P-256; the others agree on OpenSSL's, X25519.
        inward, outward = ((tls + " curves X25519 no-tls-tickets", "") if direction == "inbound"
                           else ("", tls + " no-ssl-reuse"))
        config = deployment.write(direction + ".cfg", """global
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind 127.0.0.1:%d backlog 1024 %s
  server next 127.0.0.1:%d %s
""" % (accept, inward, connect, outward))
        return ["haproxy", "-db", "-f", config]


def all_systems(bench):
    return [Plaintext("plaintext", bench), Plaintext("plaintext again", bench),
            Native("native", bench), Inlay("inlay", bench),
            Keyless("inlay, agent", bench), Stunnel("stunnel", bench),
            Haproxy("haproxy", bench)]
