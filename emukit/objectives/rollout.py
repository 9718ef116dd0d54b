"""Rollout: a network is trained on trajectories of several steps, each from the states that it said before.

Invariant: the loss of L steps has the gradient of the whole trajectory, with checkpointing as without. A length is
never used before its boundary. Of one step it is the regression of what a step changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import Mean, local_mean
from emukit.objectives.base import Forward, Objective
from emukit.physics.budget import HOWS, StateBudgets


@dataclass(frozen=True)
class Curriculum:
    """How long the trajectories of training are.

    Attributes:
        lengths: Their steps, one length after the other; the last is the longest.
        boundaries: Epochs after which the next length is used, one fewer than lengths.
        table: Where a recipe says both.
    """

    lengths: tuple[int, ...]
    boundaries: tuple[float, ...]
    table: str = "objective"

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            RecipeError: Lengths do not grow, or boundaries do not ascend or are not one fewer.
        """
        lengths, boundaries, table = self.lengths, self.boundaries, self.table
        if not lengths or lengths[0] < 1 or any(a >= b for a, b in pairwise(lengths)):
            raise RecipeError(
                f"{table}.lengths must grow", found=str(list(lengths)), expected="steps such as [1, 2, 4], from 1 up"
            )
        if len(boundaries) != len(lengths) - 1:
            raise RecipeError(
                f"{table}.boundaries must be one fewer than {table}.lengths",
                found=f"boundaries: {len(boundaries)}, lengths: {len(lengths)}",
                expected="the epoch after which each length but the first is used",
                hint=f"--set {table}.lengths=[1,2] --set {table}.boundaries=[10]",
            )
        if any(b <= 0 for b in boundaries) or any(a >= b for a, b in pairwise(boundaries)):
            raise RecipeError(f"{table}.boundaries must ascend, above zero", found=str(list(boundaries)))

    @property
    def longest(self) -> int:
        """The last of the lengths."""
        return self.lengths[-1]

    def at(self, epochs: float) -> int:
        """The length that follows from the epochs that are done."""
        return self.lengths[sum(epochs >= b for b in self.boundaries)]

    def mean(self, epochs: int) -> float:
        """Of the lengths, over so many epochs."""
        edges = [0.0, *(min(b, epochs) for b in self.boundaries), float(epochs)]
        return sum(length * (b - a) for length, (a, b) in zip(self.lengths, pairwise(edges), strict=True)) / epochs


class Rollout(Objective):
    """The composite loss over the steps of a trajectory, in units of what one step changes."""

    divisible = False
    single_runs = True
    trajectory = True

    def __init__(
        self,
        loss: CompositeLoss | None,
        *,
        lengths: Sequence[int] = (1, 2, 4),
        boundaries: Sequence[float] = (10.0, 20.0),
        checkpoint: bool = False,
        noise: float = 0.0,
    ) -> None:
        """Set it up.

        Args:
            loss: The composite loss.
            lengths: Steps of a trajectory, one length after the other; the last is the longest, and that of a sample.
            boundaries: Epochs after which the next length is used, one fewer than lengths.
            checkpoint: Keep the states between steps alone, and compute what is between them again for the gradient:
                less memory, a third more time.
            noise: Standard deviation of what is added to the states that a trajectory begins from, in units of what one
                step changes; while training.

        Raises:
            RecipeError: Lengths do not grow, boundaries do not ascend or are not one fewer, or the noise is negative.
        """
        super().__init__(loss)
        self.curriculum = Curriculum(tuple(lengths), tuple(boundaries))
        self.checkpoint, self.noise = checkpoint, noise
        if noise < 0:
            raise RecipeError("objective.noise is out of range", found=str(noise), expected="zero or more")
        self._epochs = 0.0

    @property
    def longest(self) -> int:
        """The last of its lengths."""
        return self.curriculum.longest

    @property
    def length(self) -> int:
        """That of the step that comes next."""
        return self.curriculum.at(self._epochs)

    @property
    def passes(self) -> int:
        """One for each step of the longest trajectory."""
        return self.longest

    @property
    def kept(self) -> int:
        """All of them, or one at a time."""
        return 1 if self.checkpoint else self.longest

    def share(self, epochs: int) -> float:
        """Shorter trajectories cost less."""
        return self.curriculum.mean(epochs) / self.longest

    def advance(self, epochs: float) -> None:
        """The length follows from the epochs that are done."""
        self._epochs = epochs

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the steps of the trajectory, of how far its states are from the true ones."""
        assert self.composite is not None
        length = min(self.length, sample.targets.shape[1])
        true = sample.targets[:, :length]
        # A state after i steps is the first plus i changes; an output that is not a state is predicted at every step.
        state = (sample.named["scale"][0] > 0)[:, None, None]
        true = torch.where(state, true.cumsum(1), true)
        budgets = _budgets_of(sample, self.composite.variables)
        said = self.trajectory_of(forward, sample, length, budgets)
        total, terms = self.composite(said, true, ramp=ramp, mean=mean)
        terms = {**terms, "steps": torch.tensor(float(length), device=total.device)}
        if budgets:
            # What the budgets had to add to a global mean in a step, at most, in its own unit.
            largest = zip(budgets.corrector.held, budgets.corrector.largest, strict=True)
            terms |= {f"conserved.{name}": value.to(total) for name, value in largest}
        return total, terms

    def trajectory_of(
        self, forward: Forward, sample: Sample, length: int, budgets: StateBudgets | None = None
    ) -> Tensor:
        """(S, L, V, Y, X): of states the change since the beginning, in units of `scale`; of others the field."""
        places, scale = sample.named["states"][0], sample.named["scale"][0][:, None, None]
        n, frames = len(places), sample.frames
        history = frames.shape[1] - sample.targets.shape[1] + 1
        held = frames[:, :history, -n:]
        if self.noise and torch.is_grad_enabled():
            held = held + self.noise * scale[places] * torch.randn_like(held)
        first, said, out = held[:, -1], None, []
        means = budgets.budgets(first) if budgets else {}
        for i in range(length):
            window = torch.cat((frames[:, i : i + history, :-n], held.to(frames.dtype)), 2)
            step = recomputed(forward, window, use_reentrant=False) if self.checkpoint else forward(window)
            change = step[:, 0]
            said = change if said is None else torch.where(scale > 0, said + change, change)
            after = first + (scale * said)[:, places]
            if budgets:
                after, said = _moved(budgets.hold(after, means), after, said, places, scale)
            out.append(said)
            if "lower" in sample.named:
                within = after.clamp(sample.named["lower"][:, places], sample.named["upper"][:, places])
                # Clipping to the bounds changes global means, so they are held again.
                within = budgets.hold(within, means) if budgets else within
                after, said = _moved(within, after, said, places, scale)
            held = torch.cat((held[:, 1:], after[:, None]), 1)
        return torch.stack(out, 1)


def _moved(to: Tensor, states: Tensor, said: Tensor, places: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """States that were moved, and what a trajectory said with them."""
    more = torch.zeros_like(said)
    more[:, places] = (to - states) / scale[places]
    return to, said + more


def _budgets_of(sample: Sample, names: Sequence[str]) -> StateBudgets | None:
    """What holds the means that a sample says are conserved."""
    if "held" not in sample.named:
        return None
    areas, center, spread, held = (sample.named[name][0] for name in ("areas", "center", "spread", "held"))
    states = [names[place] for place in sample.named["states"][0].tolist()]
    how = {name: HOWS[number - 1] for name, number in zip(states, held.tolist(), strict=True) if number}
    return StateBudgets(areas, states, how, center, spread)
