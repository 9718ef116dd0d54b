"""What emissions and concentrations do to the radiation at the top of the atmosphere.

Invariant: pure functions of series, without parameters that training could fit. A step is a function of the
first year and of the steps up to it. Before the first, fossil emissions are taken to have grown exponentially, to the
mean emission of the first year.

Concentrations of CO2 follow the four pools of Joos et al. (2013, doi:10.5194/acp-13-2793-2013), whose time scales
lengthen as sinks fill and the climate warms (FaIR: Millar et al. 2017, doi:10.5194/acp-17-7213-2017; in the closed
form of Leach et al. 2021, doi:10.5194/gmd-14-3007-2021). Forcings are those of Meinshausen et al. (2020,
doi:10.5194/gmd-13-3571-2020), without overlaps with a changing N2O.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emukit.errors import ProtocolError

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
