"""Tables whose numbers are of other months, seeds or runs than they say, and work that is done twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emukit.competitions.cse151b import cse151b
from emukit.data.protocol import make_split
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import EMULATORS
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.metrics import Score
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs import protocols as module
from emukit.runs.evaluate import noise_ceiling, other_runs, score_emulator
from emukit.runs.protocols import RecipeEvaluation, Scored, chosen_seeds, evaluate_recipe, named_protocols
from emukit.runs.run import read_run, train_run
from emukit.runs.score_tables import markdown, summary_markdown
from tests.cli.conftest import TINY
from tests.coded import warming_archive
from tests.runs.test_evaluate import partly_hidden

QUIET = Reporter(quiet=True)
TINY_NETWORK = [word.removeprefix("--set=") for word in TINY]
LINES = ("reference: another run", "noise ceiling")
MEMBERS = ("mean over 3 members as truth", "standard deviation over members")


class Listening(Reporter):
    """Remembers what was said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def archive():
    """Two scenarios can be left out and scored; of one the last months are hidden, of another all."""
    return partly_hidden(warming_archive(), {"ssp245": 0, "ssp370": 121})


@pytest.fixture(scope="module")
def linear(archive, tmp_path_factory):
    reporter = Listening()
    out = tmp_path_factory.mktemp("validate")
    return evaluate_recipe(
        archive, load_recipe("linear"), "linear", out, reporter=reporter, protocols="k360,loso:all"
    ), reporter


def flat(score):
    plain = score.as_dict()
    return {"score": plain["score"]} | {f"{v}.{k}": x for v in ("tas", "pr") for k, x in plain[v].items()}


def mean_of(lines):
    return {k: np.mean([line[k] for line in lines]) for k in lines[0]}


def test_every_number_is_that_of_its_protocol_and_months(archive, linear):
    result, _ = linear
    expected = {("k360", "validation"): ["ssp370 2023-02..2025-01 member 0"]}
    for name in ("ssp126", "ssp585"):
        other = "ssp585" if name == "ssp126" else "ssp126"
        expected[f"loso:{name}", "validation"] = [f"{other} 2028-02..2030-01 member 0"]
        expected[f"loso:{name}", "test"] = [f"{name} 2025-02..2030-01 member 0"]
    found = {(s.protocol, s.name): s for s in result.scored if s.protocol != "loso:all"}
    assert {k: list(s.months) for k, s in found.items()} == expected
    for (protocol, name), scored in found.items():
        split = make_split(archive, protocol)
        spans = split.scored[name]
        lines = scored.lines()
        assert set(lines) == {"one run", *MEMBERS, *LINES}
        emulator = LinearEmulator.fit(archive, split)
        each = [
            np.mean([score_emulator(emulator, archive, (replace(s, members=(m,)),)).value for s in spans])
            for m in range(3)
        ]
        mean, spread = (lines[name]["score"] for name in MEMBERS)
        assert mean == pytest.approx(np.mean(each))
        assert spread == pytest.approx(np.std(each, ddof=1))
        assert ("not in training" in scored.remark) == (protocol != "k360" and name == "test")
        assert lines["one run"] == pytest.approx(
            flat(score_emulator(LinearEmulator.fit(archive, split), archive, spans)), rel=1e-6
        )
        floors = [flat(s) for s in other_runs(archive, spans).values()]
        assert len(floors) == 2
        assert lines["reference: another run"] == pytest.approx(mean_of(floors))
        assert lines["noise ceiling"] == pytest.approx(flat(noise_ceiling(archive, spans)))


def test_all_left_out_is_the_mean_over_scenarios(linear):
    result, _ = linear
    tests = [s.lines() for s in result.scored if s.protocol.startswith("loso:ssp") and s.name == "test"]
    (together,) = [s.lines() for s in result.scored if s.protocol == "loso:all"]
    assert len(tests) == 2
    for line in ("one run", *LINES):
        assert together[line] == pytest.approx(mean_of([t[line] for t in tests]))


def test_summary_has_a_line_for_each_set_with_its_mean_and_references(linear):
    result, _ = linear
    assert [line.what for line in result.summary()] == [f"{s.protocol} {s.name}" for s in result.scored]
    for line, scored in zip(result.summary(), result.scored, strict=True):
        lines = scored.lines()
        assert (line.seeds, line.spread) == (1, None)
        assert line.score == pytest.approx(lines["one run"]["score"])
        assert (line.ensemble_member, line.limit) == tuple(lines[name]["score"] for name in LINES)
    text = summary_markdown("title", result.summary())
    assert "| protocol and set | seeds | mean score | sd over seeds | reference: another run | noise ceiling |" in text
    assert f"| k360 validation | 1 | {result.summary()[0].score:.4f} |  |" in text


def test_summary_says_how_far_seeds_are_apart():
    scores = {
        seed: Score(cse151b(), {k: x * k.endswith("monthly_rmse") for k in cse151b().keys}, 12)
        for seed, x in ((0, 1.0), (1, 2.0))
    }
    values = [s.value for s in scores.values()]
    scored = Scored("k360", "validation", ("m",), scores, None, None)
    (line,) = RecipeEvaluation("m", "r", "d", (0, 1), cse151b(), (scored,), {}, ()).summary()
    assert (line.seeds, line.score) == (2, pytest.approx(np.mean(values)))
    assert line.spread == pytest.approx(np.std(values, ddof=1))
    assert line.cells()[-2:] == ("", "")


def test_what_is_hidden_is_named_and_never_scored(archive, linear):
    result, reporter = linear
    assert set(result.not_scored) == {"k360", "loso:ssp245", "loso:ssp370"}
    assert "ssp370 2025-02..2030-01" in result.not_scored["loso:ssp370"]
    notes = [line for line in reporter.said if line.startswith("note: ")]
    assert any("loso:ssp370: left out" in n for n in notes)
    assert any("k360: validation only" in n for n in notes)
    assert any("one run is enough, 3" in n for n in notes)
    # Named by hand, a scenario of which only the test is hidden is still trained and validated.
    sets, _ = named_protocols(archive, "loso:ssp370,k360,loso:ssp370")
    assert sets == {"loso:ssp370": ("validation",), "k360": ("validation",)}
    with pytest.raises(ProtocolError):
        named_protocols(archive, "k360,official")
    everything = partly_hidden(warming_archive(), dict.fromkeys(archive, 121))
    with pytest.raises(ProtocolError, match="no scenario whose last months"):
        named_protocols(everything, "loso:all")


def test_json_holds_what_the_tables_show(linear):
    result, _ = linear
    kept = json.loads((Path(result.runs[0]).parent / "validation.json").read_text())
    assert kept["runs"] == list(result.runs)
    assert kept["not_scored"] == result.not_scored
    text = markdown(result.blocks())
    for scored in kept["scored"]:
        assert f"linear, {scored['protocol']} {scored['set']}: {'; '.join(scored['months'])}" in text
        for name, numbers in scored["lines"].items():
            six = " | ".join(f"{numbers[f'{v}.{p}']:.3f}" for v in ("tas", "pr") for p in PARTS)
            assert f"| {name} | {numbers['score']:.4f} | {six} |" in text


PARTS = ("monthly_rmse", "time_mean_rmse", "time_stddev_mae")


def test_finished_runs_are_read_interrupted_ones_go_on(archive, tmp_path, monkeypatch):
    recipe = load_recipe("cnn-gru", assignments=[*TINY_NETWORK, "training.segments.length=60"])
    trained = []

    def counting(*args, **kwargs):
        trained.append(args[2].name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_run(*args, **kwargs)

    monkeypatch.setattr(module, "train_run", counting)
    words = {"protocols": "k360,loso:ssp585", "seeds": 2, "reporter": QUIET, "command": "emukit train cnn-gru"}
    with pytest.raises(KeyboardInterrupt):
        evaluate_recipe(archive, recipe, "cnn-gru", tmp_path, **words)
    result = evaluate_recipe(archive, recipe, "cnn-gru", tmp_path, **words)
    names = [f"cnn-gru-{p}-s{s}" for p in ("k360", "loso-ssp585") for s in (0, 1)]
    assert trained == [names[0], names[1], *names[1:]]
    assert [Path(r).name for r in result.runs] == names
    again = evaluate_recipe(archive, recipe, "cnn-gru", tmp_path, **words)
    assert len(trained) == 5
    assert again.as_dict() == result.as_dict()
    # A record that was never finished is of a run that continues, whatever else is in its folder.
    read_run(tmp_path / names[2]).record.model_copy(update={"state": "training"}).write(tmp_path / names[2])
    assert evaluate_recipe(archive, recipe, "cnn-gru", tmp_path, **words).as_dict() == result.as_dict()
    assert trained[5:] == [names[2]]
    # The record says what trains this run, not what trains them all.
    assert read_run(tmp_path / names[3]).record.command == "emukit train cnn-gru --protocol loso:ssp585 --seed 1"

    for scored in result.scored:
        scores = [
            json.loads((tmp_path / n / "scores" / f"{scored.name}.json").read_text())["score"]
            for n in names
            if scored.protocol.replace(":", "-") in n
        ]
        lines = scored.lines()
        assert scores[0] != scores[1]
        assert [lines["seed 0"]["score"], lines["seed 1"]["score"]] == pytest.approx(scores)
        assert lines["mean of 2 seeds"]["score"] == pytest.approx(np.mean(scores))
        assert lines["standard deviation over seeds"]["score"] == pytest.approx(np.std(scores, ddof=1))

    other = load_recipe("cnn-gru", assignments=[*TINY_NETWORK, "training.segments.length=30"])
    with pytest.raises(RunError, match="another configuration"):
        evaluate_recipe(archive, other, "cnn-gru", tmp_path, **words)


def test_seeds_of_runs_share_no_network(tmp_path, monkeypatch):
    assert chosen_seeds(load_recipe("cnn-gru"), 3) == (0, 1, 2)
    assert chosen_seeds(load_recipe("ensemble"), 3) == (0, 3, 6)
    assert chosen_seeds(load_recipe("residual-correction"), 2) == (0, 1)
    assert chosen_seeds(load_recipe("linear"), 3) == (0,)
    # A wrapper that draws is given the seed of the run, whatever it wraps.
    monkeypatch.setitem(EMULATORS.built_in, "ensemble", replace(EMULATORS["ensemble"], takes_seed=True))
    assert chosen_seeds(load_recipe("ensemble", assignments=["bases.0.recipe=linear", "bases.0.copies=1"]), 2) == (0, 1)
    monkeypatch.undo()
    assert chosen_seeds(load_recipe("ensemble", assignments=["bases.0.recipe=linear", "bases.0.copies=1"]), 2) == (0,)
    nested = tmp_path / "nested.toml"
    nested.write_text('[[bases]]\nrecipe = "ensemble"\ncopies = 2\n[[bases]]\nrecipe = "linear"\n')
    assert chosen_seeds(load_recipe("ensemble", nested), 2) == (0, 6)
    assert [seed for _, seed in load_recipe("ensemble", nested).parts] == [0, 3, 0]
    with pytest.raises(RecipeError):
        chosen_seeds(load_recipe("cnn-gru"), 0)
