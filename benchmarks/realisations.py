"""Realisations of the competition's data: what training takes, without networks and by each estimator, and drawing.

Invariant: each is trained as `emukit train atlas` ships it, from the store to the score, with as many evaluations of a
network for a month of `interpolant` as of `diffusion`; what is drawn side by side is what each realisation alone would
be.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import Figure, Work, compare, measure
from benchmarks.command import prepare_command
from emukit.errors import EmukitError

ESTIMATORS: dict[str, tuple[str, ...]] = {
    "nothing learned": (),
    "crps": ("--objective", "crps"),
    "interpolant": ("--objective", "interpolant", "--set", "predictor.objective.steps=5"),
    "diffusion": ("--objective", "diffusion"),
}
SCENARIO, MONTHS, REALISATIONS = "ssp585", 360, 10
TRAIN_MINUTES, DRAW_SECONDS = 30.0, 60.0


def bench_realisations(store: str, runs: int) -> list[Figure]:
    """Training once, and drawing in turns with a reference that draws one realisation after the other.

    Raises:
        EmukitError: A training failed.
    """
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for estimator, options in ESTIMATORS.items():
            run = str(Path(folder) / estimator.split()[0])
            words = ["train", "atlas", "-q", *options, "--data", store, "--out", run]
            trained = measure(f"{prepare_command.__module__}:{prepare_command.__name__}", words)
            if trained.answer != 0:
                raise EmukitError(f"emukit {' '.join(words)} failed", found=f"exit code {trained.answer:.0f}")
            figures.append(
                Figure(
                    f"train atlas, {estimator}",
                    trained.seconds,
                    "s",
                    math.nan,
                    math.nan,
                    trained.peak_mb,
                    f"under {TRAIN_MINUTES:g} minutes",
                    trained.seconds < 60 * TRAIN_MINUTES,
                )
            )
            figures.append(
                compare(
                    f"{REALISATIONS} realisations of {MONTHS // 12} years, {estimator}",
                    f"{__name__}:{prepare_together.__name__}",
                    f"{__name__}:{prepare_one_by_one.__name__}",
                    [run, store],
                    runs=runs,
                    seconds=DRAW_SECONDS,
                    # Networks add up in another order for one realisation than for ten.
                    tolerance=1e-4,
                )
            )
    return figures


def prepare_together(run: str, store: str) -> Work:
    """All realisations side by side."""
    return _drawing(run, store, lambda emulator, scenario: emulator.predict_members(scenario, 0, MONTHS, REALISATIONS))


def prepare_one_by_one(run: str, store: str) -> Work:
    """One realisation after the other."""
    return _drawing(
        run,
        store,
        lambda emulator, scenario: np.stack(
            [emulator.member(i).predict_fields(scenario, 0, MONTHS) for i in range(REALISATIONS)]
        ),
    )


def _drawing(run: str, store: str, draw: Callable[..., NDArray[np.float32]]) -> Work:
    from emukit.data.opening import open_data
    from emukit.runs.run import read_run

    archive = open_data(store)
    emulator, scenario = read_run(Path(run)).emulator(archive), archive[SCENARIO]

    def work() -> float:
        fields = draw(emulator, scenario)
        # How much realisations differ, of every variable alike.
        return float(np.log(fields.var(0, dtype=np.float64).mean((0, 2, 3))).sum())

    return work
