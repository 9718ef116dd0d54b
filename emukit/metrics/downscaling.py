"""Scores of downscaled fields: errors of cells, spectra to the grid scale, and tails.

Invariant: the score compares with the best of the baselines, variable by variable: 1 is no better than what needs no
network, and a number against the worst of them alone is never the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.metrics.competition import Competition, Metric, digits_of
from emukit.metrics.moments import Field, Moments, Term
from emukit.metrics.standard import bias, step_rmse
from emukit.metrics.variability import zonal_power

# The numbers of a table by the end of their keys: heading, and what it is.
COLUMNS = {
    "mae": ("MAE", "area mean of the absolute error, over all steps"),
    "nmae": ("NMAE", "MAE over the mean size of the truth"),
    "rmse": ("RMSE", "root of the area mean squared error of each step"),
    "r2": ("R2", "one minus squared error over variance, of all cells and steps"),
    "correlation": ("corr", "Pearson correlation over all cells and steps"),
    "bias": ("bias", "mean of prediction less truth"),
    "power": ("power", "power of the finest quarter of zonal wavenumbers, relative to the truth"),
    "spectrum": ("spectrum", "the quarter of zonal wavenumbers whose power is furthest off: by how much, relatively"),
    "p99": (">99 %", "area beyond this quantile of the truth, relative to the truth"),
    "p99.9": (">99.9 %", "area beyond this quantile of the truth, relative to the truth"),
    "crps": ("CRPS", "fair CRPS of the realisations"),
    "sharpness": ("CRPS/MAE", "CRPS over the MAE of the mean of the realisations"),
    "spread": ("spread", "spread of the realisations over the error of their mean: 1 where the truth could be one"),
}
# Those of them that say how a field looks, and not how far it is from the truth.
TEXTURE = ("power", "spectrum", "p99", "p99.9", "crps", "sharpness", "spread")
# Those that have the units of the variable.
IN_UNITS = ("mae", "rmse", "bias", "crps")

# Quantiles of the truth, over all its cells and steps, beyond which a tail begins.
TAILS = (0.99, 0.999)


def texts_of(scores: Mapping[str, Mapping[str, float]], variable: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Numbers of a variable as they are printed, by label; a small unit has the digits that its MAE needs.

    Args:
        scores: By label, without the gain.
        variable: Name.
        columns: Keys of `COLUMNS`. What is not there is empty.
    """
    digits = digits_of(own.get(f"{variable}.mae") for own in scores.values())

    def text(column: str, value: float | None) -> str:
        return "" if value is None or np.isnan(value) else f"{value:.{digits if column in IN_UNITS else 3}f}"

    return {label: [text(c, own.get(f"{variable}.{c}")) for c in columns] for label, own in scores.items()}


def _absolute(prediction: Field, truth: Field) -> Field:
    return np.abs(prediction - truth)


def _size(prediction: Field, truth: Field) -> Field:
    return np.abs(truth)


def _mean(values: Field, weights: Field) -> Any:
    return (weights * values).sum((-2, -1))


def _mae(m: Moments, w: Field) -> Any:
    return _mean(m.more["absolute error"] / m.n, w)


def _nmae(m: Moments, w: Field) -> Any:
    return _mean(m.more["absolute error"], w) / _mean(m.more["size"], w)


def _variances(m: Moments, w: Field) -> tuple[Any, Any, Any]:
    """Variances of prediction and truth and their covariance, over all cells and steps together."""
    n = m.n
    p, t = _mean(m.p / n, w), _mean(m.t / n, w)
    product = (m.pp + m.tt - m.ee) / 2
    return _mean(m.pp / n, w) - p**2, _mean(m.tt / n, w) - t**2, _mean(product / n, w) - p * t


def _r2(m: Moments, w: Field) -> Any:
    return 1 - _mean(m.ee / m.n, w) / _variances(m, w)[1]


def _correlation(m: Moments, w: Field) -> Any:
    p, t, both = _variances(m, w)
    return both / np.sqrt(p * t)


def competition(units: Mapping[str, str], best: Mapping[str, float]) -> Competition:
    """What downscaled fields are scored by.

    Args:
        units: Variable to its units.
        best: Variable to the MAE of its best baseline on the same steps.
    """
    metrics: list[Metric] = []
    for v, u in units.items():
        absolute: dict[str, Term] = {"absolute error": _absolute}
        metrics += [
            Metric(
                key=f"{v}.mae",
                heading=f"{v} MAE",
                measure="MAE",
                units=u,
                title=f"{v} MAE",
                description=f"{v}: area mean of the absolute error",
                lowest=0.0,
                variable=v,
                function=_mae,
                terms=absolute,
            ),
            Metric(
                key=f"{v}.nmae",
                heading=f"{v} NMAE",
                measure="NMAE",
                title=f"{v} NMAE",
                description=f"{v}: MAE over the mean size of the truth",
                lowest=0.0,
                variable=v,
                function=_nmae,
                terms={**absolute, "size": _size},
            ),
            step_rmse(v, u),
            Metric(
                key=f"{v}.r2",
                heading=f"{v} R2",
                measure="R2",
                title=f"{v} R2",
                description=f"{v}: one minus squared error over variance, of all cells and steps",
                better="higher",
                variable=v,
                function=_r2,
            ),
            Metric(
                key=f"{v}.correlation",
                heading=f"{v} corr",
                measure="correlation",
                title=f"{v} correlation",
                description=f"{v}: Pearson correlation over all cells and steps",
                better="higher",
                variable=v,
                function=_correlation,
            ),
            bias(v, u),
        ]
    return Competition(
        name="downscaling",
        title="downscaling error",
        units=units,
        metrics=tuple(metrics),
        weights={f"{v}.mae": 1 / (best[v] * len(units)) for v in units},
        description="mean over the variables of the MAE, relative to that of the variable's best baseline",
        references=(),
    )


def zonal_spectrum(fields: NDArray[np.floating], grid: Grid) -> NDArray[np.float64]:
    """Mean power of each zonal wavenumber from 1 to the grid scale, (T, V, Y, X) -> (V, X // 2).

    Rows count with their area. All wavenumbers together have the variance along the rows.
    """
    return np.asarray(zonal_power(fields, grid).mean(0)[..., 1:])


def tail_thresholds(truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """(len(TAILS), V) quantiles of the truth (T, V, Y, X) over its cells and steps."""
    flat = np.moveaxis(truth, 1, -1).reshape(-1, truth.shape[1])
    return np.asarray(np.quantile(flat, TAILS, axis=0), np.float64)


def tail_area(fields: NDArray[np.floating], thresholds: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """(len(TAILS), V) share of area and steps beyond each threshold."""
    beyond = fields[None] > thresholds[:, None, :, None, None]
    return np.asarray(grid.mean(beyond.mean(1)), np.float64)
