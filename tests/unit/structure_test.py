#!/usr/bin/env python3
"""The shape of the source tree: who may include whom, what each folder holds, how long a file is.

structure_test.py SOURCE-FOLDER
"""

import pathlib
import re
import sys
import unittest

# Folder: whose headers it may include. Nothing includes the shim, nothing in it reaches for tools.
MAY_INCLUDE = {
    "identity": {"identity"},
    "identity/agent": {"identity", "policy", "tls"},
    "identity/ca": {"identity", "policy", "tls"},
    "identity/rpc": {"identity", "policy"},
    "policy": {"policy", "identity"},
    "tls": {"tls", "identity"},
    "shim": {"shim", "tls", "policy", "identity"},
    "tools": {"tools", "tls", "policy", "identity"},
}
# Folders within identity/: which of the others.
MAY_INCLUDE_INNER = {"identity/agent": {"identity/rpc"}, "identity/ca": {"identity/rpc"}}
TOP_LEVEL = {"LICENSE", "README.md", "identity", "meson.build", "meson_options.txt", "policy",
             "shim", "tests", "tls", "tools"}
HEADERS = (".h", ".def")
SOURCES = (".h", ".def", ".cc", ".py", ".js", ".sh")
MOST_LINES = 500
# One subject each, which would not be clearer in two files.
LONGER = {"tests/unit/identity/verify_test.cc"}


def files(*parts):
    """Every file below, in order; build folders and caches are not part of the tree."""
    for path in sorted(ROOT.joinpath(*parts).rglob("*")):
        inside = path.relative_to(ROOT).parts
        hidden = any(part.startswith((".", "build")) or part == "__pycache__" for part in inside)
        if path.is_file() and not hidden:
            yield path


def files_of(folder):
    """As files(), without what a folder of MAY_INCLUDE further down has."""
    inner = [ROOT / other for other in MAY_INCLUDE if other.startswith(folder + "/")]
    return (path for path in files(folder) if not any(path.is_relative_to(it) for it in inner))


def quoted_includes(path):
    return re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE)


class Includes(unittest.TestCase):
    def test_a_folder_includes_only_what_it_may(self):
        for folder, allowed in MAY_INCLUDE.items():
            seen = 0
            for path in files_of(folder):
                if path.suffix not in HEADERS + (".cc",):
                    continue
                for header in quoted_includes(path):
                    seen += 1
                    with self.subTest(file=str(path.relative_to(ROOT)), header=header):
                        self.assertIn(header.partition("/")[0], allowed)
                        inner = header.rpartition("/")[0]
                        if inner in MAY_INCLUDE and inner.count("/") == 1:
                            self.assertIn(inner, {folder} | MAY_INCLUDE_INNER.get(folder, set()))
            self.assertGreater(seen, 10, folder)

    def test_a_header_of_ours_is_named_from_the_top(self):
        for folder in MAY_INCLUDE:
            for path in files(folder):
                if path.suffix in HEADERS + (".cc",):
                    for header in quoted_includes(path):
                        with self.subTest(file=str(path.relative_to(ROOT)), header=header):
                            self.assertTrue((ROOT / header).is_file())

    def test_a_folder_links_only_what_it_may(self):
        for folder, allowed in MAY_INCLUDE.items():
            for path in files_of(folder):
                if path.name == "meson.build":
                    listed = re.findall(r"dependencies:\s*\[([^\]]*)\]", path.read_text())
                    linked = set(re.findall(r"\w+", " ".join(listed))) & set(MAY_INCLUDE)
                    with self.subTest(file=str(path.relative_to(ROOT))):
                        self.assertLessEqual(linked, allowed)


class Folders(unittest.TestCase):
    def test_the_top_level_holds_nothing_else(self):
        there = {path.name for path in ROOT.iterdir() if not path.name.startswith((".", "build"))}
        self.assertEqual(there - {"__pycache__"}, TOP_LEVEL)

    def test_each_folder_has_a_readme_of_at_most_a_page(self):
        for folder in [*MAY_INCLUDE, "tests"]:
            with self.subTest(folder=folder):
                lines = (ROOT / folder / "README.md").read_text().splitlines()
                prose = [line for line in lines if not line.startswith("| `")]  # tables of names
                self.assertTrue(lines[0].startswith(f"# {folder}"))
                self.assertLess(len(prose), 75)

    def test_a_file_is_short_enough_to_read(self):
        for path in files():
            name = str(path.relative_to(ROOT))
            if path.suffix in SOURCES and name not in LONGER:
                with self.subTest(file=name):
                    self.assertLessEqual(len(path.read_text().splitlines()), MOST_LINES)

    def test_the_list_of_longer_files_is_no_longer_than_it_must_be(self):
        for name in LONGER:
            with self.subTest(file=name):
                self.assertGreater(len((ROOT / name).read_text().splitlines()), MOST_LINES)

    def test_files_are_named_in_snake_case(self):
        for path in files():
            if path.suffix in SOURCES:
                with self.subTest(file=str(path.relative_to(ROOT))):
                    self.assertRegex(path.name, r"^[a-z0-9_]+\.[a-z]+$")


if __name__ == "__main__":
    ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
