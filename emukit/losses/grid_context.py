"""What a loss term is, and what every term is built from: area weights, and what lies beyond the edges of a field.

Invariant: a term sees its batch only through means of numbers, one for each segment. Whoever calls it says how these
means are taken, so a batch cut into parts of any sizes, on several processes, has the value it has as a whole.

Fields are (S, L, Y, X) in normalised space: S segments of L consecutive months.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from emukit.errors import RecipeError
from emukit.sphere import WHOLE, Sphere

Padding = Literal["circular", "zero"]

# (S,) -> (): the mean over all segments of the batch, those of other processes included.
Mean = Callable[[Tensor], Tensor]

# (prediction (S, L, Y, X), target (S, L, Y, X), mean) -> ().
LossTerm = Callable[[Tensor, Tensor, Mean], Tensor]

# Added under roots and to denominators: the derivative of a square root at zero is infinite. Its own root, 1e-6, is
# small against any error that matters, and both are far from the smallest float32.
FLOOR = 1e-12


def local_mean(values: Tensor) -> Tensor:
    """Mean of numbers (S,) when this process holds the whole batch."""
    return values.mean()


def root(square: Tensor) -> Tensor:
    """Square root of non-negative values of any shape: zero at zero, with a finite derivative there."""
    rooted: Tensor = (square + FLOOR).sqrt() - FLOOR**0.5
    return rooted


@dataclass(frozen=True, eq=False)
class GridContext:
    """The grid as terms see it.

    Attributes:
        weights: (Y, X) area weights of the whole grid, sum one. Their dtype and device are those a term's own arrays
            are built in.
        padding: What stencils see beyond the edges: the other side of the globe (``circular``) or zeros (``zero``).
        sphere: Which cells of the fields this process has, and how it reaches those of others.
    """

    weights: Tensor
    padding: Padding = "circular"
    sphere: Sphere = WHOLE

    def constant(self, values: Tensor) -> Tensor:
        """An array of a term, of any shape, computed in float64, on the device and in the precision of the weights."""
        return values.to(self.weights)

    def area_mean(self, values: Tensor) -> Tensor:
        """Area mean, (..., Y, X) -> (...)."""
        weights = self.sphere.own(self.weights)
        mean: Tensor = (values * weights.to(values.dtype)).sum((-2, -1))
        return self.sphere.sum(mean)

    def segment_mean(self, values: Tensor) -> Tensor:
        """Mean over months and area, (S, L, Y, X) -> (S,)."""
        return self.area_mean(values).mean(1)

    def padder(self, width: int) -> Callable[[Tensor], Tensor]:
        """What continues fields (..., Y, X) by some cells on every side, (..., Y + 2 width, X + 2 width).

        Circular fields are round in longitude. Beyond a pole lies the other half of the same meridian: rows are
        mirrored and turned by 180 degrees, since cells lie like this on a sphere and any other continuation would put
        an edge into the field that is not there. Zero padding repeats published losses.

        Raises:
            RecipeError: The grid is narrower than the padding.
        """
        if self.padding == "zero":
            return lambda fields: self.sphere.pad(fields, width, "zero")
        if min(self.weights.shape) < width:
            raise RecipeError(
                "the grid is too small for this loss",
                found=" x ".join(map(str, self.weights.shape)) + " cells",
                expected=f"at least {width} each way",
                hint="--set loss.padding=zero",
            )
        return lambda fields: self.sphere.pad(fields, width)
