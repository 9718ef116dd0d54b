"""Which distribution this package belongs to, and whether another project of the same import name lies next to it.

Invariant: nothing is imported and no metadata is read unless a folder's listing shows a reason: `import emukit` and
`emukit --help` stay instant.

PyPI knows another project as `emukit` (decision making under uncertainty), which is imported by the same name. Whoever
installs both has the files of one in the place of the other's, whichever pip wrote last.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = "emukit-climate"
VERSION = "0.1.0"

# A folder that the other project has and this one never will.
_THEIRS = "bayesian_optimization"
# How an older installation of this project, which had the other's name, is told from it.
_OUR_COMMAND = "emukit.cli:main"


def install_hint(extra: str) -> str:
    """How to install an optional part: from the checkout, since the other project owns the import name on PyPI."""
    return f"in the checkout of {NAME}: pip install -e '.[{extra}]'"


def other_project(package: Path, path: Iterable[str] | None = None) -> str:
    """What shows that the other project named emukit is installed too, for people; empty where nothing does.

    Args:
        package: The folder of this package.
        path: Where modules are looked for; ``sys.path`` by default.
    """
    if (package / _THEIRS).exists():
        return f"its files lie in {package}"
    for folder in sys.path if path is None else path:
        try:
            # As pip names it: `emukit-0.4.11.dist-info`, never `emukit_climate-0.1.0.dist-info`.
            found = [n for n in os.listdir(folder or ".") if n.startswith("emukit-") and n.endswith(".dist-info")]  # noqa: PTH208
        except OSError:
            # A path that is an archive, or does not exist.
            continue
        for name in found:
            metadata = Path(folder, name)
            commands = metadata / "entry_points.txt"
            if not (commands.is_file() and _OUR_COMMAND in commands.read_text(encoding="utf-8", errors="replace")):
                return f"it is installed as {metadata}"
    return ""


def remedy() -> str:
    """What to do where both are installed."""
    return f"pip uninstall emukit, then in the checkout of {NAME}: pip install -e ."
