"""Speed figures, each measured against a plain reference in the same run.

Invariant: what is compared runs in fresh processes, in turns with its reference, on the same input, and gives the same
answer; a figure is a median of several, and its memory the highest peak of a whole process.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from emukit.errors import EmukitError

Work = Callable[[], float]
"""What is timed; it returns a number that its reference must return too."""


@dataclass(frozen=True)
class Measured:
    """Several runs of one piece of work.

    Attributes:
        seconds: Median time of the work alone, without imports and preparation.
        peak_mb: Highest resident memory of a whole process, imports and input included, in 1e6 bytes.
        answer: What the work returned.
        runs: How many there were.
        device_mb: Highest memory allocated on an accelerator, in 1e6 bytes; zero where none was used.
    """

    seconds: float
    peak_mb: float
    answer: float
    runs: int
    device_mb: float = 0.0

    @property
    def memory_mb(self) -> float:
        """What the work needs where it runs: the accelerator's memory, or the process's."""
        return self.device_mb or self.peak_mb


class Row(Protocol):
    """One line of a table of figures; lines of one class stand in one table."""

    headings: ClassVar[tuple[str, ...]]

    @property
    def within(self) -> bool:
        """Whether its bound holds, where it has one."""

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""


@dataclass(frozen=True)
class Figure:
    """One line of ``python -m benchmarks``.

    Attributes:
        name: What was measured.
        value: Median, in `unit`.
        unit: ``s`` or ``ms``, ``months/s``, or ``%``.
        reference: Median of the plain reference, in the same unit; NaN where there is none.
        ratio: How many times faster than the reference; NaN where that cannot be said.
        peak_mb: Peak resident memory in 1e6 bytes; that of the accelerator where one was used.
        bound: What it is held to, in words.
        within: Whether it holds.
    """

    headings: ClassVar[tuple[str, ...]] = (
        "figure",
        "median",
        "reference",
        "times\nfaster",
        "peak\nMB",
        "bound",
        "holds",
    )

    name: str
    value: float
    unit: str
    reference: float
    ratio: float
    peak_mb: float
    bound: str
    within: bool

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""
        reference = "-" if math.isnan(self.reference) else f"{self.reference:.2f} {self.unit}"
        numbers = (f"{self.value:.2f} {self.unit}", reference, times_faster(self.ratio))
        # Where nothing is held to a bound, nothing holds.
        holds = ("yes" if self.within else "NO") if self.bound else ""
        return (self.name, *numbers, f"{self.peak_mb:.0f}", self.bound, holds)


def times_faster(ratio: float) -> str:
    """A ratio for people: to a tenth, below one in two significant digits; a dash where there is none."""
    if math.isnan(ratio):
        return "-"
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def compare(
    name: str,
    work: str,
    reference: str,
    arguments: Sequence[str],
    *,
    runs: int,
    faster: float = 0.0,
    peak_mb: float = math.inf,
    seconds: float = math.inf,
    scale: float = 1.0,
    tolerance: float = 1e-6,
) -> Figure:
    """Measure work against its reference, in turns, so that a busy machine slows both.

    Args:
        name: What the figure is called.
        work: ``module:function``; the function prepares and returns the `Work`.
        reference: The same, done plainly.
        arguments: Strings both functions take.
        runs: How many times each.
        faster: The bound of the ratio, from below.
        peak_mb: The bound of the memory, from above.
        seconds: The bound of the time, from above.
        scale: How many times the work the reference does; its time is multiplied by it.
        tolerance: By how much the answers may differ, relative to the reference's.

    Raises:
        EmukitError: A process failed, or the answers differ.
    """
    pairs = [(measure(work, arguments), measure(reference, arguments)) for _ in range(runs)]
    ours, plain = _sum_up([a for a, _ in pairs]), _sum_up([b for _, b in pairs])
    if abs(ours.answer - plain.answer) > tolerance * abs(plain.answer):
        raise EmukitError(
            f"the answers of {work} and its reference differ", found=str(ours.answer), expected=str(plain.answer)
        )
    ratio = scale * plain.seconds / ours.seconds
    bounds = [_speed(faster)] if faster else []
    bounds += [f"under {seconds:g} s"] if seconds < math.inf else []
    bounds += [f"under {peak_mb:.0f} MB"] if peak_mb < math.inf else []
    within = ratio >= faster and ours.seconds < seconds and ours.memory_mb < peak_mb
    return Figure(name, ours.seconds, "s", scale * plain.seconds, ratio, ours.memory_mb, ", ".join(bounds), within)


def measure(work: str, arguments: Sequence[str]) -> Measured:
    """Run one piece of work once, in a fresh process.

    Raises:
        EmukitError: The process failed.
    """
    command = [sys.executable, "-m", "benchmarks.child", work, *arguments]
    # The children find this folder wherever the measuring was started.
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise EmukitError(f"measuring {work} failed", found=done.stderr.strip()[-2000:])
    return Measured(**json.loads(done.stdout), runs=1)


def _sum_up(runs: Sequence[Measured]) -> Measured:
    return Measured(
        statistics.median(r.seconds for r in runs),
        max(r.peak_mb for r in runs),
        runs[-1].answer,
        len(runs),
        max(r.device_mb for r in runs),
    )


def _speed(faster: float) -> str:
    return f"at least {faster:g} x faster" if faster >= 1 else f"at most {1 / faster:.3g} x slower"
