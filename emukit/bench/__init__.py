"""Speed figures, each measured against a plain reference in the same run.

Invariant: what is compared runs in fresh processes, in turns with its reference, on the same input, and gives the same
answer; a figure is a median of several, and its memory the highest peak of a whole process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """

    seconds: float
    peak_mb: float
    answer: float
    runs: int


@dataclass(frozen=True)
class Figure:
    """One line of ``emukit bench``.

    Attributes:
        name: What was measured.
        value: Median, in `unit`.
        unit: ``s``.
        reference: Median of the plain reference, in the same unit.
        ratio: Reference over value: how many times faster.
        peak_mb: Peak resident memory in 1e6 bytes.
        bound: What it is held to, in words.
        within: Whether it holds.
    """

    name: str
    value: float
    unit: str
    reference: float
    ratio: float
    peak_mb: float
    bound: str
    within: bool


def compare(
    name: str, work: str, reference: str, arguments: Sequence[str], *, runs: int, faster: float, peak_mb: float
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

    Raises:
        EmukitError: A process failed, or the answers differ by more than a millionth.
    """
    pairs = [(measure(work, arguments), measure(reference, arguments)) for _ in range(runs)]
    ours, plain = _sum_up([a for a, _ in pairs]), _sum_up([b for _, b in pairs])
    if abs(ours.answer - plain.answer) > 1e-6 * abs(plain.answer):
        raise EmukitError(
            f"the answers of {work} and its reference differ", found=str(ours.answer), expected=str(plain.answer)
        )
    ratio = plain.seconds / ours.seconds
    speed = f"at least {faster:g} x faster" if faster >= 1 or not faster else f"at most {1 / faster:.3g} x slower"
    return Figure(
        name,
        ours.seconds,
        "s",
        plain.seconds,
        ratio,
        ours.peak_mb,
        f"{speed}, under {peak_mb:.0f} MB",
        ratio >= faster and ours.peak_mb < peak_mb,
    )


def measure(work: str, arguments: Sequence[str]) -> Measured:
    """Run one piece of work once, in a fresh process.

    Raises:
        EmukitError: The process failed.
    """
    command = [sys.executable, "-m", "emukit.bench.child", work, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmukitError(f"measuring {work} failed", found=done.stderr.strip()[-2000:])
    return Measured(**json.loads(done.stdout), runs=1)


def _sum_up(runs: Sequence[Measured]) -> Measured:
    return Measured(
        statistics.median(r.seconds for r in runs), max(r.peak_mb for r in runs), runs[-1].answer, len(runs)
    )
