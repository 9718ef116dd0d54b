"""The metrics that competitions of fields are commonly made of.

Invariant: each is a function of the sums of one variable; area weights add up to one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emukit.metrics.competition import Metric
from emukit.metrics.limit import Ceiling, mean_left, std_left, steps_left, variance
from emukit.metrics.moments import Field, Moments


def _mean(values: Field, weights: Field) -> Any:
    return (weights * values).sum((-2, -1))


def _steps(m: Moments, w: Field) -> Any:
    return np.sqrt(_mean(m.ee / m.n, w))


def _time_mean(m: Moments, w: Field) -> Any:
    return np.sqrt(_mean((m.mean_prediction - m.mean_truth) ** 2, w))


def _time_std(m: Moments, w: Field) -> Any:
    return _mean(np.abs(m.std_prediction - m.std_truth), w)


def _bias(m: Moments, w: Field) -> Any:
    return _mean(m.mean_prediction - m.mean_truth, w)


def _relative(m: Moments, w: Field) -> Any:
    spread = np.sqrt(_mean(m.std_truth**2, w))
    # Of a truth that does not vary there is no fraction.
    return np.where(spread > 0, np.sqrt(_mean(m.ee / m.n, w)) / spread, np.nan)


def step_rmse(variable: str, units: str, *, name: str = "rmse", step: str = "step") -> Metric:
    """Root of the mean over time steps of the area-mean squared error.

    Args:
        variable: Whose.
        units: Its units.
        name: After the dot of the key.
        step: What a time step is called.
    """
    adjective = {"month": "monthly", "day": "daily", "year": "yearly"}.get(step, step)
    return Metric(
        key=f"{variable}.{name}",
        heading=f"{variable} {step}",
        measure="RMSE",
        units=units,
        title=f"{variable} {adjective} RMSE",
        description=f"{variable}: root mean square error of {step}s",
        lowest=0.0,
        variable=variable,
        function=_steps,
        ceiling=Ceiling((steps_left,), math.sqrt),
    )


def time_mean_rmse(variable: str, units: str) -> Metric:
    """Root of the area-mean squared error of the mean over time; arguments as for `step_rmse`."""
    return Metric(
        key=f"{variable}.time_mean_rmse",
        heading=f"{variable} mean",
        measure="RMSE",
        units=units,
        title=f"{variable} RMSE of the time mean",
        description=f"{variable}: root mean square error of the mean over time",
        lowest=0.0,
        variable=variable,
        function=_time_mean,
        ceiling=Ceiling((mean_left,), math.sqrt),
    )


def time_std_mae(variable: str, units: str) -> Metric:
    """Area mean of the absolute error of the population standard deviation over time; arguments as for `step_rmse`."""
    return Metric(
        key=f"{variable}.time_stddev_mae",
        heading=f"{variable} std",
        measure="MAE",
        units=units,
        title=f"{variable} MAE of the standard deviation",
        description=f"{variable}: mean absolute error of the standard deviation over time",
        lowest=0.0,
        variable=variable,
        function=_time_std,
        ceiling=Ceiling((std_left,), lambda mean: mean / np.sqrt(2.0)),
    )


def bias(variable: str, units: str) -> Metric:
    """Area mean of the error of the mean over time; it has a sign, so neither direction is better."""
    return Metric(
        key=f"{variable}.bias",
        heading=f"{variable} bias",
        measure="mean",
        units=units,
        title=f"{variable} bias",
        description=f"{variable}: area mean of the error of the mean over time; above zero it is too high",
        better="neither",
        variable=variable,
        function=_bias,
    )


def relative_rmse(variable: str) -> Metric:
    """`step_rmse` as a fraction of the truth's standard deviation over time, both as roots of area-mean squares.

    Zero is a perfect prediction; one is what the truth's own mean over time in every cell scores. It has no units, and
    no value where the truth does not vary.
    """
    return Metric(
        key=f"{variable}.relative_rmse",
        heading=f"{variable} relative",
        measure="RMSE",
        title=f"{variable} relative RMSE",
        description=f"{variable}: root mean square error, divided by the standard deviation over time of the truth",
        lowest=0.0,
        variable=variable,
        function=_relative,
        ceiling=Ceiling((steps_left, variance), lambda left, of: math.sqrt(left / of) if of > 0 else math.nan),
    )
