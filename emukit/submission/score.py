"""The official number of given fields: of a submission file, and of what comes from a notebook.

Invariant: a number that comes out was made of finite values and of a truth that is there. Rows are matched by ID, in
whatever order they stand. The latitudes of the area weights are those of the IDs, rounded to two decimals, as the
competition's scorer takes them: on 48 x 72 cells this changes the sixth digit against the exact latitudes of
`emukit.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import EmukitError, SubmissionError
from emukit.metrics.competition import Competition, Score
from emukit.submission.read import CsvColumns, read_submission
from emukit.submission.rows import RowLayout

Address = Callable[[int, int, int, int], str]


def score_csv(submission: Path | str, solution: Path | str, competition: Competition) -> Score:
    """Score a submission CSV against a solution CSV.

    Args:
        submission: Columns ID and Prediction.
        solution: The same columns; others, such as Kaggle's ``Usage``, are ignored.
        competition: Whose score it is.

    Raises:
        SubmissionError: A file cannot be read, the IDs of the two differ, or a value is not finite.
    """
    truth = read_submission(solution)
    layout = RowLayout.from_ids(truth.ids)
    if set(layout.variables) != set(competition.variables):
        raise SubmissionError(
            f"{solution} is not a solution of {competition.title}",
            found=f"variables {', '.join(layout.variables)}",
            expected=", ".join(competition.variables),
        )
    target = arrange(truth, layout, str(solution))
    prediction = arrange(read_submission(submission, layout.most_rows), layout, str(submission))
    return _score(competition, prediction, target, layout)


def score_submission(
    submission: Path | str, truth: NDArray[np.floating], grid: Grid, competition: Competition
) -> Score:
    """Score a submission CSV against fields.

    The number is that of `score_csv` with these fields written as the solution, to about 1e-7: a CSV holds the
    decimal numbers that stand for float32 values, the fields hold the values.

    Args:
        submission: Columns ID and Prediction.
        truth: (T, V, Y, X) the variables of the competition in its units, the first month that of ``t000``.
        grid: Cell centres of the Y and X axes.
        competition: Whose score it is.

    Raises:
        SubmissionError: The file cannot be read, its IDs are not those of the truth, or a value is not finite; the
            truth is hidden (all zero).
    """
    layout = RowLayout.of(grid, len(truth), competition.variables)
    if truth.shape != layout.shape:
        raise ValueError(f"truth {truth.shape} must be (T, V, Y, X) = {layout.shape}")
    prediction = arrange(read_submission(submission, layout.most_rows), layout, str(submission))
    return _score(competition, prediction, truth, layout)


def arrange(columns: CsvColumns, layout: RowLayout, name: str) -> NDArray[np.float64]:
    """Put the rows of a file into fields (T, V, Y, X), matched by ID.

    Raises:
        SubmissionError: An ID is missing, unknown or there twice, or a value is not finite.
    """
    if columns.ids.equals(layout.ids):
        fields = columns.values
    else:
        positions = layout.positions(columns.ids)
        _match(positions, columns, layout, name)
        fields = np.empty(layout.size)
        fields[positions] = columns.values
    fields = fields.reshape(layout.shape)
    hint = f"emukit check-submission {name} names every wrong row"
    refuse_not_finite(fields, name, _address(layout), SubmissionError, hint)
    return fields


def _match(positions: NDArray[np.int64], columns: CsvColumns, layout: RowLayout, name: str) -> None:
    times = np.bincount(positions[positions >= 0], minlength=layout.size)
    unknown, missing, repeated = np.flatnonzero(positions < 0), np.flatnonzero(times == 0), np.flatnonzero(times > 1)
    found = []
    for count, what, example in (
        (len(missing), "missing", lambda: layout.id_at(int(missing[0]))),
        (len(unknown), "unknown", lambda: columns.ids[int(unknown[0])].as_py()),
        (len(repeated), "repeated", lambda: layout.id_at(int(repeated[0]))),
    ):
        if count:
            found.append(f"{count} {what} IDs, for example {example()}")
    if found:
        raise SubmissionError(
            f"the IDs of {name} are not those of the truth",
            found="; ".join(found),
            expected=f"each of {layout.size} IDs once, {layout.id_at(0)} .. {layout.id_at(layout.size - 1)}",
            hint=f"emukit check-submission {name} names every wrong row",
        )


def _score(
    competition: Competition, prediction: NDArray[np.floating], truth: NDArray[np.floating], layout: RowLayout
) -> Score:
    where, variables = _address(layout), layout.variables
    return checked_score(competition, prediction, truth, layout.weights, variables, where, SubmissionError)


def _address(layout: RowLayout) -> Address:
    return lambda *at: layout.id_at(int(np.ravel_multi_index(at, layout.shape)))


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
