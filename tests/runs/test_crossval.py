"""Cross-validation that shows a fold what it scores, or looks outside the training months."""

import json
import shutil
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import HELD_OUT, Span
from emukit.emulators.linear import LinearEmulator
from emukit.errors import ProtocolError, RunError
from emukit.metrics import Moments
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs import protocols as module
from emukit.runs.crossval import (
    VALIDATION,
    blocked_folds,
    compare,
    cross_validate,
    forcing_distance,
    validation_fold,
)
from emukit.runs.evaluate import evaluate, noise_ceiling, score_emulator
from emukit.runs.protocols import named_protocols
from emukit.runs.run import read_run, train_run
from emukit.runs.submit import submit_run
from tests.cli.conftest import TINY
from tests.coded import coded_archive, score_moments, warming_archive

FEATURES = ("CO2", "SO2")
QUIET = Reporter(quiet=True)
LINES = ("reference: another run", "noise ceiling")


def months(spans, name):
    return {t for s in spans if s.scenario == name for t in range(s.start, s.stop)}


@pytest.mark.parametrize("protocol", ["official", "k360", "loso:ssp126"])
def test_folds_score_training_months_they_do_not_train_on(protocol):
    archive = coded_archive(hidden={"ssp245": (0, 121)})
    split = make_split(archive, protocol)
    names = {s.scenario for s in split.train}
    folds = blocked_folds(archive, split)
    assert len(folds) == 2 * len(names)
    for fold in folds.values():
        held_out = fold.scored[HELD_OUT]
        assert {s.members for s in held_out} == {(0,), (1,), (2,)}
        assert len({(s.scenario, s.start, s.stop) for s in held_out}) == 1
        known = (*split.train, *split.validation)
        for name in names:
            shown = months(fold.train, name) | months(fold.validation, name)
            assert shown <= months(split.train, name)
            assert not shown & months(held_out, name)
            assert months(held_out, name) <= months(known, name)
            assert not months(held_out, name) & months(split.scored["test"], name)


def test_a_scenario_left_out_as_a_whole_is_scored_to_the_end_of_what_is_visible():
    archive = coded_archive()
    split = make_split(archive, "k360")
    (validation,) = split.validation
    folds = blocked_folds(archive, split, months=30)
    for label, stop in (("without ssp370", validation.stop), ("without ssp126", 121)):
        assert {(s.start, s.stop) for s in folds[label].scored[HELD_OUT]} == {(stop - 30, stop)}
    # Nothing of it trains, so its validation months may be scored; else they are a fold of their own.
    assert folds["without ssp370 from 2018-08"].scored[HELD_OUT][0].stop == validation.start


def test_a_fold_without_the_later_part_keeps_the_earlier():
    archive = coded_archive()
    folds = blocked_folds(archive, make_split(archive, "k360"), months=30)
    whole, later = folds["without ssp370"], folds["without ssp370 from 2018-08"]
    assert months(whole.train, "ssp370") == set()
    # 43 months are left, of which the last 12 select.
    assert months(later.train, "ssp370") == set(range(31))
    assert later.scored[HELD_OUT] == tuple(Span("ssp370", 43, 73, (m,)) for m in range(3))


def test_no_test_month_moves_a_score():
    archive = warming_archive()
    split = make_split(archive, "k360")

    def value():
        folds = blocked_folds(archive, split)
        return cross_validate(
            archive, folds, lambda name, fold: LinearEmulator.fit(archive, fold, features=FEATURES)
        ).as_dict()

    before = value()
    for span in split.scored["test"]:
        archive[span.scenario].targets[:, span.start : span.stop] += 1000
    archive["ssp245"].targets[:] += 1000
    assert value() == before
    (span,) = split.validation
    archive[span.scenario].targets[:, span.start : span.stop] += 1000
    after = value()["folds"]
    assert {name for name in after if after[name] != before["folds"][name]} == {"without ssp370"}


def test_score_is_the_mean_over_members_and_folds():
    archive = warming_archive()
    split = make_split(archive, "k360")
    folds = blocked_folds(archive, split, later=False)
    fitted = {name: LinearEmulator.fit(archive, fold, features=FEATURES) for name, fold in folds.items()}
    result = cross_validate(archive, folds, lambda name, fold: fitted[name])
    expected = [
        score_emulator(fitted[name], archive, (span,)).value
        for name, fold in folds.items()
        for span in fold.scored[HELD_OUT]
    ]
    assert len(expected) == 9
    assert result.mean.value == pytest.approx(np.mean(expected))
    assert result.folds["without ssp126"].value == pytest.approx(np.mean(expected[:3]))


def test_too_few_months_to_leave_some_out_are_refused():
    archive = coded_archive()
    split = make_split(archive, "loso:ssp126")
    alone = type(split)("mine", tuple(s for s in split.train if s.scenario == "ssp370"), {"validation": ()})
    with pytest.raises(ProtocolError, match="too few months"):
        blocked_folds(archive, alone, months=200)


def one_scenario(archive):
    split = make_split(archive, "k360")
    alone = tuple(s for s in split.train if s.scenario == "ssp126")
    return type(split)("mine", alone, {"validation": ()})


def test_fold_that_trains_on_less_than_it_scores_says_so():
    # 121 months in all, 12 of which select, so that a fold that scores as many as it trains on has 54 or 55 of each.
    archive = coded_archive()
    for months, trained, note in ((54, 55, False), (55, 54, True), (97, 12, True)):
        (fold,) = blocked_folds(archive, one_scenario(archive), months=months).values()
        assert sum(map(len, fold.train)) == trained
        said = f"trained on {trained} months, fewer than the {months} that it scores"
        assert [said in text for text in fold.notes] == [True] * note


def test_fold_without_a_whole_year_is_refused():
    with pytest.raises(ProtocolError, match="is left 11 months to train on") as caught:
        blocked_folds(coded_archive(), one_scenario(coded_archive()), months=98)
    assert "--months" in caught.value.hint


def test_short_folds_are_noted_in_the_result(tmp_path):
    archive = warming_archive()
    two = replace(archive, scenarios={name: archive[name] for name in ("ssp245", "ssp370")})
    # Of 181 months 24 are the protocol's own validation, and 24 more the fold's.
    recipes = {"c": load_recipe("climatology")}
    result = compare(two, recipes, tmp_path, protocol="loso:ssp245", months=100, reporter=QUIET)
    assert len(result.notes) == 1
    assert "trained on 33 months, fewer than the 100 that it scores" in result.notes[0]
    assert json.loads((tmp_path / "crossval.json").read_text())["notes"] == list(result.notes)


@pytest.mark.parametrize("protocol", ["official", "k360", "loso:ssp126"])
@pytest.mark.parametrize("months", [None, 30])
def test_a_fold_is_found_again_by_its_name(protocol, months):
    archive = warming_archive()
    folds = blocked_folds(archive, make_split(archive, protocol), months=months)
    for fold in folds.values():
        again = make_split(archive, fold.protocol)
        assert (again.protocol, again.train, again.scored) == (fold.protocol, fold.train, fold.scored)
        # As under every protocol, what is scored does not depend on who trains.
        one = make_split(archive, fold.protocol, [1])
        assert one.scored[HELD_OUT] == fold.scored[HELD_OUT]
        assert [(s.scenario, s.start, s.stop) for s in one.train] == [(s.scenario, s.start, s.stop) for s in fold.train]
        assert {s.members for s in one.train} == {(1,)}


@pytest.mark.parametrize(
    "name",
    [
        "k360 without ssp245 scored from 2016-01",
        "k360 without ssp370 from 2023-02",
        "k360 without ssp370 from 1850-01",
        "k360 without ssp999 from 2016-01",
        "nothing without ssp370 from 2016-01",
        "k360 without ssp370",
    ],
)
def test_a_fold_that_is_none_is_refused(name):
    with pytest.raises(ProtocolError):
        make_split(warming_archive(), name)


def test_a_fold_is_evaluated_but_neither_submitted_nor_tested(tmp_path):
    archive = warming_archive()
    name = "k360 without ssp126 from 2025-02"
    run, _ = train_run(archive, load_recipe("linear"), tmp_path / "run", protocol=name, reporter=QUIET)
    evaluation = evaluate(run.emulator(archive), archive, run.split(archive), HELD_OUT)
    spans = run.split(archive).scored[HELD_OUT]
    assert evaluation.score == score_emulator(LinearEmulator.fit(archive, run.split(archive)), archive, spans)
    # No member is left that is not scored: each is held against the others.
    fields = [archive["ssp126"].truth(m, 121, 181) for m in range(3)]
    each = [score_moments(Moments.of(a, b), archive.grid.weights).value for a, b in permutations(fields, 2)]
    assert evaluation.references["another run"].value == pytest.approx(np.mean(each))
    with pytest.raises(ProtocolError, match="no test months"):
        submit_run(run, archive, tmp_path / "s", "csv", QUIET)
    assert named_protocols(archive, name)[0] == {name: ("validation",)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    archive = warming_archive()
    out = tmp_path_factory.mktemp("crossval")
    recipes = {
        "linear": load_recipe("linear", assignments=["model.features=['CO2', 'SO2']"]),
        "climatology": load_recipe("climatology"),
        "variance-matched": load_recipe("variance-matched"),
    }
    return archive, recipes, out, compare(archive, recipes, out, protocol="k360", months=48, reporter=QUIET)


def test_every_number_is_of_its_recipe_and_fold(compared):
    archive, _, _, result = compared
    split = make_split(archive, "k360")
    folds = blocked_folds(archive, split, months=48) | {VALIDATION: validation_fold(archive, split)}
    assert list(result.months) == list(folds)
    assert result.months[VALIDATION] == replace(split.validation[0], members=(0, 1, 2)).text(archive)
    assert result.months["without ssp126 from 2026-02"] == "ssp126 2026-02..2030-01 members 0,1,2"
    for label, fold in folds.items():
        spans = fold.scored[HELD_OUT]
        expected = score_emulator(LinearEmulator.fit(archive, fold, features=FEATURES), archive, spans)
        assert result.found["linear"].folds[label].line() == pytest.approx(expected.line())
        assert result.limit.folds[label].line() == pytest.approx(noise_ceiling(archive, spans).line())
        (span, *_) = spans
        fields = [archive[span.scenario].truth(m, span.start, span.stop) for m in range(3)]
        each = [score_moments(Moments.of(a, b), archive.grid.weights).line() for a, b in permutations(fields, 2)]
        floor = {k: np.mean([e[k] for e in each]) for k in each[0]}
        assert result.reference.folds[label].line() == pytest.approx(floor)


def test_several_recipes_are_compared_fold_by_fold(compared):
    _, recipes, out, result = compared
    means, *rest = result.blocks()
    kinds, differences = rest[: len(result.kinds)], rest[len(result.kinds) :]
    assert list(means.lines) == [*recipes, *LINES]
    assert [b.title.partition(",")[0] for b in differences] == [f"{n} minus linear" for n in [*recipes][1:]]
    for name, block in zip([*recipes][1:], differences, strict=True):
        *lines, (last, mean) = block.lines.items()
        ours, theirs = result.found[name].folds, result.found["linear"].folds
        assert [label for label, _ in lines] == [*ours]
        for label, line in lines:
            assert line["score"] == pytest.approx(ours[label].value - theirs[label].value)
        assert mean["score"] == pytest.approx(means.lines[name]["score"] - means.lines["linear"]["score"])
        assert last.endswith(f"better in {sum(ours[k].value < theirs[k].value for k in ours)} of {len(ours)}")
    for (kind, folds), block in zip(result.kinds.items(), kinds, strict=True):
        assert f", {kind}: mean over {len(folds)} folds" in block.title
        for name in recipes:
            scores = [result.found[name].folds[fold].value for fold in folds]
            assert block.lines[name]["score"] == pytest.approx(np.mean(scores))
        ordered = sorted(recipes, key=lambda name: block.lines[name]["score"])
        assert [line for line in block.lines if line not in LINES] == ordered == result.as_dict()["ranks"][kind]
        assert block.column == ("rank", {name: str(i) for i, name in enumerate(ordered, 1)})
    kept = json.loads((out / "crossval.json").read_text())
    assert kept == json.loads(json.dumps(result.as_dict()))
    assert kept["recipes"]["linear"]["digest"] == recipes["linear"].digest
    assert kept["recipes"]["linear"]["mean"]["score"] == means.lines["linear"]["score"]
    assert kept["limit"]["mean"]["score"] == means.lines["noise ceiling"]["score"]


def test_distance_is_that_of_forcings_and_the_bound_divides_the_folds(compared):
    archive, _, _, result = compared
    split = make_split(archive, "k360")
    fold = blocked_folds(archive, split, months=48)["without ssp126"]
    names = ("CO2", "CH4", "SO2", "BC")
    plain = {
        s: np.stack([archive.grid.mean(f) if f.ndim == 3 else f for f in (archive[s].forcings[n] for n in names)], 1)
        for s in archive
    }
    years = [plain[s.scenario][a : a + 12].mean(0) for s in fold.train for a in range(s.stop - 12, s.start - 1, -12)]
    center, scale = np.mean(years, 0), np.std(years, 0)
    points = (np.array(years) - center) / scale
    span = fold.scored[HELD_OUT][0]
    at = (plain["ssp126"][span.start : span.stop] - center) / scale
    nearest = [min(np.linalg.norm(month - point) for point in points) for month in at]
    assert result.distances["without ssp126"] == pytest.approx(np.mean(nearest))
    middle = sorted(result.distances.values())[3]
    divided = replace(result, bound=middle)
    assert [len(folds) for folds in divided.kinds.values()] == [4, 3]
    assert max(result.distances[f] for f in divided.kinds["interpolation"]) == middle
    scrambled = {n: replace(s, targets=s.targets * -3) for n, s in archive.items()}
    other = replace(archive, scenarios=scrambled)
    assert forcing_distance(other, fold.train, fold.scored[HELD_OUT]) == result.distances["without ssp126"]


def test_a_single_recipe_is_shown_on_every_set_of_months(compared, tmp_path):
    archive, recipes, shared, several = compared
    # Its own copy: a comparison writes its results over those that others read.
    out = shutil.copytree(shared, tmp_path / "crossval")
    result = compare(archive, {"linear": recipes["linear"]}, out, protocol="k360", months=48, reporter=QUIET)
    *parts, mean = result.blocks()
    parts = [part for part in parts if part.column[0] == "distance"]
    assert [b.title for b in parts] == [f"linear, k360: {m}" for m in dict.fromkeys(result.months.values())]
    shown = {}
    for part in parts:
        labels = [k for k in part.lines if k not in LINES]
        assert {f"linear, k360: {result.months[k]}" for k in labels} == {part.title}
        assert part.lines["reference: another run"] == result.reference.folds[labels[0]].line()
        assert part.column[1] == {k: f"{result.distances[k]:.2f}" for k in labels}
        shown |= {k: part.lines[k] for k in labels}
    assert shown == {k: s.line() for k, s in several.found["linear"].folds.items()}
    assert mean.lines["mean"] == several.found["linear"].mean.line()


def test_finished_folds_are_read_interrupted_ones_go_on_and_other_settings_stand_beside(tmp_path, monkeypatch):
    archive = warming_archive()
    words = [*(word.removeprefix("--set=") for word in TINY), "training.segments.length=60"]
    trained = []

    def counting(*args, **kwargs):
        trained.append(kwargs["protocol"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_run(*args, **kwargs)

    monkeypatch.setattr(module, "train_run", counting)
    options = {"protocol": "loso:ssp126", "months": 200, "reporter": QUIET}
    chosen = {"cnn-gru": load_recipe("cnn-gru", assignments=words)}
    commands = {"cnn-gru": "emukit train cnn-gru"}
    with pytest.raises(KeyboardInterrupt):
        compare(archive, chosen, tmp_path, **options, commands=commands)
    first = compare(archive, chosen, tmp_path, **options, commands=commands)
    names = [f.protocol for f in blocked_folds(archive, make_split(archive, "loso:ssp126"), months=200).values()]
    names.append("loso:ssp126")
    assert trained == [names[0], names[1], *names[1:]]
    assert compare(archive, chosen, tmp_path, **options).as_dict() == first.as_dict()
    assert len(trained) == len(names) + 1
    runs = {read_run(p.parent).record.identity.protocol: p.parent for p in tmp_path.glob("*/*/run.json")}
    assert set(runs) == set(names)
    command = read_run(runs[names[0]]).record.command
    assert command == f"emukit train cnn-gru --protocol '{names[0]}' --seed 0"
    # Scored is the run that is kept, and no other seed or setting.
    emulator, fold = read_run(runs[names[0]]).emulator(archive), make_split(archive, names[0])
    assert first.found["cnn-gru"].folds["without ssp245"] == score_emulator(emulator, archive, fold.scored[HELD_OUT])
    other = {"cnn-gru": load_recipe("cnn-gru", assignments=[*words, "training.epochs=1"])}
    assert compare(archive, other, tmp_path, **options).found["cnn-gru"].mean != first.found["cnn-gru"].mean
    seeded = compare(archive, chosen, tmp_path, **options, seed=1)
    assert seeded.found["cnn-gru"].mean != first.found["cnn-gru"].mean
    with pytest.raises(RunError, match="another configuration"):
        compare(warming_archive(seed=1), chosen, tmp_path, **options)
