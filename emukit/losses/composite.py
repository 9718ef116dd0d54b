"""Weighted sums of loss terms, variable by variable, each term logged by its name.

Invariant: the total is exactly the weighted sum of the terms it reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from torch import Tensor

from emukit.errors import RecipeError

LossTerm = Callable[[Tensor, Tensor, Tensor], Tensor]

# name -> module:function of (prediction (S, L, Y, X), target, weights (Y, X)); a new term: a function and a line here.
TERMS: dict[str, str] = {
    "mse": "emukit.losses.pixel:mse",
    "l1": "emukit.losses.pixel:l1",
    "huber": "emukit.losses.pixel:huber",
    "time_mean": "emukit.losses.decade:time_mean",
    "time_std": "emukit.losses.decade:time_std",
}


def loss_term(name: str) -> LossTerm:
    """Look a term up.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in TERMS:
        raise RecipeError(f"unknown loss term {name!r}", expected=", ".join(TERMS), hint="--set loss.tas.mse=1.0")
    module, _, function = TERMS[name].partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


class CompositeLoss:
    """Sum over variables and terms of weight times term."""

    def __init__(
        self, terms: Mapping[str, Mapping[str, float]], variables: tuple[str, ...], area_weights: Tensor
    ) -> None:
        """Resolve the names.

        Args:
            terms: Variable to term name to weight.
            variables: Names along the V axis of predictions.
            area_weights: (Y, X), sums to one.

        Raises:
            RecipeError: An unknown variable or term, or no term at all.
        """
        unknown = sorted(set(terms) - set(variables))
        if unknown:
            raise RecipeError("loss for an unknown variable", found=", ".join(unknown), expected=", ".join(variables))
        self._terms = [
            (f"{v}.{name}", variables.index(v), loss_term(name), weight)
            for v, named in terms.items()
            for name, weight in named.items()
            if weight != 0
        ]
        if not self._terms:
            raise RecipeError("the loss has no term", hint="--set loss.tas.mse=1.0")
        self._area_weights = area_weights

    def __call__(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of (S, L, V, Y, X) fields: the total, and every term by name before its weight."""
        values: dict[str, Tensor] = {}
        total = prediction.new_zeros(())
        for name, v, term, weight in self._terms:
            values[name] = term(prediction[:, :, v], target[:, :, v], self._area_weights)
            total = total + weight * values[name]
        return total, {k: x.detach() for k, x in values.items()}
