"""Indices that differ from xclim's, which the ClimX organisers compute theirs with.

xclim is no dependency: the extra `xclim` runs these tests; elsewhere they are skipped, and pytest says so.
"""

import warnings

import cftime
import numpy as np
import pytest
import xarray as xr

from benchmarks.xclim_indices import by_xclim, percentiles
from emukit.metrics.extremes import INDICES, VARIABLES, Thresholds, annual_indices

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("xclim", reason="the indices are NOT compared with xclim: pip install 'emukit-climate[xclim]'")

pytestmark = pytest.mark.filterwarnings("ignore")

UNITS = {"tas": "K", "tasmax": "K", "tasmin": "K", "pr": "kg m-2 s-1"}
# Whole numbers must be equal; sums are of float32 there.
SUMS = {"Rx5day": 2e-6, "R95p": 2e-6, "SDII": 2e-6}


def as_arrays(run, years):
    stamps = cftime.num2date(np.arange(len(years)) + 0.5, f"days since {years[0]}-01-01", "noleap")
    time = xr.CFTimeIndex(stamps)
    return {v: xr.DataArray(run[v], {"time": time}, ("time", "y", "x"), v, {"units": UNITS[v]}) for v in VARIABLES}


@pytest.fixture(scope="module")
def base(climx_climate):
    hist = as_arrays(climx_climate["hist"], climx_climate["hist_years"])
    return {v: x.sel(time=slice("1961", "1990")) for v, x in hist.items()}


@pytest.fixture(scope="module")
def own(base):
    return Thresholds.of({v: x.to_numpy().reshape(len(x), -1) for v, x in base.items()})


def test_percentiles_are_those_of_xclim(base, own):
    for v, values in percentiles(base).items():
        there = values.transpose("dayofyear", "y", "x").to_numpy().reshape(365, -1)
        np.testing.assert_allclose(getattr(own, v), there, rtol=1e-7, err_msg=v)


def test_every_index_is_that_of_xclim(climx_climate, base, own):
    truth = as_arrays(climx_climate["truth"], climx_climate["scen_years"])
    theirs = by_xclim(base, truth)
    flat = {v: x.to_numpy().reshape(len(x), -1) for v, x in truth.items()}
    last = 365 * (len(flat["pr"]) // 365)
    whole = annual_indices({v: x[:last].reshape(-1, 365, x.shape[1]) for v, x in flat.items()}, own)
    short = annual_indices({v: x[None, last:] for v, x in flat.items()}, own, flat["pr"][last - 4 : last])
    for name in INDICES:
        mine = np.concatenate([whole[name], short[name]]).reshape(-1, 12, 18)
        np.testing.assert_allclose(mine, theirs[name], rtol=SUMS.get(name, 0), atol=0, err_msg=name)
