"""The `emukit` command, which says so where another project is imported by the name emukit.

Invariant: this module imports nothing but the standard library before it knows whose `emukit` it has. Inside that
package nothing could be said: the other project's files may have taken its place.
"""

from __future__ import annotations

import sys
from importlib import import_module

_MESSAGE = """error: the package emukit that Python finds here is not that of emukit-climate
  found:    {found}
  expected: the package of this checkout; PyPI knows another project by the same import name
  do:       pip uninstall emukit, then in the checkout: pip install -e ."""


def main() -> None:
    """Run the command line, or end with exit code 2 where `emukit` is the other project's."""
    try:
        package = import_module("emukit")
        # The list of names: asking for a name itself would import what it stands for.
        ours = "open_data" in dir(package) and import_module("emukit.cli")
    except ImportError as e:
        # A missing dependency of ours is another matter.
        if (e.name or "").partition(".")[0] != "emukit":
            raise
        ours = None
    if not ours:
        sys.exit(_refuse(getattr(sys.modules.get("emukit"), "__file__", None) or "no package emukit at all"))
    ours.main()


def _refuse(found: str) -> int:
    print(_MESSAGE.format(found=found), file=sys.stderr)
    return 2
