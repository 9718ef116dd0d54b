"""Several processes that do not give what one gives, hang, or cannot continue where others stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from emukit.training.log import read_lines

ROOT = Path(__file__).parents[2]

# All tests ask about the same trainings.
pytestmark = pytest.mark.long

# Every way in which a batch is divided: segments (with a last batch that is short), months of segments, and, where
# batch normalisation forbids that and the batch is too short, not at all.
CASES = {
    "segments": {"network": "cnn-gru", "set": ["model.dropout=0.0"]},
    "months": {"network": "cnn-gru", "set": ["training.segments.per_batch=1"]},
    "batchnorm": {
        "network": "cnn-gru-published",
        "set": ["training.segments.per_batch=5", "training.optimizer.learning_rate=1e-4"],
    },
    "accumulated": {
        "network": "cnn-gru",
        "set": ["training.accumulate=3", "training.average.kind=ema", "loss.pr.dice=0.5", "loss.tas.hessian=0.2"],
    },
    # Blocks that a forward calls many times, and again for the gradient; blocks that call others through skips.
    "convlstm": {"network": "convlstm", "set": ["model.layers=3", "model.checkpoint=true"]},
    "unet": {"network": "unet", "set": ["training.optimizer.learning_rate=1e-4"]},
}
# The archive has four rows: one halving leaves each of two processes one.
FLAT = ("training.optimizer.learning_rate=1e-4", "model.coarsen=0")
# One globe over two processes; those that share it drop what one process would.
CASES |= {
    "globe": {"network": "local-cnn", "set": ["training.average.kind=ema"]},
    "dropped": {"network": "unet", "set": [*FLAT, "model.dropout=0.2"]},
}
# (processes, strategy) -> cases; what one way shows another need not show again: two copies are less than three.
RUNS = {
    (1, "ddp"): tuple(CASES),
    (3, "ddp"): ("segments", "months", "batchnorm", "accumulated"),
    (2, "fsdp"): ("segments", "months", "batchnorm", "convlstm", "unet"),
    (3, "fsdp"): ("segments", "accumulated"),
}
# Trained on two processes alone: with dropout another number of them is another training.
DROPOUT = {"do": "train", "network": "cnn-gru", "set": ["model.dropout=0.2"]}
SPANS = [["ssp370", 3, 150], ["ssp585", 0, 61]]
# Realisations of two scenarios, one scored against two members, that no number of processes divides.
REALISED = {
    "do": "realise",
    "members": 11,
    "spans": [["ssp370", 100, 175, 0], ["ssp370", 100, 175, 2], ["ssp585", 3, 64, 1]],
}


def launch(groups: list[tuple[int, list[dict]]], folder: Path) -> None:
    """Run the jobs of one group of processes after another."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(groups))
    command = [sys.executable, "-m", "tests.parallel.worker", str(listed)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[:6000]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run of `RUNS`, in folders CASE-PROCESSES-STRATEGY, and what follows from them."""
    folder = tmp_path_factory.mktemp("processes")

    def place(case: str, processes: int, strategy: str) -> str:
        return str(folder / f"{case}-{processes}-{strategy}")

    def job(case: str, processes: int, strategy: str, **more: object) -> dict:
        out = place(case, processes, strategy)
        return {"do": "train", "out": out, "strategy": strategy, **CASES[case], **more}

    groups = []
    for processes in (1, 2, 3):
        jobs = [job(c, p, s) for (p, s), cases in RUNS.items() if p == processes for c in cases]
        emulator = place("segments", 1, "ddp")
        jobs.append(
            {"do": "score", "emulator": emulator, "spans": SPANS, "out": str(folder / f"score-{processes}.json")}
        )
        jobs.append(REALISED | {"out": str(folder / "realised")})
        # Started by two with shards, continued by three with copies, ended by one: a relay of interruptions.
        relay = {"do": "train", **CASES["accumulated"], "out": str(folder / "relay")}
        # Started by two that share a globe, continued by three, ended by one that has all of it.
        globe = {"do": "train", **CASES["globe"], "out": str(folder / "globe")}
        jobs += {
            1: [],
            2: [
                relay | {"strategy": "fsdp", "stop_at": 2},
                globe | {"domain": 2, "stop_at": 2, "own": True},
                {"do": "train", **CASES["globe"], "out": place("globe", 2, "circle"), "domain": 2, "columns": 2},
                {"do": "train", **CASES["dropped"], "out": place("dropped", 2, "domain"), "domain": 2, "own": True},
                DROPOUT | {"out": str(folder / "dropout")},
                DROPOUT | {"out": str(folder / "dropout-resumed"), "stop_at": 3},
                DROPOUT | {"out": str(folder / "dropout-resumed"), "resume": True},
            ],
            3: [
                relay | {"strategy": "ddp", "stop_at": 2, "resume": True},
                globe | {"domain": 3, "stop_at": 2, "resume": True, "own": True},
            ],
        }[processes]
        if processes == 2:
            jobs.append({"do": "refuse", "out": str(folder / "refused"), "network": "cnn-gru"})
            jobs.append({"do": "spread", "out": str(folder)})
        groups.append((processes, jobs))
    launch([*groups, (1, [relay | {"resume": True}, globe | {"resume": True}])], folder)
    return folder


def curve(folder: Path) -> list[list[float]]:
    lines = read_lines(folder / "metrics.jsonl")
    names = sorted(k for k in lines[0] if k not in ("seconds", "validation", "validation_average"))
    wanted = ("validation", "validation_average")
    scores = [[line[v]["score"] for v in wanted if v in line] for line in lines]
    return [[line[k] for k in names] + s for line, s in zip(lines, scores, strict=True)]


def weights(folder: Path) -> dict[str, np.ndarray]:
    arrays = load_file(folder / "emulator" / "arrays.safetensors")
    return {k: v for k, v in arrays.items() if k.startswith("network.")}


def same_training(one: Path, many: Path) -> None:
    np.testing.assert_allclose(curve(many), curve(one), rtol=1e-6, atol=1e-6)
    expected, found = weights(one), weights(many)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("case", "processes", "strategy"), [(c, p, s) for (p, s), cases in RUNS.items() if p > 1 for c in cases]
)
def test_several_processes_train_another_network_than_one(
    trained: Path, case: str, processes: int, strategy: str
) -> None:
    same_training(trained / f"{case}-1-ddp", trained / f"{case}-{processes}-{strategy}")


def test_training_moves_at_all(trained: Path) -> None:
    """What the comparison above would not see: runs that are the same because nothing is learnt."""
    for case in CASES:
        losses = [line["loss"] for line in read_lines(trained / f"{case}-1-ddp" / "metrics.jsonl")]
        assert losses[-1] < losses[0], case


@pytest.mark.parametrize("processes", [2, 3])
def test_a_month_is_scored_twice_or_by_nobody(trained: Path, processes: int) -> None:
    one, many = (json.loads((trained / f"score-{n}.json").read_text()) for n in (1, processes))
    assert one["months"] == many["months"] == sum(stop - start for _, start, stop in SPANS)
    for variable in ("tas", "pr"):
        for part, value in one[variable].items():
            assert many[variable][part] == pytest.approx(value, rel=1e-12, abs=1e-12)


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Every number and word of nested tables and lists, by where it is."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in inside for k, v in leaves(part, f"{path}.{name}").items()}
    return {path: value}


@pytest.mark.parametrize("processes", [2, 3])
def test_realisations_of_several_processes_score_otherwise_or_are_drawn_twice(trained: Path, processes: int) -> None:
    """Each is drawn once, by one of them; every one has the scores of one process, of steps and beginnings as well."""
    (one,) = (json.loads(p.read_text()) for p in trained.glob("realised-1-*.json"))
    many = [json.loads((trained / f"realised-{processes}-{rank}.json").read_text()) for rank in range(processes)]
    expected = leaves(one["scores"])
    assert expected[".forecasts.beginnings"] == 4
    for noted in many:
        found = leaves(noted["scores"])
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            close = pytest.approx(value, rel=1e-12, abs=1e-12) if isinstance(value, float) else value
            assert found[path] == close, path
    # The first alone is drawn once more by each, for the score of one realisation.
    drawn = [sorted(json.dumps(d) for d in noted["drawn"] if d[3] != [0]) for noted in (one, *many)]
    together = sorted(d for own in drawn[1:] for d in own)
    assert together == drawn[0]
    assert len(set(together)) == len(together) == 3 * (2 + 2)
    assert all(len(own) < len(together) for own in drawn[1:])


def test_a_run_goes_on_with_other_processes_than_it_began_with(trained: Path) -> None:
    same_training(trained / "accumulated-1-ddp", trained / "relay")
    sessions = json.loads((trained / "relay" / "run.json").read_text())["sessions"]
    assert [s["machine"]["processes"] for s in sessions] == [2, 3, 1]


def test_a_globe_that_processes_share_trains_another_network(trained: Path) -> None:
    """Each reads and keeps its own rows; the scores of validation, too, are those of one process."""
    same_training(trained / "dropped-1-ddp", trained / "dropped-2-domain")


@pytest.mark.parametrize("run", ["globe", "globe-2-circle", "dropped-2-domain"])
def test_a_divided_globe_is_scored_otherwise_after_training(trained: Path, run: str) -> None:
    """Validation is predicted by the processes that share it, whole fields on none of them, and scored the same."""
    one, many = (
        json.loads((trained / name / "scores" / "validation.json").read_text())
        for name in (f"{run.split('-')[0]}-1-ddp", run)
    )
    assert many["score"] == pytest.approx(one["score"], rel=1e-6)
    if run != "globe":
        noted = [json.loads((trained / f"{run}-evaluated-{rank}.json").read_text()) for rank in (0, 1)]
        # One holds its own rows alone, and scores them; the other whole fields, as what wraps networks does.
        assert noted == [{"divided": True, "own": run.startswith("dropped")}] * 2


def test_a_globe_that_is_divided_in_longitude_trains_another_network(trained: Path) -> None:
    same_training(trained / "globe-1-ddp", trained / "globe-2-circle")


def test_a_run_of_a_divided_globe_goes_on_with_another_division(trained: Path) -> None:
    same_training(trained / "globe-1-ddp", trained / "globe")
    sessions = json.loads((trained / "globe" / "run.json").read_text())["sessions"]
    assert [s["machine"]["processes"] for s in sessions] == [2, 3, 1]


def test_dropout_begins_anew_when_as_many_processes_go_on(trained: Path) -> None:
    """Each of them must continue with its own random numbers: the same bits as if never interrupted."""
    whole, resumed = trained / "dropout", trained / "dropout-resumed"
    for rank in (0, 1):
        drawn = [(folder / f"random-{rank}.txt").read_text().splitlines() for folder in (whole, resumed)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) == len(drawn[0]) > 3
    name = Path("emulator", "arrays.safetensors")
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert curve(resumed) == curve(whole)


def test_processes_drop_the_same_units(trained: Path) -> None:
    one, other = ((trained / "dropout" / f"random-{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert len(one) == len(other)
    assert not set(one) & set(other)


def test_shards_are_left_behind(trained: Path) -> None:
    """Each process's rows in one folder for the last checkpoint; none where copies went on with the training."""
    assert len(list((trained / "segments-3-fsdp").glob("last-*/rank-*.safetensors"))) == 3
    assert len(list((trained / "segments-3-fsdp").glob("last-*-*"))) == 1
    assert not list((trained / "relay").glob("last-*-*"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux alone")
@pytest.mark.parametrize("processes", [2, 3])
def test_threads_of_the_group_outlive_it_and_abort_an_ending_process(trained: Path, processes: int) -> None:
    """They run on in an interpreter that ends under them; nothing that torch keeps may hold the group."""
    listed = [json.loads(p.read_text()) for p in trained.glob(f"jobs.json-{processes}-*-threads-*")]
    assert len(listed) == processes
    for threads in listed:
        assert threads
        assert not [name for name in threads if "gloo" in name]


def test_a_refusal_of_the_first_leaves_the_others_waiting(trained: Path) -> None:
    ends = [json.loads((trained / "refused" / f"ends-{rank}.json").read_text()) for rank in (0, 1)]
    assert ends == [["RunError"] * 2, ["ReportedByMainError"] * 2]


@pytest.fixture(scope="module")
def distributed(trained: Path) -> list[dict]:
    """By rank: what each of two processes holds while it computes a step of two batches, and after a validation."""
    return [json.loads((trained / f"spread-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_batch_that_is_not_the_last_of_its_step_waits_for_the_others(distributed: list[dict]) -> None:
    """Its gradient is only this process's, whose data are one and two times the same; after the last it is the sum."""
    (first, summed), (other, too) = (np.array(noted["ddp"]["gradients"]) for noted in distributed)
    np.testing.assert_allclose(other, 2 * first, rtol=1e-5)
    np.testing.assert_allclose([summed, too], [3 * first, 3 * first], rtol=1e-5)
    for noted in distributed:
        none, sharded = noted["fsdp"]["gradients"]
        assert none is None
        np.testing.assert_allclose(sharded, summed, rtol=1e-5)


def test_a_sharded_network_is_in_full_on_every_process(distributed: list[dict]) -> None:
    """While a block computes, it alone is, next to what is in none; after a validation nothing."""
    for noted in distributed:
        assert noted["fsdp"]["full"] == [["scale", f"blocks.{i}.weight"] for i in range(3)]
        assert noted["fsdp"]["kept"] == []
        assert len(noted["ddp"]["kept"]) == 4
