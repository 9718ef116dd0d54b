"""The energy balance of the globe: layers of heat that exchange with the next, and what emissions force at the top.

Invariant: for forcings that are constant within a step the solution is exact, whatever the length of the step; heat
content changes by what the top of the atmosphere lets in, to rounding.

After Geoffroy et al. (2013, doi:10.1175/JCLI-D-12-00195.1 and -00196.1) for two layers, and Cummins et al. (2020,
doi:10.1175/JCLI-D-19-0589.1) for more: C dT/dt = F - B T - e k (T - Td) at the top, Cd dTd/dt = k (T - Td) below, with
the net flux N = F - B T - (e - 1) k (T - Td). The efficacy e of the deepest uptake changes the flux at the top while
the deep warms.

Forcings are pure functions of series, without parameters that training could fit. A step is a function of the first
year and of the steps up to it. Before the first, fossil emissions are taken to have grown exponentially, to the mean
emission of the first year. Concentrations of CO2 follow the four pools of Joos et al. (2013,
doi:10.5194/acp-13-2793-2013), whose time scales lengthen as sinks fill and the climate warms (FaIR: Millar et al. 2017,
doi:10.5194/acp-17-7213-2017; in the closed form of Leach et al. 2021, doi:10.5194/gmd-14-3007-2021). Forcings are those
of Meinshausen et al. (2020, doi:10.5194/gmd-13-3571-2020), without overlaps with a changing N2O.

Letters: L layers, N steps. Everything is float64; the balance is differentiable in its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emukit.errors import ProtocolError

# Rows of a convolution's matrix that are held at a time.
BLOCK_STEPS = 1024
Array = NDArray[np.float64]
# Preindustrial concentrations of 1850 in ppm, ppb and ppb (Meinshausen et al. 2017, doi:10.5194/gmd-10-2057-2017).
CO2_1850 = 284.32
CH4_1850 = 808.25
N2O_1850 = 273.02
# Annual mean of CO2 in 2015, ppm, and of CH4, ppb (same source): where a store of the SSPs begins.
CO2_2015 = 399.95
CH4_2015 = 1841.9
# GtCO2 of a ppm: 2.124 GtC (Ballantyne et al. 2012), times the ratio of masses.
GTC_OF_PPM = 2.124
GTCO2_OF_GTC = 3.664
# Shares and time scales, years, of the pools; Joos et al. (2013). The first keeps its CO2 for as long as matters here.
POOL_SHARE = np.array([0.2173, 0.2240, 0.2824, 0.2763])
POOL_YEARS = np.array([1e6, 394.4, 36.54, 4.304])
# Integrated airborne fraction of a hundred years: at first, per GtC taken up, and per K (Smith et al. 2018,
# doi:10.5194/gmd-11-2273-2018); and the largest, below which time scales stay finite.
AIRBORNE, AIRBORNE_UPTAKE, AIRBORNE_WARMTH, AIRBORNE_MOST = 35.0, 0.019, 4.165, 97.0
# Warming per GtC emitted, K (IPCC 2021, AR6 WG1 chapter 5: 1.65 K per 1000 GtC).
WARMTH_OF_EMISSION = 1.65e-3
# Years of the past that are run through, and those of them in which land use emitted, at a constant rate.
PAST_YEARS, LAND_USE_YEARS = 300, 165
# Years in which emissions from land use fall to 1/e after the first step; no store holds them.
LAND_USE_FADES = 50.0
# Mt of a ppb of CH4, and its lifetime in years (Prather et al. 2012, doi:10.1029/2012GL051440).
MT_OF_PPB = 2.75
CH4_YEARS = 9.1


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


def _relative_life(airborne: float) -> float:
    """Factor of the pools' time scales for an integrated airborne fraction; Leach et al. (2021), equations 3 to 5."""
    gone = np.exp(-100.0 / POOL_YEARS)
    g1 = float((POOL_SHARE * POOL_YEARS * (1 - (1 + 100.0 / POOL_YEARS) * gone)).sum())
    g0 = float(np.exp(-(POOL_SHARE * POOL_YEARS * (1 - gone)).sum() / g1))
    return g0 * float(np.exp(min(airborne, AIRBORNE_MOST) / g1))


class _Carbon:
    """Pools of CO2 above the preindustrial, GtC, and what has been emitted."""

    def __init__(self) -> None:
        self.pools = np.zeros(4)
        self.emitted = 0.0

    def step(self, emission: float, years: float) -> float:
        """Concentration, ppm, after a step with an emission in GtC a year."""
        self.emitted += emission * years
        uptake, warmth = self.emitted - float(self.pools.sum()), WARMTH_OF_EMISSION * self.emitted
        life = _relative_life(AIRBORNE + AIRBORNE_UPTAKE * uptake + AIRBORNE_WARMTH * warmth) * POOL_YEARS
        kept = np.exp(-years / life)
        self.pools = self.pools * kept + POOL_SHARE * emission * life * (1 - kept)
        return CO2_1850 + float(self.pools.sum()) / GTC_OF_PPM


def _carbon_of_past(emission: float, cumulative: float, land_use: float) -> tuple[_Carbon, float]:
    """The pools after an exponential past and a constant emission from land use, and their concentration."""
    carbon, ppm = _Carbon(), CO2_1850
    for year in range(-PAST_YEARS, 0):
        fossil = emission * float(np.exp((year + 0.5) * emission / cumulative))
        ppm = carbon.step(fossil + (land_use if year >= -LAND_USE_YEARS else 0.0), 1.0)
    return carbon, ppm


def co2_concentration(cumulative: Array, per_year: int, start: float = CO2_2015) -> Array:
    """Concentration of CO2 from cumulative fossil emissions.

    Before the first step fossil emissions grew exponentially, so that they add up to what has been emitted by then.
    What is in the air besides is from land use, which has emitted at a constant rate and fades after the first step.

    Args:
        cumulative: (T,) GtCO2 emitted by each step.
        per_year: Steps a year.
        start: Concentration at the first step, ppm.

    Returns:
        (T,) ppm.

    Raises:
        ProtocolError: At the first step nothing has been emitted, or nothing is, or too much for `start`.
    """
    from scipy.optimize import brentq

    carbon_emitted = np.asarray(cumulative, np.float64) / GTCO2_OF_GTC
    emission = np.diff(carbon_emitted) * per_year
    past, now = float(carbon_emitted[0]), float(emission[:per_year].mean()) if len(emission) else 0.0
    # Land use that took up more than a tenth of what fossil fuels emit is no land use.
    most = 10.0 * now
    low, high = (_carbon_of_past(now, past, f)[1] for f in (-now / 10, most)) if now > 0 < past else (start, start)
    if not low < start < high:
        raise ProtocolError(
            "no past of emissions leads to what is in the air at the first step",
            found=f"{past:.4g} GtC emitted by then, and {now:.4g} GtC a year",
            expected=f"cumulative emissions in GtCO2 that bring CO2 to about {start:.0f} ppm",
            hint="name the forcing that holds cumulative emissions of CO2",
        )
    land_use = float(brentq(lambda rate: _carbon_of_past(now, past, rate)[1] - start, -now / 10, most, xtol=1e-8))
    carbon, ppm = _carbon_of_past(now, past, land_use)
    values = np.empty(len(carbon_emitted))
    values[0] = ppm
    for t, amount in enumerate(emission.tolist(), 1):
        values[t] = carbon.step(amount + land_use * float(np.exp(-t / per_year / LAND_USE_FADES)), 1.0 / per_year)
    return values


def ch4_concentration(emission: Array, per_year: int, start: float = CH4_2015) -> Array:
    """Concentration of CH4 from its emissions by people, with the natural ones that the preindustrial needs.

    Args:
        emission: (T,) GtCH4 a year.
        per_year: Steps a year.
        start: Concentration at the first step, ppb.

    Returns:
        (T,) ppb.
    """
    kept = float(np.exp(-1.0 / (per_year * CH4_YEARS)))
    settled = CH4_1850 + np.asarray(emission, np.float64) * 1000.0 * CH4_YEARS / MT_OF_PPB
    values, state = np.empty(len(settled)), start
    values[0] = start
    for t, target in enumerate(settled[1:].tolist(), 1):
        state = kept * state + (1 - kept) * target
        values[t] = state
    return values


def co2_forcing(ppm: Array, reference: float = CO2_1850) -> Array:
    """Radiative forcing of CO2, W m-2; Meinshausen et al. (2020), table 3, above the reference."""

    def above(c: Array) -> Array:
        a, b, d, origin = -2.4785e-7, 0.00075906, 5.2488, 277.15
        # Beyond this concentration the slope of the logarithm stays what it is there.
        excess = np.minimum(c, origin - b / (2 * a)) - origin
        slope = d + a * excess**2 + b * excess - 0.0021492 * np.sqrt(N2O_1850)
        return np.asarray(slope * np.log(c / origin), np.float64)

    return above(np.asarray(ppm, np.float64)) - above(np.asarray(reference, np.float64))


def ch4_forcing(ppb: Array, reference: float = CH4_1850) -> Array:
    """Radiative forcing of CH4, W m-2; Meinshausen et al. (2020), table 3."""
    now, then = np.sqrt(np.asarray(ppb, np.float64)), np.sqrt(reference)
    slope = -8.9603e-5 * now - 0.00012462 * np.sqrt(N2O_1850) + 0.045194
    return np.asarray(slope * (now - then), np.float64)
