"""Every bench by name, and how its figures are shown.

Invariant: a bench runs when it is named, or by default when it is quick and what it reads is there; an option that none
of the benches chosen takes is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from emukit.bench import Figure, Row
from emukit.bench.command import bench_help, bench_linear
from emukit.bench.store import bench_store
from emukit.bench.submission import bench_submission_score, bench_submission_write
from emukit.errors import EmukitError
from emukit.progress import Reporter

if TYPE_CHECKING:
    from emukit.bench.networks import Job

BUDGET_SECONDS = 1200.0

# Columns of words; the others hold numbers, and stand on the right.
_WORDS = ("figure", "bound", "holds", "network", "precision", "ceiling", "measured by", "bound by")


@dataclass(frozen=True)
class Choice:
    """What a user asks for.

    Attributes:
        store: Store to read, or ``demo``.
        runs: Measurements of each figure.
        models: Networks to measure; each bench has its own when empty.
        settings: ``a.b=c`` words laid over their recipes.
        device: ``cpu`` or ``cuda``; the accelerator where there is one when None.
        budget: Seconds a network may train, where training is ended by a score; `BUDGET_SECONDS` when None.
    """

    store: str = "demo"
    runs: int = 3
    models: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    device: str | None = None
    budget: float | None = None

    @property
    def options(self) -> frozenset[str]:
        """The options that were given."""
        given = {"model": self.models, "set": self.settings, "device": self.device, "budget": self.budget}
        return frozenset(name for name, value in given.items() if value)


@dataclass(frozen=True)
class Bench:
    """One entry of `emukit bench`.

    Attributes:
        measure: Makes the figures.
        takes: Options of `Choice` it heeds.
        needs_store: Whether it reads a store on disk.
        by_default: Whether it runs when no bench is named; long ones do not.
    """

    measure: Callable[[Choice], Sequence[Row]]
    takes: frozenset[str] = frozenset()
    needs_store: bool = False
    by_default: bool = True


def _segments(choice: Choice) -> Sequence[Figure]:
    from emukit.bench import networks

    return networks.bench_segments(_jobs(choice, (networks.PUBLISHED, "transformer")), choice.runs)


def _predict(choice: Choice) -> Sequence[Figure]:
    from emukit.bench import networks

    return networks.bench_prediction(_jobs(choice, networks.default_networks()), choice.runs)


def _train(choice: Choice) -> Sequence[Figure]:
    from emukit.bench import networks, training

    jobs = [training.training_job(job) for job in _jobs(choice, networks.default_networks())]
    return training.bench_training(jobs, training.starter_job(jobs[0]), choice.runs)


def _input(choice: Choice) -> Sequence[Figure]:
    from emukit.bench import training

    jobs = [training.training_job(job) for job in _jobs(choice, ("cnn-gru",))]
    return [figure for job in jobs for figure in training.bench_input(job, choice.runs)]


def _reach(choice: Choice) -> Sequence[Figure]:
    from emukit.bench import networks, training

    jobs = _jobs(choice, networks.default_networks())
    reference = networks.Job(networks.STARTER, device=jobs[0].device)
    return training.bench_reach(choice.store, jobs, reference, choice.budget or BUDGET_SECONDS)


def _device(choice: Choice) -> Sequence[Row]:
    from emukit.bench import device

    jobs = [device.device_job(job) for job in _jobs(choice, device.device_networks())]
    return device.bench_device(jobs, choice.runs)


_NETWORK = frozenset({"model", "set", "device"})

BENCHES: dict[str, Bench] = {
    "help": Bench(lambda choice: bench_help(choice.runs)),
    "write": Bench(lambda choice: bench_submission_write(runs=choice.runs)),
    "score": Bench(lambda choice: bench_submission_score(runs=choice.runs)),
    "store": Bench(lambda choice: bench_store(choice.store, choice.runs), needs_store=True),
    "linear": Bench(lambda choice: bench_linear(choice.store, choice.runs), needs_store=True),
    "segments": Bench(_segments, _NETWORK, by_default=False),
    "predict": Bench(_predict, _NETWORK),
    "train": Bench(_train, _NETWORK, by_default=False),
    "input": Bench(_input, _NETWORK),
    "reach": Bench(_reach, _NETWORK | {"budget"}, needs_store=True, by_default=False),
    "device": Bench(_device, _NETWORK, by_default=False),
}


def run_suite(names: Sequence[str], choice: Choice, reporter: Reporter) -> list[Row]:
    """Measure the benches named, or the quick ones.

    Raises:
        EmukitError: A name is unknown, a measurement failed, a bench that reads a store was given the demo, or an
            option none of them takes was given.
    """
    unknown = [n for n in names if n not in BENCHES]
    if unknown:
        raise EmukitError(f"unknown bench {', '.join(unknown)}", expected=", ".join(BENCHES))
    stored = choice.store != "demo"
    chosen = list(names) or [n for n, b in BENCHES.items() if b.by_default and (stored or not b.needs_store)]
    homeless = [n for n in chosen if BENCHES[n].needs_store and not stored]
    if homeless:
        raise EmukitError(
            f"a store on disk is needed for {', '.join(homeless)}",
            found="the demo climate, which is made in memory",
            hint="name one with --data",
        )
    idle = [f"--{o}" for n in chosen for o in sorted(choice.options - BENCHES[n].takes)]
    if idle:
        takers = [n for n, b in BENCHES.items() if choice.options <= b.takes]
        raise EmukitError(
            f"{', '.join(dict.fromkeys(idle))} would do nothing for {', '.join(chosen)}",
            hint=f"name the bench it is for: {', '.join(takers) or 'none takes all of these'}",
        )
    rows: list[Row] = []
    with reporter.step("measuring", len(chosen)) as step:
        for name in chosen:
            rows += BENCHES[name].measure(choice)
            step.advance(note=name)
    return rows


def tables(rows: Sequence[Row], machine: str) -> list[Table]:
    """Rows as they stand on a terminal, a table for each kind."""
    shown = []
    for headings, group in groupby(rows, key=lambda row: row.headings):
        table = Table(title=machine, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for heading in headings:
            words = heading in _WORDS
            table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
        for row in group:
            table.add_row(*row.cells(), style="" if row.within else "red")
        shown.append(table)
    return shown


def markdown(rows: Sequence[Row], machine: str) -> str:
    """The same tables in Markdown, for `baselines/SPEED.md`."""
    lines = [machine]
    for headings, group in groupby(rows, key=lambda row: row.headings):
        lines += ["", _line(h.replace("\n", " ") for h in headings)]
        lines += [_line("---" if h in _WORDS else "---:" for h in headings)]
        lines += [_line(row.cells()) for row in group]
    return "\n".join(lines)


def _jobs(choice: Choice, default: Sequence[str]) -> list[Job]:
    """A job for each network."""
    import torch

    from emukit.bench.networks import Job

    device = choice.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EmukitError(f"there is no {device} here", expected="cpu", hint="leave --device out")
    return [Job(name, choice.settings, device) for name in choice.models or default]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
