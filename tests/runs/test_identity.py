"""Data that changed without the digest, and so without a resumed run, noticing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from emukit.data.grid import Grid
from emukit.errors import RunError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.coded import coded_archive, warming_archive

QUIET = Reporter(quiet=True)
FORCINGS = ("CO2", "CH4", "SO2", "BC", "rsdt")


def changed(archive, what, scenario="ssp370"):
    """A copy with one value of one scenario changed: of the targets, the hidden months or a forcing."""
    old = archive[scenario]
    if what in ("targets", "hidden"):
        values = getattr(old, what).copy()
        values.flat[values.size // 2] = not values.flat[values.size // 2] if what == "hidden" else -3.0
        new = replace(old, **{what: values})
    else:
        values = old.forcings[what].copy()
        values.flat[values.size // 2] *= 1.001
        new = replace(old, forcings={**old.forcings, what: values})
    assert np.count_nonzero(values != (old.forcings[what] if what in FORCINGS else getattr(old, what))) == 1
    return replace(archive, scenarios={**archive.scenarios, scenario: new})


@pytest.mark.parametrize("scenario", ["ssp126", "ssp585"])
@pytest.mark.parametrize("what", ["targets", "hidden", *FORCINGS])
def test_one_changed_value_is_another_digest(what, scenario):
    archive = coded_archive(months=25)
    assert changed(archive, what, scenario).digest != archive.digest


def test_digests_of_different_changes_differ():
    """A digest of the names and the number of values alone would not."""
    archive = coded_archive(months=25)
    digests = {changed(archive, w, s).digest for w in ("targets", *FORCINGS) for s in ("ssp126", "ssp370", "ssp585")}
    assert len(digests) == 18


def test_changed_names_months_and_grid_are_another_digest():
    archive = coded_archive(months=25)
    scenario = archive["ssp370"]
    forcings = dict(scenario.forcings)
    forcings["SO2"], forcings["BC"] = forcings["BC"], forcings["SO2"]
    renamed = {"sun" if name == "rsdt" else name: values for name, values in scenario.forcings.items()}
    others = [
        replace(archive, variables=archive.variables[::-1]),
        replace(archive, grid=Grid(archive.grid.lat, archive.grid.lon + 1)),
        replace(archive, grid=Grid(archive.grid.lat + 1, archive.grid.lon)),
        replace(archive, statics={"land": np.ones(archive.grid.shape, np.float32)}),
        replace(archive, statics={"land": np.zeros(archive.grid.shape, np.float32)}),
        *(
            replace(archive, scenarios={**archive.scenarios, "ssp370": s})
            for s in (
                replace(scenario, time=replace(scenario.time, first=scenario.time.first + 12)),
                replace(scenario, members=(0, 2, 1)),
                replace(scenario, forcings=forcings),
                replace(scenario, forcings=renamed),
            )
        ),
    ]
    digests = {a.digest for a in (archive, *others)}
    assert len(digests) == 1 + len(others)


def test_digest_is_of_the_values_not_of_where_they_lie_or_came_from():
    archive = coded_archive(months=25)
    scenarios = {
        name: replace(s, targets=np.asfortranarray(s.targets), forcings=dict(reversed(s.forcings.items())))
        for name, s in archive.scenarios.items()
    }
    assert replace(archive, source="elsewhere", scenarios=scenarios).digest == archive.digest


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run's folder, and what it was trained on."""
    archive, folder = warming_archive(months=121), tmp_path_factory.mktemp("identity") / "run"
    train(archive, folder)
    return archive, folder


def train(archive, folder, **options):
    train_run(archive, load_recipe("climatology"), folder, protocol="k360", reporter=QUIET, **options)


def recorded(folder):
    return json.loads((folder / "run.json").read_text())["data"]["digest"]


@pytest.mark.parametrize("what", ["targets", "CO2", "SO2", "rsdt"])
def test_run_is_not_resumed_on_data_of_which_one_value_changed(whole, what):
    archive, folder = whole
    with pytest.raises(RunError, match="another data"):
        train(changed(archive, what), folder, resume=True)
    assert recorded(folder) == archive.digest


def test_refused_resume_of_another_recipe_does_not_send_to_the_command_that_was_typed_alone(whole):
    archive, folder = whole
    with pytest.raises(RunError, match="another recipe") as caught:
        train_run(archive, load_recipe("linear"), folder, protocol="k360", reporter=QUIET, resume=True)
    assert "shipped settings have changed since" in caught.value.hint
    with pytest.raises(RunError, match="another data") as caught:
        train(changed(archive, "CO2"), folder, resume=True)
    assert "shipped settings" not in caught.value.hint


def test_run_is_resumed_on_an_equal_copy_of_its_data(whole):
    archive, folder = whole
    train(warming_archive(months=121), folder, resume=True)
    assert recorded(folder) == archive.digest


def test_all_members_named_or_not_are_one_configuration(tmp_path):
    from emukit.progress import Reporter
    from emukit.recipes.load import load_recipe
    from emukit.runs.run import train_run
    from tests.coded import warming_archive

    archive, recipe, quiet = warming_archive(), load_recipe("climatology"), Reporter(quiet=True)
    run, _ = train_run(archive, recipe, tmp_path / "run", members=(2, 0, 1), reporter=quiet)
    assert run.record.identity.members is None
    again, _ = train_run(archive, recipe, tmp_path / "run", resume=True, reporter=quiet)
    assert len(again.record.sessions) == 2


@pytest.mark.parametrize("state", ["training", "finished"])
def test_refused_resume_leaves_a_session_that_never_was(tmp_path, state):
    archive, folder = warming_archive(), tmp_path / "run"
    small = ("model.hidden=4", "model.features=4", "model.width=2", "model.stages=1", "model.pool_rows=1")
    recipe = load_recipe("cnn-gru", None, [*small, "model.pool_columns=2", "training.epochs=1"])
    train_run(archive, recipe, folder, protocol="k360", reporter=QUIET)
    record = folder / "run.json"
    before = record.read_text().replace('"finished"', f'"{state}"')
    record.write_text(before)
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be used"):
        train_run(archive, recipe, folder, protocol="k360", resume=True, reporter=QUIET)
    assert record.read_text() == before


def test_code_that_changed_after_it_was_imported_is_recorded(tmp_path, monkeypatch):
    """Every run of a process is of the code that the process began with; outside a checkout nothing is said."""
    from emukit import provenance

    package = tmp_path / "emukit"
    package.mkdir()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    monkeypatch.setattr(provenance, "_git", lambda root, *words: answers.pop(0))
    answers = ["abc", "", "def", " M changed.py"]
    provenance.git_state.cache_clear()
    try:
        assert provenance.git_state() == {}
        (tmp_path / ".git").mkdir()
        provenance.git_state.cache_clear()
        assert provenance.git_state() == {"commit": "abc", "changed": False}
        assert provenance.git_state() == {"commit": "abc", "changed": False}
        provenance.git_state.cache_clear()
        assert provenance.git_state() == {"commit": "def", "changed": True}
    finally:
        provenance.git_state.cache_clear()
