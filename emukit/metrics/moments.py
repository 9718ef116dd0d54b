"""Sums that every score is a function of.

Invariant: `Moments` add. However the months were divided over batches, processes or machines, the sums, and so the
score, are those of the whole (up to float64 rounding in the order of addition).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float64]
# From (T, V, Y, X) float64 predictions and truths to (T, V, Y, X) values, which are summed over the months.
Term = Callable[[Field, Field], Field]


@dataclass(frozen=True, eq=False)
class Moments:
    """Additive sums over months, per variable and cell, in float64.

    In float32 the sum of squares of 360 fields of 280 K errs by up to 0.25 K in the standard deviation, hence float64.

    Attributes:
        n: Number of months; of several sets of months at once (..., 1, 1).
        p, t: (V, Y, X) sums of the prediction and of the truth. Other leading dimensions are several sets of months.
        pp, tt: (V, Y, X) sums of their squares.
        ee: (V, Y, X) sum of squared errors.
        more: Name to (V, Y, X), further sums that a metric brought (`emukit.metrics.Metric.terms`).
    """

    n: int | Field
    p: Field
    t: Field
    pp: Field
    tt: Field
    ee: Field
    more: Mapping[str, Field] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(cls, prediction: ArrayLike, truth: ArrayLike, terms: Mapping[str, Term] | None = None) -> Moments:
        """Sums of (T, V, Y, X) fields in physical units.

        Args:
            prediction: What is scored.
            truth: What it is compared with.
            terms: Further values to sum, by name.

        Raises:
            ValueError: The shapes differ.
        """
        p, t = np.asarray(prediction), np.asarray(truth)
        terms = terms or {}
        if p.shape != t.shape or p.ndim != 4:
            raise ValueError(f"prediction {p.shape} and truth {t.shape} must both be (T, V, Y, X)")
        total = cls.zero(p.shape[1:], tuple(terms))
        # Slices of twelve months keep the float64 copies small next to the fields themselves.
        for i in range(0, len(p), 12):
            a, b = p[i : i + 12].astype(np.float64), t[i : i + 12].astype(np.float64)
            more = {name: term(a, b).sum(0) for name, term in terms.items()}
            total += cls(len(a), a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), ((a - b) ** 2).sum(0), more=more)
        return total

    @classmethod
    def zero(cls, shape: tuple[int, ...], names: Sequence[str] = ()) -> Moments:
        """Sums over no months, for fields of shape (V, Y, X), with further sums of these names."""
        return cls(0, *(np.zeros(shape) for _ in range(5)), more={name: np.zeros(shape) for name in names})

    def __add__(self, other: Moments) -> Moments:
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "more")
        return Moments(*sums, more={name: value + other.more[name] for name, value in self.more.items()})

    def of_variable(self, place: int) -> Moments:
        """The sums of one variable, (..., Y, X)."""

        def take(values: Field) -> Field:
            return values[..., place, :, :]

        chosen = (take(values) for values in (self.p, self.t, self.pp, self.tt, self.ee))
        return replace(
            self, **dict(zip(_FIELDS, chosen, strict=True)), more={name: take(v) for name, v in self.more.items()}
        )

    @cached_property
    def mean_prediction(self) -> Field:
        """(..., V, Y, X) mean of the predictions over the steps."""
        return np.asarray(self.p / self.n)

    @cached_property
    def mean_truth(self) -> Field:
        """(..., V, Y, X) mean of the truths over the steps."""
        return np.asarray(self.t / self.n)

    @cached_property
    def std_prediction(self) -> Field:
        """(..., V, Y, X) population standard deviation of the predictions over the steps."""
        # max(0): rounding can leave a constant series a variance of -1e-12.
        return np.asarray(np.sqrt(np.maximum(self.pp / self.n - self.mean_prediction**2, 0.0)))

    @cached_property
    def std_truth(self) -> Field:
        """(..., V, Y, X) population standard deviation of the truths over the steps."""
        return np.asarray(np.sqrt(np.maximum(self.tt / self.n - self.mean_truth**2, 0.0)))

    def pack(self) -> Field:
        """(6, V, Y, X) and one more for each further sum: all as one array, the months in every cell of the first."""
        return np.stack([np.full_like(self.p, self.n), self.p, self.t, self.pp, self.tt, self.ee, *self.more.values()])

    @classmethod
    def unpack(cls, packed: Field, names: Sequence[str] = ()) -> Moments:
        """The inverse of `pack`; of a sum of packed moments, their sum.

        Args:
            packed: As `pack` gives it, or such arrays of several processes, added up.
            names: Of further sums, `more`, in the order in which they were packed.
        """
        more = dict(zip(names, packed[6:], strict=True))
        return cls(round(float(packed[0].flat[0])), *packed[1:6], more=more)


_FIELDS = ("p", "t", "pp", "tt", "ee")
