"""Fields stretched to a given standard deviation over time, the mean over time kept.

Invariant: mean and standard deviation over the months are exactly those asked for, also where nothing may be negative.
Of all fields with that mean and standard deviation a plain stretch is the nearest to the field it began with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Float32 resolves 6e-8 of a value: what varies by less than this share of its mean does not vary.
STEADY = 1e-6


def stretch(field: NDArray[np.floating], std: Array) -> Array:
    """Scale the anomaly of each cell about its mean over time.

    Args:
        field: (T, ...) months; computed with in float64.
        std: (...) population standard deviation wanted. A cell that does not vary stays as it is: it has no shape that
            could be stretched.

    Returns:
        (T, ...) float64.
    """
    mean = field.mean(0, dtype=np.float64)
    anomaly = field - mean
    own = np.sqrt(np.mean(anomaly**2, 0))
    varies = own > STEADY * np.abs(mean)
    return np.asarray(mean + anomaly * np.where(varies, std / np.where(varies, own, 1.0), 1.0), np.float64)


def stretch_above_zero(field: NDArray[np.floating], std: Array) -> Array:
    """Scale the anomaly of each cell so that, cut off at zero, it has its old mean and the standard deviation wanted.

    The result is max(0, c + k anomaly). With n months left, whose anomalies sum to S and their squares to Q, keeping
    the mean m asks for n c + k S = T m, and then the standard deviation s for

        (T m)^2 / n + k^2 (Q - S^2 / n) = T (s^2 + m^2).

    Months are cut off from the driest on, and each at a standard deviation of its own, larger for wetter months: so the
    one that is wanted tells which are cut off, and nothing need be searched for.

    Args:
        field: (T, ...) months, none negative.
        std: (...) population standard deviation wanted. A cell that does not vary stays as it is. No cell can vary more
            than with all its rain in its wettest months; one that is asked to does that.

    Returns:
        (T, ...) float64, none negative.
    """
    months = len(field)
    mean = field.mean(0, dtype=np.float64)
    anomaly = field - mean
    ordered = np.sort(anomaly, 0)
    left = np.arange(months, 0, -1).reshape(-1, *(1,) * mean.ndim)  # from each month in the order to the wettest
    total = np.cumsum(ordered[::-1], 0)[::-1]
    square = np.cumsum(ordered[::-1] ** 2, 0)[::-1]
    # The k at which each month in the order just becomes dry, and the variance then; the wettest never does.
    rest = total - left * ordered
    ever = rest > 1e-9 * left * mean
    edge = months * mean / np.where(ever, rest, 1.0)
    about = square - 2 * ordered * total + left * ordered**2
    dry = (ever & (edge**2 * about / months - mean**2 <= std**2)).sum(0)
    first = np.minimum(dry, months - 1)
    n = months - first
    s, q = _pick(total, first), _pick(square, first)
    varied = q - s**2 / n
    varies = varied > 1e-12 * q + n * (STEADY * mean) ** 2
    wanted = months * (std**2 + mean**2) - (months * mean) ** 2 / n
    k = np.sqrt(np.maximum(wanted, 0.0) / np.where(varies, varied, 1.0))
    # Months left that are all equally wet: the last others have just become dry, and that is as far as it goes.
    k = np.where(varies, k, np.where(first > 0, _pick(edge, np.maximum(first - 1, 0)), 0.0))
    return np.asarray(np.maximum((months * mean - k * s) / n + k * anomaly, 0.0), np.float64)


def _pick(values: Array, index: NDArray[np.int64]) -> Array:
    """(...) of (T, ...) values those at (...) positions."""
    return np.asarray(np.take_along_axis(values, index[None], 0)[0], np.float64)
