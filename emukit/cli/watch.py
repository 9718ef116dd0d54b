"""What a study shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.errors import EmukitError
from emukit.progress import Reporter
from emukit.recipes.schema import NetworkRecipe
from emukit.runs.run import read_run
from emukit.studies.ablate import PlannedRun, StudyPlan
from emukit.terminal import duration
from emukit.training.log import LOG, read_lines

# Between two pictures of the live table.
REFRESH_SECONDS = 1.0
# Lines of what has finished that the live table shows.
SHOWN = 8


class Watch:
    """Keeps count of a study's runs, and shows them."""

    def __init__(
        self, plan: StudyPlan, archive: Archive, to_do: Sequence[PlannedRun], workers: int, reporter: Reporter
    ) -> None:
        """Count what is done before anything is started.

        Args:
            plan: The study.
            archive: Its data.
            to_do: What is going to be trained.
            workers: Runs at a time.
            reporter: Where to show, and whether.
        """
        self._plan, self._workers, self._reporter = plan, workers, reporter
        self._all, self._to_do = plan.distinct(), to_do
        self._done = {r.folder: "" for r in self._all if r.finished(archive)}
        self._cost = competition_of(archive).cost
        # When it was started, and after which epoch.
        self._running: dict[PlannedRun, tuple[float, int]] = {}
        self._ended: list[tuple[PlannedRun, str]] = []
        self._taken = self._planned = 0.0
        self._looked = 0.0
        live = not reporter.quiet and reporter.console.is_terminal
        self._live = Live(console=reporter.console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> Watch:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.__exit__(kind, error, at)

    def began(self, run: PlannedRun) -> None:
        """A run has started."""
        self._running[run] = time.monotonic(), progress_of(run, self._cost)[0]

    def ended(self, run: PlannedRun, error: str) -> None:
        """A run has ended."""
        begun = self._running.pop(run, None)
        if begun is not None and not error:
            started, epoch = begun
            self._taken += time.monotonic() - started
            # What another session did took none of this one's time.
            self._planned += self._plan.seconds([run], 1) * (1 - epoch / (epochs_of(run) or 1))
        if not error:
            self._done[run.folder] = score_of(run)
        self._ended.append((run, error))
        if not self._reporter.quiet:
            what = f"failed: {error.splitlines()[0]}" if error else f"score {self._done[run.folder]}"
            self._reporter.say(f"{_name(run)}: {what} ({self._count()})")

    def look(self) -> None:
        """Draw the table again when it is time to."""
        now = time.monotonic()
        if self._live is None or now - self._looked < REFRESH_SECONDS:
            return
        self._looked = now
        table = Table("variant", "protocol", "seed", "state", "score", box=box.SIMPLE_HEAD, padding=0)
        for run, (begun, _) in self._running.items():
            epoch, score = progress_of(run, self._cost)
            wanted = epochs_of(run)
            state = f"epoch {epoch}{f' of {wanted}' if wanted else ''}, " if epoch else ""
            state += duration(now - begun)
            table.add_row(*map(Text, (run.variant, run.protocol, str(run.seed), state, score)), style="bold")
        for run, error in self._ended[-SHOWN:]:
            state, score = ("failed", "") if error else ("done", self._done[run.folder])
            row = map(Text, (run.variant, run.protocol, str(run.seed), state, score))
            table.add_row(*row, style="red" if error else "dim")
        self._live.update(Group(Text(f"{self._plan.study.name}: {self._count()}"), table), refresh=True)

    def _count(self) -> str:
        failed = sum(bool(error) for _, error in self._ended)
        words = [f"{len(self._done)} of {len(self._all)} done", f"{len(self._running)} running"]
        words += [f"{failed} failed"] if failed else []
        gone = {run.folder for run, _ in self._ended} | self._done.keys()
        left = [r for r in self._to_do if r.folder not in gone]
        return ", ".join([*words, f"{duration(self._left(left))} left"] if left else words)

    def _left(self, left: list[PlannedRun]) -> float:
        """Seconds for what is left, by what was planned and how that has turned out."""
        now, factor = time.monotonic(), self._taken / self._planned if self._planned else 1.0
        seconds = sum(factor * self._plan.seconds([r], 1) for r in left if r not in self._running)
        for run, (begun, _) in self._running.items():
            whole, wanted = factor * self._plan.seconds([run], 1), epochs_of(run)
            epoch, _ = progress_of(run, self._cost) if wanted else (0, "")
            # Epochs that are done say more than the clock: they may have been done before an interruption.
            seconds += whole * (1 - epoch / wanted) if epoch and wanted else max(0.0, whole - (now - begun))
        return seconds / self._workers


def epochs_of(run: PlannedRun) -> int | None:
    """How many epochs a run that is one network trains at most; None for any other."""
    return run.recipe.training.epochs if isinstance(run.recipe, NetworkRecipe) else None


def progress_of(run: PlannedRun, cost: Callable[[float], float]) -> tuple[int, str]:
    """The last whole epoch of the network of a run, and its last and best validation score; 0 and nothing before."""
    try:
        lines = read_lines(run.folder / LOG)
    except EmukitError:
        return 0, ""
    scores = [line["validation"]["score"] for line in lines if "validation" in line]
    if not lines:
        return 0, ""
    return int(lines[-1]["epoch"]), f"{scores[-1]:.4f}, best {min(scores, key=cost):.4f}" if scores else ""


def score_of(run: PlannedRun) -> str:
    """The validation score of a finished run."""
    try:
        return f"{read_run(run.folder).evaluation('validation')['score']:.4f}"
    except EmukitError:
        return "?"


def _name(run: PlannedRun) -> str:
    return f"{run.variant}, {run.protocol}, seed {run.seed}"
