"""Weighted sums of loss terms, variable by variable, each term logged by its name.

Invariant: the total is exactly the weighted sum of the terms it reports, in single precision or better whatever the
network's precision. A term is built once, however many variables and steps use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from emukit.errors import RecipeError
from emukit.losses.grid_context import GridContext, LossTerm, Mean, local_mean
from emukit.losses.registry import TERMS


def build_term(name: str, context: GridContext) -> LossTerm:
    """Build a term by its name.

    Raises:
        RecipeError: There is none of that name, or the grid is too small for it.
    """
    builder: Callable[[GridContext], LossTerm] = TERMS.load(name)
    return builder(context)


class CompositeLoss:
    """Sum over variables and terms of weight times term.

    Attributes:
        variables: Names along the V axis of predictions.
        context: Area weights and padding.
    """

    def __init__(
        self, terms: Mapping[str, Mapping[str, float]], variables: tuple[str, ...], context: GridContext
    ) -> None:
        """Build the terms.

        Args:
            terms: Variable to term name to weight.
            variables: Names along the V axis of predictions.
            context: Area weights and padding.

        Raises:
            RecipeError: An unknown variable or term, no term at all, or a grid too small for one.
        """
        unknown = sorted(set(terms) - set(variables))
        if unknown:
            raise RecipeError("loss for an unknown variable", found=", ".join(unknown), expected=", ".join(variables))
        wanted = [(v, name, weight) for v, named in terms.items() for name, weight in named.items() if weight != 0]
        if not wanted:
            raise RecipeError("the loss has no term", hint="--set loss.default.mse=1.0")
        built = {name: build_term(name, context) for name in dict.fromkeys(name for _, name, _ in wanted)}
        self._terms = [(f"{v}.{name}", variables.index(v), built[name], weight) for v, name, weight in wanted]
        self._warmup = [(f"{v}.warmup", variables.index(v)) for v in dict.fromkeys(v for v, _, _ in wanted)]
        self.variables, self.context = variables, context
        self._l1 = build_term("l1", context)

    def __call__(
        self, prediction: Tensor, target: Tensor, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch.

        Args:
            prediction: (S, L, V, Y, X), normalised.
            target: Likewise.
            ramp: From 0, the mean absolute error of every variable that has terms, to 1, the weighted sum.
            mean: Mean of numbers (S,) over all segments of the batch, on all processes.

        Returns:
            The total, and by name every term before its weight; while `ramp` is below one also, as
            ``VARIABLE.warmup``, the mean absolute errors as they enter the total.
        """
        # Squares and differences of nearby numbers need more than the eight bits of a bfloat16.
        precision = torch.promote_types(prediction.dtype, torch.float32)
        prediction, target = prediction.to(precision), target.to(precision)
        values: dict[str, Tensor] = {}
        total = prediction.new_zeros(())
        with torch.autocast(prediction.device.type, enabled=False):
            # Before the ramp the terms are only reported, which needs no gradient.
            with torch.set_grad_enabled(torch.is_grad_enabled() and ramp > 0):
                for name, v, term, weight in self._terms:
                    values[name] = term(prediction[:, :, v], target[:, :, v], mean)
                    total = total + weight * values[name]
            if ramp < 1:
                total = ramp * total
                for name, v in self._warmup:
                    values[name] = (1 - ramp) * self._l1(prediction[:, :, v], target[:, :, v], mean)
                    total = total + values[name]
        return total, {k: x.detach() for k, x in values.items()}

    def means(self, values: Tensor, name: str, mean: Mean = local_mean) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over variables of numbers of every cell, such as a score, each variable's its area mean.

        Args:
            values: (S, L, V, Y, X).
            name: Under which the mean of a variable is logged, after that of the variable.
            mean: As for the loss.
        """
        by_name = {
            f"{v}.{name}": mean(self.context.segment_mean(values[:, :, i])) for i, v in enumerate(self.variables)
        }
        return torch.stack(list(by_name.values())).mean(), {k: x.detach() for k, x in by_name.items()}
