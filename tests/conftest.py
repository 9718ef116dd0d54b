"""Fixtures that several test modules share."""

import gc
import ipaddress
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that does something else as well is slow; that is not a failure of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# wandb reads it once in a process: whichever test comes first, nobody is asked for a login.
os.environ["WANDB_MODE"] = "offline"

# Nothing is kept from one test to another, nor read from what the user has.
os.environ["EMUKIT_CACHE"] = ""

# What tests have tried to reach beyond this machine.
reached: list[str] = []


def _stay_here(event: str, arguments: tuple) -> None:
    """Refuse to reach for a network, and note it: code under test may take the refusal for a network that is down."""
    if event == "socket.connect":
        connecting, address = arguments
        if connecting.family in (socket.AF_INET, socket.AF_INET6) and connecting.type & socket.SOCK_STREAM:
            _refuse_beyond(str(address[0]))
    elif event == "socket.getaddrinfo" and arguments[0]:
        host = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        # Names that end so are reserved for those that nobody has.
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        _refuse_beyond(host)


def _refuse_beyond(host: str) -> None:
    if host in ("", "localhost", socket.gethostname()):
        return
    try:
        address = ipaddress.ip_address(host)
        if address.is_loopback or address.is_unspecified:
            return
        # What can be bound is an address of this machine; Ray, for one, asks for it.
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as own:
            own.bind((host, 0))
        return
    except (OSError, ValueError):
        reached.append(host)
        raise OSError(f"a test reaches for {host}") from None


sys.addaudithook(_stay_here)


@pytest.fixture(autouse=True)
def _no_network():
    """A test that reaches beyond this machine fails, whatever was made of the refusal."""
    reached.clear()
    yield
    assert not reached, f"this test needs a network: {reached}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Long modules are begun first: begun at the end, one of them would leave the other worker idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay to the end: garbage is looked for among what tests leave."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
def real_data(real_store) -> Path:
    """The folder of real data in which the competition's store is."""
    return real_store.parent


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
def climx_tiny():
    """A generated daily climate that starts where the base period of the percentiles does."""
    from emukit.data.demo.daily import DailyClimate

    return DailyClimate(lat_cells=4, lon_cells=6, first_year=1961, years=3, seed=5)


@pytest.fixture(scope="session")
def climx_folder(climx_tiny, tmp_path_factory):
    """Its files in the layout of ClimX, and the folder of the hidden truth. Not to be changed."""
    from emukit.data.demo.climx import write_climx_demo
    from emukit.progress import silent_reporter

    place = tmp_path_factory.mktemp("climx-tiny")
    write_climx_demo(climx_tiny, place / "lite", place / "truth", silent_reporter())
    return place / "lite", place / "truth"


@pytest.fixture(scope="session")
def climx_climate():
    """The seeded daily climate of the ClimX golden numbers; seconds to make, so made once."""
    from tests.golden import climx_fields

    return climx_fields.make(1)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages have blank pictures: what is drawn on them, half a second of work each, is tested elsewhere."""
    from tests.report import sites

    sites.leave_blank(monkeypatch)


@pytest.fixture
def strange(monkeypatch):
    """The table of competitions with two of others."""
    from emukit.competitions import registry
    from emukit.registry import Entry

    for name in ("with-mae", "skill"):
        entry = Entry(f"tests.competitions.strangers:{name.replace('-', '_')}")
        monkeypatch.setitem(registry.COMPETITIONS.built_in, name, entry)
    yield
    # What is built once would outlive the table.
    registry._build.cache_clear()
