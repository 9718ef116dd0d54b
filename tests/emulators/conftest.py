"""Fixtures of downscalers and emulators on the demo climate; a file with data of its own defines its own `archive`."""

import pytest

from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.store import open_store


@pytest.fixture(scope="module")
def archive(demo_store):
    return open_store(demo_store)


@pytest.fixture(scope="module")
def coarsening(archive):
    return Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
