"""Stochastic interpolants: a network learns the drift of a random path from a source to the target.

Invariant: the solvers know no network, only a function that says the mean drift at a point of the path. For a Gaussian
that function is known exactly, and so is the spread that a number of steps gives
(`tests/objectives/test_interpolant.py`). A realisation is a function of the numbers drawn for its steps.

The path from a source x0 to a target x1 is I = a x0 + b x1 + s W with a Brownian W, on times t from 0 to 1; a = 1 - t,
b = t or t squared, s = noise (1 - t). The drift E[a' x0 + b' x1 + s' W | I, x0] with diffusion s takes x0 to a draw of
x1 given x0 (Chen et al. 2024, arXiv:2403.13724). Times and schedules as there and in Atlas (arXiv:2601.18111).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import Mean, local_mean
from emukit.objectives.base import Forward, Noise, Objective

# (fields on the path, time) -> their mean drift.
Drift = Callable[[Tensor, float], Tensor]

# step, from 0 -> standard normal numbers in the shape of the fields.
Draws = Callable[[int], Tensor]

# time -> diffusion.
Diffusivity = Callable[[float], float]

Target = Literal["linear", "quadratic"]

# Before this time a corrected path keeps its own diffusion. At its beginning all fields are the source, and the score
# grows like 1 / t: equal steps from there on give 13 % too much spread without diffusion, however short they are.
SPREAD = 0.1


@dataclass(frozen=True)
class Schedule:
    """The coefficients of a path. Times are numbers or tensors.

    Attributes:
        target: How the weight b of the target grows: t (``linear``) or t squared (``quadratic``).
        noise: Of the Brownian motion at its beginning, in units of the targets.
    """

    target: Target = "linear"
    noise: float = 1.0

    def a(self, t: Tensor) -> Tensor:
        """Weight of the source; its derivative is -1."""
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        """Weight of the target."""
        return t if self.target == "linear" else t**2

    def b_slope(self, t: Tensor) -> Tensor:
        """Its derivative."""
        return torch.ones_like(t) if self.target == "linear" else 2 * t

    def s(self, t: float) -> float:
        """Weight of the Brownian motion; its derivative is minus `noise`."""
        return self.noise * (1 - t)

    def of_gaussian(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The drift to a target of which nothing is known but its unit variance.

        Args:
            t: From 0 to 1.

        Returns:
            The standard deviation of the path about a x0; the factor by which the drift, which takes away x0, follows
            that difference; the standard deviation of what this leaves of the drift of a single path.
        """
        power = 1 if self.target == "linear" else 2
        # Variance of b x1 + s W and its covariance with b' x1 + s' W, both divided by t, which may be zero.
        variance = t ** (2 * power - 1) + self.noise**2 * (1 - t) ** 2
        # At the beginning nothing is apart from the source: without noise to speak of this would be 0 / 0.
        variance = variance.clamp(min=torch.finfo(variance.dtype).tiny)
        covariance = power * t ** (2 * power - 2) - self.noise**2 * (1 - t)
        left = self.b_slope(t) ** 2 + self.noise**2 * t - t * covariance**2 / variance
        return (t * variance).sqrt(), covariance / variance, left.clamp(min=0.0).sqrt()

    def corrected(self, drift: Drift, source: Tensor, diffusion: Diffusivity) -> Drift:
        """The drift that gives the same fields at every time with another diffusion, 0 < t < 1.

        With the score of the density, (b drift - c) / (t s (b' s - b s')), c = b' x + (b a' - b' a) x0.

        Args:
            drift: That of diffusion s.
            source: x0.
            diffusion: The other one.
        """

        def other(x: Tensor, t: float) -> Tensor:
            said, change = drift(x, t), diffusion(t) ** 2 - self.s(t) ** 2
            if change == 0:
                return said
            time = torch.tensor(t, dtype=torch.float64)
            a, b, slope = (float(f(time)) for f in (self.a, self.b, self.b_slope))
            score = (b * said - slope * x + (b + slope * a) * source) / (
                t * self.s(t) * (slope * self.s(t) + b * self.noise)
            )
            return said + 0.5 * change * score

        return other


def euler_maruyama(drift: Drift, start: Tensor, steps: int, diffusion: Diffusivity, draws: Draws) -> Tensor:
    """The Euler-Maruyama method on `steps` equal steps from time 0 to 1, one evaluation for each.

    Args:
        drift: Of the path.
        start: Where it begins.
        steps: How many.
        diffusion: Of the path, at the beginning of a step.
        draws: Its numbers.

    Returns:
        Fields in the shape of `start`.
    """
    x, h = start, 1.0 / steps
    for i in range(steps):
        t = i * h
        x = x + h * drift(x, t) + diffusion(t) * math.sqrt(h) * draws(i)
    return x


def roberts(drift: Drift, start: Tensor, steps: int, diffusion: Diffusivity, draws: Draws) -> Tensor:
    """The improved Euler scheme of Roberts 2012 (arXiv:1210.0933), of second order in the drift; two evaluations.

    The scheme's random sign, which tells Ito from Stratonovich, is left out: the diffusion depends on time alone.

    Args:
        drift: Of the path; asked at time 1 too.
        start: Where it begins.
        steps: How many.
        diffusion: Of the path.
        draws: Its numbers.

    Returns:
        Fields in the shape of `start`.
    """
    x, h = start, 1.0 / steps
    for i in range(steps):
        t, following = i * h, (i + 1) * h
        noise = math.sqrt(h) * draws(i)
        first = h * drift(x, t) + diffusion(t) * noise
        second = h * drift(x + first, following) + diffusion(following) * noise
        x = x + 0.5 * (first + second)
    return x


class Interpolant(Objective):
    """Squared error of the drift at a random time of each path."""

    draws = True
    divisible = False
    single_runs = True
    levels = True

    def __init__(
        self,
        loss: CompositeLoss | None,
        *,
        target: Target = "linear",
        noise: float = 1.0,
        solver: Literal["roberts", "euler"] = "roberts",
        steps: int = 10,
        diffusion: float = 1.0,
        gaussian: bool = False,
    ) -> None:
        """Set it up.

        Args:
            loss: The composite loss, of which grid, variables and area weights are taken.
            target: How the weight of the target grows.
            noise: Of the Brownian motion, in units of the normalised targets.
            solver: ``roberts``, two evaluations of the network for each step, or ``euler``, one.
            steps: From the source to the target.
            diffusion: Of the solver, in units of the path's own; the drift is corrected by the score. Only ``euler``
                takes another than 1: the score has no value at the end, where ``roberts`` asks for it.
            gaussian: The network learns what differs from the drift to a target of unit variance that neither source
                nor frames say anything of. One that has learned nothing then draws such a target, as with the
                preconditioning of ``diffusion``; otherwise it has to learn this drift too.

        Raises:
            RecipeError: A value out of its range.
        """
        super().__init__(loss)
        if steps < 1:
            raise RecipeError("objective.steps is out of range", found=str(steps), expected="1 or more")
        if not noise > 0:
            raise RecipeError("objective.noise is out of range", found=str(noise), expected="more than 0")
        if diffusion < 0 or (diffusion != 1 and solver != "euler"):
            raise RecipeError(
                "objective.diffusion cannot be",
                found=f"{diffusion}, with the solver {solver}",
                expected="1, or 0 or more with the solver euler",
                hint="--set objective.solver=euler",
            )
        self.schedule = Schedule(target, noise)
        self.solver, self.steps, self.diffusion, self.gaussian = solver, steps, diffusion, gaussian

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over variables of the area-mean squared error of the drift."""
        assert self.composite is not None
        x1 = sample.targets.float()
        x0 = sample.named["source"].float() if "source" in sample.named else torch.zeros_like(x1)
        times = torch.rand(x1.shape[:2], device=x1.device)
        t, path = times[..., None, None, None], self.schedule
        brownian = t.sqrt() * self.composite.context.sphere.randn(x1.shape, x1)
        along = path.a(t) * x0 + path.b(t) * x1 + path.noise * (1 - t) * brownian
        wanted = -x0 + path.b_slope(t) * x1 - path.noise * brownian
        error = self._drift(forward, sample.frames, along, x0, times) - wanted
        return self.composite.means(error**2, "drift", mean)

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """One realisation."""

        def draws(step: int) -> Tensor:
            return noise.answer(step).to(frames)

        x0 = torch.zeros_like(draws(0)) if source is None else source

        def drift(x: Tensor, t: float) -> Tensor:
            return self._drift(forward, frames, x, x0, x.new_full(x.shape[:2], t))

        def diffusion(t: float) -> float:
            return (self.diffusion if t >= SPREAD else 1.0) * self.schedule.s(t)

        if self.solver == "roberts":
            return roberts(drift, x0, self.steps, diffusion, draws)
        return euler_maruyama(self.schedule.corrected(drift, x0, diffusion), x0, self.steps, diffusion, draws)

    def _drift(self, forward: Forward, frames: Tensor, along: Tensor, source: Tensor, times: Tensor) -> Tensor:
        """The mean drift: the network with inputs and outputs of about unit variance, next to that of the source.

        Args:
            forward: The network.
            frames: (S, L+H-1, C, Y, X).
            along: (S, L, V, Y, X) where the path is.
            source: Likewise, where it began.
            times: (S, L).
        """
        t, path = times[..., None, None, None], self.schedule
        if self.gaussian:
            apart = along - path.a(t) * source
            deviation, factor, left = path.of_gaussian(t)
            said = forward(frames, apart / deviation.clamp(min=1e-6), times)
            return -source + factor * apart + left * said
        variance = path.a(t) ** 2 + path.b(t) ** 2 + (path.noise * (1 - t)) ** 2 * t
        said = forward(frames, along * variance.rsqrt(), times)
        return -source + (path.b_slope(t) ** 2 + path.noise**2 * t).sqrt() * said
