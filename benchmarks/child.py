"""The process in which one piece of work is timed: ``python -m benchmarks.child MODULE:FUNCTION ARGUMENT...``.

Invariant: the clock runs over the work alone; the memory is that of the whole process since it started.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path

from benchmarks import Work
from emukit.errors import EmukitError


def peak_mb() -> float:
    """Highest resident memory of this process so far, in 1e6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux carries ru_maxrss over from the parent through fork and exec; VmHWM starts again.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    # ru_maxrss counts bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def device_mb() -> float:
    """Highest memory that torch has allocated on an accelerator, in 1e6 bytes; zero where it was not used."""
    if "torch" not in sys.modules:
        return 0.0
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0


def main(work: str, *arguments: str) -> None:
    """Prepare, run and print seconds, peaks and answer as JSON."""
    module, function = work.split(":")
    prepared: Work = getattr(importlib.import_module(module), function)(*arguments)
    start = time.perf_counter()
    answer = prepared()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "device_mb": device_mb(), "answer": answer}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EmukitError as e:
        # The parent shows what stands here; a traceback would hide it.
        sys.exit(e.text())
