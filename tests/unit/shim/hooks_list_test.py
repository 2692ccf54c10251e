#!/usr/bin/env python3
"""What libinlay.so exports and needs is what the hook list and shim/README.md say.

hooks_list_test.py LIBINLAY HOOKS.TXT README          tests
hooks_list_test.py --table HOOKS.TXT                  prints the README's table
"""

import pathlib
import re
import subprocess
import sys
import unittest

# Of libstdc++, linked statically: its exception pool and the identities of its locale facets. Only
# the constructor is inlay's own.
ALLOWED_CONSTRUCTORS = {
    "frame_dummy", "construct", "eh_alloc.cc", "cxx11-locale-inst.cc", "cxx11_locale_inst.cc",
    "cxx11_wlocale_inst.cc", "locale_inst.cc", "wlocale_inst.cc", "memory_resource.cc",
    "system_error.cc",
}


def hooks(path):
    """(name, family, disposition, note) of every hook."""
    rows = []
    for line in pathlib.Path(path).read_text().replace('"\\n"', "\n").splitlines():
        fields = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
        text = "".join(fields)
        if text.count(";") >= 3:
            rows.append(tuple(part.strip() for part in text.split(";", 3)))
    return rows


def table(path):
    lines = ["| symbol | hook in | on a managed socket | detail |", "|---|---|---|---|"]
    words = {"protect": "protected", "refuse": "refused", "watch": "passed through"}
    for name, family, disposition, note in sorted(hooks(path), key=lambda row: row[0].lstrip("_")):
        lines.append(f"| `{name}` | {family}.cc | {words[disposition]} | {note} |")
    return lines


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class HookList(unittest.TestCase):
    maxDiff = None

    def test_the_export_table_is_the_hook_list(self):
        exported = [line.split()[2] for line in output("nm", "-D", "--defined-only", LIBRARY)
                    .splitlines()]
        self.assertEqual(sorted(exported), sorted(row[0] for row in hooks(HOOKS)))
        self.assertGreater(len(exported), 80)

    def test_the_readme_s_table_is_the_hook_list(self):
        lines = pathlib.Path(README).read_text().splitlines()
        wanted = table(HOOKS)
        first = lines.index(wanted[0])
        rows = lines[first:lines.index("", first)]
        self.assertEqual(rows, wanted, "run this with --table")

    def test_every_hook_is_exported_by_the_c_library(self):
        libc = re.search(r"libc\.so\.6 => (\S+)", output("ldd", LIBRARY)).group(1)
        exported = {line.split()[-1].split("@")[0]
                    for line in output("nm", "-D", "--defined-only", libc).splitlines()}
        self.assertEqual([row[0] for row in hooks(HOOKS) if row[0] not in exported], [])

    def test_what_the_readme_says_is_not_hooked_is_not(self):
        with open(README, encoding="utf-8") as file:
            section = file.read().split("## Not hooked, on purpose", 1)[1]
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        named = set(re.findall(r"`(\w+)`", " ".join(cells)))
        self.assertIn("listen", named)
        exported = {line.split()[-1] for line in output("nm", "-D", "--defined-only", LIBRARY).splitlines()}
        self.assertEqual(named & exported, set())

    def test_it_needs_the_c_library_and_the_loader_only(self):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", LIBRARY))
        self.assertIn("libc.so.6", needed)
        others = [name for name in needed if name != "libc.so.6" and not name.startswith("ld-linux")]
        self.assertEqual(others, [])
        resolved = [line.split()[0] for line in output("ldd", LIBRARY).splitlines()]
        self.assertEqual([name for name in resolved
                          if not re.match(r"linux-vdso|libc\.so\.6|/.*/ld-linux", name)], [])

    def test_it_is_initialised_first_bound_at_once_and_never_unloaded(self):
        flags = re.search(r"\(FLAGS_1\).*Flags: (.*)", output("readelf", "-dW", LIBRARY)).group(1)
        self.assertLessEqual({"NOW", "NODELETE", "INITFIRST"}, set(flags.split()))
        headers = output("readelf", "-lW", LIBRARY)
        self.assertIn("GNU_RELRO", headers)
        self.assertRegex(headers, r"GNU_STACK.* RW ")

    def test_nothing_of_others_is_exported_or_unique(self):
        symbols = output("readelf", "--dyn-syms", "-W", LIBRARY)
        self.assertNotIn("UNIQUE", symbols)
        self.assertNotRegex(symbols, r"(?m)^.*(GLOBAL|WEAK) +DEFAULT +\d+ +(SSL_|EVP_|CRYPTO_|_ZNS|_Zn)")

    def test_no_constructor_but_inlay_s_own_and_those_of_the_static_runtime(self):
        sections = output("readelf", "-SW", LIBRARY)
        match = re.search(r" \.init_array +INIT_ARRAY +([0-9a-f]+) [0-9a-f]+ ([0-9a-f]+)", sections)
        begin, size = int(match.group(1), 16), int(match.group(2), 16)
        names = {}
        for line in output("nm", LIBRARY).splitlines():
            fields = line.split()
            if len(fields) == 3:
                names.setdefault(int(fields[0], 16), fields[2])
        found = set()
        for place, target in re.findall(r"(?m)^([0-9a-f]+) +[0-9a-f]+ R_\w+_RELATIVE +([0-9a-f]+)",
                                        output("readelf", "-rW", LIBRARY)):
            if begin <= int(place, 16) < begin + size:
                name = names.get(int(target, 16), target)
                name = re.sub(r"^_GLOBAL__sub_I_", "", name)
                found.add("construct" if "construct" in name else name)
        self.assertIn("construct", found)
        self.assertEqual(found - ALLOWED_CONSTRUCTORS, set())


if __name__ == "__main__":
    if sys.argv[1] == "--table":
        print("\n".join(table(sys.argv[2])))
    else:
        LIBRARY, HOOKS, README = sys.argv[1:4]
        unittest.main(argv=sys.argv[:1])
