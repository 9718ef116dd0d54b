"""What a data set is scored by when its card names no competition, so that every store can be trained on and ranked.

Invariant: no weights are chosen. The score is the mean over the target variables of the error of the time steps,
divided by the standard deviation over time of the truth, so that variables of any units count alike: zero is a perfect
prediction, one is what the truth's own time mean scores. The sampling of the truth decides what the standard deviation
holds: of monthly fields, the seasonal cycle too.
"""

from __future__ import annotations

from collections.abc import Mapping

from emukit.metrics.competition import Competition
from emukit.metrics.standard import bias, relative_rmse, step_rmse, time_mean_rmse, time_std_mae


def competition(units: Mapping[str, str]) -> Competition:
    """Five numbers for each target variable, and their mean relative error.

    Args:
        units: Variable to its units.
    """
    metrics = [
        metric
        for v, u in units.items()
        for metric in (relative_rmse(v), step_rmse(v, u), time_mean_rmse(v, u), time_std_mae(v, u), bias(v, u))
    ]
    return Competition(
        name="generic",
        title="relative error",
        units=units,
        metrics=tuple(metrics),
        weights={f"{v}.relative_rmse": 1 / len(units) for v in units},
        # A variable that does not vary over the scored steps has no relative error.
        skip_missing=True,
        description="mean over the variables of the RMSE of the time steps, relative to the truth's standard deviation",
        legend="relative: RMSE of the time steps divided by the standard deviation of the truth; step: RMSE of the "
        "time steps; mean: of their mean over time; std: MAE of their standard deviation over time",
    )
