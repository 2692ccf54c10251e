#!/usr/bin/env python3
"""A call on a protected connection is stopped at one of its instructions after the other, and the handler of
a signal, or another thread, does something with the same connection there. What was reported sent is heard,
once and whole, and nothing else is: what went out in the clear would end the connection.

INLAY_FULL=1 takes more of the instructions."""

import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support import BUILD, FOLDER, INLAY, PATIENCE, config_text, issue

STEPPED = BUILD / "tests" / "faults" / "stepped"
STRIDE = 31 if os.environ.get("INLAY_FULL") == "1" else 311


class Stepped(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.config = FOLDER / "stepped.toml"
        cls.config.write_text(config_text(issue("client")))  # no file for the log: signals are blocked for it

    def go(self, way):
        done = subprocess.run([INLAY, "run", "--config", self.config, "--", STEPPED, way, str(STRIDE)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertGreater(int(done.stdout), 5 * STRIDE, "instructions")

    def test_by_a_signal_s_handler(self):
        for way in ("shutdown in shutdown", "send in send", "recv in recv", "close in send", "close in recv"):
            with self.subTest(way):
                self.go(way)

    # TCP's dup2() is one step: the call has the one file or the other.
    def test_t74_the_number_replaced_by_another_thread(self):
        for way in ("dup2 beside send", "dup2 beside a send that blocks", "dup2 beside recv"):
            with self.subTest(way):
                self.go(way)

    # Between the end of the session and the kernel's close the number names nothing that could be written to.
    def test_i1_by_another_thread(self):
        for way in ("send beside close", "send beside dup2", "send beside connect"):
            with self.subTest(way):
                self.go(way)


if __name__ == "__main__":
    unittest.main()
