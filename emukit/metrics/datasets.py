"""Scoring xarray datasets, for notebooks.

Invariant: what is compared lies on the same months and cells; nothing is aligned by silence.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from emukit.errors import EmukitError
from emukit.metrics.competition import VARIABLE_WEIGHTS, Score, score_moments
from emukit.metrics.moments import Moments

VARIABLES = tuple(VARIABLE_WEIGHTS)


def score_datasets(prediction: xr.Dataset, truth: xr.Dataset) -> Score:
    """Score a prediction against the truth.

    Args:
        prediction: `tas` in K and `pr` in mm/day on (time, y, x), as `Emulator.predict` returns them.
        truth: The same variables on the same months and cells, as `emukit.truth` returns them.

    Raises:
        EmukitError: A variable is missing, or months or cells differ.
    """
    for name, dataset in (("prediction", prediction), ("truth", truth)):
        missing = [v for v in VARIABLES if v not in dataset]
        if missing:
            raise EmukitError(f"the {name} lacks {', '.join(missing)}", expected=", ".join(VARIABLES))
    for axis in ("time", "y", "x"):
        a, b = prediction[axis].values, truth[axis].values
        if len(a) != len(b) or not (np.array_equal(a, b) if axis == "time" else np.allclose(a, b, atol=1e-6)):
            raise EmukitError(
                f"prediction and truth differ along {axis}",
                found=f"{len(a)} from {a[0]} to {a[-1]}",
                expected=f"{len(b)} from {b[0]} to {b[-1]}",
                hint="select the same months and cells of both",
            )
    fields = [np.stack([d[v].transpose("time", "y", "x").values for v in VARIABLES], 1) for d in (prediction, truth)]
    weights = np.cos(np.deg2rad(truth.y.values))[:, None] * np.ones(truth.sizes["x"])
    return score_moments(Moments.of(*fields), weights, VARIABLES)
