"""Fits and limits whose memory grows faster than the store."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from emukit.data.demo import DemoClimate
from emukit.data.protocol import make_split
from emukit.data.store import archive_from_dataset
from emukit.emulators import linear
from emukit.emulators.linear import LinearEmulator
from emukit.metrics import limit
from tests.coded import limit_score


@pytest.fixture(scope="module")
def archive():
    return archive_from_dataset(DemoClimate(lat_cells=24, lon_cells=36, years=45, members=2).dataset(), source="memory")


def peak_of(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


OPTIONS = ({}, {"season": "month"}, {"features": ("SO2",), "warming": ("CO2",), "least_warming": 0.5})


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "default")
def test_fit_in_blocks_is_the_fit_of_all_cells(archive, monkeypatch, options):
    split = make_split(archive, "k360")
    whole = LinearEmulator.fit(archive, split, **options).state()[1]
    monkeypatch.setattr(linear, "BLOCK_CELLS", 100)
    blocks = LinearEmulator.fit(archive, split, **options).state()[1]
    for name, array in whole.items():
        np.testing.assert_allclose(blocks[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_fit_needs_less_than_the_store_holds(archive, monkeypatch):
    split = make_split(archive, "k360")
    store = sum(s.targets.nbytes for s in archive.values() if not s.hidden.all())
    monkeypatch.setattr(linear, "BLOCK_CELLS", 50)
    assert peak_of(lambda: LinearEmulator.fit(archive, split)) < 0.6 * store


def test_limit_in_blocks_is_the_limit_and_needs_less_than_the_runs(archive, monkeypatch):
    targets = archive["ssp585"].targets
    whole = limit_score(list(targets), archive.grid.weights)
    monkeypatch.setattr(limit, "BLOCK_VALUES", 2 * len(targets[0]) * 36 * 3)
    assert limit_score(list(targets), archive.grid.weights) == whole
    assert peak_of(lambda: limit_score(list(targets), archive.grid.weights)) < 0.75 * targets.nbytes
