"""Sums that every score is a function of.

Invariant: `Moments` add. However the months were divided over batches, processes or machines, the sums, and so the
score, are those of the whole (up to float64 rounding in the order of addition).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Additive sums over months, per variable and cell, in float64.

    In float32 the sum of squares of 360 fields of 280 K errs by up to 0.25 K in the standard deviation, hence float64.

    Attributes:
        n: Number of months.
        p, t: (V, Y, X) sums of the prediction and of the truth.
        pp, tt: (V, Y, X) sums of their squares.
        ee: (V, Y, X) sum of squared errors.
    """

    n: int
    p: Field
    t: Field
    pp: Field
    tt: Field
    ee: Field

    @classmethod
    def of(cls, prediction: ArrayLike, truth: ArrayLike) -> Moments:
        """Sums of (T, V, Y, X) fields in physical units.

        Raises:
            ValueError: The shapes differ.
        """
        p, t = np.asarray(prediction), np.asarray(truth)
        if p.shape != t.shape or p.ndim != 4:
            raise ValueError(f"prediction {p.shape} and truth {t.shape} must both be (T, V, Y, X)")
        total = cls.zero(p.shape[1:])
        # Slices of twelve months keep the float64 copies small beside the fields themselves.
        for i in range(0, len(p), 12):
            a, b = p[i : i + 12].astype(np.float64), t[i : i + 12].astype(np.float64)
            total += cls(len(a), a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), ((a - b) ** 2).sum(0))
        return total

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> Moments:
        """Sums over no months, for fields of shape (V, Y, X)."""
        return cls(0, *(np.zeros(shape) for _ in range(5)))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def pack(self) -> Field:
        """(6, V, Y, X): all sums as one array, the number of months in every cell of the first."""
        return np.stack([np.full_like(self.p, self.n), self.p, self.t, self.pp, self.tt, self.ee])

    @classmethod
    def unpack(cls, packed: Field) -> Moments:
        """The inverse of `pack`; of a sum of packed moments, their sum."""
        return cls(round(float(packed[0].flat[0])), *packed[1:])
