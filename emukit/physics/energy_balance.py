"""The energy balance of the globe: layers of heat that exchange with the next, forced at the top.

Invariant: for forcings that are constant within a step the solution is exact, whatever the length of the step; heat
content changes by what the top of the atmosphere lets in, to rounding.

After Geoffroy et al. (2013, doi:10.1175/JCLI-D-12-00195.1 and -00196.1) for two layers, and Cummins et al. (2020,
doi:10.1175/JCLI-D-19-0589.1) for more: C dT/dt = F - B T - e k (T - Td) at the top, Cd dTd/dt = k (T - Td) below, with
the net flux N = F - B T - (e - 1) k (T - Td). The efficacy e of the deepest uptake changes the flux at the top while
the deep warms.

Letters: L layers, N steps. Everything is float64, and differentiable in the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

# Rows of a convolution's matrix that are held at a time.
BLOCK_STEPS = 1024


class Course(NamedTuple):
    """What the energy balance does under N steps of forcing.

    Attributes:
        mean: (N, L) temperatures of the layers, the mean over each step, K.
        end: (N, L) the same at the end of each step.
        flux: (N,) net downward flux at the top, the mean over each step, W m-2.
    """

    mean: Tensor
    end: Tensor
    flux: Tensor

    @property
    def surface(self) -> Tensor:
        """(N,) temperature of the top layer, the mean over each step, K."""
        return self.mean[:, 0]


@dataclass(frozen=True, eq=False)
class EnergyBalance:
    """Parameters of the energy balance; tensors of float64.

    Attributes:
        feedback: () B, W m-2 K-1 that a warmer surface sends to space.
        capacity: (L,) heat capacities from the top down, W yr m-2 K-1.
        exchange: (L - 1,) heat exchange with the next layer below, W m-2 K-1.
        efficacy: () of the deepest exchange; one where it is like any other.
    """

    feedback: Tensor
    capacity: Tensor
    exchange: Tensor
    efficacy: Tensor

    @classmethod
    def of(
        cls, feedback: float, capacity: tuple[float, ...], exchange: tuple[float, ...], efficacy: float = 1.0
    ) -> EnergyBalance:
        """From plain numbers."""
        return cls(*(torch.as_tensor(v, dtype=torch.float64) for v in (feedback, capacity, exchange, efficacy)))

    @property
    def numbers(self) -> dict[str, float | list[float]]:
        """The parameters as plain numbers, by name."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @property
    def layers(self) -> int:
        """L."""
        return len(self.capacity)

    def generator(self) -> Tensor:
        """(L, L) A of dT/dt = A T + F / C at the top, per year."""
        n = self.layers
        rows = [[torch.zeros((), dtype=torch.float64)] * n for _ in range(n)]
        rows[0][0] = -self.feedback
        for i in range(n - 1):
            below = self.exchange[i]
            above = below * self.efficacy if i == n - 2 else below
            rows[i][i] = rows[i][i] - above
            rows[i][i + 1] = rows[i][i + 1] + above
            rows[i + 1][i] = rows[i + 1][i] + below
            rows[i + 1][i + 1] = rows[i + 1][i + 1] - below
        return torch.stack([torch.stack(row) for row in rows]) / self.capacity[:, None]

    def propagators(self, years: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a step of constant forcing does, exactly.

        The exponential of the generator, extended by the integral of the temperatures and by the forcing (Van Loan
        1978, doi:10.1109/TAC.1978.1101743).

        Args:
            years: Length of the step.

        Returns:
            (L, L) from the beginning to the end, (L,) from the forcing to the end, and both to the mean of the step.
        """
        n = self.layers
        push = torch.zeros(n, dtype=torch.float64)
        push = torch.cat([(1.0 / self.capacity[:1]), push[1:]])
        top = torch.cat([self.generator(), torch.zeros(n, n, dtype=torch.float64), push[:, None]], 1)
        middle = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(n, n + 1, dtype=torch.float64)], 1)
        whole = torch.cat([top, middle, torch.zeros(1, 2 * n + 1, dtype=torch.float64)])
        e = torch.linalg.matrix_exp(years * whole)
        return e[:n, :n], e[:n, -1], e[n : 2 * n, :n] / years, e[n : 2 * n, -1] / years

    def step(self, state: Tensor, forcing: Tensor, years: float = 1.0) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            state: (..., L) temperatures at its beginning, K.
            forcing: (...) W m-2, constant in it.
            years: Its length.

        Returns:
            (..., L) temperatures at its end, and their mean over it.
        """
        carry, push, carry_mean, push_mean = self.propagators(years)
        above = forcing[..., None]
        return state @ carry.T + above * push, state @ carry_mean.T + above * push_mean

    def run(self, forcing: Tensor, initial: Tensor | None = None, years: float = 1.0) -> Course:
        """All steps at once, by convolution with the response to one step's forcing.

        Args:
            forcing: (N,) W m-2, constant within each step.
            initial: (L,) temperatures before the first step, K; zero when None.
            years: Length of a step.
        """
        carry, push, carry_mean, push_mean = self.propagators(years)
        steps, start = len(forcing), torch.zeros(self.layers, dtype=torch.float64) if initial is None else initial
        # Columns: a state that the forcing of one step left, and the initial one, after 0, 1, ... steps.
        columns, power = torch.stack([push, start], 1)[None], carry
        while len(columns) < steps:
            columns = torch.cat([columns, power @ columns])
            power = power @ power
        left, own = columns[:steps, :, 0], columns[:steps, :, 1]
        before = torch.cat([torch.zeros(1, self.layers, dtype=torch.float64), left[:-1]]) @ carry_mean.T
        kernel_mean = torch.cat([push_mean[None], before[1:]])
        mean = convolved(kernel_mean, forcing) + own @ carry_mean.T
        end = convolved(left, forcing) + own @ carry.T
        return Course(mean, end, self.flux(mean, forcing))

    def flux(self, temperatures: Tensor, forcing: Tensor) -> Tensor:
        """(...) net downward flux at the top, W m-2, of (..., L) temperatures and (...) forcing."""
        surface = temperatures[..., 0]
        flux = forcing - self.feedback * surface
        if self.layers > 1:
            deepest = temperatures[..., -2] - temperatures[..., -1]
            flux = flux - (self.efficacy - 1.0) * self.exchange[-1] * deepest
        return flux

    def heat(self, temperatures: Tensor) -> Tensor:
        """(...) heat content of (..., L) temperatures, W yr m-2."""
        return temperatures @ self.capacity

    def grown(self, forcing: float | Tensor, rate: float | Tensor) -> Tensor:
        """(L,) temperatures under a forcing that has grown as exp(rate t) for ever and has arrived at a value, K.

        Args:
            forcing: Its value now, W m-2.
            rate: 1 per year.
        """
        eye = torch.eye(self.layers, dtype=torch.float64)
        push = torch.cat([1.0 / self.capacity[:1], torch.zeros(self.layers - 1, dtype=torch.float64)])
        warming: Tensor = torch.linalg.solve(rate * eye - self.generator(), push * forcing)
        return warming


def convolved(kernel: Tensor, forcing: Tensor) -> Tensor:
    """(N, L) sums over s <= t of kernel[t - s] forcing[s], for an (N, L) kernel and (N,) forcing."""
    n = len(forcing)
    windows = torch.cat([forcing.new_zeros(n - 1), forcing]).unfold(0, n, 1)
    return torch.cat([windows[first : first + BLOCK_STEPS] @ kernel.flip(0) for first in range(0, n, BLOCK_STEPS)])
