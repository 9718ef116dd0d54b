"""Plans of daily data that time nothing, or forget what stays on disk."""

import numpy as np
import pytest

from emukit.data import daily_archive
from emukit.data.opening import open_data
from emukit.data.split import Span, Split
from emukit.errors import ProtocolError
from emukit.planning import plan as planning
from emukit.recipes.load import load_recipe


@pytest.fixture
def opened(climx_folder, monkeypatch):
    def open_(on_disk):
        if on_disk:
            monkeypatch.setattr(daily_archive, "MOST_BYTES", 0)
        return open_data(str(climx_folder[0]))

    return open_


def split_of(archive):
    historical, last = (Span(n, 0, len(archive[n]), (0,)) for n in ("historical", "ssp245"))
    scored = {"validation": (Span("ssp126", 0, len(archive["ssp126"]), (0,)),), "test": (last,)}
    return Split("own", (historical,), scored)


@pytest.mark.parametrize("on_disk", [False, True])
def test_time_memory_and_disk_of_a_daily_folder(opened, on_disk, monkeypatch):
    archive = opened(on_disk)
    recipe = load_recipe("typical-year")
    assert planning.is_daily_fit(archive, recipe)
    assert not planning.is_daily_fit(archive, load_recipe("climx-nn"))
    took = planning._Seconds(read=1.5, sort=0.5, predict=2.0, pack=2.0, indices=6.0, percentiles=10.0)
    monkeypatch.setattr(planning, "_timed", lambda archive, year: took)
    plan = {what: (amount, remark) for what, amount, remark in planning.daily_plan(archive, recipe, split_of(archive))}
    assert plan["training"][0] == "53 years"  # the last one lacks a day
    assert plan["time"][0] == "12 min"  # 53 years of 7 variables, 2 s each
    assert plan["run"][0] == f"{10 * 365 * 7 * 24 / 1000:.3g} kB"
    # Percentiles of thirty years of three variables; then three years, twice: read, predicted and derived.
    assert plan["validation"][0] == planning.duration(30 * 3 * 1.5 + 10 + 2 * 3 * (7 * 3.5 + 2 * 6))
    assert plan["submitting"][0] == planning.duration(3 * (7 * (2 + 3) + 6) + 30 * 3 * 1.5 + 10)
    if on_disk:
        # What is learned (10 bytes a value), two years, eight copies of one variable, percentiles, libraries.
        needed = 365 * 24 * (10 * 7 + 4 * (2 * 7 + 8) + 8 * 3) + (400 << 20)
        assert plan["memory"][0] == planning.size(needed)
    assert ("digest" in plan) == on_disk
    assert ("on disk" in plan["data"][1]) == on_disk
    assert plan["submission"][0] == f"{4 * 1094 * 7 * 24 / 1000:.3g} kB"
    of_linear = {
        what: amount for what, amount, _ in planning.daily_plan(archive, load_recipe("linear"), split_of(archive))
    }
    assert of_linear["run"] == f"{4 * 12 * 5 * 7 * 24 / 1000:.3g} kB"  # an intercept and four series a month
    with pytest.raises(ProtocolError, match="no whole year"):
        list(planning.daily_plan(archive, recipe, Split("own", (Span("ssp126", 0, 300, (0,)),), {})))


def test_a_year_is_timed_by_reading_and_sorting_it(opened, monkeypatch):
    archive = opened(True)
    clock = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr(planning, "perf_counter", lambda: next(clock))
    (year, *_) = planning.training_years(archive, split_of(archive))
    # The clock is read before and after each of them; percentiles are of one row of four, of three variables.
    took = planning._timed(archive, year)
    assert (took.read, took.sort, took.predict, took.pack, took.indices) == (1.0,) * 5
    assert took.percentiles == 3 * 4
