"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that does something else as well is slow; that is no failure of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_terminal_summary(terminalreporter):
    """Say loudly that the real store was not tested, and how to test it."""
    if not os.environ.get("EMUKIT_REAL_STORE"):
        terminalreporter.write_line("EMUKIT_REAL_STORE is not set: NO TEST RAN ON THE REAL STORE", red=True, bold=True)
    skipped = (str(r.longrepr) for r in terminalreporter.stats.get("skipped", ()))
    if any("no chromium" in why for why in skipped):
        terminalreporter.write_line("THERE IS NO CHROMIUM: NO PAGE WAS TESTED IN A BROWSER", red=True, bold=True)


@pytest.fixture(scope="session")
def real_store() -> Path:
    """The competition's store, where EMUKIT_REAL_STORE names it."""
    place = os.environ.get("EMUKIT_REAL_STORE")
    if not place:
        pytest.skip("EMUKIT_REAL_STORE is not set: not tested on the real store")
    path = Path(place)
    assert path.exists(), f"EMUKIT_REAL_STORE names {path}, which does not exist"
    return path


@pytest.fixture(scope="session")
def real_archive(real_store):
    """The competition's store in memory, read once for all tests."""
    from emukit.data.store import open_store

    return open_store(real_store)


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory):
    """A demo climate of the competition's length on a few cells."""
    from emukit.data.demo import DemoClimate, write_demo

    return write_demo(DemoClimate(lat_cells=8, lon_cells=12, members=2), tmp_path_factory.mktemp("demo") / "demo.zarr")


@pytest.fixture(scope="session")
def climx_climate():
    """The seeded daily climate of the ClimX golden numbers; seconds to make, so made once."""
    from tests.golden import climx_fields

    return climx_fields.make(1)
