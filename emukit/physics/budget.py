"""Global means held to a budget, after any step that knows nothing of it.

Invariant: after a correction the area-weighted global mean of a quantity is its budget, to the accuracy of float64
(1e-12), and what had to be added is known. Fields are computed and returned in float64: rounded to float32 they would
miss the budget by 1e-7.

A correction either adds the same amount everywhere, or multiplies by one factor, which keeps zeros zero and signs as
they are; a network learns under either, since both have gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from emukit.errors import RecipeError

How = Literal["add", "multiply"]
HOWS: tuple[How, ...] = ("add", "multiply")


class BudgetCorrector(nn.Module):
    """Holds global means of named quantities to budgets, and keeps count of what that took.

    Attributes:
        steps: () how many corrections were made since `reset`.
        total: (Q,) sum of what was added to each global mean.
        largest: (Q,) largest amount of it in one step.
    """

    weights: Tensor
    steps: Tensor
    total: Tensor
    largest: Tensor

    def __init__(self, weights: Tensor, quantities: Sequence[str], how: Mapping[str, How]) -> None:
        """Say which quantities are held, and how.

        Args:
            weights: (Y, X) areas of the cells, in any unit.
            quantities: Names along the V axis of the fields.
            how: Quantity to ``add`` or ``multiply``; one that is not named is left alone.

        Raises:
            RecipeError: A quantity that the fields do not hold.
        """
        super().__init__()
        unknown = [name for name in how if name not in quantities]
        if unknown:
            raise RecipeError(
                "a budget of a quantity that is not there",
                found=", ".join(unknown),
                expected=f"some of {', '.join(quantities)}",
            )
        self.held, self.how = tuple(how), dict(how)
        self._places = [list(quantities).index(name) for name in self.held]
        areas = weights.double()
        self.register_buffer("weights", areas / areas.sum(), persistent=False)
        for name, shape in (("steps", ()), ("total", (len(how),)), ("largest", (len(how),))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64), persistent=False)

    def reset(self) -> None:
        """Forget what was added."""
        for tally in (self.steps, self.total, self.largest):
            tally.zero_()

    def mean(self, fields: Tensor) -> Tensor:
        """(...) global means of (..., Y, X) fields."""
        return (fields.double() * self.weights).sum((-2, -1))

    def forward(self, fields: Tensor, budgets: Mapping[str, Tensor]) -> Tensor:
        """Correct one step.

        Args:
            fields: (..., V, Y, X).
            budgets: For each quantity that is held, the (...) global mean that it must have, in its own unit.

        Returns:
            (..., V, Y, X) float64.

        Raises:
            RecipeError: A budget is missing, or a mean cannot be brought to it by a factor.
        """
        missing = [name for name in self.held if name not in budgets]
        if missing:
            raise RecipeError("a budget is missing", found=", ".join(budgets) or "none", expected=", ".join(self.held))
        parts = list(fields.double().unbind(-3))
        for number, (name, place) in enumerate(zip(self.held, self._places, strict=True)):
            before, budget = self.mean(parts[place]), budgets[name].double()
            if self.how[name] == "add":
                parts[place] = parts[place] + (budget - before)[..., None, None]
            else:
                parts[place] = parts[place] * _factor(name, before, budget)[..., None, None]
            added = (budget - before).detach()
            self.total[number] += added.sum()
            self.largest[number] = torch.maximum(self.largest[number], added.abs().max())
        self.steps += budgets[self.held[0]].numel() if self.held else 0
        return torch.stack(parts, -3)

    def added(self) -> dict[str, dict[str, float]]:
        """What was added to the global mean of each quantity since `reset`: its mean over steps, and the largest."""
        steps = max(float(self.steps), 1.0)
        return {
            name: {"mean": float(self.total[i]) / steps, "largest": float(self.largest[i])}
            for i, name in enumerate(self.held)
        }


class StateBudgets:
    """Holds global means of normalised states to those that a trajectory began with.

    Attributes:
        corrector: Of physical values, with its count of what was added.
    """

    def __init__(
        self,
        weights: Tensor,
        quantities: Sequence[str],
        how: Mapping[str, How],
        center: Tensor,
        spread: Tensor,
    ) -> None:
        """Say which states are held, and how.

        Args:
            weights: (Y, X) areas of the cells, in any unit.
            quantities: Names of the n states.
            how: State to ``add`` or ``multiply``.
            center: (n, Y, X) physical value of a normalised zero.
            spread: (n, Y, X) physical size of a normalised one.

        Raises:
            RecipeError: A quantity that is no state.
        """
        self.corrector = BudgetCorrector(weights, quantities, how).to(weights.device)
        self._center, self._spread = center.double(), spread.double()
        self._places = [list(quantities).index(name) for name in self.corrector.held]

    def budgets(self, states: Tensor) -> dict[str, Tensor]:
        """The (B,) global means, in physical units, of the (B, n, Y, X) states that a trajectory begins from."""
        means = self.corrector.mean(self._center + self._spread * states.double())
        return {name: means[:, place] for name, place in zip(self.corrector.held, self._places, strict=True)}

    def hold(self, states: Tensor, budgets: Mapping[str, Tensor]) -> Tensor:
        """(B, n, Y, X) states with these means; those that are not held are left alone, bit for bit.

        Raises:
            RecipeError: A mean cannot be brought to its budget by a factor.
        """
        held = self.corrector(self._center + self._spread * states.double(), budgets)
        normalised = ((held - self._center) / self._spread).to(states.dtype)
        parts = list(states.unbind(1))
        for place in self._places:
            parts[place] = normalised[:, place]
        return torch.stack(parts, 1)


def _factor(name: str, before: Tensor, budget: Tensor) -> Tensor:
    """() or (...) factors; one where both mean and budget are zero."""
    nothing = (before == 0) & (budget == 0)
    factor = torch.where(nothing, 1.0, budget / torch.where(nothing, 1.0, before))
    if not (torch.isfinite(factor).all() and (factor >= 0).all()):
        raise RecipeError(
            f"the global mean of {name} cannot be brought to its budget by a factor",
            found=f"means from {float(before.min()):.4g} to {float(before.max()):.4g}, budgets from "
            f"{float(budget.min()):.4g} to {float(budget.max()):.4g}",
            expected="means and budgets of one sign, other than zero",
            hint="hold it by adding",
        )
    return factor
