"""Where the training arrays live: on the device that computes, or in host memory, streamed batch by batch.

Invariant: where they live decides how fast a batch comes, never what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from emukit.errors import EmukitError

Residency = Literal["auto", "device", "host"]

# The arrays may take this much of what is free: the network's activations, which come later, need the rest.
ROOM_FOR_DATA = 0.5


def place(wanted: Residency, needed: int, free: int, device: str) -> Literal["device", "host"]:
    """Decide where arrays live.

    Args:
        wanted: The setting.
        needed: Bytes of the arrays.
        free: Bytes free on the device.
        device: Its type. On the CPU both places are the same memory, and ``auto`` has nothing to choose.

    Raises:
        EmukitError: They are wanted on the device and do not fit.
    """
    if wanted == "device" and needed > free:
        raise EmukitError(
            f"the training data does not fit on the {device}",
            found=f"{needed:,} bytes needed, {free:,} bytes free",
            expected="less than is free",
            hint="--set training.segments.residency=host streams it"
            if device != "cpu"
            else "fewer --members, or --set training.segments.members=mean",
        )
    if wanted == "auto" and device != "cpu":
        return "device" if needed <= ROOM_FOR_DATA * free else "host"
    return "host" if wanted == "host" else "device"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        # What torch holds back for itself, and has not given to a tensor, is free to it.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return host_free()


def host_free(root: Path = Path("/")) -> int:
    """Bytes of host memory that this process may still take: what is available, within the limit of its cgroup.

    Without Linux's `/proc`, all of the machine's memory.
    """
    info = root / "proc/meminfo"
    if not info.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([free, *_cgroup_free(root)]))


def _cgroup_free(root: Path) -> list[int]:
    """Bytes left under the limit of this process's cgroup, version 2 or 1; empty where there is none."""
    membership = root / "proc/self/cgroup"
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # Inside a container the path is often the host's, and the own group is mounted at the top.
        for folder in (base / path.lstrip("/"), base):
            allowed, taken = _number(folder / limit), _number(folder / used)
            if allowed is not None and taken is not None:
                left.append(allowed - taken + _cache(folder, cached))
    return left


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or the word `max`."""
    text = path.read_text(encoding="ascii").strip() if path.exists() else ""
    return int(text) if text.isdigit() else None


def _cache(folder: Path, name: str) -> int:
    """File pages that count as used and are given up as soon as anybody needs memory."""
    path = folder / "memory.stat"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
