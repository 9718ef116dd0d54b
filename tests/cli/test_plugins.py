"""A package outside emukit that cannot be trained, reported or submitted; a stranger's file that imports its code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from emukit import registry
from emukit.data.card import identify_card, load_card
from emukit.data.encodings import CYCLES
from emukit.emulators.registry import EMULATORS, load_emulator
from emukit.errors import RecipeError, RunError, StoreError
from emukit.files import shipped
from emukit.losses.registry import TERMS
from emukit.models.registry import NETWORKS
from emukit.recipes.catalogue import emulator_names, is_random, plugins_of
from emukit.recipes.load import load_recipe
from emukit.registry import Registry
from emukit.runs.record import read_record
from emukit.runs.run import read_run

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
TABLES = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
PROJECT = next(t["project"] for t in TABLES if "project" in t)
TRAIN = ("--set=training.epochs=2", "--set=inputs.window.history=3", "-q")


def install(place: Path, name: str, version: str, groups: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
    """What pip leaves of a package, without pip."""
    place.mkdir(exist_ok=True)
    for module, text in modules.items():
        (place / f"{module}.py").write_text(text)
    info = place / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The package of the page, installed; importing it leaves nothing behind for other tests."""
    before = set(sys.modules)
    place = tmp_path / "site"
    install(place, PROJECT["name"], PROJECT["version"], PROJECT["entry-points"], {"mynets": CODE})
    card = shipped("data_cards", "demo.toml").read_text().replace('name = "demo"', 'name = "mylab"')
    (place / "mylab.toml").write_text(card)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delenv("EMUKIT_TRUST", raising=False)
    for known in (NETWORKS, EMULATORS, TERMS, CYCLES):
        monkeypatch.setattr(known, "_named", set())
    yield place
    for module in set(sys.modules) - before:
        if module.startswith(("mynets", "others", "strange")):
            del sys.modules[module]


def test_a_package_adds_a_network_a_loss_and_a_card_and_its_run_is_like_any_other(
    outside, emukit, demo_store, monkeypatch, undrawn
):
    opened = ("--data", demo_store, "--card", "mylab")
    words = ("--set=loss.tas={mse=1.0,bias=0.5}", "--set=model.width=4", "--out=runs/p", *opened, *TRAIN)
    answer = emukit("train", "pointwise", *words)
    assert answer.code == 0, answer.err
    logged = json.loads(Path("runs/p/metrics.jsonl").read_text().splitlines()[-1])
    assert "tas.bias" in json.dumps(logged)
    record = read_record(Path("runs/p"))
    needed = {(p.kind, p.name, p.target, p.distribution, p.version) for p in record.plugins}
    assert needed == {
        ("network", "pointwise", "mynets:Pointwise", "mynets", "0.1"),
        ("loss term", "bias", "mynets:bias", "mynets", "0.1"),
        ("data card", "mylab", "mynets:CARD", "mynets", "0.1"),
    }
    for command in (
        ("evaluate", "runs/p", "-q"),
        ("predict", "runs/p", "--scenario", "ssp126", "--out", "p.nc", "-q"),
        ("submit", "runs/p", "--out", "submissions/p", "-q"),
        ("report", "runs/p", "submissions/", "-q"),
        ("leaderboard", "runs"),
        ("train", "pointwise", *words),
    ):
        answer = emukit(*command)
        assert answer.code == 0, (command, answer.err)
    # Without the package, all of it is refused by name, and listings still list.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(outside)])
    for command in (("evaluate", "runs/p"), ("submit", "runs/p", "--out", "submissions/q")):
        answer = emukit(*command)
        assert answer.code == 2
        assert "needs the network pointwise, which is not installed" in answer.err
        assert "pip install 'mynets==0.1'" in answer.err
    assert not Path("submissions/q").exists()
    with pytest.raises(RunError, match="needs the network pointwise, which is not installed"):
        load_emulator("runs/p")
    assert emukit("runs", "runs").code == 0
    assert "pointwise" in emukit("leaderboard", "runs").out


def test_the_page_shows_a_network_of_twelve_lines_and_recipes_that_load(outside, tmp_path, monkeypatch):
    network = CODE.split("\n\n\n")[1]
    assert len([line for line in network.splitlines() if line.strip()]) <= 12
    (recipe,) = [t for t in TABLES if t.get("base") == "cnn-gru"]
    file = tmp_path / "mine.toml"
    file.write_text('base = "cnn-gru"\nemulator = "mynets:Pointwise"\n[model]\nwidth = 8\n')
    assert recipe == tomllib.loads(file.read_text())
    loaded, base = load_recipe(str(file)), load_recipe("cnn-gru")
    assert loaded.options == {"width": 8}
    assert (loaded.training, loaded.loss, loaded.inputs) == (base.training, base.loss, base.inputs)


def test_nothing_of_a_package_is_imported_to_list_names(outside):
    assert "pointwise" in emulator_names()
    assert "bias" in TERMS
    assert NETWORKS["pointwise"].origin == "mynets:Pointwise of mynets 0.1"
    assert "mynets" not in sys.modules


def test_built_in_names_are_found_without_looking_through_packages(monkeypatch):
    def looked(path):
        raise AssertionError("packages were looked through")

    monkeypatch.setattr("emukit.registry._installed", looked)
    assert load_recipe("best-fast")
    assert "cnn-gru" in NETWORKS
    with pytest.raises(AssertionError, match="looked through"):
        "pointwise" in NETWORKS  # noqa: B015


def test_a_name_of_emukit_is_emukits_and_a_name_of_two_packages_is_refused(tmp_path, monkeypatch, emukit):
    install(
        tmp_path / "a",
        "a",
        "1",
        {"emukit.networks": {"twice": "others:A", "cnn-gru": "others:A", "linear": "others:A"}},
        {},
    )
    install(tmp_path / "b", "b", "2", {"emukit.networks": {"twice": "others:B", "un safe": "others:B"}}, {})
    for place in ("a", "b"):
        monkeypatch.syspath_prepend(tmp_path / place)
    assert load_recipe("linear").emulator == "linear"
    assert NETWORKS["cnn-gru"].target == "emukit.models.cnn_gru:CNNGRU"
    with pytest.raises(RecipeError, match="several packages have a network twice: b 2, a 1"):
        load_recipe("twice")
    listed = emukit("models")
    assert listed.code == 0, listed.err
    assert "several packages have a network twice" in " ".join(listed.out.split())
    assert "the network cnn-gru of a 1 is ignored: emukit has one of that name" in listed.out
    assert "the network linear of a is ignored: emukit has that name" in listed.out
    assert "the network un safe of b 2 is ignored" in listed.out


def test_a_broken_package_is_named_and_takes_no_listing_down(tmp_path, monkeypatch, emukit):
    text = "raise ZeroDivisionError('oh')"
    groups = {"emukit.networks": {"broken": "strange:X"}, "emukit.emulators": {"torn": "strange:Y"}}
    install(tmp_path / "s", "s", "1", groups, {"strange": text})
    monkeypatch.syspath_prepend(tmp_path / "s")
    with pytest.raises(RecipeError, match=r"cannot import strange:X of s 1\n.*ZeroDivisionError: oh"):
        load_recipe("broken")
    assert emukit("models").code == 0
    assert is_random({"emulator": "torn"}) is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("X = 1", "not a network"),
        ("def X(): ...", "not a network"),
        ("from torch import nn\nclass X(nn.Module):\n    def __init__(self, *, width=3): ...", "no type or no default"),
        ("from torch import nn\nclass X(nn.Module):\n    def __init__(self, *, w: int): ...", "no type or no default"),
        ("from torch import nn\nclass X(nn.Module):\n    def __init__(self, *, w: nn.Module = None): ...", "no recipe"),
    ],
)
def test_what_is_no_network_is_refused_by_name(tmp_path, monkeypatch, text, words):
    install(tmp_path / "s", "s", "1", {"emukit.networks": {"odd": "strange_odd:X"}}, {"strange_odd": text})
    monkeypatch.syspath_prepend(tmp_path / "s")
    try:
        with pytest.raises(RecipeError, match=words):
            load_recipe("odd")
    finally:
        sys.modules.pop("strange_odd", None)


def test_a_card_of_a_package_is_taken_where_none_of_emukits_fits(outside, demo_store):
    import xarray as xr

    ds = xr.open_zarr(demo_store)
    ds.attrs = {}
    # By its layout the store is the competition's.
    assert identify_card(ds).name.startswith("cse151b")
    own = (outside / "mylab.toml").read_text().replace("by_layout = false", "by_layout = true")
    (outside / "mylab.toml").write_text(own.replace("ssp126", "rcp26"))
    assert identify_card(ds.assign_coords(ssp=["rcp26", *map(str, ds.ssp.values[1:])])).name == "mylab"
    assert load_card("mylab").name == "mylab"
    with pytest.raises(StoreError, match="there is no data card yourlab"):
        load_card("yourlab")


def test_a_card_dropped_into_the_folder_is_found(tmp_path, monkeypatch):
    from emukit.data import card

    shutil.copytree(shipped("data_cards", "."), tmp_path / "data_cards")
    text = shipped("data_cards", "demo.toml").read_text().replace('name = "demo"', 'name = "dropped"')
    (tmp_path / "data_cards" / "dropped.toml").write_text(text)
    monkeypatch.setattr(card, "shipped", lambda kind, name: tmp_path / kind / name)
    card.shipped_cards.cache_clear()
    try:
        assert "dropped" in card.card_names()
        assert load_card("dropped").name == "dropped"
    finally:
        card.shipped_cards.cache_clear()


# --- what strangers' files may import


def evil(place: Path) -> None:
    """A module that says when it is imported."""
    text = f"open({str(place / 'imported')!r}, 'w').close()\n{CODE}"
    (place / "strange_nets.py").write_text(text)


@pytest.fixture
def stranger(outside, emukit, demo_store, monkeypatch):
    """A run of a network that was named in full, on a machine where nobody has named it."""
    evil(outside)
    answer = emukit("train", "strange_nets:Pointwise", "--data", demo_store, "--out=runs/s", *TRAIN)
    assert answer.code == 0, answer.err
    (outside / "imported").unlink()
    del sys.modules["strange_nets"]
    for known in (NETWORKS, EMULATORS, TERMS, CYCLES):
        monkeypatch.setattr(known, "_named", set())
    return outside


def test_a_run_folder_imports_no_module_that_the_user_has_not_named(stranger, emukit, monkeypatch):
    for command in (
        ("evaluate", "runs/s"),
        ("submit", "runs/s"),
        ("plot", "runs/s"),
        ("runs", "runs"),
        ("report", "runs"),
    ):
        answer = emukit(*command)
        assert answer.code == (0 if command[0] in ("runs", "report") else 2), (command, answer.err)
        assert not (stranger / "imported").exists()
    assert "export EMUKIT_TRUST=strange_nets:Pointwise" in emukit("evaluate", "runs/s").err
    for read in (lambda: read_run(Path("runs/s")), lambda: load_emulator("runs/s")):
        with pytest.raises(RunError, match="strange_nets:Pointwise"):
            read()
    assert not (stranger / "imported").exists()
    # An edited record that says it needs nothing gets no further.
    for path in (Path("runs/s/run.json"),):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "needs": []}))
    with pytest.raises(RecipeError, match="only a file names it"):
        read_run(Path("runs/s"))
    assert not (stranger / "imported").exists()


@pytest.mark.parametrize("trust", ["strange_nets:Pointwise", "strange_nets", "other , strange_nets:Pointwise"])
def test_what_the_environment_trusts_is_imported(stranger, emukit, monkeypatch, trust):
    monkeypatch.setenv("EMUKIT_TRUST", trust)
    answer = emukit("evaluate", "runs/s", "-q")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("trust", ["strange", "strange_nets:Other", "strange_nets.Pointwise"])
def test_trust_in_something_else_is_none(stranger, emukit, monkeypatch, trust):
    monkeypatch.setenv("EMUKIT_TRUST", trust)
    assert emukit("evaluate", "runs/s", "-q").code == 2
    assert not (stranger / "imported").exists()


def test_python_names_what_it_trusts(stranger):
    import emukit as package

    assert package.load_run("runs/s", trust=["strange_nets:Pointwise"]).recipe.emulator == "strange_nets:Pointwise"


def test_the_command_that_trained_names_it_again(stranger, emukit, demo_store):
    words = ("strange_nets:Pointwise", "--data", demo_store, "--out=runs/s", *TRAIN)
    assert emukit("train", *words).code == 0
    assert emukit("models", "strange_nets:Pointwise").code == 0


def test_names_that_lead_out_of_python_are_no_targets():
    for name in ("os:system:x", "../x:Y", "x:Y.z", "x:", ":Y", "x y:Z", "os.path"):
        assert not NETWORKS.may_import(name)
        NETWORKS.admit(name)
        assert name not in NETWORKS


def test_a_function_named_in_full_is_no_network(outside):
    with pytest.raises(RecipeError, match="os:abort is neither a network nor an emulator"):
        load_recipe("os:abort")


def test_another_package_of_the_same_name_is_not_taken_for_it(outside, tmp_path, monkeypatch):
    (needed,) = plugins_of(load_recipe("pointwise").model_dump())
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(outside)])
    install(tmp_path / "o", "other", "9", {"emukit.networks": {"pointwise": "others:P"}}, {})
    monkeypatch.syspath_prepend(tmp_path / "o")
    with pytest.raises(RunError, match=r"another package than the one installed here\n.*others:P of other 9") as error:
        NETWORKS.check(needed, "the run r")
    assert "mynets:Pointwise of the package mynets 0.1" in error.value.expected


def test_another_version_is_noted(outside, emukit, demo_store):
    assert emukit("train", "pointwise", "--data", demo_store, "--out=runs/p", *TRAIN).code == 0
    (outside / "mynets-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 0.2\n")
    monkey = "the network pointwise is of mynets 0.2; the run was trained with 0.1"
    from emukit import registry

    registry._installed.cache_clear()
    assert monkey in " ".join(emukit("evaluate", "runs/p").err.split())


def test_listing_names_stays_cheap():
    """A process of its own: another test has imported everything."""
    code = (
        "import sys\nfrom emukit.recipes.catalogue import recipe_names\nrecipe_names()\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'xarray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registries_have_no_two_of_one_kind():
    from emukit.recipes.catalogue import REGISTRIES

    assert all(isinstance(r, Registry) and r.kind == kind for kind, r in REGISTRIES.items())
    assert len({r.group for r in REGISTRIES.values()}) == len(REGISTRIES) == 8


# --- the other groups

OTHERS = '''
from contextlib import contextmanager

import numpy as np

from emukit.data.encodings import Cycle, Place
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.ensemble import Ensemble
from emukit.objectives.regression import Regression
from emukit.training.tracking import Tracker


class Later(ClimatologyEmulator):
    """A climatology that a seed and an option shift."""

    @classmethod
    def fit(cls, archive, split, *, seed: int = 0, shift: float = 1.0):
        found = super().fit(archive, split)
        found._mean = found._mean + np.float32(shift * seed)
        return found


class Doubled(Regression):
    """Twice the loss."""

    def __init__(self, loss, *, factor: float = 2.0):
        super().__init__(loss)
        self.factor = factor

    def loss(self, forward, sample, **words):
        total, terms = super().loss(forward, sample, **words)
        return self.factor * total, terms | {"doubled": self.factor * total.detach()}


class Pair(Ensemble):
    """Two at most."""

    most_bases = 2


@contextmanager
def lines(folder, before, about):
    with open(folder / "lines.txt", "w") as f:
        yield lambda line: f.write(f"{line['epoch']}\\n")


OWN = Cycle(("one",), lambda phase, grid: [np.ones((1, 1, 1))])
PLACE = Place(("two",), lambda grid: [np.ones((1, 1))])
LINES = Tracker(lines, look="less {folder}/lines.txt")
'''


@pytest.fixture
def others(outside, monkeypatch):
    groups = {
        "emukit.emulators": {"later": "others_more:Later", "pair": "others_more:Pair"},
        "emukit.encodings": {"own": "others_more:OWN"},
        "emukit.statics": {"place": "others_more:PLACE"},
        "emukit.objectives": {"doubled": "others_more:Doubled"},
        "emukit.trackers": {"lines": "others_more:LINES"},
    }
    install(outside, "others", "3", groups, {"others_more": OTHERS})
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


def test_an_emulator_of_a_package_is_saved_wrapped_and_loaded_by_the_name_of_its_recipe(others, emukit, demo_store):
    words = ("--data", demo_store, "-q")
    assert emukit("train", "later", "--seed", "3", "--set=model.shift=0.5", "--out=a", *words).code == 0
    saved = load_emulator("a")
    assert (type(saved).__name__, saved.kind) == ("Later", "later")
    plain = emukit("train", "climatology", "--out=b", *words)
    assert plain.code == 0, plain.err
    assert is_random(read_record(Path("a")).recipe)
    assert not is_random(read_record(Path("b")).recipe)
    wrapped = emukit("train", "pair", '--set=bases=[{recipe="later"},{run="a"}]', "--out=c", *words)
    assert wrapped.code == 0, wrapped.err
    pair = load_emulator("c")
    assert [b.kind for b in pair.bases] == ["later", "later"]
    assert {p.name for p in pair.plugins} == {"later", "pair"}
    assert emukit("evaluate", "c", "-q").code == 0
    three = emukit("train", "pair", '--set=bases=[{recipe="linear",copies=3}]', "--out=d", *words)
    assert "pair wraps 2, not 3, bases" in three.err


def test_encodings_trackers_and_objectives_of_a_package_act_in_a_training(others, emukit, demo_store):
    inputs = ("--set=inputs.seasonal=['month','own']", "--set=inputs.statics=['place']")
    small = ("--set=model.hidden=4", "--set=model.features=4", "--set=model.width=2", "--set=model.stages=1")
    words = (
        "cnn-gru",
        "--data",
        demo_store,
        "--out=a",
        "--track=lines",
        *inputs,
        *small,
        *TRAIN,
        "--objective=doubled",
    )
    answer = emukit("train", *words)
    assert answer.code == 0, answer.err
    assert Path("a/lines.txt").read_text().split() == ["1", "2"]
    assert "doubled" in Path("a/metrics.jsonl").read_text()
    quiet = words.index("-q")
    assert "less a/lines.txt" in emukit("train", *words[:quiet], *words[quiet + 1 :]).err
    emulator = load_emulator("a")
    assert emulator.encoder.channels[-4:] == ("sin_month", "cos_month", "one", "two")
    assert {p.kind for p in emulator.plugins} == {"objective", "seasonal encoding", "static encoding"}
    assert {p.distribution for p in read_record(Path("a")).plugins} == {"others"}
