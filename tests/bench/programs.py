"""The programs that are measured: how to start their server and their client, plain and native.

`credentials` is None for plain traffic (plaintext, under inlay, behind proxies), else the program's
own TLS 1.3 with certificates required of both sides. plain_question() is bytes that a server gives
a known answer to when they reach it in the clear, and the beginning of that answer.
"""

import os
import shutil
import sys

PING, BLOCK = 64, 65536  # as in protocol.h


class Tool:
    """The bench's own client and server; `native` is the same source with OpenSSL."""

    needs = ()

    def __init__(self, bench, server_mode, client_mode, idle=False):
        self.server_mode, self.client_mode, self.idle = server_mode, client_mode, idle
        self.bench = bench

    def _command(self, which, credentials):
        kind = "plain" if credentials is None else "tls"
        command = [os.path.join(self.bench.binaries, "bench_%s_%s" % (which, kind))]
        if credentials is not None:
            command += ["--certificate", credentials.certificate, "--key", credentials.key,
                        "--authority", credentials.authority,
                        "--ciphersuite", self.bench.ciphersuite]
            if self.idle:
                command.append("--release-buffers")
        return command

    def server(self, folder, port, credentials):
        return self._command("server", credentials) + ["--port", str(port), self.server_mode]

    def client(self, port, credentials, *arguments):
        return (self._command("client", credentials) + ["--port", str(port), *arguments]
                + [self.client_mode])

    def plain_question(self):
        if self.server_mode == "sink":
            return b"\x01" + bytes(BLOCK - 1), BLOCK.to_bytes(8, sys.byteorder)
        return b"?" * PING, b"?" * PING


class Redis:
    needs = ("redis-server", "redis-benchmark")

    def __init__(self, bench):
        self.bench = bench

    def server(self, folder, port, credentials):
        command = ["redis-server", "--bind", "127.0.0.1", "--daemonize", "no", "--save", "",
                   "--appendonly", "no", "--dir", folder]
        if credentials is None:
            return command + ["--port", str(port)]
        return command + ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes",
                          "--tls-cert-file", credentials.certificate,
                          "--tls-key-file", credentials.key,
                          "--tls-ca-cert-file", credentials.authority,
                          "--tls-protocols", "TLSv1.3",
                          "--tls-ciphersuites", self.bench.ciphersuite,
                          "--tls-session-caching", "no"]

    def client(self, port, credentials, *arguments):
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), *arguments]
        if credentials is not None:
            command += ["--tls", "--cert", credentials.certificate, "--key", credentials.key,
                        "--cacert", credentials.authority,
                        "--tls-ciphersuites", self.bench.ciphersuite]
        return command

    def plain_question(self):
        return b"PING\r\n", b"+PONG"


class Nginx:
    """nginx answering a small reply; the client is the bench's own."""

    needs = ("nginx",)

    def __init__(self, bench):
        self.bench = bench
        self._client = Tool(bench, "", "connect")

    def server(self, folder, port, credentials):
        listen, tls = "listen 127.0.0.1:%d backlog=1024" % port, ""
        if credentials is not None:
            listen += " ssl"
            tls = """
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_client_certificate %s;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites %s;
    ssl_session_cache off;
    ssl_session_tickets off;""" % (credentials.certificate, credentials.key,
                                   credentials.authority, self.bench.ciphersuite)
        temporary = "\n".join("  %s_temp_path %s/%s;" % (kind, folder, kind) for kind in
                              ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = os.path.join(folder, "nginx.conf")
        with open(config, "w") as text:
            text.write("""%s
daemon off;
worker_processes 1;
pid %s/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
%s
  server {
    %s;%s
    location / { return 200 "hello\\n"; }
  }
}
""" % ("user root;" if os.geteuid() == 0 else "", folder, temporary, listen, tls))
        return ["nginx", "-c", config, "-p", folder, "-e", "stderr"]

    def client(self, port, credentials, *arguments):
        return self._client.client(port, credentials, *arguments)

    def plain_question(self):
        return b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 "


def missing(needs):
    """The first of these commands that is not installed, or None."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    return next((name for name in needs if shutil.which(name, path=path) is None), None)
