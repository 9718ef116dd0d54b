"""Final fits that select something after all, train on other months than they say, or are scored on those."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import final_split
from emukit.data.store import open_store
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import ProtocolError, RunError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.evaluate import evaluate
from emukit.runs.fit import RefitPolicy
from emukit.runs.leaderboard import collect_rows
from emukit.runs.run import read_run, save_evaluation, train_run
from emukit.runs.submit import submit_run
from emukit.training.loop import KeptWeights
from emukit.training.settings import TrainingSettings
from tests.cli.conftest import TINY
from tests.coded import warming_archive

QUIET = Reporter(quiet=True)
NETWORK = [*(word.removeprefix("--set=") for word in TINY), "training.segments.length=40", "training.epochs=4"]


@pytest.fixture(scope="module")
def archive():
    return warming_archive()


@pytest.fixture(scope="module")
def network(archive, tmp_path_factory):
    """A finished run whose best epoch is not the last: its log is made to say so."""
    folder = tmp_path_factory.mktemp("final") / "network"
    train_run(archive, load_recipe("cnn-gru", assignments=NETWORK), folder, protocol="k360", reporter=QUIET)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[1]["validation"]["score"] = 0.001
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def final_run(archive, before, folder, **options):
    words = {"protocol": "k360", "reporter": QUIET, "final": before, **options}
    return train_run(archive, before.recipe, folder, **words)


def months(archive, spans):
    return {(s.scenario, m, t) for s in spans for m in s.members for t in range(s.start, s.stop)}


@pytest.mark.parametrize("protocol", ["k360", "official", "loso:ssp126"])
@pytest.mark.parametrize("members", [None, (0, 2)])
def test_validation_months_train_and_no_others_more(archive, protocol, members):
    split = make_split(archive, protocol, members)
    final = final_split(archive, split)
    members = members or (0, 1, 2)
    more = {(s.scenario, m, t) for s in split.validation for m in members for t in range(s.start, s.stop)}
    assert months(archive, final.train) == months(archive, split.train) | more
    # Adjacent months are one span, so that segments may cross what was a border.
    assert len(final.train) == len({s.scenario for s in final.train})
    assert final.scored == {k: v for k, v in split.scored.items() if k != "validation"}
    with pytest.raises(ProtocolError, match="nothing can be selected"):
        _ = final.validation


def test_steps_are_those_of_the_best_weights(tmp_path):
    scores = {5: (0.9, 0.8), 10: (0.5, 0.6), 15: (0.5, 0.4), 20: (0.45, 0.41)}
    lines = [{"epoch": e, "step": 20 * e} for e in range(1, 21)]
    for line in lines:
        if line["epoch"] in scores:
            score, of_average = scores[line["epoch"]]
            line |= {"validation": {"score": score}, "validation_average": {"score": of_average}}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    length = RefitPolicy(tmp_path, None).length(TrainingSettings(epochs=40), steps_per_epoch=25, cost=float)
    # 300 of 800 steps, in epochs of 25.
    assert (length.epochs, length.keep) == (32, KeptWeights(12, True))
    assert length.stretch == pytest.approx(1.25)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="which epoch was best"):
        RefitPolicy(tmp_path, None).length(TrainingSettings(), 25, float)


def test_network_keeps_the_epoch_that_was_selected_and_validates_nothing(archive, network, tmp_path):
    run, evaluation = final_run(archive, network, tmp_path / "f")
    assert evaluation is None
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    selected = [json.loads(line) for line in (network.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] > selected[0]["step"]
    assert not [line for line in lines if "validation" in line or "validation_average" in line]
    length = RefitPolicy(network.folder, None).length(network.recipe.training, lines[0]["step"], float)
    assert length.keep == KeptWeights(2, False)
    assert run.record.epochs == run.record.best_epoch == len(lines) == length.keep.epoch
    # The schedule is that of all epochs, cut off: the rate has not come down to its end.
    assert lines[-1]["learning_rate"] > 1e-5
    assert not list((run.folder / "scores").glob("*"))
    assert run.record.train == tuple(s.text(archive) for s in final_split(archive, network.split(archive)).train)
    assert run.record.notes[-1] == f"selected by: {network.record.command} --out {network.folder}"
    assert any("trained on the validation months ssp370 2023-02..2025-01" in n for n in run.record.notes)


def test_average_is_kept_where_it_was_best(archive, network, tmp_path):
    lines = [json.loads(line) for line in (network.folder / "metrics.jsonl").read_text().splitlines()]
    copy = tmp_path / "selected"
    shutil.copytree(network.folder, copy)
    lines[1]["validation_average"]["score"] = 0.0001
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain, _ = final_run(archive, network, tmp_path / "plain")
    averaged, _ = final_run(archive, read_run(copy), tmp_path / "averaged")
    assert (plain.record.best_average, averaged.record.best_average) == (False, True)
    live, mean = (load_emulator(r.folder).state()[1] for r in (plain, averaged))
    moved = [k for k in live if not np.array_equal(live[k], mean[k])]
    assert moved
    assert {k.split(".")[0] for k in moved} == {"network"}


def test_nothing_depends_on_test_months_and_something_on_validation(archive, network, tmp_path):
    rng = np.random.default_rng(0)

    def scrambled(first, last):
        targets = archive["ssp370"].targets.copy()
        targets[:, first:last] += rng.normal(size=targets[:, first:last].shape).astype(np.float32)
        return replace(archive, scenarios={**archive.scenarios, "ssp370": replace(archive["ssp370"], targets=targets)})

    def weights(data, name):
        # The data are others, so the run that selected is said to be of them.
        identity = network.record.identity.model_copy(update={"data": data.digest})
        before = replace(network, record=network.record.model_copy(update={"identity": identity}))
        run, _ = final_run(data, before, tmp_path / name)
        return load_emulator(run.folder).state()[1]

    plain, test, validation = (
        weights(data, name) for data, name in ((archive, "a"), (scrambled(121, 181), "b"), (scrambled(97, 121), "c"))
    )
    assert all(np.array_equal(plain[k], test[k]) for k in plain)
    assert not all(np.array_equal(plain[k], validation[k]) for k in plain)


def test_interrupted_final_fit_goes_on_to_the_same_weights(archive, network, tmp_path):
    whole, _ = final_run(archive, network, tmp_path / "whole")
    log = Reporter(quiet=True)
    said = []
    log.say = lambda text: said.append(text)
    again, _ = final_run(archive, network, tmp_path / "whole", resume=True, reporter=log)
    assert any("resuming after epoch 2" in line for line in said)
    first, second = (load_emulator(r.folder).state()[1] for r in (whole, again))
    assert all(np.array_equal(first[k], second[k]) for k in first)
    with pytest.raises(RunError, match="another configuration"):
        train_run(archive, network.recipe, tmp_path / "whole", protocol="k360", resume=True, reporter=QUIET)


def test_closed_form_is_fitted_on_more_months(archive, tmp_path):
    before, _ = train_run(archive, load_recipe("linear"), tmp_path / "a", protocol="k360", reporter=QUIET)
    run, _ = final_run(archive, before, tmp_path / "b")
    expected = LinearEmulator.fit(archive, final_split(archive, make_split(archive, "k360")))
    np.testing.assert_array_equal(
        load_emulator(run.folder).predict_fields(archive["ssp370"], 121, 181),
        expected.predict_fields(archive["ssp370"], 121, 181),
    )


def test_trained_months_are_not_scored_and_the_leaderboard_says_final(archive, tmp_path):
    before, _ = train_run(archive, load_recipe("linear"), tmp_path / "a", protocol="k360", reporter=QUIET)
    run, _ = final_run(archive, before, tmp_path / "f")
    with pytest.raises(ProtocolError, match="no set 'validation'") as caught:
        evaluate(run.emulator(archive), archive, run.split(archive), "validation")
    assert "final fit" in caught.value.found
    save_evaluation(run.folder, evaluate(run.emulator(archive), archive, run.split(archive), "test"))
    (row,) = [r for r in collect_rows([run.folder], published=False) if r.kind == "run"]
    assert row.name == "f (final fit, trained on validation too)"
    assert row.remark == ""
    assert "test" in row.split


def test_that_the_validation_months_trained_is_said_once(archive, tmp_path):
    before, _ = train_run(archive, load_recipe("linear"), tmp_path / "a", protocol="loso:ssp126", reporter=QUIET)
    run, _ = final_run(archive, before, tmp_path / "f", protocol="loso:ssp126")
    save_evaluation(run.folder, evaluate(run.emulator(archive), archive, run.split(archive), "test"))
    (row,) = [r for r in collect_rows([run.folder], published=False) if r.kind == "run"]
    assert (row.name, row.remark) == ("f (final fit)", "validation months in training")


def test_another_configuration_or_a_final_fit_selects_nothing(archive, tmp_path):
    selected, _ = train_run(archive, load_recipe("linear"), tmp_path / "s", protocol="k360", reporter=QUIET)
    with pytest.raises(RunError, match="another configuration") as caught:
        final_run(archive, selected, tmp_path / "a", protocol="official")
    assert "protocol" in caught.value.found
    with pytest.raises(RunError, match="another configuration"):
        final_run(archive, selected, tmp_path / "a", members=[0])
    run, _ = final_run(archive, selected, tmp_path / "b", seed=5)
    with pytest.raises(RunError, match="is a final fit"):
        final_run(archive, run, tmp_path / "c")
    assert not (tmp_path / "a").exists()


def test_ensemble_keeps_its_weights_and_each_base_its_epoch(archive, tmp_path):
    file = tmp_path / "e.toml"
    file.write_text('model.weights = "validation"\n[[bases]]\nrecipe = "cnn-gru"\n[[bases]]\nrecipe = "linear"\n')
    settings = [f"bases.0.recipe.{word}" for word in NETWORK]
    recipe = load_recipe("ensemble", file, settings)
    before, _ = train_run(archive, recipe, tmp_path / "a", protocol="k360", reporter=QUIET)
    run, _ = final_run(archive, before, tmp_path / "b")
    old, new = load_emulator(before.folder), load_emulator(run.folder)
    np.testing.assert_array_equal(old.weights, new.weights)
    assert run.record.parameters > 0
    base = "bases/0-cnn-gru"
    assert not np.array_equal(old.bases[1].state()[1]["intercept"], new.bases[1].state()[1]["intercept"])
    lines = [json.loads(line) for line in (run.folder / base / "metrics.jsonl").read_text().splitlines()]
    length = RefitPolicy(before.folder / base, None).length(recipe.parts[0][0].training, lines[0]["step"], float)
    assert len(lines) == length.keep.epoch


def test_submission_of_a_final_fit_claims_no_validation_score(demo_store, tmp_path):
    demo = open_store(demo_store)
    before, _ = train_run(demo, load_recipe("linear"), tmp_path / "a", protocol="official", reporter=QUIET)
    run, _ = final_run(demo, before, tmp_path / "b", protocol="official")
    entry = submit_run(run, demo, tmp_path / "s", "csv.gz", QUIET)
    assert entry.validation == {}
    assert len(collect_rows([tmp_path / "s"], published=False)) == 1


def test_final_fit_with_hidden_test_months_is_told_to_submit_and_sent_nowhere_else(demo_store, tmp_path):
    demo = open_store(demo_store)
    before, _ = train_run(demo, load_recipe("linear"), tmp_path / "a", protocol="official", reporter=QUIET)
    run, _ = final_run(demo, before, tmp_path / "f", protocol="official")
    for name in ("validation", "test"):
        with pytest.raises(ProtocolError) as caught:
            evaluate(run.emulator(demo), demo, run.split(demo), name)
        assert "scored elsewhere: `emukit submit RUN`" in caught.value.hint
        assert "--split" not in caught.value.hint
    with pytest.raises(ProtocolError, match="hidden") as caught:
        evaluate(before.emulator(demo), demo, before.split(demo), "test")
    assert caught.value.hint.startswith("--split validation; ")
