"""Emissions that leave no trace in the air, or concentrations that force the wrong way."""

import numpy as np
import pytest

from emukit.errors import ProtocolError
from emukit.physics.energy_balance import (
    CH4_1850,
    CH4_YEARS,
    CO2_1850,
    GTC_OF_PPM,
    GTCO2_OF_GTC,
    POOL_SHARE,
    POOL_YEARS,
    ch4_concentration,
    ch4_forcing,
    co2_concentration,
    co2_forcing,
)

# Cumulative fossil emissions and concentrations of ssp245 in RCMIP 5.1: (year, GtCO2, ppm).
SSP245 = ((2015, 1536.01, 399.9), (2050, 2950.81, 506.9), (2099, 4509.91, 602.5))


def emitted(rate, years=85, per_year=12, start=1536.0):
    """Cumulative GtCO2 under a constant emission in GtCO2 a year."""
    return start + rate * np.arange(years * per_year) / per_year


def test_twice_and_four_times_the_co2_are_those_of_the_published_formula():
    """3.75 W m-2 for twice, and more than twice as much for four times (Meinshausen et al. 2020, table 3)."""
    twice, four = (float(co2_forcing(np.array(n * CO2_1850))) for n in (2, 4))
    assert twice == pytest.approx(3.76, abs=0.02)
    assert four / twice == pytest.approx(2.10, abs=0.01)
    assert float(co2_forcing(np.array(CO2_1850))) == 0.0


def test_methane_of_today_forces_as_published():
    """IPCC AR6 gives 0.54 W m-2 for 1866 against 729 ppb, of which 0.02 were there by 1850."""
    assert float(ch4_forcing(np.array(1866.0))) == pytest.approx(0.57, abs=0.05)
    assert float(ch4_forcing(np.array(CH4_1850))) == 0.0


def test_the_air_begins_where_it_was_and_follows_a_known_scenario():
    cumulative = np.interp(2015 + np.arange(1020) / 12, [y for y, _, _ in SSP245], [e for _, e, _ in SSP245])
    ppm = co2_concentration(cumulative, 12)
    assert ppm[0] == pytest.approx(399.95, abs=1e-3)
    for year, _, expected in SSP245:
        assert ppm[(year - 2015) * 12] == pytest.approx(expected, rel=0.03)


def test_a_pulse_of_carbon_stays_as_long_as_published():
    """AGWP of CO2 over its radiative efficiency, 1.7517e-15 W m-2 kg-1 (IPCC AR5 WG1, 8.SM.11 and table 8.A.1)."""
    for years, published in ((20, 2.49e-14), (100, 9.17e-14)):
        airborne = (POOL_SHARE * POOL_YEARS * (1 - np.exp(-years / POOL_YEARS))).sum()
        assert airborne == pytest.approx(published / 1.7517e-15, rel=5e-3)
    assert POOL_SHARE.sum() == pytest.approx(1)


def test_carbon_is_taken_up_after_emissions_end_and_never_made():
    cumulative = np.minimum(emitted(40.0), 2500.0)
    ppm = co2_concentration(cumulative, 12)
    stopped = int(np.argmax(cumulative == 2500.0))
    assert (np.diff(ppm[stopped + 120 :]) < 0).all()
    # Never more in the air than what fossil fuels and a land use of a tenth of them have put there since.
    most = ppm[0] + 1.1 * (cumulative - cumulative[0]) / GTCO2_OF_GTC / GTC_OF_PPM
    assert (ppm <= most + 1e-9).all()


def test_a_month_knows_nothing_of_later_ones():
    series = emitted(40.0)
    later = series.copy()
    later[600:] += 300.0
    np.testing.assert_array_equal(co2_concentration(series, 12)[:600], co2_concentration(later, 12)[:600])
    methane = np.full(1020, 0.37)
    changed = methane.copy()
    changed[600:] = 0.1
    np.testing.assert_array_equal(ch4_concentration(methane, 12)[:600], ch4_concentration(changed, 12)[:600])


def test_years_and_months_agree():
    months, years = co2_concentration(emitted(40.0), 12)[::12], co2_concentration(emitted(40.0)[::12], 1)
    np.testing.assert_allclose(months, years, rtol=2e-3)


def test_methane_settles_within_its_lifetime():
    ppb = ch4_concentration(np.full(1200, 0.2), 12)
    settled = CH4_1850 + 200.0 * CH4_YEARS / 2.75
    assert ppb[-1] == pytest.approx(settled, rel=1e-3)
    after = int(CH4_YEARS * 12)
    assert (ppb[after] - settled) / (ppb[0] - settled) == pytest.approx(np.exp(-1), rel=0.01)


@pytest.mark.parametrize("series", [np.full(60, 1500.0), np.linspace(0.0, 50.0, 60), 1e5 + emitted(40.0, 5)])
def test_a_forcing_that_is_no_cumulative_emission_is_refused(series):
    with pytest.raises(ProtocolError, match="no past of emissions"):
        co2_concentration(series, 12)
