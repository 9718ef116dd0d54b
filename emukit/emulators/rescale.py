"""Fields stretched to a given standard deviation over time, the mean over time kept, and a trend if asked for.

Invariant: mean and standard deviation over the months are exactly those asked for, also where nothing may be negative.
Of all fields with that mean and standard deviation a plain stretch is the nearest to the field it began with; to keep a
trend as well costs little of that, as what is left next to it hardly correlates with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Float32 resolves 6e-8 of a value: what varies by less than this share of its mean does not vary.
STEADY = 1e-6


def trend(field: NDArray[np.floating], per_year: int = 12) -> Array:
    """The straight line through each cell's means of whole years.

    Whole years, counted from the last step: a season that begins or ends within the steps does not tilt the line.

    Args:
        field: (T, ...) steps; computed with in float64.
        per_year: Steps of a year.

    Returns:
        (T, ...) float64, with mean zero over the steps. Zero where there are less than two whole years.
    """
    steps = len(field)
    years = steps // per_year
    time = np.arange(steps) - (steps - 1) / 2
    if years < 2:
        return np.zeros(field.shape)
    whole = field[steps - per_year * years :].astype(np.float64)
    annual = whole.reshape(years, per_year, -1).mean(1)
    when = float(per_year) * (np.arange(years) - (years - 1) / 2)
    slope = (when @ annual) / (when @ when)
    return np.asarray(time.reshape(-1, *(1,) * (field.ndim - 1)) * slope.reshape(field.shape[1:]), np.float64)


def stretch(
    field: NDArray[np.floating], std: Array, *, keep: NDArray[np.floating] | None = None, above_zero: bool = False
) -> Array:
    """Scale what is left of each cell's months next to its mean over time and a part to keep.

    The result is c + keep + k a with the anomaly a = field - mean - keep, and, above zero, max(0, that). With n months
    not at zero, c keeps the mean and k solves a quadratic equation for the standard deviation. Months that become
    negative are put at zero, and the rest is solved for again, until none is.

    Args:
        field: (T, ...) months; computed with in float64. Above zero: none negative.
        std: (...) population standard deviation wanted. A cell that does not vary stays as it is: it has no shape that
            could be stretched.
        keep: (T, ...) what is not stretched, with mean zero over the months: `trend`. Where it varies more than is
            wanted, it is scaled to that. Nothing, if absent.
        above_zero: Whether nothing may be negative. No cell can vary more than with all it has in one month; one that
            is asked to comes as near to that as its months allow.

    Returns:
        (T, ...) float64.
    """
    months, shape = len(field), field.shape[1:]
    flat = field.reshape(months, -1).astype(np.float64)
    mean, wanted = flat.mean(0), np.asarray(std, np.float64).reshape(-1)
    line = np.zeros_like(flat) if keep is None else keep.reshape(months, -1).astype(np.float64)
    varies = flat.std(0) > STEADY * np.abs(mean)
    anomaly = flat - mean - line
    own = line.std(0)
    line *= np.where(own > wanted, wanted / np.where(own > 0, own, 1.0), 1.0)
    out = flat.copy()
    todo = np.flatnonzero(varies)
    left = np.ones((months, len(todo)), bool)
    while len(todo):
        cells = _solved(mean[todo], wanted[todo], line[:, todo], anomaly[:, todo], left)
        negative = left & (cells < 0) if above_zero else np.zeros_like(left)
        out[:, todo] = cells
        again = negative.any(0)
        todo, left = todo[again], (left & ~negative)[:, again]
    return out.reshape(months, *shape)


def _solved(mean: Array, std: Array, line: Array, anomaly: Array, left: NDArray[np.bool_]) -> Array:
    """(T, C): the months left share the mean and the standard deviation of all; the others are zero."""
    months, n = len(left), left.sum(0)
    about = [np.where(left, part - np.where(left, part, 0.0).sum(0) / n, 0.0) for part in (line, anomaly)]
    a, b, c = (about[1] ** 2).sum(0), (about[0] * about[1]).sum(0), (about[0] ** 2).sum(0)
    # The squares of n months with that mean and standard deviation, about the mean of those that are left.
    squares = months * (std**2 + mean**2) - (months * mean) ** 2 / n
    # Months that are all alike have nothing to stretch: they share alike.
    alike = a <= n * (STEADY * mean) ** 2
    root = np.sqrt(np.maximum(b**2 + a * (squares - c), 0.0))
    k = np.where(alike, 0.0, np.maximum(root - b, 0.0) / np.where(alike, 1.0, a))
    return np.asarray(np.where(left, months * mean / n + about[0] + k * about[1], 0.0), np.float64)
