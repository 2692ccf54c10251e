#!/usr/bin/env python3
"""Whose OpenSSL each artefact has.

linkage_test.py LIBINLAY.SO INLAY INLAY-AGENT INLAY-CA
"""

import pathlib
import re
import subprocess
import sys
import unittest


def needed(path):
    """The shared libraries it asks for itself."""
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
    return re.findall(r"\(NEEDED\).*\[(\S+)\]", dynamic.stdout)


def has_own_openssl(path):
    return b"OpenSSL internal error" in pathlib.Path(path).read_bytes()


class Linkage(unittest.TestCase):
    def test_the_preload_and_the_command_share_no_openssl(self):
        for path in (PRELOAD, COMMAND):
            with self.subTest(path):
                self.assertEqual([name for name in needed(path) if "ssl" in name or "crypto" in name], [])
                self.assertTrue(has_own_openssl(path))

    def test_daemons_have_the_distributions_openssl_once(self):
        for path in (AGENT, AUTHORITY):
            with self.subTest(path):
                self.assertIn("libssl.so.3", needed(path))
                self.assertFalse(has_own_openssl(path))
                loaded = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
                for library in ("libssl", "libcrypto"):
                    self.assertEqual(len(re.findall(rf"/{library}\.so", loaded.stdout)), 1, library)


if __name__ == "__main__":
    AUTHORITY, AGENT, COMMAND, PRELOAD = (sys.argv.pop() for _ in range(4))
    unittest.main()
