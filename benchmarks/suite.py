"""Every bench by name, and how its figures are shown.

Invariant: a bench runs when it is named, or by default when it is quick and what it reads is there; an option that one
of the benches chosen does not take is refused, and everything named is checked, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from benchmarks import Figure, Row
from benchmarks.command import bench_commands, bench_help, bench_linear
from benchmarks.memory import bench_memory
from benchmarks.store import bench_store
from benchmarks.submission import bench_submission_score, bench_submission_write
from emukit.errors import EmukitError
from emukit.progress import Reporter

if TYPE_CHECKING:
    from benchmarks.networks import Job

RUNS = 3
BUDGET_SECONDS = 1200.0
CASES = 100

# Columns of words; the others hold numbers, and stand on the right.
_WORDS = ("figure", "bound", "holds", "network", "precision", "ceiling", "measured by", "bound by", "campaign", "fault")


@dataclass(frozen=True)
class Choice:
    """What a user asks for.

    Attributes:
        store: Store to read, or ``demo``.
        runs: Measurements of each figure; `RUNS` when None, and one where a measurement is a whole training.
        models: Networks to measure; each bench has its own when empty.
        settings: ``a.b=c`` words laid over their recipes.
        device: ``cpu`` or ``cuda``; the accelerator where there is one when None.
        budget: Seconds a network may train, where training is ended by a score; `BUDGET_SECONDS` when None.
        cases: Of each campaign of faults; `CASES` when None.
        seed: Of what is drawn there; 0 when None.
        campaigns: Those to run; all when empty.
    """

    store: str = "demo"
    runs: int | None = None
    models: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    device: str | None = None
    budget: float | None = None
    cases: int | None = None
    seed: int | None = None
    campaigns: tuple[str, ...] = ()

    @property
    def options(self) -> frozenset[str]:
        """The options that were given."""
        given = {"model": self.models or None, "set": self.settings or None}
        given |= {name: getattr(self, name) for name in ("runs", "device", "budget", "cases", "seed")}
        given |= {"campaign": self.campaigns or None}
        return frozenset(name for name, value in given.items() if value is not None)

    @property
    def repeats(self) -> int:
        """Measurements of each figure."""
        return RUNS if self.runs is None else self.runs

    @property
    def seconds(self) -> float:
        """The budget, given or not."""
        return BUDGET_SECONDS if self.budget is None else self.budget


@dataclass(frozen=True)
class Bench:
    """One entry of `python -m benchmarks`.

    Attributes:
        measure: Makes the figures.
        takes: Options of `Choice` it heeds.
        check: Raises what can be known to be wrong before anything is measured.
        needs_store: Whether it reads a store on disk.
        by_default: Whether it runs when no bench is named; long ones do not.
    """

    measure: Callable[[Choice], Sequence[Row]]
    takes: frozenset[str] = frozenset({"runs"})
    needs_store: bool = False
    by_default: bool = True
    check: Callable[[Choice], None] = lambda choice: None


def _segment_jobs(choice: Choice) -> list[Job]:
    from benchmarks import networks

    return _jobs(choice, (networks.PUBLISHED, "transformer"))


def _default_jobs(choice: Choice) -> list[Job]:
    from benchmarks import networks

    return _jobs(choice, networks.default_networks())


def _report(choice: Choice) -> Sequence[Figure]:
    from benchmarks import report

    return report.bench_report(runs=choice.repeats)


def _downscaling(choice: Choice) -> Sequence[Figure]:
    from benchmarks import downscaling

    return downscaling.bench_downscaling(choice.repeats)


def _trajectories(choice: Choice) -> Sequence[Figure]:
    from benchmarks import trajectories

    return trajectories.bench_trajectories(choice.repeats)


def _divided(choice: Choice) -> Sequence[Figure]:
    from benchmarks import divided

    return divided.bench_divided(choice.repeats)


def _realisations(choice: Choice) -> Sequence[Figure]:
    from benchmarks import realisations

    return realisations.bench_realisations(choice.store, choice.repeats)


def _climx(choice: Choice) -> Sequence[Figure]:
    from benchmarks import climx

    return climx.bench_climx(choice.repeats)


def _input_jobs(choice: Choice) -> list[Job]:
    return _jobs(choice, ("cnn-gru",))


def _device_jobs(choice: Choice) -> list[Job]:
    from benchmarks import device

    return [device.device_job(job) for job in _jobs(choice, device.device_networks())]


def _segments(choice: Choice) -> Sequence[Figure]:
    from benchmarks import networks

    return networks.bench_segments(_segment_jobs(choice), choice.repeats)


def _predict(choice: Choice) -> Sequence[Figure]:
    from benchmarks import networks

    return networks.bench_prediction(_default_jobs(choice), choice.repeats)


def _train(choice: Choice) -> Sequence[Figure]:
    from benchmarks import training

    jobs = [training.training_job(job) for job in _default_jobs(choice)]
    return training.bench_training(jobs, training.starter_job(jobs[0]), choice.repeats)


def _input(choice: Choice) -> Sequence[Figure]:
    from benchmarks import training

    jobs = [training.training_job(job) for job in _input_jobs(choice)]
    return [figure for job in jobs for figure in training.bench_input(job, choice.repeats)]


def _reach(choice: Choice) -> Sequence[Figure]:
    from benchmarks import networks, training

    jobs = _default_jobs(choice)
    reference = networks.Job(networks.STARTER, device=jobs[0].device)
    return training.bench_reach(choice.store, jobs, reference, choice.seconds)


def _device(choice: Choice) -> Sequence[Row]:
    from benchmarks import device

    return device.bench_device(_device_jobs(choice), choice.repeats)


def _faults(choice: Choice) -> Sequence[Row]:
    from benchmarks import faults

    store = None if choice.store == "demo" else choice.store
    return faults.bench_faults(choice.cases or CASES, choice.seed or 0, store, choice.campaigns)


def _check_faults(choice: Choice) -> None:
    from benchmarks import faults

    faults.check_campaigns(None if choice.store == "demo" else choice.store, choice.campaigns)


def _networks_of(jobs: Callable[[Choice], list[Job]]) -> Callable[[Choice], None]:
    """The check of a bench that measures these networks on a made-up climate."""

    def check(choice: Choice) -> None:
        from benchmarks.checks import check_networks

        check_networks(jobs(choice))

    return check


def _check_reach(choice: Choice) -> None:
    from benchmarks.checks import check_budget, check_training

    check_budget(choice.seconds)
    check_training(choice.store, _default_jobs(choice))


def _check_store(choice: Choice) -> None:
    from benchmarks.checks import check_store

    check_store(choice.store)


def _check_core(choice: Choice) -> None:
    from emukit.models.spectral_core import check_extra

    check_extra()


def _check_zarr_v2(choice: Choice) -> None:
    from benchmarks.checks import check_zarr_v2

    check_zarr_v2(choice.store)


_NETWORK = frozenset({"model", "set", "device"})
_FIGURES = _NETWORK | {"runs"}

BENCHES: dict[str, Bench] = {
    "help": Bench(lambda choice: bench_help(choice.repeats)),
    "commands": Bench(lambda choice: bench_commands(choice.repeats)),
    "write": Bench(lambda choice: bench_submission_write(runs=choice.repeats)),
    "score": Bench(lambda choice: bench_submission_score(runs=choice.repeats)),
    "store": Bench(lambda choice: bench_store(choice.store, choice.repeats), needs_store=True, check=_check_zarr_v2),
    "linear": Bench(lambda choice: bench_linear(choice.store, choice.repeats), needs_store=True, check=_check_store),
    "memory": Bench(lambda choice: bench_memory(), frozenset(), by_default=False),
    "downscaling": Bench(_downscaling, by_default=False),
    "realisations": Bench(_realisations, needs_store=True, by_default=False, check=_check_store),
    "divided": Bench(_divided, by_default=False),
    "trajectories": Bench(_trajectories, by_default=False, check=_check_core),
    "report": Bench(_report),
    "climx": Bench(_climx, by_default=False),
    "segments": Bench(_segments, _FIGURES, by_default=False, check=_networks_of(_segment_jobs)),
    "predict": Bench(_predict, _FIGURES, check=_networks_of(_default_jobs)),
    "train": Bench(_train, _FIGURES, by_default=False, check=_networks_of(_default_jobs)),
    "input": Bench(_input, _FIGURES, check=_networks_of(_input_jobs)),
    "reach": Bench(_reach, _NETWORK | {"budget"}, needs_store=True, by_default=False, check=_check_reach),
    "faults": Bench(_faults, frozenset({"cases", "seed", "campaign"}), by_default=False, check=_check_faults),
    "device": Bench(_device, _FIGURES, by_default=False, check=_networks_of(_device_jobs)),
}


def run_suite(names: Sequence[str], choice: Choice, reporter: Reporter) -> list[Row]:
    """Measure the benches named, or the quick ones.

    Raises:
        EmukitError: A name is unknown, a bench that reads a store was given the demo, an option was given that one of
            them does not take, a network, setting, device or store cannot be measured, or a measurement failed.
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
    for name in chosen:
        BENCHES[name].check(choice)
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


def records(rows: Sequence[Row]) -> list[tuple[list[str], list[tuple[str, ...]]]]:
    """The same tables for programs: headings and lines, of figures every number in full."""
    out: list[tuple[list[str], list[tuple[str, ...]]]] = []
    for headings, group in groupby(rows, key=lambda row: row.headings):
        lines = list(group)
        if all(isinstance(row, Figure) for row in lines):
            names = [f.name for f in fields(Figure)]
            out.append((names, [tuple(str(getattr(row, n)) for n in names) for row in lines]))
        else:
            out.append(([h.replace("\n", " ") for h in headings], [row.cells() for row in lines]))
    return out


def _jobs(choice: Choice, default: Sequence[str]) -> list[Job]:
    """A job for each network."""
    from benchmarks.checks import check_device
    from benchmarks.networks import Job

    device = check_device(choice.device)
    return [Job(name, choice.settings, device) for name in choice.models or default]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
