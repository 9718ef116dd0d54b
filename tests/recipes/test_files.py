"""Recipe files: what stands on what, finished runs in the place of recipes, and files that emukit writes itself."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from emukit.data.protocol import make_split
from emukit.data.split import Split
from emukit.errors import RecipeError, RunError
from emukit.progress import silent_reporter
from emukit.recipes.catalogue import is_random, model_label, recipe_names
from emukit.recipes.describe import form_of, recipe_schema, recipe_toml, settings_of
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import networks_of, seeds_within
from emukit.runs.fit import finished_emulator
from emukit.runs.run import read_run, train_run
from emukit.training.settings import TrainingSettings
from tests.coded import warming_archive


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def test_a_file_is_a_model_and_stands_on_the_recipe_of_its_emulator(here):
    file = write("mine.toml", 'emulator = "unet"\n[training]\nepochs = 7\n')
    assert load_recipe(file).digest == load_recipe("unet", None, ["training.epochs=7"]).digest
    # A shipped recipe of another name than its emulator is one to stand on too.
    assert load_recipe(write("b.toml", 'emulator = "best-fast"\n')).digest == load_recipe("best-fast").digest


def test_a_base_is_a_recipe_or_a_file_beside_the_file(here):
    write("far/under.toml", 'base = "cnn-gru"\n[training]\nepochs = 7\n[loss]\ntas = {l1 = 1.0}\n')
    file = write("far/over.toml", 'base = "under.toml"\n[model]\nhidden = 16\n')
    recipe, shipped = load_recipe(file), load_recipe("cnn-gru")
    assert (recipe.training.epochs, recipe.options["hidden"]) == (7, 16)
    # A loss table replaces that of the base, as that of any file does.
    assert (recipe.loss.tas, recipe.loss.pr) == ({"l1": 1.0}, shipped.loss.pr)
    assert load_recipe("cnn-gru", Path(file)) == recipe


def test_a_base_of_another_network_gives_all_but_its_own_options(here):
    recipe = load_recipe(write("mine.toml", 'base = "cnn-gru"\nemulator = "transformer"\n'))
    cnn_gru = load_recipe("cnn-gru")
    assert (recipe.training, recipe.targets, recipe.loss) == (cnn_gru.training, cnn_gru.targets, cnn_gru.loss)
    assert recipe.model == type(recipe).model_fields["model"].default
    assert recipe.description == ""


def test_a_base_inside_a_wrapper(here):
    write("small.toml", 'base = "cnn-gru"\n[model]\nhidden = 8\n')
    text = 'emulator = "ensemble"\n[[bases]]\nrecipe = "small.toml"\n[[bases]]\nrecipe = {base = "small.toml"}\n'
    first, second = (b.recipe for b in load_recipe(write("mine.toml", text)).bases)
    assert first.options["hidden"] == 8
    assert first == second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "mine.toml"', "is its own base"),
        ('base = "other.toml"', "is its own base"),
        ("base = 3", "base that is not a name"),
        ('base = "cnn-grru"', "did you mean cnn-gru"),
        ("[training]\nepochs = 2", "names no emulator"),
        ('base = "missing.toml"', "cannot read"),
        ('emulator = "cnn-gru"\nmodel = {hiden = 8}', "model.hiden: unknown key"),
    ],
)
def test_files_that_lead_nowhere_are_refused(here, text, words):
    write("other.toml", 'base = "mine.toml"')
    with pytest.raises(RecipeError, match=words):
        load_recipe(write("mine.toml", text))


@pytest.mark.parametrize(
    ("model", "label"),
    [("a/b c.toml", "b-c"), ("mod.x:Net", "Net"), ("cnn-gru", "cnn-gru"), ("../x.toml", "x")],
)
def test_runs_of_a_file_or_class_have_a_plain_name(model, label):
    assert model_label(model) == label


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_file_is_the_recipe_it_was_printed_from(here, name):
    text = recipe_toml(name)
    assert load_recipe(write("printed.toml", text)).model_dump() == load_recipe(name).model_dump()
    # It stands alone: what another version ships as defaults does not change it.
    assert tomllib.loads(text)["emulator"] == load_recipe(name).emulator


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_says_what_it_means(name):
    silent = [s.path for s in settings_of(load_recipe(name)) if not s.meaning or not s.form]
    assert not silent


def test_settings_say_what_they_may_be():
    found = {s.path: s for s in settings_of(load_recipe("cnn-gru"))}
    assert found["training.epochs"].form == "whole number >= 1, <= 1e+06"
    assert found["training.average.kind"].form == '"none" | "ema" | "swa"'
    assert found["loss.default"].form.startswith("table of names = number")
    assert found["model.attention"].form == "true | false"
    assert found["inputs.static_file"].form == "text | not set"
    assert form_of(tuple[int, int]) == "list of whole number, 2 of them"
    assert found["training.epochs"].meaning == "Passes over the training months."
    assert form_of(TrainingSettings.model_fields["patience"].annotation) == "whole number"


@pytest.mark.parametrize("name", ["cnn-gru", "linear", "ensemble"])
def test_a_schema_knows_every_key_of_a_file_and_no_other(name):
    schema = recipe_schema(name)

    def keys(table, place=""):
        found = set()
        for key, of in table.get("properties", {}).items():
            found.add(f"{place}{key}")
            target = of.get("$ref", "").rpartition("/")[2]
            found |= keys(schema["$defs"][target], f"{place}{key}.") if target else set()
        return found

    # Tables of variables have any names; the settings of bases and objectives are those of what they name.
    OPEN = ("bases", "objective", "targets", "loss")
    wanted = {s.path for s in settings_of(load_recipe(name)) if not s.path.startswith(OPEN)}
    assert wanted <= keys(schema)
    assert "base" in schema["properties"]
    assert keys(schema) - wanted >= {"base", "model.size"}
    assert "required" not in json.dumps(schema)
    assert all("description" in of or "$ref" in of for of in schema["$defs"]["Options"]["properties"].values())


# --- finished runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two finished runs of one protocol, and one that trained on what it holds out."""
    archive, place = warming_archive(), tmp_path_factory.mktemp("finished")
    for name, recipe, protocol in (
        ("one", "linear", "k360"),
        ("two", "climatology", "k360"),
        ("other", "linear", "loso:ssp126"),
    ):
        train_run(archive, load_recipe(recipe), place / name, protocol=protocol, reporter=silent_reporter())
    return archive, place


def wrapping(place: Path, *runs: str, emulator: str = "ensemble", more: str = "") -> str:
    bases = "".join(f'[[bases]]\nrun = "{place / run}"\n' for run in runs)
    return write("wrapper.toml", f'emulator = "{emulator}"\n{bases}{more}')


def wrap(archive, recipe, folder="w", protocol="k360"):
    return train_run(archive, recipe, Path(folder), protocol=protocol, reporter=silent_reporter())


def test_an_ensemble_of_finished_runs_is_their_mean_and_trains_nothing(here, made):
    archive, place = made
    recipe = load_recipe(wrapping(place, "one", "two"))
    run, evaluation = wrap(archive, recipe)
    assert evaluation is not None
    parts = [read_run(place / n).emulator(archive).predict_fields(archive["ssp370"], 0, 30) for n in ("one", "two")]
    said = read_run(run.folder).emulator(archive).predict_fields(archive["ssp370"], 0, 30)
    assert abs(said - (parts[0].astype(float) + parts[1]) / 2).max() < 1e-4
    assert not (run.folder / "bases").exists()
    # It lives without the runs that it was made of.
    assert (networks_of(recipe), seeds_within(recipe), is_random(recipe.model_dump())) == ([], 1, False)


def test_a_moved_run_is_the_same_and_another_run_is_not(here, made):
    _, place = made
    before = load_recipe(wrapping(place, "one", "two")).digest
    shutil.copytree(place / "one", "moved")
    shutil.copytree(place / "two", "two")
    assert load_recipe(wrapping(here, "moved", "two")).digest == before
    assert load_recipe(wrapping(here, "two", "moved")).digest != before


def test_a_run_that_was_exchanged_since_the_recipe_was_read_is_refused(here, made):
    archive, place = made
    shutil.copytree(place / "one", "mine")
    recipe = load_recipe(wrapping(here, "mine"))
    shutil.rmtree("mine")
    shutil.copytree(place / "two", "mine")
    with pytest.raises(RunError, match="is not the one that the recipe wraps"):
        wrap(archive, recipe)
    assert not Path("w").exists()


def test_a_run_that_has_seen_what_is_held_out_is_refused(here, made):
    archive, place = made
    with pytest.raises(RunError, match="trained on months that the wrapper holds out"):
        wrap(archive, load_recipe(wrapping(place, "other")))
    assert not Path("w").exists()


def test_a_final_fit_is_no_base_of_what_is_validated(here, made):
    archive, place = made
    train_run(
        archive, load_recipe("linear"), Path("final"), protocol="k360", final=read_run(place / "one"),
        reporter=silent_reporter(),
    )  # fmt: skip
    with pytest.raises(RunError, match="trained on months that the wrapper holds out"):
        wrap(archive, load_recipe(wrapping(here, "final")))


def test_a_run_that_selected_on_the_test_months_is_refused(here, made):
    archive, place = made
    recipe = load_recipe(wrapping(place, "one"))
    own = make_split(archive, "k360", None)
    # The months that it validates, tested by a split that trains on the same ones.
    later = Split("later", own.train, {"test": own.validation})
    with pytest.raises(RunError, match="selected on months that the wrapper holds out"):
        finished_emulator(recipe.finished[0], recipe.parts[0][0], archive, later)
    assert finished_emulator(recipe.finished[0], recipe.parts[0][0], archive, own).kind == "linear"


def test_a_run_of_other_data_is_refused(here, made):
    _, place = made
    other = warming_archive(seed=1)
    with pytest.raises(RunError, match="found:    another data"):
        wrap(other, load_recipe(wrapping(place, "one")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["recipe"]["model"].update(ridge=3.0), "its recipe was edited"),
        (lambda r: r.update(state="training"), "has not finished"),
        (lambda r: r.pop("identity"), "cannot be read"),
    ],
)
def test_a_damaged_run_is_refused_when_the_recipe_is_read(here, made, change, words):
    _, place = made
    shutil.copytree(place / "one", "mine")
    record = json.loads(Path("mine/run.json").read_text())
    change(record)
    Path("mine/run.json").write_text(json.dumps(record))
    with pytest.raises(RecipeError, match=words):
        load_recipe(wrapping(here, "mine"))


@pytest.mark.parametrize(
    ("emulator", "more", "words"),
    [
        ("ensemble", "copies = 2\n", "a finished run is one"),
        ("ensemble", 'recipe = "linear"\n', "does not name one finished run"),
        ("residual-correction", '[[bases]]\nrecipe = "cnn-gru"\n', "trains its bases again"),
        ("variance-matched", '[[bases]]\nrecipe = "linear"\n', "wraps 1, not 2"),
    ],
)
def test_what_cannot_wrap_a_finished_run_says_so(here, made, emulator, more, words):
    _, place = made
    with pytest.raises(RecipeError, match=words):
        load_recipe(wrapping(place, "one", emulator=emulator, more=more))


def test_settings_of_a_finished_run_are_refused(here, made):
    _, place = made
    with pytest.raises(RecipeError, match=r"bases\.0, which is a finished run"):
        load_recipe(wrapping(place, "one"), None, ["bases.0.recipe.model.ridge=2.0"])


def test_a_recipe_with_bases_keeps_the_digest_that_its_old_runs_have():
    """As they were in records of 0.1.0, when `additive-gp` had the same sizes in all cells and another gate."""
    settings = [f"bases.0.recipe.model.{s}" for s in ("parts=1", "sharpness=2.0", "length_scale=3.0")]
    before = load_recipe("best-fast", None, settings)
    assert before.digest == "86f872629a04f605d2f4e66910a0c0cff8d383467b1734f0d95774ca8ea8f896"
    assert load_recipe("best-fast").digest != before.digest
    for setting in settings[:2]:
        # Each of them decides.
        other = load_recipe("best-fast", None, [s for s in settings if s != setting])
        assert other.digest not in (before.digest, load_recipe("best-fast").digest)
