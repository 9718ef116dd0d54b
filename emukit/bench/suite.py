"""Every bench by name, and how its figures are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from emukit.bench import Figure
from emukit.bench.command import bench_help, bench_linear
from emukit.bench.store import bench_store
from emukit.bench.submission import bench_submission_score, bench_submission_write
from emukit.errors import EmukitError
from emukit.progress import Reporter

# name -> (store, runs) -> figures
BENCHES: dict[str, Callable[[str, int], list[Figure]]] = {
    "help": lambda store, runs: bench_help(runs),
    "write": lambda store, runs: bench_submission_write(runs=runs),
    "score": lambda store, runs: bench_submission_score(runs=runs),
    "store": bench_store,
    "linear": bench_linear,
}


def run_suite(names: Sequence[str], store: str, runs: int, reporter: Reporter) -> list[Figure]:
    """Measure the benches named, or all.

    Raises:
        EmukitError: A name is unknown, a measurement failed, or a bench that reads a store was given the demo.
    """
    unknown = [n for n in names if n not in BENCHES]
    if unknown:
        raise EmukitError(f"unknown bench {', '.join(unknown)}", expected=", ".join(BENCHES))
    chosen = list(names) or [n for n in BENCHES if store != "demo" or n not in ("store", "linear")]
    if store == "demo" and {"store", "linear"} & set(chosen):
        raise EmukitError(
            "the store and linear benches need a store on disk",
            found="the demo climate, which is made in memory",
            hint="name one with --data",
        )
    figures = []
    with reporter.step("measuring", len(chosen)) as step:
        for name in chosen:
            figures += BENCHES[name](store, runs)
            step.advance(note=name)
    return figures


def figure_table(figures: Sequence[Figure], machine: str) -> Table:
    """Figures beside their references."""
    table = Table(title=machine, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("figure", overflow="fold")
    for heading in ("median", "reference", "times\nfaster", "peak\nMB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bound", overflow="fold")
    table.add_column("holds")
    for f in figures:
        cells = (f"{f.value:.2f} {f.unit}", f"{f.reference:.2f} {f.unit}", f"{f.ratio:.1f}", f"{f.peak_mb:.0f}")
        table.add_row(f.name, *cells, f.bound, "yes" if f.within else "NO", style="" if f.within else "red")
    return table
