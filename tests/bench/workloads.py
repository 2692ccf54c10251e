"""What is measured with traffic. Each workload runs a client for a while and yields one figure."""

import csv
import dataclasses
import fnmatch
import io
import json

import report
from processes import Failed, run_client
from programs import Nginx, Redis, Tool


def wanted(patterns, workload, system):
    """Whether --only admits this. Ratios need plaintext, so a workload never goes without it."""
    if not patterns:
        return True
    for pattern in patterns:
        of_workload, _, of_system = pattern.partition("/")
        if fnmatch.fnmatchcase(workload, of_workload or "*") and (
                system in (None, report.BASIS) or fnmatch.fnmatchcase(system, of_system or "*")):
            return True
    return False


@dataclasses.dataclass
class Sample:
    value: float              # in the workload's unit
    cpu_us_per_operation: float  # client, server and proxies together
    detail: dict


class Workload:
    better = "lower"
    operation = "operation"

    def __init__(self, name, title, unit, program, one_processor=False):
        """`one_processor`: where one thing happens after another, more processors only add the
        waking of an idle one, which may cost several times what is measured, and comes and goes
        with the scheduler's choice. On one processor the figure is the cost of the path."""
        self.name, self.title, self.unit, self.program = name, title, unit, program
        self.one_processor = one_processor

    def warm_up(self, deployment):
        """Untimed; what it returns is handed to measure()."""
        self.client(deployment, 0.1, None)

    def measure(self, deployment, seconds, warm):
        before = deployment.cpu_seconds()
        outcome, value, operations, detail = self.client(deployment, seconds, warm)
        servers = deployment.cpu_seconds() - before
        detail["client_cpu_seconds"], detail["servers_cpu_seconds"] = outcome.cpu_seconds, servers
        return Sample(value, (outcome.cpu_seconds + servers) * 1e6 / operations, detail)

    def client(self, deployment, seconds, warm):
        """Returns the outcome, the figure, the number of operations and details."""
        raise NotImplementedError


class RoundTrips(Workload):
    """One operation after another: the mean time of one."""

    def client(self, deployment, seconds, warm):
        outcome = run_client(deployment.client("--seconds", str(seconds)), seconds * 5 + 30)
        detail = json.loads(outcome.output)
        return outcome, detail["mean_us"], detail["operations"], detail


class Bulk(Workload):
    better = "higher"
    operation = "MiB"

    def client(self, deployment, seconds, warm):
        outcome = run_client(deployment.client("--seconds", str(seconds)), seconds * 5 + 30)
        detail = json.loads(outcome.output)
        mebibytes = detail["bytes"] / 2**20
        return outcome, mebibytes / detail["seconds"], mebibytes, detail


def redis_get(output):
    """Requests a second in redis-benchmark's CSV of the one test GET, and its latencies."""
    rows = list(csv.DictReader(io.StringIO(output)))
    if len(rows) != 1 or rows[0]["test"] != "GET":
        raise Failed("redis-benchmark answered: " + " ".join(output.split()))
    return float(rows[0]["rps"]), {key: float(rows[0][key]) for key in
                                   ("avg_latency_ms", "p50_latency_ms", "p99_latency_ms")}


class RedisBenchmark(Workload):
    better = "higher"
    operation = "request"

    def __init__(self, name, title, program, connections, pipeline, one_processor=False):
        super().__init__(name, title, "requests/s", program, one_processor)
        self.arguments = ["-c", str(connections), "-P", str(pipeline), "-d", "64", "--csv"]
        self.fewest = max(connections * pipeline * 20, 1000)

    def warm_up(self, deployment):
        """redis-benchmark stops after a number of requests, not after a time: find the rate. Opening
        the connections is much of a short run, so it is the difference of two runs that counts."""
        run_client(deployment.client(*self.arguments, "-t", "set", "-n", "1000"), 60)
        _, slow, few, _ = self.client(deployment, 0, 0)
        _, rate, many, _ = self.client(deployment, 1, 5 * few)
        more_seconds = many / rate - few / slow
        return min((many - few) / more_seconds, 4 * rate) if more_seconds > 0 else rate

    def client(self, deployment, seconds, warm):
        requests = max(int(warm * seconds), self.fewest)
        command = deployment.client(*self.arguments, "-t", "get", "-n", str(requests))
        outcome = run_client(command, seconds * 5 + 60)
        rate, detail = redis_get(outcome.output)
        return outcome, rate, requests, detail


def all_workloads(bench):
    redis = Redis(bench)
    return [
        RoundTrips("ping-pong", "64 B ping-pong, one blocking connection", "us",
                   Tool(bench, "echo-blocking", "ping-pong"), one_processor=True),
        RoundTrips("ping-pong-free", "the same, wherever the scheduler puts it", "us",
                   Tool(bench, "echo-blocking", "ping-pong")),
        RoundTrips("ping-pong-epoll", "64 B ping-pong, one connection, epoll on both ends", "us",
                   Tool(bench, "echo", "ping-pong-epoll"), one_processor=True),
        RedisBenchmark("redis-c1", "redis GET of 64 B, 1 connection", redis, 1, 1,
                       one_processor=True),
        RedisBenchmark("redis-c50", "redis GET of 64 B, 50 connections", redis, 50, 1),
        RedisBenchmark("redis-c1-P16", "redis GET of 64 B, 1 connection, pipeline of 16", redis,
                       1, 16),
        RedisBenchmark("redis-c50-P16", "redis GET of 64 B, 50 connections, pipeline of 16", redis,
                       50, 16),
        Bulk("bulk", "one bulk stream, 64 KiB writes", "MiB/s", Tool(bench, "sink", "bulk")),
        RoundTrips("connect", "new connection with one HTTP request each (nginx)", "us",
                   Nginx(bench), one_processor=True),
    ]
