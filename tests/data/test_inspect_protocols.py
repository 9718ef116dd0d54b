"""A report that promises a split which cannot be made, or hides one that can."""

import pytest

from emukit.data.check_report import inspect_store
from emukit.data.demo import DemoClimate, write_demo
from emukit.data.protocol import make_split, working_protocols
from emukit.data.store import open_store
from emukit.errors import ProtocolError
from emukit.progress import Reporter
from tests.data.stores import coded_card, coded_dataset

CARD = coded_card()
QUIET = Reporter(quiet=True)


def protocol_line(report):
    lines = list(report.lines())
    return lines[lines.index("protocols") + 1]


def test_a_report_lists_the_protocols_that_work(tmp_path):
    store = write_demo(DemoClimate(lat_cells=4, lon_cells=6, members=1), tmp_path / "demo.zarr", reporter=QUIET)
    report = inspect_store(store)
    assert report.protocols == tuple(working_protocols(open_store(store)))
    assert report.protocols[0] == "official"
    assert protocol_line(report).strip().split(", ") == list(report.protocols)


def test_a_hidden_scenario_is_not_offered_to_be_left_out(tmp_path):
    climate = DemoClimate(lat_cells=4, lon_cells=6, members=1)
    archive = open_store(write_demo(climate, tmp_path / "demo.zarr", reporter=QUIET))
    assert archive["ssp245"].hidden[-12:].all()
    offered = [p for p in working_protocols(archive) if p.startswith("loso:")]
    assert offered == ["loso:ssp126", "loso:ssp370", "loso:ssp585"]
    with pytest.raises(ProtocolError) as e:
        make_split(archive, "loso:ssp119")
    assert e.value.hint.startswith("use --protocol official (or k360, loso:ssp126, loso:ssp370, loso:ssp585)")
    shown = open_store(write_demo(climate, tmp_path / "shown.zarr", hidden=False, reporter=QUIET))
    assert "loso:ssp245" in working_protocols(shown)


def test_a_store_too_short_for_any_protocol_says_so(coded_store):
    report = inspect_store(coded_store("v2", coded_dataset()), card=CARD)
    assert report.usable
    assert report.protocols == ()
    assert protocol_line(report).strip() == "none"
    assert not report.trainable
    last = list(report.lines())[-1]
    assert last.startswith("cannot be trained on: protocol official needs more months")
    assert "usable" not in last


def test_a_store_that_cannot_be_used_promises_nothing(coded_store):
    ds = coded_dataset()
    report = inspect_store(coded_store("v2", ds.drop_vars("pr")), card=CARD)
    assert report.problems
    assert report.protocols == ()
    assert "protocols" not in list(report.lines())
