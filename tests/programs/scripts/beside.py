"""Runs a script, once it is certain that the library is in this process: beside.py LIBRARY SCRIPT [WORD...]"""

import os
import runpy
import sys

library, *sys.argv = sys.argv[1:]
with open("/proc/self/maps", encoding="ascii") as maps:
    if os.path.basename(library) not in maps.read():
        sys.exit(f"{library} is not here")
runpy.run_path(sys.argv[0], run_name="__main__")
