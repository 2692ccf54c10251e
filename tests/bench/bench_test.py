"""What the bench computes, without running anything."""

import unittest

import report
import workloads
from processes import Failed


def sample(value, cpu=1.0):
    return workloads.Sample(value, cpu, {})


class Ratios(unittest.TestCase):
    def test_ratio_is_of_the_medians_and_its_range_is_by_round(self):
        found = report.ratio({0: 20.0, 1: 30.0, 2: 60.0}, {0: 10.0, 1: 10.0, 2: 15.0})
        self.assertEqual(found, {"median": 3.0, "min": 2.0, "max": 4.0})

    def test_rounds_without_a_counterpart_are_left_out(self):
        found = report.ratio({0: 20.0, 2: 80.0}, {1: 10.0, 2: 20.0})
        self.assertEqual(found, {"median": 4.0, "min": 4.0, "max": 4.0})

    def test_without_plaintext_there_is_no_ratio(self):
        self.assertIsNone(report.ratio({0: 20.0}, {}))
        self.assertIsNone(report.ratio({0: 20.0}, {0: 0.0}))

    def test_best_ratio_takes_the_fastest_of_each(self):
        self.assertEqual(report.best_ratio([30.0, 20.0], [10.0, 40.0], "lower"), 2.0)
        self.assertEqual(report.best_ratio([30.0, 20.0], [10.0, 40.0], "higher"), 0.75)
        self.assertIsNone(report.best_ratio([30.0], [], "lower"))

    def test_summary_has_spread_and_both_ratios(self):
        figures = report.summarise({"plaintext": {0: sample(10.0, 4.0), 1: sample(12.0, 4.0)},
                                    "native": {0: sample(20.0, 6.0), 1: sample(24.0, 6.0)},
                                    "broken": {}}, "lower")
        self.assertEqual(sorted(figures), ["native", "plaintext"])
        native = figures["native"]
        self.assertEqual((native["value"]["median"], native["value"]["min"],
                          native["value"]["max"]), (22.0, 20.0, 24.0))
        self.assertEqual(native["value"]["to_plaintext"]["median"], 2.0)
        self.assertEqual(native["value"]["best_to_plaintext"], 2.0)
        self.assertEqual(native["value"]["to_native"]["median"], 1.0)
        self.assertEqual(native["cpu_us_per_operation"]["to_plaintext"]["median"], 1.5)


class Selection(unittest.TestCase):
    def test_only(self):
        for patterns, workload, system, expected in (
                ([], "bulk", "inlay", True),
                (["bulk"], "bulk", "inlay", True),
                (["bulk"], "connect", "inlay", False),
                (["bulk/inlay"], "bulk", "inlay", True),
                (["bulk/inlay"], "bulk", "haproxy", False),
                (["bulk/inlay"], "bulk", "plaintext", True),
                (["bulk/inlay"], "bulk", "plaintext again", False),
                (["bulk/inlay"], "bulk", None, True),
                (["/inlay"], "connect", "inlay", True),
                (["/inlay"], "connect", "native", False),
                (["redis-*/stunnel", "bulk"], "redis-c50", "stunnel", True),
                (["redis-*/stunnel", "bulk"], "redis-c50", "haproxy", False),
        ):
            with self.subTest(patterns=patterns, workload=workload, system=system):
                self.assertEqual(workloads.wanted(patterns, workload, system), expected)


class RedisOutput(unittest.TestCase):
    head = '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",' \
           '"p99_latency_ms","max_latency_ms"\n'

    def test_rate_and_latencies_are_read(self):
        rate, detail = workloads.redis_get(
            self.head + '"GET","52631.58","0.017","0.008","0.015","0.023","0.031","0.263"\n')
        self.assertEqual(rate, 52631.58)
        self.assertEqual(detail, {"avg_latency_ms": 0.017, "p50_latency_ms": 0.015,
                                  "p99_latency_ms": 0.031})

    def test_anything_else_is_a_failure(self):
        for output in ("", self.head, "Error: Server closed the connection\n"):
            with self.subTest(output=output), self.assertRaises(Failed):
                workloads.redis_get(output)


class Tables(unittest.TestCase):
    def test_columns_line_up(self):
        self.assertEqual(report.table(["us", "median"], [["plaintext", 1234.5], ["a", None]]),
                         "  us         median\n"
                         "  plaintext    1234\n"
                         "  a               -")


if __name__ == "__main__":
    unittest.main()
