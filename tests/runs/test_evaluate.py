"""Scores, floors, submissions and published rows that are of other months, members or weights than they say."""

import json
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np
import pytest

from emukit.cli.show import evaluation_block
from emukit.competitions.cse151b import cse151b
from emukit.competitions.ranking import load_published
from emukit.data.demo import DemoClimate
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.store import archive_from_dataset
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import RunError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.evaluate import evaluate, noise_ceiling, score_emulator
from emukit.runs.leaderboard import collect_rows, published_rows
from emukit.runs.run import read_run, save_evaluation, train_run
from emukit.runs.submit import submit_run
from emukit.submission import read_submission
from tests.coded import limit_score, warming_archive

QUIET = Reporter(quiet=True)
# The competition's weights: (monthly, time mean, time standard deviation) of each variable, half for each variable.
OFFICIAL = {"tas": (0.1, 1.0, 1.0), "pr": (0.1, 1.0, 0.75)}


class Arbitrary(Emulator):
    """Predicts fields that are a function of scenario and month alone, near no fit and no member."""

    kind = "arbitrary"

    def predict_fields(self, scenario, start, stop):
        rng = np.random.default_rng([ord(c) for c in scenario.name])
        fields = rng.normal(size=(len(scenario), 2, *self.grid.shape)) * [[[[12.0]], [[2.0]]]]
        return (fields + np.array([279.0, 5.0])[:, None, None]).astype(np.float32)[start:stop]

    def state(self):
        raise NotImplementedError

    @classmethod
    def from_state(cls, domain, meta, arrays):
        raise NotImplementedError


def reference(grid, pairs):
    """The six numbers in plain numpy: the mean over (prediction, truth) pairs, one for each span."""
    weights = np.cos(np.deg2rad(grid.lat))[:, None].repeat(len(grid.lon), 1)
    weights = weights / weights.sum()
    numbers = {}
    for v, name in enumerate(OFFICIAL):
        spans = []
        for prediction, truth in pairs:
            p, t = prediction[:, v].astype(np.float64), truth[:, v].astype(np.float64)
            monthly = np.sqrt(np.mean([np.sum(weights * (a - b) ** 2) for a, b in zip(p, t, strict=True)]))
            time_mean = np.sqrt(np.sum(weights * (p.mean(0) - t.mean(0)) ** 2))
            stddev = np.sum(weights * np.abs(p.std(0, ddof=0) - t.std(0, ddof=0)))
            spans.append([monthly, time_mean, stddev])
        numbers[name] = np.mean(spans, 0)
    return numbers


def assert_score(score, numbers, months):
    for name, expected in numbers.items():
        found = [score[f"{name}.{part}"] for part in ("monthly_rmse", "time_mean_rmse", "time_stddev_mae")]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)
    value = sum(0.5 * np.dot(OFFICIAL[name], numbers[name]) for name in OFFICIAL)
    assert score.value == pytest.approx(value, rel=1e-6)
    assert score.months == months


def member_fields(scenario, member, start, stop):
    return scenario.targets[scenario.members.index(member), start:stop]


def partly_hidden(archive, hide):
    """A copy whose months from the given ones on are a hidden test set."""
    scenarios = dict(archive.scenarios)
    for name, first in hide.items():
        mask = np.arange(len(scenarios[name])) >= first
        targets = np.where(mask[:, None, None, None], np.float32(0), scenarios[name].targets)
        scenarios[name] = replace(scenarios[name], hidden=mask, targets=targets)
    return replace(archive, scenarios=scenarios)


# Protocol, set, first hidden month of scenarios, and the spans by hand: 181 months, 24 of validation and 60 of test.
SETS = {
    "one span": ("k360", "validation", {}, [("ssp370", 97, 121)]),
    "test": ("k360", "test", {}, [("ssp370", 121, 181)]),
    "other scenario": ("loso:ssp245", "test-all", {}, [("ssp245", 0, 181)]),
    # The two spans differ in length, so that a mean over months is not the mean over spans.
    "two spans": (
        "loso:ssp126",
        "validation",
        {"ssp245": 0, "ssp585": 167},
        [("ssp370", 157, 181), ("ssp585", 157, 167)],
    ),
}


@pytest.fixture(scope="module", params=SETS, ids=lambda name: name.replace(" ", "-"))
def scored(request):
    """Archive, split, spans and the evaluation of the arbitrary emulator."""
    protocol, name, hide, spans = SETS[request.param]
    archive = partly_hidden(warming_archive(), hide)
    split = make_split(archive, protocol)
    return archive, split, spans, evaluate(Arbitrary(archive.domain), archive, split, name)


def pairs_of(archive, spans, predict):
    return [
        (predict(archive[name], start, stop), member_fields(archive[name], 0, start, stop))
        for name, start, stop in spans
    ]


def test_score_is_of_the_grid_weights_the_held_out_member_and_every_span(scored):
    archive, _, spans, evaluation = scored
    numbers = reference(archive.grid, pairs_of(archive, spans, Arbitrary(archive.domain).predict_fields))
    assert_score(evaluation.score, numbers, sum(stop - start for _, start, stop in spans))


def test_floors_are_the_other_runs_climatology_and_the_linear_emulator(scored):
    archive, split, spans, evaluation = scored
    lines = {
        "climatology": ClimatologyEmulator.fit(archive, split).predict_fields,
        "linear": LinearEmulator.fit(archive, split).predict_fields,
        "another run (member 1)": lambda s, start, stop: member_fields(s, 1, start, stop),
        "another run (member 2)": lambda s, start, stop: member_fields(s, 2, start, stop),
    }
    assert set(evaluation.references) == set(lines)
    for name, predict in lines.items():
        numbers = reference(archive.grid, pairs_of(archive, spans, predict))
        assert min(map(min, numbers.values())) > 0, name
        assert_score(evaluation.references[name], numbers, sum(stop - start for _, start, stop in spans))


def test_limit_is_that_of_the_months_scored_and_none_for_a_single_run(scored):
    archive, split, spans, evaluation = scored
    limits = []
    for name, start, stop in spans:
        runs = np.stack([member_fields(archive[name], m, start, stop) for m in range(3)])
        limits.append(limit_score(runs, archive.grid.weights).value)
    assert evaluation.limit.value == pytest.approx(np.mean(limits))
    assert evaluation.as_dict()["limit"]["score"] == evaluation.limit.value
    scenarios = {n: replace(s, members=(0,), targets=s.targets[:1]) for n, s in archive.scenarios.items()}
    alone = evaluate(Arbitrary(archive.domain), replace(archive, scenarios=scenarios), split, evaluation.name)
    assert alone.limit is None
    assert alone.as_dict()["limit"] is None


def test_leaderboard_shows_floors_and_the_limit_beside_runs(tmp_path):
    archive = warming_archive()
    for name in ("linear", "climatology", "variance-matched"):
        train_run(archive, load_recipe(name), tmp_path / name, protocol="k360", reporter=QUIET)
    rows = collect_rows([tmp_path], published=False)
    assert len({r.split for r in rows}) == 1
    kinds = {(r.name, r.kind) for r in rows}
    # A floor that is a run itself has one line.
    lines = {
        ("another run (member 1)", "reference"),
        ("another run (member 2)", "reference"),
        ("noise ceiling", "limit"),
    }
    assert kinds == lines | {(n, "run") for n in ("linear", "climatology", "variance-matched")}
    assert len(rows) == len(kinds)
    (limit,) = [r for r in rows if r.kind == "limit"]
    expected = noise_ceiling(archive, make_split(archive, "k360").validation)
    assert limit.score == expected.value
    assert limit.numbers["pr.time_stddev_mae"] == expected["pr.time_stddev_mae"]
    # Runs that an earlier version scored have none, and a damaged one is named.
    path = tmp_path / "linear" / "scores" / "validation.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in kept.items() if k != "limit"}))
    assert "limit" not in {r.kind for r in collect_rows([tmp_path / "linear"], published=False)}
    path.write_text(json.dumps({**kept, "limit": {"score": "x"}}))
    with pytest.raises(RunError, match="damaged"):
        collect_rows([tmp_path / "linear"], published=False)


def test_rows_say_the_mean_over_members_and_whether_validation_months_trained(tmp_path):
    archive = warming_archive()
    recipe = load_recipe("variance-matched")
    chosen = {}
    for scenario in ("ssp126", "ssp585"):
        for final in (None, tmp_path / f"{scenario}-s"):
            folder = tmp_path / f"{scenario}-{'f' if final else 's'}"
            before = read_run(final) if final else None
            made, _ = train_run(archive, recipe, folder, protocol=f"loso:{scenario}", final=before, reporter=QUIET)
            found = evaluate(made.emulator(archive), archive, made.split(archive), "test")
            save_evaluation(made.folder, found)
            chosen[made.folder.name] = found
    every = [r for r in collect_rows([tmp_path], published=False) if r.kind == "run"]
    tested = [r for r in every if " test: " in r.split]
    rows = {r.name.partition(" (")[0]: r for r in tested if " loso:all " not in r.split}
    for name, found in chosen.items():
        row = rows[name]
        members = [found.members[m].value for m in range(3)]
        assert members[0] == row.score != members[1]
        assert row.over_members == (pytest.approx(np.mean(members)), pytest.approx(np.std(members, ddof=1)))
        words = "validation months in training" if name.endswith("f") else "validation months not in training"
        assert row.remark == found.remark == words
        block = evaluation_block(name, found)
        assert block.title.split(" (")[0].endswith(f"; {words}")
        assert list(block.lines)[:3] == [name, "mean over 3 members as truth", "standard deviation over members"]
        assert block.lines["mean over 3 members as truth"]["score"] == pytest.approx(np.mean(members))
        numbers = [found.members[m]["tas.monthly_rmse"] for m in range(3)]
        assert block.lines["standard deviation over members"]["tas.monthly_rmse"] == pytest.approx(
            np.std(numbers, ddof=1)
        )
    mean = rows["ssp126-s"], rows["ssp585-s"]
    (together,) = (r for r in tested if r.name == "ssp126-s + ssp585-s")
    assert together.members == pytest.approx(np.mean([r.members for r in mean], axis=0))
    # The validation months are no test of anything they did not train.
    assert {r.remark for r in every if r not in tested} == {""}
    path = tmp_path / "ssp126-s" / "scores" / "test.json"
    kept = json.loads(path.read_text())
    for wrong in ([0.5], {"0": {"score": "x"}}, {"first": kept["members"]["0"]}):
        path.write_text(json.dumps({**kept, "members": wrong}))
        with pytest.raises(RunError, match="damaged"):
            collect_rows([tmp_path / "ssp126-s"], published=False)
    path.write_text(json.dumps({k: v for k, v in kept.items() if k != "members"}))
    (row,) = [
        r for r in collect_rows([tmp_path / "ssp126-s"], published=False) if "test:" in r.split and r.kind == "run"
    ]
    assert row.over_members is None


def test_mean_over_scenarios_left_out_is_of_one_recipe_and_ranked_beside_the_same_scenarios(tmp_path):
    archive = warming_archive()

    def run(model, protocol, name, **options):
        made, _ = train_run(archive, load_recipe(model), tmp_path / name, protocol=protocol, reporter=QUIET, **options)
        save_evaluation(made.folder, evaluate(made.emulator(archive), archive, made.split(archive), "test"))

    for model in ("linear", "variance-matched"):
        for scenario in ("ssp126", "ssp585"):
            run(model, f"loso:{scenario}", f"{model}-loso-{scenario}-s0")
    # Others' names, another scenario, other members, and another protocol.
    run("eof-regression", "loso:ssp585", "b")
    run("eof-regression", "loso:ssp245", "a")
    run("linear", "loso:ssp585", "0", members=[0])
    run("variance-matched", "k360", "variance-matched-k360-s0")

    rows = collect_rows([tmp_path], published=False)
    means = [r for r in rows if " loso:all test: " in r.split]
    both, third = "ssp126 2025-02..2030-01 member 0; ssp585 2025-02..2030-01 member 0", "ssp245 2025-02..2030-01"
    assert {(r.name, r.kind) for r in means if r.split.endswith(both)} == {
        ("linear-loso-all-s0", "run"),
        ("variance-matched-loso-all-s0", "run"),
        ("climatology", "reference"),
        ("another run (member 1)", "reference"),
        ("another run (member 2)", "reference"),
        ("noise ceiling", "limit"),
    }
    assert {r.name for r in means if third in r.split and r.kind == "run"} == {"a + b"}
    assert all(third in r.split or r.split.endswith(both) for r in means)
    for mean in (r for r in means if r.split.endswith(both)):
        name = mean.name.replace("loso-all", "loso-ssp126"), mean.name.replace("loso-all", "loso-ssp585")
        parts = [r for r in rows if " test: ssp" in r.split and r.name in name and r not in means]
        parts = [r for r in parts if " loso:ssp126 test" in r.split or " loso:ssp585 test" in r.split]
        assert len(parts) == 2
        assert mean.score == pytest.approx(np.mean([p.score for p in parts]))
        for number, value in mean.numbers.items():
            assert value == pytest.approx(np.mean([p.numbers[number] for p in parts]))


def test_truth_is_the_first_member_of_the_span_by_its_name_not_its_place():
    """The store's members are 7, 0, 4 in this order: 0 is neither the first nor the last of them."""
    archive = warming_archive()
    scenarios = {name: replace(s, members=(7, 0, 4)) for name, s in archive.scenarios.items()}
    archive = replace(archive, scenarios=scenarios)
    scenario, emulator = archive["ssp370"], Arbitrary(archive.domain)
    prediction = emulator.predict_fields(scenario, 97, 121)
    for members, place in (((0,), 1), ((7, 0), 0), ((4, 7), 2)):
        score = score_emulator(emulator, archive, (Span("ssp370", 97, 121, members),))
        assert_score(score, reference(archive.grid, [(prediction, scenario.targets[place, 97:121])]), 24)
    floors = evaluate(emulator, archive, make_split(archive, "k360"), "validation").references
    for member, place in ((4, 2), (7, 0)):
        pair = (scenario.targets[place, 97:121], scenario.targets[1, 97:121])
        assert_score(floors[f"another run (member {member})"], reference(archive.grid, [pair]), 24)
    assert "another run (member 0)" not in floors


@pytest.fixture(scope="module")
def demo():
    """The demo climate: seasons repeat, so a submission that is a year early passes the check of its seasons."""
    return archive_from_dataset(DemoClimate(lat_cells=8, lon_cells=12, members=2).dataset(), source="demo")


@pytest.mark.parametrize(
    ("protocol", "scenario", "packing"), [("official", "ssp245", "csv"), ("k360", "ssp370", "csv.gz")]
)
def test_submission_holds_the_months_of_the_test_span(demo, tmp_path, protocol, scenario, packing):
    run, _ = train_run(demo, load_recipe("linear"), tmp_path / "run", protocol=protocol, reporter=QUIET)
    entry = submit_run(run, demo, tmp_path / "submission", packing, QUIET)
    columns = read_submission(tmp_path / "submission" / entry.csv)

    months = demo[scenario].months
    start, stop = len(months) - 360, len(months)
    assert (str(months[start]), str(months[stop - 1])) == ("2070-02", "2100-01")
    expected = load_emulator(run.folder / "emulator").predict_fields(demo[scenario], start, stop)
    found = columns.values.astype(np.float32)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)

    lat, lon = demo.grid.lat, demo.grid.lon
    ids = [f"t{t:03d}_{v}_{y:.2f}_{x:.2f}" for t in range(360) for v in ("tas", "pr") for y in lat for x in lon]
    assert columns.ids.to_pylist() == ids
    assert (entry.protocol, entry.scenario, entry.rows) == (protocol, scenario, len(ids))
    assert (entry.first_month, entry.last_month) == ("2070-02", "2100-01")


PUBLISHED_MONTHS = {
    ("official", "validation"): "2090-02..2100-01",
    ("k360", "validation"): "2060-02..2070-01",
    ("k360", "test"): "2070-02..2100-01",
}


def test_published_rows_stand_beside_runs_scored_on_the_same_months():
    pairs = list(zip(load_published(cse151b()), published_rows(cse151b()), strict=True))
    assert {(r.protocol, r.part) for r, _ in pairs} == set(PUBLISHED_MONTHS)
    for result, row in pairs:
        assert result.name in row.name
        assert "ssp370" in row.split
        # One set of months, and no other.
        found = [m for m in PUBLISHED_MONTHS.values() if m in row.split]
        assert found == [PUBLISHED_MONTHS[result.protocol, result.part]]


def test_floors_do_not_depend_on_the_members_somebody_trained_on():
    archive = warming_archive()
    emulator = Arbitrary(archive.domain)
    whole, one = (
        evaluate(emulator, archive, make_split(archive, "k360", members)).references for members in (None, [1])
    )
    assert {k: s.as_dict() for k, s in whole.items()} == {k: s.as_dict() for k, s in one.items()}


@pytest.mark.parametrize("wrong", [{"score": "x"}, {"tas": 3}, {"pr": {"monthly_rmse": None}}])
def test_a_stored_evaluation_that_is_no_number_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    archive = warming_archive()
    recipe = load_recipe("linear", assignments=("model.features=['CO2', 'SO2']",))
    run, _ = train_run(archive, recipe, tmp_path / "run", protocol="k360", reporter=Reporter(quiet=True))
    path = run.folder / "scores" / "validation.json"
    assert run.evaluation("validation")["score"] > 0
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    with pytest.raises(RunError, match="damaged"):
        run.evaluation("validation")


def test_references_are_computed_once_and_are_the_same_again(monkeypatch, tmp_path):
    monkeypatch.setenv("EMUKIT_CACHE", str(tmp_path))
    archive = warming_archive()
    split = make_split(archive, "k360")
    emulator = Arbitrary(archive.domain)
    fitted = []
    fit = LinearEmulator.fit.__func__

    @wraps(fit)
    def counted(*arguments, **options):
        fitted.append(1)
        return fit(*arguments, **options)

    monkeypatch.setattr(LinearEmulator, "fit", classmethod(counted))
    first = evaluate(emulator, archive, split)
    assert len(fitted) == 1
    again = evaluate(emulator, archive, split)
    assert len(fitted) == 1
    assert again == first
    assert {"climatology", "linear"} <= set(first.references)
    # Other months, or other values by one bit, are another matter.
    evaluate(emulator, archive, make_split(archive, "official"))
    assert len(fitted) == 2
    assert evaluate(emulator, archive, split, "test").references != first.references
    assert len(fitted) == 3
    changed = warming_archive()
    changed["ssp126"].targets[0, 0, 0, 0, 0] += 1e-3
    assert evaluate(emulator, changed, make_split(changed, "k360")).references != first.references
    assert len(fitted) == 4


@pytest.mark.parametrize("kept", [3, {}, {"references": {"linear": {"score": 0.0}}, "limit": None}])
def test_a_kept_reference_that_is_no_score_is_computed_again(monkeypatch, kept):
    from emukit.runs import evaluate as module

    archive = warming_archive()
    split = make_split(archive, "k360")
    wanted = evaluate(Arbitrary(archive.domain), archive, split)
    monkeypatch.setattr(module, "find_answer", lambda kind, key: kept)
    assert evaluate(Arbitrary(archive.domain), archive, split) == wanted
