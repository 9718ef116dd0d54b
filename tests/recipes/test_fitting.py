"""Forcings that the data lack: found out after hours, one at a time, or told by settings that do not exist."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from emukit.data.protocol import make_split
from emukit.errors import EmukitError, ProtocolError, RecipeError
from emukit.progress import silent_reporter
from emukit.recipes.fitting import fit_recipe, fit_variables
from emukit.recipes.load import load_recipe
from emukit.runs.run import finished_run, train_run
from tests.coded import warming_archive
from tests.reporters import Said

DEEP = "bases.0.recipe.bases.0.recipe"


def without(*names):
    archive = warming_archive()
    scenarios = {
        k: replace(s, forcings={n: f for n, f in s.forcings.items() if n not in names}) for k, s in archive.items()
    }
    return replace(archive, scenarios=scenarios)


def fitted(recipe, archive, said=None):
    return fit_recipe(recipe, archive, make_split(archive), said or Said())


def test_shipped_recipes_leave_out_what_the_data_lack_and_say_so():
    archive, said = without("BC", "CH4"), Said()
    chosen = fitted(load_recipe("best-networks"), archive, said)
    anchored = chosen.bases[0].recipe
    kriging = anchored.bases[0].recipe
    linear = kriging.bases[0].recipe
    assert anchored.options["forcings"] == kriging.options["forcings"] == ("CO2", "SO2")
    assert linear.options["warming"] == ("CO2~4", "SO2~4")
    assert anchored.bases[1].recipe.inputs.forcings == ("CO2", "SO2", "rsdt")
    assert len(said.lines) == 4
    assert any(f"{DEEP}.model.forcings without CH4, BC" in line for line in said.lines)
    assert any(f"{DEEP}.bases.0.recipe.model.warming without CH4~10" in line for line in said.lines)
    # Penalties of what is gone go with it.
    plain = fitted(load_recipe("anchor"), without("SO2"))
    assert plain.options["features"] == ("step:2045:20",)
    assert all("SO2" not in own for own in plain.options["strength"].values())
    # Nothing is changed where nothing is missing.
    whole = load_recipe("best-networks")
    assert fitted(whole, warming_archive()) == fit_variables(whole, warming_archive())


def test_what_is_left_out_is_said_again_for_every_run_of_a_command():
    archive, said = without("BC"), Said()
    for protocol in ("official", "k360"):
        fit_recipe(load_recipe("linear"), archive, make_split(archive, protocol), said)
    (line,) = said.lines
    assert line.startswith("note: model.features without BC: ")
    another = Said()
    fitted(load_recipe("linear"), archive, another)
    assert another.lines == [line]


def test_names_that_are_missing_for_one_reason_share_it():
    """One clause for every name is three lines of a terminal, on each training on ClimX."""
    said = Said()
    fitted(load_recipe("linear"), without("BC", "SO2"), said)
    (line,) = said.lines
    assert line.count("not in scenario") == 1, line
    assert line.endswith(" stay)"), line


@pytest.mark.parametrize("name", ["linear", "best-fast"])
def test_a_shipped_recipe_trains_without_black_carbon(name, tmp_path):
    archive = without("BC")
    run, evaluation = train_run(archive, load_recipe(name), tmp_path / "run", reporter=silent_reporter())
    assert evaluation is not None
    # The run is found again under the recipe that was asked for.
    again = finished_run(archive, load_recipe(name), tmp_path / "run")
    assert again is not None
    assert again.record == run.record
    assert "BC" not in str(run.record.recipe["model"].get("features", ""))


def test_everything_missing_is_told_at_once_with_settings_that_work(tmp_path):
    archive = without("BC", "SO2")
    settings = [
        f'{DEEP}.model.forcings=["CO2", "BC"]',
        f'{DEEP}.bases.0.recipe.model.warming=["N2O"]',
        f'{DEEP}.bases.0.recipe.model.features=["step:2045:20", "CH4@atlantis"]',
        'bases.0.recipe.bases.1.recipe.inputs.forcings=["CO2", "SO2"]',
    ]
    folder = tmp_path / "run"
    with pytest.raises(ProtocolError, match="forcings that the data do not have") as error:
        train_run(archive, load_recipe("best-networks", assignments=settings), folder, reporter=silent_reporter())
    text = error.value.text()
    for part in ("BC", "N2O", "atlantis", "no SO2", f"{DEEP}.model.forcings", f"{DEEP}.bases.0.recipe.model.warming"):
        assert part in text, part
    assert not folder.exists()
    words = shlex.split(error.value.hint)
    assert words[::2] == ["--set"] * 4
    corrected = fitted(load_recipe("best-networks", assignments=[*settings, *words[1::2]]), archive)
    assert corrected.bases[0].recipe.bases[0].recipe.options["forcings"] == ("CO2",)
    assert corrected.bases[0].recipe.bases[1].recipe.inputs.forcings == ("CO2",)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"{DEEP}.bases.0.recipe.model.ridge=-1.0", "negative"),
        (f"{DEEP}.bases.0.recipe.model.smoothing=2.0", "smoothing"),
        (f"{DEEP}.model.length=-1.0", "length"),
        ("bases.0.recipe.bases.1.recipe.model.stages=9", "cannot build"),
        ('bases.0.recipe.bases.1.recipe.inputs.statics=["moon"]', "moon"),
        ("bases.0.recipe.bases.1.recipe.training.segments.length=5000", "no training span"),
    ],
)
def test_a_mistake_in_a_composed_recipe_makes_no_folder(setting, said, tmp_path):
    recipe = load_recipe("best-networks", assignments=[setting])
    with pytest.raises(EmukitError) as error:
        train_run(warming_archive(), recipe, tmp_path / "run", reporter=silent_reporter())
    assert said in error.value.text()
    assert not (tmp_path / "run").exists()


def test_what_only_fitting_finds_leaves_the_folder_to_the_corrected_command(tmp_path):
    """More patterns than years: known once the years are there."""
    archive = warming_archive()
    base, setting = 'bases.0.recipe.emulator="eof-regression"', "bases.0.recipe.model.components="
    recipe = load_recipe("ensemble", assignments=[base, "bases.0.copies=1", f"{setting}9000"])
    (tmp_path / "mine").mkdir()
    for name in ("run", "mine"):
        with pytest.raises(RecipeError, match=r"model\.components"):
            train_run(archive, recipe, tmp_path / name, reporter=silent_reporter())
    # Nor does the lock stay; a folder that was there before does.
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*")] == [Path("mine")]
    right = load_recipe("ensemble", assignments=[base, "bases.0.copies=1", f"{setting}2"])
    run, _ = train_run(archive, right, tmp_path / "run", reporter=silent_reporter())
    assert run.record.state == "finished"


def test_a_core_on_months_is_told_something_else_than_that_it_needs_states():
    archive = warming_archive()
    with pytest.raises(ProtocolError, match="no sequence of them") as error:
        fit_recipe(load_recipe("hybrid"), archive, make_split(archive, "k360"), silent_reporter())
    assert error.value.found.startswith("months of tas, pr")
    assert "six-hourly" in error.value.expected
    assert "z500" in error.value.expected


def test_the_hint_for_a_loss_is_a_setting_that_works():
    for name in ("best-networks", "residual-correction"):
        with pytest.raises(RecipeError, match="no loss of its own") as error:
            load_recipe(name, loss="l1")
        words = [w for w in shlex.split(error.value.hint) if "=" in w]
        assert words
        assert load_recipe(name, assignments=words).digest != load_recipe(name).digest
    with pytest.raises(RecipeError, match="linear trains no network and has no loss") as error:
        load_recipe("linear", loss="l1")
    assert error.value.hint == "leave --loss out"
