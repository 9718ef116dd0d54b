"""Parameters of the energy balance from runs of a climate model: idealised ones, or scenarios.

Invariant: what is fitted is exactly what `EnergyBalance.run` computes, and the fit depends on the numbers it is given
alone. Parameters are positive: their logarithms are fitted, by least squares, with normal priors where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emukit.errors import RecipeError
from emukit.physics.energy_balance import Course, EnergyBalance

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """An energy balance, and how strongly each kind of forcing acts on it.

    Attributes:
        balance: The energy balance.
        factors: (K,) of the K kinds of forcing.
        level: Surface temperature without any forcing, in the unit of what was fitted.
        rms: Root mean square of the errors of the surface temperature that the fit leaves, K; 0 where nothing was
            fitted.
    """

    balance: EnergyBalance
    factors: Tensor
    level: float = 0.0
    rms: float = 0.0

    def run(self, forcing: Array, years: float = 1.0, growth: float | None = None) -> Course:
        """Run the energy balance.

        Args:
            forcing: (K, N) by kind, W m-2 before the factors.
            years: Length of a step.
            growth: Rate, 1 per year, at which the forcing grew before the first step; at rest when None.
        """
        total = (self.factors[:, None] * torch.as_tensor(forcing, dtype=torch.float64)).sum(0)
        before = None if growth is None else self.balance.grown(total[0], growth)
        return self.balance.run(total, before, years)

    @property
    def numbers(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        return {**self.balance.numbers, "factors": self.factors.tolist(), "level": self.level, "rms": self.rms}

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Calibration:
        """The inverse of `numbers`."""
        balance = EnergyBalance.of(*(numbers[n] for n in ("feedback", "capacity", "exchange", "efficacy")))
        factors = torch.tensor(numbers["factors"], dtype=torch.float64)
        return cls(balance, factors, float(numbers["level"]), float(numbers["rms"]))

    def logs(self) -> Tensor:
        """(2 L + 1 + K,) logarithms of what is positive."""
        b = self.balance
        parts = (b.feedback[None], b.capacity, b.exchange, b.efficacy[None], self.factors)
        return torch.log(torch.cat(parts))

    @classmethod
    def of_logs(cls, logs: Tensor, layers: int, level: float = 0.0, rms: float = 0.0) -> Calibration:
        """The inverse of `logs`."""
        feedback, capacity, exchange, efficacy, factors = torch.split(
            torch.exp(logs), [1, layers, layers - 1, 1, len(logs) - 2 * layers - 1]
        )
        return cls(EnergyBalance(feedback[0], capacity, exchange, efficacy[0]), factors, level, rms)


@dataclass(frozen=True, eq=False)
class Observed:
    """A run of a climate model, by years.

    Attributes:
        forcing: (K, N) by kind, W m-2 before the factors.
        surface: (n,) global mean near-surface temperature of the first n <= N years, K.
        flux: (n,) net downward flux at the top, W m-2, above its control; None where it is not known.
        surface_error: Standard deviation of a year of `surface` about the forced response.
        flux_error: The same of `flux`.
        growth: As for `Calibration.run`.
        skipped: First years that are not fitted, such as those in which the troposphere adjusts to a sudden forcing.
    """

    forcing: Array
    surface: Array
    flux: Array | None = None
    surface_error: float = 0.1
    flux_error: float = 0.3
    growth: float | None = None
    skipped: int = 0

    def errors(self, calibration: Calibration, level: Tensor) -> tuple[Tensor, Tensor | None]:
        """Errors of surface temperature and flux in units of their own, of the years that are fitted."""
        course, years = calibration.run(self.forcing, 1.0, self.growth), slice(self.skipped, len(self.surface))
        surface = course.surface[years] + level - torch.as_tensor(self.surface[self.skipped :])
        if self.flux is None:
            return surface, None
        return surface, course.flux[years] - torch.as_tensor(self.flux[self.skipped :])


def calibrate(
    runs: Sequence[Observed], guess: Calibration, spread: Sequence[float] | None = None, fit_level: bool = False
) -> Calibration:
    """The energy balance that fits runs best.

    Args:
        runs: What it should do.
        guess: Where the search begins; the middle of the prior.
        spread: (2 L + 1 + K,) standard deviations of the prior of the logarithms, in the order of
            `Calibration.logs`; None: no prior.
        fit_level: Whether `surface` of all runs has a level that is not known.

    Raises:
        RecipeError: The search does not converge.
    """
    from scipy.optimize import least_squares

    middle, layers = guess.logs(), guess.balance.layers

    def residuals(x: Tensor) -> Tensor:
        logs, level = x[:-1], x[-1] if fit_level else torch.zeros((), dtype=torch.float64)
        now = Calibration.of_logs(logs, layers)
        parts = [] if spread is None else [(logs - middle) / torch.as_tensor(spread, dtype=torch.float64)]
        for run in runs:
            surface, flux = run.errors(now, level)
            parts.append(surface / run.surface_error)
            if flux is not None:
                parts.append(flux / run.flux_error)
        return torch.cat(parts) if fit_level else torch.cat([*parts, x[-1:]])

    seen = np.concatenate([r.surface[r.skipped :] for r in runs])
    first = np.append(middle.numpy(), seen.mean() if fit_level else 0.0)
    found = least_squares(
        lambda x: residuals(torch.as_tensor(x)).numpy(),
        first,
        x_scale="jac",
        max_nfev=200,
    )
    if not (found.success and np.isfinite(found.x).all()):
        raise RecipeError(
            "the energy balance cannot be calibrated on these runs",
            found=found.message,
            expected="runs whose temperature follows their forcing",
            hint="check units and signs of the forcing, or take parameters from elsewhere",
        )
    done, level = Calibration.of_logs(torch.as_tensor(found.x[:-1]), layers), float(found.x[-1]) if fit_level else 0.0
    left = torch.cat([run.errors(done, torch.tensor(level, dtype=torch.float64))[0] for run in runs])
    return Calibration(done.balance, done.factors, level, float(left.square().mean().sqrt()))
