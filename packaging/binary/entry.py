"""What the one file runs: the command line, or what whisperd asks of a Python for its children.

They are `sys.executable -P -m whisperd.child …`, as anywhere; here that is this program.
"""

import os
import runpy
import sys


def main() -> None:
    _hide_the_packing()
    match sys.argv[1:]:
        case ["-P", "-m", module, *words]:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-P", "-c", code]:
            exec(code, {"__name__": "__main__"})
        case _:
            from whisperd.cli import main as command_line  # which a child has no use for

            command_line()


def _hide_the_packing() -> None:
    """From what we start: systemctl would load the libraries that are packed in here.

    And a child of ours would take itself for a part of this process, and look for no libraries.
    """
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]
    os.environ.pop("LD_LIBRARY_PATH", None)
    if before := os.environ.pop("LD_LIBRARY_PATH_ORIG", None):
        os.environ["LD_LIBRARY_PATH"] = before


main()
