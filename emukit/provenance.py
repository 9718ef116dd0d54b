"""Where a result came from: versions, code, machine.

Invariant: nothing here changes a number; it only says under what a number arose.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from emukit.distribution import VERSION

PACKAGES = ("torch", "numpy", "xarray", "zarr", "scikit-learn", "pydantic")


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Python and the packages that decide numbers."""
    return {"python": platform.python_version(), "emukit": VERSION} | {p: version(p) for p in PACKAGES}


@cache
def git_state() -> dict[str, str | bool]:
    """Commit of the checkout that emukit runs from, and whether it was changed; empty for an installed wheel.

    Asked once in a process: what is changed later is not what it has imported.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "changed": dirty}


def machine() -> dict[str, str | int]:
    """Processor, cores and accelerator."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "accelerator": device,
    }


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
