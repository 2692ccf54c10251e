"""PostgreSQL with psql and pgbench: accept in the postmaster, a forked process for each connection."""

import os
import re
import signal
import subprocess

from harness.family import Family
from harness.process import until
from harness.registry import case

BIN = "/usr/lib/postgresql/15/bin"


class PostgreSQL(Family):
    name = "postgresql"
    # A startup message (protocol 3.0) of user postgres, then a query.
    probe = (b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0" +
             b"Q\0\0\0\x1dselect data from secrets\0")
    # Four bytes of a ClientHello are a length it does not believe: it hangs up.
    plaintext_server_reasons = frozenset({"peer-not-tls", "peer-closed-in-handshake"})

    def start_server(self, ctx, port, config, *words):
        ctx.become_unprivileged()  # it refuses to run as root
        data = ctx.folder / "data"
        ctx.succeed(ctx.start("initdb", [f"{BIN}/initdb", "-D", data, "-U", "postgres", "-A",
                                         "trust", "-N", "--no-locale", "-E", "UTF8"]))
        # What the cases ask for is there before the server listens: single-user mode.
        query = f"create table secrets as select '{ctx.canary.decode()}' as data;\n"
        ctx.succeed(ctx.start("postgres-single", [f"{BIN}/postgres", "--single", "-D", data,
                                                  "postgres"], stdin=query.encode()))
        return self.start_postmaster(ctx, data, port, config, *words)

    def start_postmaster(self, ctx, data, port, config, *words):
        server = ctx.start("postgres", [
            f"{BIN}/postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=40",
            "-c", "autovacuum=off", *words], config)
        ctx.until_listening(port, server)
        until(lambda: re.search(b"ready to accept (read-only )?connections", server.stderr),
              "its start")
        return server

    def psql(self, ctx, port, config, *words, **options):
        url = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
        return ctx.start("psql", [f"{BIN}/psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1",
                                  "-d", url, *words], config, **options)

    def query(self, ctx, port, config, text):
        return ctx.succeed(self.psql(ctx, port, config, "-c", text))

    def exchange(self, ctx, port, config):
        assert self.query(ctx, port, config, "select data from secrets") == ctx.canary + b"\n"
        # COPY both ways.
        rows = b"".join(b"%d\t%s\n" % (number, os.urandom(500).hex().encode())
                        for number in range(4000))
        self.query(ctx, port, config, "create table if not exists rows (id int, data text); "
                                      "truncate rows")
        ctx.succeed(self.psql(ctx, port, config, "-c", "copy rows from stdin", stdin=rows))
        got = self.query(ctx, port, config, "copy (select * from rows order by id) to stdout")
        assert got == rows, f"{len(rows)} bytes came back as {len(got)}, or as others"

    def attempt(self, ctx, port, config):
        return self.psql(ctx, port, config, "-c",
                         f"insert into secrets values ('{ctx.canary.decode()}') returning data")

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) == 2, "psql should not have connected"
        assert ctx.canary not in client.stdout


POSTGRESQL = PostgreSQL()
POSTGRESQL.register()


def pair(ctx, *words):
    port = ctx.port()
    tap = ctx.tap(port)
    ctx.become_unprivileged()
    server = POSTGRESQL.start_server(ctx, port, ctx.server_config(port), *words)
    return server, tap.port, ctx.client_config(tap.port)


def check_records(ctx):
    """For what carries no canary: TLS records and nothing else."""
    for tap in ctx.taps:
        for stream in tap.streams:
            assert ctx.plain or stream.records.error is None, stream.records.error


def pgbench(ctx, port, config, transactions, *words):
    url = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    ctx.succeed(ctx.start("pgbench", [f"{BIN}/pgbench", "-i", "-q", "-s", "1", url], config))
    client = ctx.start("pgbench", [f"{BIN}/pgbench", "-n", *words, url], config)
    out = ctx.succeed(client, timeout=400).decode()
    assert re.search(r"actually processed: (\d+)", out)[1] == str(transactions), out
    assert "number of failed transactions: 0 " in out, out
    # Every transaction has left its row, and the sums agree.
    got = POSTGRESQL.query(ctx, port, config, """
        select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts),
               sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history""")
    assert got == b"%d|t|t\n" % transactions, got


@case("postgresql/pgbench", plain=True, timeout=500)
def bench(ctx):
    """Eight connections of two threads, prepared statements."""
    _, port, config = pair(ctx)
    pgbench(ctx, port, config, 1600, "-c", "8", "-j", "2", "-t", "200", "-M", "prepared")
    check_records(ctx)


@case("postgresql/pgbench-a-connection-for-each-transaction", plain=True, timeout=500)
def bench_connections(ctx):
    """T74: accepted by one process, handshake and service in a forked one, 400 times."""
    _, port, config = pair(ctx)
    pgbench(ctx, port, config, 400, "-c", "4", "-j", "2", "-t", "100", "-C")
    check_records(ctx)


@case("postgresql/pgbench-heavy", plain=True, full=True, timeout=900)
def bench_heavy(ctx):
    _, port, config = pair(ctx)
    pgbench(ctx, port, config, 40000, "-c", "20", "-j", "2", "-t", "2000")
    check_records(ctx)


@case("postgresql/cancel", plain=True)
def cancel(ctx):
    """T76: psql asks for it from its signal handler, on a connection of its own."""
    _, port, config = pair(ctx)
    running = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    for _ in range(3):
        client = POSTGRESQL.psql(ctx, port, config, "-c",
                                 f"select pg_sleep(100000) /* {ctx.canary.decode()} */")
        until(lambda: POSTGRESQL.query(ctx, port, config, running) == b"1\n", "the query to run")
        client.send_signal(signal.SIGINT)
        assert ctx.finish(client) == 1
        assert b"canceling statement due to user request" in client.stderr, client.stderr
    ctx.check_wire()


@case("postgresql/terminate", plain=True)
def terminate(ctx):
    """The server's last word comes out before it closes: SIGTERM to a process that waits."""
    _, port, config = pair(ctx)
    client = POSTGRESQL.psql(ctx, port, config, "-c",
                             f"select pg_sleep(100000) /* {ctx.canary.decode()} */")
    end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    until(lambda: POSTGRESQL.query(ctx, port, config, end) == b"t\n", "the query to run")
    assert ctx.finish(client) == 2
    assert b"terminating connection due to administrator command" in client.stderr, client.stderr
    ctx.check_wire()


@case("postgresql/listen-and-notify", plain=True)
def listen(ctx):
    """The server speaks when it has something to say."""
    _, port, config = pair(ctx)
    listener = POSTGRESQL.psql(ctx, port, config, stdin=subprocess.PIPE)

    def say(line):
        listener.input.write(line.encode() + b"\n")
        listener.input.flush()

    say("listen news;")
    say("\\echo listening")
    until(lambda: listener.stdout == b"listening\n", "the listener")
    for number in range(20):
        POSTGRESQL.query(ctx, port, config, f"notify news, '{ctx.canary.decode()}-{number}'")
    # psql looks for news after each command.
    for number in range(1, 1000):
        say(f"select 'row ' || {number};")
        until(lambda: b"row %d\n" % number in listener.stdout, "the row")
        if listener.stdout.count(ctx.canary) == 20:
            break
    else:
        raise AssertionError("the listener has not heard all")
    listener.input.close()
    ctx.succeed(listener)
    ctx.check_wire()


@case("postgresql/a-large-object-and-a-dump", plain=True)
def dump(ctx):
    """pg_dump and what psql makes of it; large objects in small calls."""
    _, port, config = pair(ctx)
    source = ctx.folder / "source"
    source.write_bytes(ctx.canary + os.urandom(4 << 20))
    POSTGRESQL.query(ctx, port, config, f"\\lo_import {source}")
    url = f"host=127.0.0.1 port={port} user=postgres dbname="
    text = ctx.succeed(ctx.start("pg_dump", [f"{BIN}/pg_dump", "-b", url + "postgres"], config))
    POSTGRESQL.query(ctx, port, config, "create database copy")
    ctx.succeed(ctx.start("psql", [f"{BIN}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d",
                                   url + "copy"], config, stdin=text))
    out = ctx.folder / "got"
    number = ctx.succeed(ctx.start("psql", [
        f"{BIN}/psql", "-X", "-q", "-At", "-d", url + "copy", "-c",
        "select oid from pg_largeobject_metadata"], config)).decode().strip()
    ctx.succeed(ctx.start("psql", [f"{BIN}/psql", "-X", "-q", "-d", url + "copy", "-c",
                                   f"\\lo_export {number} {out}"], config))
    assert out.read_bytes() == source.read_bytes(), "the object came changed"
    ctx.check_wire()


@case("postgresql/standby", plain=True, timeout=300)
def standby(ctx):
    """A server that is a client as well: pg_basebackup, then streaming replication."""
    _, port, config = pair(ctx)
    url = f"host=127.0.0.1 port={port} user=postgres"
    data = ctx.folder / "standby"
    ctx.succeed(ctx.start("pg_basebackup", [f"{BIN}/pg_basebackup", "-D", data, "-d", url, "-R",
                                            "-X", "stream", "-c", "fast", "-N"], config))
    own = ctx.port()
    both = ctx.config(
        "client",
        inbound=[{"name": "standby", "port": own, "mode": "strict",
                  "allow": [ctx.spiffe_id("client")]}],
        outbound=[{"name": "primary", "to": ["127.0.0.1"], "port": port, "mode": "strict",
                   "expect": [ctx.spiffe_id("server")]}])
    POSTGRESQL.start_postmaster(ctx, data, own, both)
    to_standby = ctx.client_config(own, expect="client")
    POSTGRESQL.query(ctx, port, config, f"insert into secrets values ('{ctx.canary.decode()}')")
    until(lambda: POSTGRESQL.query(ctx, own, to_standby, "select count(*) from secrets") == b"2\n",
          "the row at the standby")
    ctx.check_wire()
