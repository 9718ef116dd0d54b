"""Diffusion: a network learns to remove noise of any level, and draws realisations by removing all of it from noise.

Invariant: the solvers know no network, only a function that says the mean of the clean field given a noisy one and its
level. For a Gaussian that function is known exactly, and so is the spread that a number of steps gives
(`tests/objectives/test_diffusion.py`). The deterministic solvers draw nothing after the start, so that a realisation is
a function of one field of noise.

Preconditioning, law of the levels and Heun's method after Karras et al. 2022 (arXiv:2206.00364); the multistep solver
is DPM-Solver++(2M) of Lu et al. 2022 (arXiv:2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import Mean, local_mean
from emukit.objectives.base import Forward, Noise, Objective

# (noisy fields, their level, the standard deviation of the noise) -> the mean of the clean fields.
Denoiser = Callable[[Tensor, Tensor], Tensor]

# draw, from 1 -> standard normal numbers in the shape of the fields.
Draws = Callable[[int], Tensor]


def noise_levels(number: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0) -> Tensor:
    """Levels from the largest to the smallest, and zero (equation 5 of Karras et al.).

    Args:
        number: Of levels above zero.
        smallest: The last of them.
        largest: The first.
        rho: How much closer together small levels lie; 1 spaces them evenly.

    Returns:
        (number + 1,) float64.
    """
    at = torch.linspace(0, 1, number, dtype=torch.float64) if number > 1 else torch.zeros(1, dtype=torch.float64)
    levels = (largest ** (1 / rho) + at * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    return torch.cat((levels, levels.new_zeros(1)))


def heun(
    denoise: Denoiser,
    start: Tensor,
    levels: Tensor,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.05, 50.0),
    churn_noise: float = 1.003,
    draws: Draws | None = None,
) -> Tensor:
    """Heun's second-order method, 2 N - 1 evaluations for N levels (algorithm 2 of Karras et al.).

    Args:
        denoise: The mean of the clean fields.
        start: Noise of the first level.
        levels: As `noise_levels` gives them.
        churn: Noise that is added again before each step, over all steps; 0 is deterministic.
        churn_range: Levels between which it is.
        churn_noise: Factor of its standard deviation.
        draws: Its numbers, needed with churn.

    Returns:
        Clean fields in the shape of `start`.
    """
    x, values, most = start, levels.tolist(), math.sqrt(2.0) - 1.0
    for i, (level, following) in enumerate(pairwise(values)):
        if churn > 0 and draws is not None and churn_range[0] <= level <= churn_range[1]:
            higher = level * (1 + min(churn / (len(values) - 1), most))
            x = x + churn_noise * math.sqrt(higher**2 - level**2) * draws(i + 1)
            level = higher
        slope = (x - denoise(x, x.new_tensor(level))) / level
        following_x = x + (following - level) * slope
        if following > 0:
            other = (following_x - denoise(following_x, x.new_tensor(following))) / following
            following_x = x + (following - level) * 0.5 * (slope + other)
        x = following_x
    return x


def dpm_solver(denoise: Denoiser, start: Tensor, levels: Tensor) -> Tensor:
    """The second-order multistep DPM-Solver++ of clean fields, one evaluation for each level, none of them at zero.

    Args:
        denoise: The mean of the clean fields.
        start: Noise of the first level.
        levels: As `noise_levels` gives them.

    Returns:
        Clean fields in the shape of `start`.
    """
    x, values = start, levels.tolist()
    before: Tensor | None = None
    step_before = 0.0
    for level, following in pairwise(values):
        clean = denoise(x, x.new_tensor(level))
        if following == 0:
            return clean
        # In time -log(level) the fields relax to the clean ones, which are extrapolated to the middle of the step.
        step = math.log(level / following)
        middle = clean
        if before is not None:
            middle = clean + 0.5 * step / step_before * (clean - before)
        x = following / level * x - math.expm1(-step) * middle
        before, step_before = clean, step
    return x


class Diffusion(Objective):
    """Weighted squared error of denoised targets."""

    draws = True
    divisible = False
    single_runs = True
    levels = True

    def __init__(
        self,
        loss: CompositeLoss | None,
        *,
        solver: Literal["dpm", "heun"] = "dpm",
        steps: int = 20,
        smallest: float = 0.02,
        largest: float = 20.0,
        churn: float = 0.0,
        log_mean: float = -1.2,
        log_deviation: float = 1.2,
        deviation: float = 1.0,
    ) -> None:
        """Set it up.

        Args:
            loss: The composite loss, of which grid, variables and area weights are taken.
            solver: ``dpm``, one evaluation of the network for each step, or ``heun``, two.
            steps: Levels from the largest to the smallest.
            smallest: Standard deviation of the last noise, in units of the normalised targets.
            largest: Of the first: far above the targets' own.
            churn: Noise that ``heun`` adds again, over all steps. With few steps it spreads realisations too far.
            log_mean: Mean of the logarithm of the levels in training.
            log_deviation: Its standard deviation.
            deviation: Standard deviation of the normalised targets.

        Raises:
            RecipeError: A value out of its range, or churn for a solver that has none.
        """
        super().__init__(loss)
        if steps < 1:
            raise RecipeError("objective.steps is out of range", found=str(steps), expected="1 or more")
        for name, value in (("log_deviation", log_deviation), ("deviation", deviation), ("smallest", smallest)):
            if not value > 0:
                raise RecipeError(f"objective.{name} is out of range", found=str(value), expected="more than 0")
        if not largest > smallest:
            raise RecipeError(
                "objective.largest is not above objective.smallest", found=f"{largest}, {smallest}", expected="larger"
            )
        if churn < 0 or (churn > 0 and solver != "heun"):
            raise RecipeError(
                "objective.churn cannot be",
                found=f"{churn}, with the solver {solver}",
                expected="0, or more with the solver heun",
                hint="--set objective.solver=heun",
            )
        self.solver, self.steps, self.churn = solver, steps, churn
        self.smallest, self.largest = smallest, largest
        self.log_mean, self.log_deviation, self.deviation = log_mean, log_deviation, deviation

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over variables of the area-mean squared error, weighted so that every level counts alike at first."""
        assert self.composite is not None
        targets = sample.targets.float()
        levels = (self.log_mean + self.log_deviation * torch.randn(targets.shape[:2], device=targets.device)).exp()
        wide = levels[..., None, None, None]
        noise = self.composite.context.sphere.randn(targets.shape, targets)
        denoised = self._denoise(forward, sample.frames, targets + wide * noise, levels)
        weight = (wide**2 + self.deviation**2) / (wide * self.deviation) ** 2
        return self.composite.means(weight * (denoised - targets) ** 2, "denoising", mean)

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """One realisation."""

        def draws(number: int) -> Tensor:
            return noise.answer(number).to(frames)

        def denoise(noisy: Tensor, level: Tensor) -> Tensor:
            return self._denoise(forward, frames, noisy, level.expand(noisy.shape[:2]))

        levels = noise_levels(self.steps, self.smallest, self.largest)
        start = self.largest * draws(0)
        if self.solver == "dpm":
            return dpm_solver(denoise, start, levels)
        return heun(denoise, start, levels, churn=self.churn, draws=draws)

    def _denoise(self, forward: Forward, frames: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
        """The mean of the clean fields: the network with inputs and outputs of unit variance (Karras et al., table 1).

        Args:
            forward: The network.
            frames: (S, L+H-1, C, Y, X).
            noisy: (S, L, V, Y, X).
            levels: (S, L).
        """
        own, level = self.deviation**2, levels[..., None, None, None]
        total = level**2 + own
        said = forward(frames, noisy * total.rsqrt(), levels.log() / 4)
        return own / total * noisy + level * self.deviation * total.rsqrt() * said
