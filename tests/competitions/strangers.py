"""Two competitions as another package would bring them, each in one file: what the tests add to the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emukit.metrics import Competition, Metric, Moments
from emukit.metrics.moments import Field
from emukit.metrics.standard import bias, step_rmse, time_mean_rmse, time_std_mae


def absolute_error(prediction: Field, truth: Field) -> Field:
    """What the mean absolute error sums; no function of the sums that every competition has."""
    return np.abs(prediction - truth)


def _mae(m: Moments, w: Field) -> Any:
    return (w * m.more["absolute_error"] / m.n).sum((-2, -1))


def mae(variable: str, units: str) -> Metric:
    """One metric more."""
    return Metric(
        key=f"{variable}.mae",
        heading=f"{variable} error",
        measure="MAE",
        units=units,
        title=f"{variable} monthly MAE",
        description=f"{variable}: mean absolute error of months",
        lowest=0.0,
        variable=variable,
        function=_mae,
        terms={"absolute_error": absolute_error},
    )


def with_mae(units: Mapping[str, str]) -> Competition:
    """The errors of every variable, and one more that is part of the score."""
    metrics = [
        metric
        for v, u in units.items()
        for metric in (mae(v, u), step_rmse(v, u), time_mean_rmse(v, u), time_std_mae(v, u), bias(v, u))
    ]
    weights = {f"{v}.{n}": w for v in units for n, w in {"mae": 1.0, "time_mean_rmse": 0.5}.items()}
    return Competition(
        name="with-mae", title="With MAE", units=units, metrics=tuple(metrics), weights=weights, description="errors"
    )


def _skill(m: Moments, w: Field) -> Any:
    return 1 - (w * m.ee).sum((-2, -1)) / (w * m.std_truth**2 * m.n).sum((-2, -1))


def skill(units: Mapping[str, str]) -> Competition:
    """Explained variance, of which more is better; it may be negative."""
    metrics = [
        Metric(
            key=f"{v}.skill",
            heading=f"{v} skill",
            measure="R2",
            title=f"{v} explained variance",
            description=f"{v}: one less squared error over variance",
            better="higher",
            variable=v,
            function=_skill,
        )
        for v in units
    ]
    return Competition(
        name="skill",
        title="Skill",
        units=units,
        metrics=(*metrics, *(step_rmse(v, u) for v, u in units.items())),
        weights={m.key: 1 / len(metrics) for m in metrics},
        higher_is_better=True,
        description="mean explained variance",
    )
