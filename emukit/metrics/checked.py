"""The one door to a competition's score of given fields: what comes from a CSV and what comes from a notebook.

Invariant: a number that comes out was made of finite values and of a truth that is there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emukit.errors import EmukitError
from emukit.metrics.competition import Competition, Score

Address = Callable[[int, int, int, int], str]


def checked_score(
    competition: Competition,
    prediction: NDArray[np.floating],
    truth: NDArray[np.floating],
    weights: NDArray[np.floating],
    variables: tuple[str, ...],
    address: Address,
    error: type[EmukitError] = EmukitError,
) -> Score:
    """Score fields after looking at every value.

    Args:
        competition: Whose score it is.
        prediction: (T, V, Y, X) in the units of the competition.
        truth: The same.
        weights: (Y, X) area weights.
        variables: Names along V.
        address: Says for people which value stands at (t, v, y, x).
        error: What is raised.

    Raises:
        EmukitError: A value is not finite, or a month of the truth is hidden: all zero, or a variable that cannot be.
    """
    refuse_not_finite(prediction, "the prediction", address, error)
    refuse_not_finite(truth, "the truth", address, error)
    empty: NDArray[np.bool_] = np.asarray(~truth.any(axis=(-2, -1)))
    hidden = empty.all(1)
    for place in map(variables.index, competition.never_zero):
        hidden |= empty[:, place]
    if hidden.any():
        month = int(np.argmax(hidden))
        raise error(
            "the truth is hidden",
            found=f"{int(hidden.sum())} months that are zero everywhere, the first at "
            f"{address(month, int(np.argmax(empty[month])), 0, 0)}",
            expected="fields that the climate model simulated",
            hint="score a span whose targets are visible",
        )
    return competition.score(competition.moments(prediction, truth), weights, variables)


def refuse_not_finite(
    fields: NDArray[np.floating], name: str, address: Address, error: type[EmukitError] = EmukitError, hint: str = ""
) -> None:
    """Refuse (T, V, Y, X) fields with NaN or infinite values, naming the first.

    Args:
        fields: In any units.
        name: What they are, for the message.
        address: From the position (t, v, y, x) of a value to its place in words.
        error: What is raised.
        hint: What to do next.

    Raises:
        EmukitError: There is one.
    """
    finite = np.isfinite(fields)
    if finite.all():
        return
    first = address(*map(int, np.unravel_index(int(np.argmin(finite)), finite.shape)))
    raise error(
        f"{name} has values that are not finite",
        found=f"{finite.size - int(finite.sum())} NaN or infinite, the first at {first}",
        expected="a number for every month and cell",
        hint=hint,
    )
