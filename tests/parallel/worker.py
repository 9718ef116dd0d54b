"""What every process of the tests runs: ``python -m tests.parallel.worker JOBS.json``.

The jobs are trainings on a small archive, one after another, so that processes are started once for many of them, as
forks of one that has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from emukit.data.archive import Archive, Scenario
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.emulators.atlas import Atlas
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.trajectory import Persistence
from emukit.errors import EmukitError
from emukit.files import exclusive
from emukit.parallel.comm import Comm, open_comm
from emukit.parallel.distributed import DistributedNetwork, whole
from emukit.parallel.share import Share, share_of
from emukit.planning import memory
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs import run
from emukit.runs.ensemble_scores import evaluate_ensemble
from emukit.runs.evaluate import score_emulator
from emukit.runs.forecasts import evaluate_forecasts
from emukit.training import loop
from emukit.training.engine import Engine, Execution
from tests.coded import warming_archive
from tests.forecasts import sequence
from tests.parallel.forks import run_together

NETWORKS = {
    "cnn-gru": (
        "model.hidden=8",
        "model.features=6",
        "model.width=4",
        "model.stages=1",
        "model.pool_rows=1",
        "model.pool_columns=2",
    ),
    "cnn-gru-published": ("model.width=2", "model.hidden=8", "model.dropout=0.0"),
    "convlstm": ("model.width=4", "model.stages=1", "model.hidden=4", "model.linear=4"),
    "local-cnn": ("model.width=4", "model.blocks=1"),
    "unet": ("model.width=8", "model.depth=1", "model.features=4", "model.hidden=8", "model.linear=4"),
}
COMMON = (
    "inputs.window.history=3",
    "training.epochs=2",
    "training.segments.length=12",
    "training.segments.per_batch=4",
    "training.segments.members=random",
    "training.optimizer.learning_rate=1e-3",
    "training.optimizer.warmup_steps=3",
)


def held(archive: Archive, share: Share) -> Archive:
    """What a process holds that has read its own cells alone."""

    def own(scenario: Scenario) -> Scenario:
        forcings = {k: share.own(v) if v.ndim == 3 else v for k, v in scenario.forcings.items()}
        return replace(scenario, forcings=forcings, targets=share.own(scenario.targets), share=share)

    found = replace(archive, scenarios={name: own(s) for name, s in archive.items()}, share=share)
    assert found.digest == archive.digest
    return found


def train(job: dict, comm: Comm) -> None:
    """One training; with ``stop_at`` it is asked to stop after that many steps of this process.

    Every process adds the state of its random generator before each step to ``random-RANK.txt``.
    """
    archive, folder = warming_archive(), Path(job["out"])
    domain, columns = job.get("domain", 1), job.get("columns", 1)
    comm = comm.divided(domain, columns)
    if job.get("own"):
        archive = held(archive, share_of(comm.domain, archive.grid.shape))
    recipe = load_recipe(job["network"], None, [*NETWORKS[job["network"]], *COMMON, *job.get("set", ())])
    step = Engine.step
    taken = 0

    def counted(self, *args):
        nonlocal taken
        taken += 1
        # Only one process is signalled; all must stop.
        if taken == job.get("stop_at") and comm.rank == comm.world - 1:
            os.kill(os.getpid(), signal.SIGINT)
        with (folder / f"random-{comm.rank}.txt").open("a") as f:
            f.write(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest() + "\n")
        return step(self, *args)

    evaluate = run.evaluate

    def noted(emulator, *args):
        found = {"divided": emulator.sphere.divided, "own": args[0].share.divided}
        folder.with_name(f"{folder.name}-evaluated-{comm.rank}.json").write_text(json.dumps(found))
        return evaluate(emulator, *args)

    Engine.step, run.evaluate = counted, noted
    try:
        with suppress(loop.Interrupted):
            run.train_run(
                archive,
                recipe,
                folder,
                protocol="k360",
                comm=comm,
                execution=Execution(job.get("strategy", "ddp"), domain=domain),
                resume=job.get("resume", False),
                reporter=silent_reporter(),
            )
    finally:
        Engine.step, run.evaluate = step, evaluate


def score(job: dict, comm: Comm) -> None:
    """Score a saved emulator on spans that no number of processes divides."""
    archive = warming_archive()
    spans = tuple(Span(name, start, stop, (0,)) for name, start, stop in job["spans"])
    value = score_emulator(load_emulator(job["emulator"]), archive, spans, comm)
    if comm.main:
        Path(job["out"]).write_text(json.dumps(value.as_dict()))


class Wandering(Persistence):
    """What was, and with every step more of the realisation's own."""

    number = 0

    @property
    def draws(self):
        return True

    def member(self, number):
        one = Wandering(self.domain)
        one.number = number
        return one

    def forecast(self, scenario, starts, steps):
        away = 0.1 * (self.number - 1) * np.arange(1, steps + 1, dtype=np.float32)
        return super().forecast(scenario, starts, steps) + away[:, None, None, None]


def realise(job: dict, comm: Comm) -> None:
    """Score realisations of a generator, its one answer, and forecasts; every process notes scores and what it drew."""
    archive, drawn = warming_archive(), []
    split = make_split(archive, "k360")
    base = LinearEmulator.fit(archive, split)
    generator = Atlas.fit(archive, split, (base,), (), seed=1, block=2, learned=False)
    spans = tuple(Span(name, start, stop, (member,)) for name, start, stop, member in job["spans"])
    draw = Atlas._drawn

    def noted(self, scenario, start, stop, numbers):
        drawn.append([scenario.name, start, stop, numbers])
        return draw(self, scenario, start, stop, numbers)

    Atlas._drawn = noted
    try:
        ensemble = evaluate_ensemble(generator, archive, spans, job["members"], silent_reporter(), comm)
    finally:
        Atlas._drawn = draw
    score = score_emulator(generator, archive, spans, comm)
    weather = sequence()
    days = make_split(weather, "forecast")
    forecasts = evaluate_forecasts(
        Wandering(weather.domain), weather, days, days.scored["test"], 3, silent_reporter(), comm
    )
    scores = {"ensemble": ensemble.as_dict(), "score": score.as_dict(), "forecasts": forecasts.as_dict()}
    note = {"scores": scores, "drawn": drawn}
    Path(f"{job['out']}-{comm.world}-{comm.rank}.json").write_text(json.dumps(note))


def refuse(job: dict, comm: Comm) -> None:
    """Train into a folder that holds another run, then into one that is held; every process notes how it ended."""
    folder, ends = Path(job["out"]), []
    (folder / "other").mkdir(parents=True, exist_ok=True)
    comm.barrier()
    with exclusive(folder / "held") if comm.main else nullcontext():
        for name in (".", "held"):
            try:
                train(job | {"out": str(folder / name)}, comm)
            except EmukitError as e:
                ends.append(type(e).__name__)
        comm.barrier()
    (folder / f"ends-{comm.rank}.json").write_text(json.dumps(ends))


class Block(nn.Linear):
    """What is sharded by itself; notes which parameters of the whole network are in full while it computes."""

    def forward(self, values: Tensor) -> Tensor:
        self.full = self.in_full()
        return super().forward(values)


class Blocks(nn.Module):
    """Three blocks and a weight next to them."""

    BLOCKS = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(4, 4, bias=False) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(4))
        for block in self.blocks:
            block.in_full = self.in_full

    def in_full(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if not isinstance(parameter, DTensor)]

    def forward(self, values: Tensor) -> Tensor:
        for block in self.blocks:
            values = block(values)
        return values * self.scale


def distributed(job: dict, comm: Comm) -> None:
    """Two batches of one step, the data of every process its own; each notes what it holds of gradients and weights."""
    noted: dict[str, object] = {}
    for strategy in ("ddp", "fsdp"):
        torch.manual_seed(0)
        network = Blocks()
        distributed = DistributedNetwork(network, comm, strategy)
        gradients = []
        for last in (False, True):
            with distributed.accumulating(last=last):
                distributed.backward(distributed(torch.full((1, 4), 1.0 + comm.rank)).sum())
            held = [None if p.grad is None else whole(p.grad) for p in network.parameters()]
            gradients.append(None if held[0] is None else held[0].tolist())
        noted[strategy] = {"gradients": gradients, "full": [block.full for block in network.blocks]}
        with torch.inference_mode():
            distributed(torch.ones(1, 4))
        distributed.reshard()
        noted[strategy] |= {"kept": network.in_full()}
    (Path(job["out"]) / f"spread-{comm.rank}.json").write_text(json.dumps(noted))


def threads() -> list[str]:
    """Names of this process's threads, torch's own among them; Linux alone lists them."""
    names = []
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # one that has just ended
            names.append(name.read_text().strip())
    return names


def work(jobs: list[dict], name: str, measured: Path) -> None:
    """In one of the processes: all jobs, one after another.

    Args:
        jobs: What to do.
        name: Of the files that it leaves.
        measured: Keeps what steps of networks cost, which several processes need not measure after one has.
    """
    torch.set_num_threads(1)
    if measured.exists():
        memory._MEASURED.update(pickle.loads(measured.read_bytes()))
    with open_comm() as comm:
        for job in jobs:
            do = {"train": train, "score": score, "realise": realise, "refuse": refuse, "spread": distributed}
            do[job["do"]](job, comm)
        if comm.world == 1:
            measured.write_bytes(pickle.dumps(memory._MEASURED))
    Path(f"{name}-threads-{comm.rank}").write_text(json.dumps(threads()))


def main(path: str) -> None:
    for number, (processes, jobs) in enumerate(json.loads(Path(path).read_text())):
        name = f"{path}-{processes}-{number}"
        run_together(processes, partial(work, jobs, name, Path(f"{path}-measured")), f"{name}-rendezvous")


if __name__ == "__main__":
    main(sys.argv[1])
