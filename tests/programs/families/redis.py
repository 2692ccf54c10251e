"""redis-server with redis-cli and redis-benchmark: non-blocking, level-triggered epoll."""

import hashlib
import os
import re

from harness.family import Family
from harness.process import until
from harness.registry import case


class Redis(Family):
    name = "redis"
    probe = b"GET secret\r\n"
    # redis reads a ClientHello as an inline command and waits for its newline; if one happens to
    # be in it, it answers.
    plaintext_server_reasons = frozenset({"peer-not-tls", "handshake-waiting"})

    def start_server(self, ctx, port, config, *more):
        server = ctx.start("redis-server", [
            "/usr/bin/redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--dir", ctx.folder, *more], config)
        ctx.until_listening(port, server)
        return server

    def cli(self, ctx, port, config, *words, **options):
        return ctx.start("redis-cli", ["/usr/bin/redis-cli", "-h", "127.0.0.1", "-p", port, *words],
                         config, **options)

    def exchange(self, ctx, port, config):
        canary = ctx.canary.decode()
        assert ctx.succeed(self.cli(ctx, port, config, "SET", "secret", canary)) == b"OK\n"
        assert ctx.succeed(self.cli(ctx, port, config, "GET", "secret")) == ctx.canary + b"\n"
        big = os.urandom(16 << 20)
        ctx.succeed(self.cli(ctx, port, config, "-x", "SET", "big", stdin=big))
        got = ctx.succeed(self.cli(ctx, port, config, "--raw", "GET", "big"))
        assert hashlib.sha256(got[:-1]).digest() == hashlib.sha256(big).digest(), \
            f"16 MiB came back as {len(got) - 1} other bytes"

    def attempt(self, ctx, port, config):
        return self.cli(ctx, port, config, "GETSET", "attempt", ctx.canary.decode())

    def got_nothing(self, ctx, client):
        assert ctx.finish(client) != 0, "redis-cli should have failed"
        assert ctx.canary not in client.stdout


REDIS = Redis()
REDIS.register()


def pair(ctx, *more):
    """A server with a tap before it, and the client's configuration."""
    port = ctx.port()
    tap = ctx.tap(port)
    server = REDIS.start_server(ctx, port, ctx.server_config(port), *more)
    return server, tap.port, ctx.client_config(tap.port)


def benchmark(ctx, *words):
    server, port, config = pair(ctx)
    requests = 100000
    client = ctx.start("redis-benchmark", [
        "/usr/bin/redis-benchmark", "-h", "127.0.0.1", "-p", port, "-c", "50", "-n", requests,
        "-q", "-t", "set,get", "-r", "1000", "-d", "100", *words], config)
    out = ctx.succeed(client, timeout=400).decode()
    assert len(re.findall(r"(?:SET|GET): [\d.]+ requests per second", out)) == 2, out
    stats = ctx.succeed(REDIS.cli(ctx, port, config, "INFO", "stats")).decode()
    processed = int(re.search(r"total_commands_processed:(\d+)", stats)[1])
    assert processed >= 2 * requests, f"{processed} commands reached the server"
    errors = ctx.succeed(REDIS.cli(ctx, port, config, "INFO", "errorstats"))
    assert b"errorstat_" not in errors, errors
    lengths = ctx.succeed(REDIS.cli(ctx, port, config, stdin=b"".join(
        b"STRLEN key:%012d\n" % number for number in range(1000))))
    assert set(lengths.split()) <= {b"0", b"100"}, set(lengths.split())
    assert server.status is None
    for tap in ctx.taps:
        for stream in tap.streams:
            assert ctx.plain or stream.records.error is None, stream.records.error


@case("redis/benchmark-50-connections", plain=True, timeout=500)
def benchmark_50(ctx):
    benchmark(ctx)


@case("redis/benchmark-pipelined", plain=True, timeout=500)
def benchmark_pipelined(ctx):
    benchmark(ctx, "-P", "16")


@case("redis/mass-insertion", plain=True)
def mass_insertion(ctx):
    """redis-cli --pipe: one connection written as fast as it takes, replies read meanwhile."""
    _, port, config = pair(ctx)
    count = 20000
    commands = b"".join(b"SET key:%d %s-%d\r\n" % (n, ctx.canary, n) for n in range(count))
    out = ctx.succeed(REDIS.cli(ctx, port, config, "--pipe", stdin=commands))
    assert f"errors: 0, replies: {count}".encode() in out, out
    assert ctx.succeed(REDIS.cli(ctx, port, config, "DBSIZE")) == b"%d\n" % count
    assert ctx.succeed(REDIS.cli(ctx, port, config, "GET", f"key:{count - 1}")) == \
        b"%s-%d\n" % (ctx.canary, count - 1)
    ctx.check_wire()


@case("redis/subscriber", plain=True)
def subscriber(ctx):
    """The server speaks when it has something to say; a blocked client wakes up."""
    _, port, config = pair(ctx)
    listener = REDIS.cli(ctx, port, config, "SUBSCRIBE", "news")
    until(lambda: b"subscribe" in listener.stdout, "the subscription")
    for number in range(20):
        out = ctx.succeed(REDIS.cli(ctx, port, config, "PUBLISH", "news",
                                    f"{ctx.canary.decode()}-{number}"))
        assert out == b"1\n", out
    until(lambda: listener.stdout.count(ctx.canary) == 20, "20 messages at the subscriber")
    ctx.check_wire()


@case("redis/replica", plain=True)
def replica(ctx):
    """A server that is a client as well; the first copy is sent by a forked child's pipe."""
    _, port, config = pair(ctx, "--repl-diskless-sync-delay", "0")
    data = os.urandom(8 << 20)
    ctx.succeed(REDIS.cli(ctx, port, config, "-x", "SET", "big", stdin=data))
    ctx.succeed(REDIS.cli(ctx, port, config, "SET", "secret", ctx.canary.decode()))
    own = ctx.port()
    both = ctx.config(
        "client",
        inbound=[{"name": "replica", "port": own, "mode": "strict",
                  "allow": [ctx.spiffe_id("client")]}],
        outbound=[{"name": "master", "to": ["127.0.0.1"], "port": port, "mode": "strict",
                   "expect": [ctx.spiffe_id("server")]}])
    REDIS.start_server(ctx, own, both, "--replicaof", f"127.0.0.1 {port}")
    to_replica = ctx.client_config(own, expect="client")

    def synchronised():
        info = REDIS.cli(ctx, own, to_replica, "INFO", "replication")
        return b"master_link_status:up" in ctx.succeed(info)

    until(synchronised, "the replica's first synchronisation")
    got = ctx.succeed(REDIS.cli(ctx, own, to_replica, "--raw", "GET", "big"))
    assert got[:-1] == data
    ctx.succeed(REDIS.cli(ctx, port, config, "SET", "later", ctx.canary.decode()))
    until(lambda: ctx.canary in get(ctx, own, to_replica, "later"), "the later write")
    ctx.check_wire()


def get(ctx, port, config, key):
    return ctx.succeed(REDIS.cli(ctx, port, config, "GET", key))
