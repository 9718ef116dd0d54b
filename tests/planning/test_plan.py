"""Plans that are wrong about the machine, and automatic batch sizes that change a run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from emukit.data.protocol import make_split
from emukit.errors import RecipeError, RunError
from emukit.models.registry import NETWORKS
from emukit.parallel.comm import Comm
from emukit.planning import memory, plan
from emukit.planning.memory import SAFE
from emukit.planning.plan import make_plan
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from emukit.training import footprint
from emukit.training.engine import Engine
from tests.coded import warming_archive
from tests.forecasts import sequence

SETTINGS = [
    "model.hidden=8",
    "model.features=6",
    "model.width=4",
    "model.stages=1",
    "model.pool_rows=1",
    "model.pool_columns=2",
    "inputs.window.history=3",
    "training.epochs=1",
    "training.segments.length=6",
    "training.optimizer.warmup_steps=3",
]
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def archive():
    return warming_archive()


def recipe(*more):
    return load_recipe("cnn-gru", None, [*SETTINGS, *more])


def planned(archive, *more, comm=None):
    return make_plan(archive, recipe(*more), make_split(archive, "k360"), comm or Comm(), QUIET)


def with_memory(monkeypatch, amount):
    monkeypatch.setattr(memory, "free_memory", lambda device: amount)


def resolved(archive, *more, comm=None, recorded=None):
    chosen = recipe("training.segments.per_batch=auto", *more)
    made = memory.resolve_batch(chosen, archive, make_split(archive, "k360"), comm or Comm(), QUIET, recorded)
    return made.training.segments.per_batch


def test_a_plan_counts_what_training_has(archive):
    made = planned(archive)
    network = plan.build_for(made.recipe, archive, made.memory.batch and 13)
    parameters = sum(p.numel() for p in network.parameters())
    m = made.memory
    # Weight, gradient, two moments and the average, of four bytes each.
    assert (m.state.parameters, m.state.total) == (parameters, 20 * parameters)
    assert m.batch == 4 * 1 * 24 * (13 * (6 + 2) + 2 * 6)
    assert m.activations > 0
    assert made.flops > 0
    assert made.timed
    assert made.steps == -(-sum(-(-len(s) // 6) + 1 for s in make_split(archive, "k360").train) // 1)
    assert made.seconds == made.step_seconds * made.steps
    assert [w.name for w in made.bottlenecks() if w.reached >= 1] == []


def test_accumulated_batches_are_counted_as_one_step(archive):
    one, four = planned(archive), planned(archive, "training.accumulate=4")
    assert four.flops == 4 * one.flops
    assert four.steps == -(-one.steps // 4)
    assert four.memory.activations == one.memory.activations


def test_a_model_that_does_not_fit_is_counted_and_not_built(archive, monkeypatch):
    total = planned(archive).memory.state.total
    with_memory(monkeypatch, int(total / SAFE) - 1000)

    def build(*arguments):
        network = original(*arguments)
        assert next(network.parameters()).is_meta
        return network

    original = memory.build_for
    monkeypatch.setattr(memory, "build_for", build)
    monkeypatch.setattr(plan, "build_for", build)
    made = planned(archive)
    assert (made.memory.activations, made.seconds) == (None, None)
    nearest = made.bottlenecks()[0]
    assert nearest.name == "model"
    assert nearest.reached > 1
    assert any("--strategy fsdp --devices 2" in a for a in nearest.advice)


def test_activations_that_do_not_fit_are_the_wall_and_no_step_is_taken(archive, monkeypatch):
    settings = ("training.segments.per_batch=16", "training.segments.length=24")
    m = planned(archive, *settings).memory
    # Free memory is what is left once network and data are there.
    with_memory(monkeypatch, int((m.on_device - m.activations / 2) / SAFE) - m.data - m.state.weights)
    monkeypatch.setattr(plan, "_time_steps", lambda *a: pytest.fail("took a step that does not fit"))
    monkeypatch.setattr(plan, "count_state", lambda *a: replace(m.state, weights=0, gradients=0, optimizer=0))
    made = planned(archive, *settings)
    nearest = made.bottlenecks()[0]
    assert nearest.name == "activations"
    assert 1 < nearest.reached < 4
    assert any("per_batch=8 --set training.accumulate=2" in a for a in nearest.advice)
    assert not made.timed
    assert made.step_seconds > 0
    assert "MAY NOT FIT" in made.memory.line()


def test_a_copy_is_measured_again_or_another_network_is_not(archive, monkeypatch):
    measured, measure = [], memory.measure
    monkeypatch.setattr(memory, "measure", lambda *a: measured.append(a) or measure(*a))
    monkeypatch.setattr(memory, "_MEASURED", {})

    def activations(*words):
        chosen = recipe(*words)
        return memory.measure_for(chosen, memory.build_for(chosen, archive, 5), (5, *archive.grid.shape)).activations

    others = ("model.hidden=9", "model.dropout=0.3", "inputs.window.history=4", "training.precision=bf16")
    found = [activations(*words) for words in ((), (), *((word,) for word in others))]
    assert len(measured) == 1 + len(others)
    assert found[0] == found[1]
    assert len(set(found)) == 1 + len(others)


def test_a_night_is_the_wall_of_time(archive):
    made = planned(archive)
    slow = replace(made, step_seconds=1.1 * plan.PATIENCE_SECONDS / made.steps)
    assert slow.bottlenecks()[0].name == "time"
    assert slow.bottlenecks()[0].reached == pytest.approx(1.1)
    assert any("GPU" in a for a in slow.bottlenecks()[0].advice)


def test_advice_names_only_what_there_is(archive):
    advice = {
        w.name: " ".join(w.advice)
        for w in planned(archive, "training.precision=bf16", "training.average.kind=none").bottlenecks()
    }
    assert "bf16" not in advice["activations"]
    assert "checkpoint" not in advice["activations"]
    assert "per_batch" not in advice["activations"]  # it is 1 already
    assert "average" not in advice["model"]


def test_what_is_fitted_in_closed_form_needs_no_plan(archive):
    with pytest.raises(RecipeError, match="linear needs no plan"):
        make_plan(archive, load_recipe("linear"), make_split(archive, "k360"), Comm(), QUIET)


def test_an_automatic_batch_leaves_an_epoch_its_steps(archive):
    number = resolved(archive)
    steps = planned(archive, f"training.segments.per_batch={number}").steps
    twice = planned(archive, f"training.segments.per_batch={2 * number}").steps
    assert number & (number - 1) == 0
    assert steps >= memory.FEWEST_STEPS > twice
    assert resolved(archive, "training.accumulate=2") == number // 2


def test_an_automatic_batch_fits(archive, monkeypatch):
    unlimited = resolved(archive)
    m = planned(archive, f"training.segments.per_batch={unlimited}").memory
    with_memory(monkeypatch, int(m.on_device / SAFE) + 1000)
    assert resolved(archive) == unlimited
    with_memory(monkeypatch, int(m.on_device / SAFE) - 1000)
    assert resolved(archive) == unlimited // 2
    with_memory(monkeypatch, 1000)
    assert resolved(archive) == 1


def test_processes_cut_the_batches_of_the_first(archive, monkeypatch):
    """Their memories may differ; the batches must not."""
    comm = Comm(rank=1, world=2)
    monkeypatch.setattr(Comm, "sum", lambda self, values: values + 2)
    assert resolved(archive, comm=comm) == 2


def test_a_number_stays_as_it_is(archive):
    chosen = recipe("training.segments.per_batch=3")
    split = make_split(archive, "k360")
    assert memory.resolve_batch(chosen, archive, split, Comm(), QUIET) is chosen
    linear = load_recipe("linear")
    assert memory.resolve_batch(linear, archive, split, Comm(), QUIET) is linear


def test_a_run_with_an_automatic_batch_resumes_with_its_number_on_another_machine(archive, monkeypatch, tmp_path):
    auto = recipe("training.segments.per_batch=auto")
    train_run(archive, auto, tmp_path / "run", protocol="k360", reporter=QUIET)
    number = json.loads((tmp_path / "run/run.json").read_text())["recipe"]["training"]["segments"]["per_batch"]
    assert number == resolved(archive)
    with_memory(monkeypatch, 1000)
    run, _ = train_run(archive, auto, tmp_path / "run", protocol="k360", resume=True, reporter=QUIET)
    assert run.recipe.training.segments.per_batch == number
    other = recipe("training.segments.per_batch=auto", "training.epochs=2")
    with pytest.raises(RunError, match="another recipe"):
        train_run(archive, other, tmp_path / "run", protocol="k360", resume=True, reporter=QUIET)


def test_where_arrays_live_is_no_other_run():
    assert recipe().digest == recipe("training.segments.residency=host").digest
    assert recipe().digest != recipe("training.segments.mix=scenario").digest


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (999_600, "1 MB"), (4.5e9, "4.5 GB")]
)
def test_sizes_read_as_people_write_them(amount, text):
    assert memory.size(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.0123 s"), (119, "119 s"), (600, "10 min"), (3600 * 5, "5.0 h"), (86400 * 3, "3.0 days")],
)
def test_times_read_as_people_write_them(seconds, text):
    assert plan.duration(seconds) == text


@pytest.mark.parametrize(("per_segment", "whole"), [(0.1, True), (2.0, False)])
def test_a_slow_step_is_extrapolated_from_its_parts(monkeypatch, per_segment, whole):
    """A step of 0.5 s and so much a segment; the first one, which allocates the optimiser's state, takes longer."""
    clock, sizes = [0.0], []

    class Slow:
        network = nn.Identity()
        settings = SimpleNamespace(epochs=7)

        def step(self, batches, rate, ramp, epochs):
            assert epochs == 7
            sizes.append(len(batches[0]))
            clock[0] += 0.5 + per_segment * len(batches[0]) + (9.0 if len(sizes) == 1 else 0.0)

    class Source:
        def epoch(self, epoch, seed):
            return [list(range(32))]

    monkeypatch.setattr(plan, "perf_counter", lambda: clock[0])
    taken, timed = plan._time_steps(Slow(), Source(), accumulate=2, most=32)
    assert taken == pytest.approx(2 * (0.5 + 32 * per_segment))
    assert timed == whole
    assert max(sizes) == (32 if whole else 4)


def test_a_plan_without_free_memory_is_a_plan(archive, monkeypatch):
    with_memory(monkeypatch, 0)
    made = planned(archive)
    assert {w.name: w.reached for w in made.bottlenecks()}["model"] == float("inf")
    assert ("together", "of none there are on this machine") in [(row[0], row[2]) for row in made.memory.rows()]
    assert not any("--devices 0" in a for w in made.bottlenecks() for a in w.advice)


@pytest.mark.parametrize(("per_batch", "advised"), [(3, (1, 3)), (4, (2, 2)), (9, (3, 3)), (5, (1, 5))])
def test_parts_of_a_step_hold_all_its_segments(archive, per_batch, advised):
    made = planned(archive, f"training.segments.per_batch={per_batch}")
    wanted = "--set training.segments.per_batch={} --set training.accumulate={}:".format(*advised)
    assert any(wanted in a for w in made.bottlenecks() for a in w.advice)
    assert advised[0] * advised[1] == per_batch


@pytest.mark.parametrize("name", [n for n in NETWORKS.built_in if "checkpoint" in load_recipe(n).options])
def test_every_network_that_can_compute_activations_again_is_advised_to(archive, name):
    made = planned(archive)
    for on in (False, True):
        chosen = load_recipe(name, None, [f"model.checkpoint={str(on).lower()}"])
        advice = {w.name: " ".join(w.advice) for w in replace(made, recipe=chosen).bottlenecks()}
        assert ("model.checkpoint=true" in advice["activations"]) is not on


def test_a_batch_larger_than_an_epoch_is_planned_as_the_epoch(archive):
    made = planned(archive, "training.segments.per_batch=100000")
    segments = sum(-(-len(s) // 6) + 1 for s in make_split(archive, "k360").train)
    assert (made.memory.whole, made.steps) == (segments, 1)
    assert made.memory.batch == 4 * segments * 24 * (13 * (6 + 2) + 2 * 6)
    assert made.flops == pytest.approx(made.memory.footprint.flops.at(segments, 6))
    assert any("an epoch has no more (per_batch is 100,000)" in row[2] for row in made.memory.rows())


@pytest.mark.parametrize("more", [(), ("training.segments.per_batch=auto",)])
def test_a_step_of_more_batches_than_an_epoch_has_is_refused(archive, more, tmp_path):
    chosen = recipe("training.accumulate=5000", *more)
    with pytest.raises(RecipeError, match="more batches than an epoch has"):
        train_run(archive, chosen, tmp_path / "run", protocol="k360", reporter=QUIET)
    assert not (tmp_path / "run").exists()
    batches = planned(archive).steps
    assert planned(archive, f"training.accumulate={batches}").steps == 1


def test_what_would_take_long_is_counted_and_only_a_forward_pass_is_timed(archive, monkeypatch):
    known = planned(archive)
    monkeypatch.setattr(footprint, "MOST_FLOPS", 0.0)
    monkeypatch.setattr(memory, "_MEASURED", {})
    monkeypatch.setattr(plan, "PLANNING_SECONDS", 0.0)
    monkeypatch.setattr(plan, "_time_steps", lambda *a: pytest.fail("took a step"))
    made = planned(archive)
    assert (made.memory.activations, made.flops) == (known.memory.activations, known.flops)
    assert made.step_seconds > 0
    assert not made.timed


def test_a_rollout_is_planned_as_so_many_steps_and_keeps_one_that_is_computed_again():
    archive = sequence()
    split = make_split(archive, "forecast")

    def made(lengths, *more):
        words = [f"objective.lengths={lengths}", f"training.segments.length={lengths[-1]}", *more]
        words += ['inputs.states=["tas", "z500"]', "model.width=4", "model.depth=1", "training.epochs=4"]
        words += ["training.validate_every=1"]
        chosen = load_recipe("forecast", None, [*words, "training.segments.per_batch=2"])
        return make_plan(archive, chosen, split, Comm(), QUIET)

    one = made([1], "objective.boundaries=[]")
    four = made([1, 4], "objective.boundaries=[3.0]")
    again = made([1, 4], "objective.boundaries=[3.0]", "objective.checkpoint=true")
    assert four.memory.activations == pytest.approx(4 * one.memory.activations, abs=4)
    assert again.memory.activations == one.memory.activations
    # Three epochs of one step, and one of four.
    assert four.flops == pytest.approx((3 * 1 + 1 * 4) / 4 * one.flops)
    assert four.timed


def test_what_a_rollout_keeps_is_what_is_planned(monkeypatch):
    """Counted tensor by tensor in a real step."""
    archive = sequence()
    split = make_split(archive, "forecast")
    words = ["objective.lengths=[3]", "objective.boundaries=[]", "training.segments.length=3", "training.epochs=1"]
    words += ['inputs.states=["tas", "z500"]', "model.width=8", "model.depth=1", "training.validate_every=1"]
    chosen = load_recipe("forecast", None, [*words, "training.segments.per_batch=4"])
    planned = make_plan(archive, chosen, split, Comm(), QUIET).memory.activations
    kept, step = [], Engine.step

    def counted(engine, *arguments, **options):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = step(engine, *arguments, **options)
        kept.append(sum(storages.values()))
        return found

    monkeypatch.setattr(Engine, "step", counted)
    make_plan(archive, chosen, split, Comm(), QUIET)
    # Losses and parameters are among what a real step keeps.
    assert 0.8 * planned < max(kept) < 1.5 * planned


def test_planning_takes_a_third_of_free_memory_at_most(archive):
    m = planned(archive, "training.segments.per_batch=16").memory
    each = m.footprint.activations.at(16, 6) + m.batch
    assert plan._planning_segments(replace(m, available=10**12), 6) == 16
    tight = replace(m, available=int(3 * (m.own_state + m.data + 0.6 * each)))
    assert plan._planning_segments(tight, 6) == 8
    assert plan._planning_segments(replace(m, available=0), 6) == 0
