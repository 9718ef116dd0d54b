"""Campaigns of faults: what kills, damaged files and strangers' input do to commands.

Invariant: every case begins from the same whole files, is a function of the seed, its campaign, its kind and its
number, and ends in one column of one row. A case is good where emukit refused, said what it left out, or gave what it
gives without the fault.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

from emukit.bench.damage import BYTES, STORES, TEXTS, Damage, files_below, linked_copy
from emukit.bench.forked import Ended, command, in_fork, preload
from emukit.errors import EmukitError
from emukit.files import parse_json, read_text

STORE = "store.zarr"
# A network that trains in seconds and still has everything that a checkpoint holds.
NETWORK = (
    *("model.hidden=4", "model.features=4", "model.width=4", "model.stages=1", "model.pool_rows=1"),
    *("model.pool_columns=2", "model.dropout=0.1", "inputs.window.history=2", "training.epochs=3"),
    *("training.segments.length=60", "training.segments.per_batch=8"),
)
STUDY = """
question = "what is left when it is killed?"
base = "linear"
protocols = "k360"

[[axes]]
path = "model.ridge"
values = [100.0]

[[variants]]
name = "without learning"
recipe = "climatology"
"""
# How a case may end. Only where nothing in the data could tell is "silent" not bad, and "refused" where one may refuse.
COLUMNS = ("refused", "said", "same", "silent", "broken", "hung", "over 4 GB")
ALWAYS_BAD = ("broken", "hung", "over 4 GB")


@dataclass(frozen=True)
class Tally:
    """One line of ``emukit bench faults``: all cases of one kind of fault.

    Attributes:
        campaign: What was damaged or killed.
        kind: How.
        counts: Column of `COLUMNS` to the number of cases that ended there.
        bad: Columns in which none may end.
        examples: What the first cases that ended badly did.
    """

    headings: ClassVar[tuple[str, ...]] = ("campaign", "fault", "cases", *COLUMNS, "holds")

    campaign: str
    kind: str
    counts: Mapping[str, int]
    bad: tuple[str, ...]
    examples: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether none ended in a bad column."""
        return not any(self.counts.get(column, 0) for column in self.bad)

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""
        numbers = (str(self.counts.get(column, 0)) for column in COLUMNS)
        return self.campaign, self.kind, str(sum(self.counts.values())), *numbers, "yes" if self.within else "NO"


@dataclass(frozen=True)
class Campaign:
    """Damaged files of one sort, and what is done with them.

    Attributes:
        name: What is damaged.
        kinds: Name to how.
        part: The folder that is damaged, or a file, below the folder of whole files.
        work: What is done with it, called in the folder of the case. What it writes to a file ``answer`` is compared.
        compared: Whether another answer is wrong: not where a changed file means something else.
        bad: Columns in which none may end.
    """

    name: str
    kinds: Mapping[str, Damage]
    part: str
    work: Callable[[], None]
    compared: bool = True
    bad: tuple[str, ...] = ("silent", *ALWAYS_BAD)


def bench_faults(cases: int, seed: int, store: str | None = None, only: Sequence[str] = ()) -> list[Tally]:
    """Kills of `train` and `ablate`, and damaged stores, submissions, entries, recipes and run folders.

    Args:
        cases: Of each campaign, dealt out over its kinds.
        seed: Of everything that is drawn.
        store: Of a data set that a card knows by its digests; damaged like the made-up one where it is named.
        only: Campaigns to run; all when empty.

    Raises:
        EmukitError: This is not Linux, a campaign is unknown, or what is not damaged cannot be used.
    """
    if sys.platform != "linux":
        raise EmukitError("campaigns of faults need Linux", found=sys.platform)
    known = [*(k.name for k in KILLS), *(c.name for c in _damaged(store))]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise EmukitError(f"unknown campaign {', '.join(unknown)}", expected=", ".join(known))
    preload()
    tallies: list[Tally] = []
    chosen = [c for c in _damaged(store) if not only or c.name in only]
    with tempfile.TemporaryDirectory(prefix="emukit-faults-") as place:
        whole = Path(place, "whole")
        whole.mkdir()
        _make_whole(whole, store)
        for killing in KILLS:
            if not only or killing.name in only:
                tallies += killing.run(whole, Path(place, "case"), cases, seed)
        for campaign in chosen:
            tallies += _damage_all(campaign, whole, Path(place, "case"), cases, seed)
    return tallies


def _make_whole(folder: Path, store: str | None) -> None:
    """One of everything that is damaged later."""
    words = (
        ("data", "demo", STORE, "--grid", "4x6", "--members", "2", "-q"),
        ("train", "linear", "--data", STORE, "--out", "runs/linear", "-q"),
        ("train", "climatology", "--data", STORE, "--out", "runs/climatology", "-q"),
        ("submit", "runs/linear", "--out", "entries/linear", "-q"),
        ("submit", "runs/climatology", "--out", "entries/climatology", "-q"),
        ("score", "entries/linear/submission.csv", STORE, "--save", "-q"),
        ("score", "entries/climatology/submission.csv", STORE, "--save", "-q"),
    )
    for line in words:
        _well(in_fork(command(*line), folder))
    _well(in_fork(_counted(_train("whole"), "whole"), folder))
    # A training that was killed in its last epoch, when three quarters of what it does to files was done.
    at = int((folder / "events").read_text()) * 3 // 4
    begun = in_fork(_killed(_train("begun"), "begun", at), folder)
    shutil.rmtree(folder / "whole")
    if begun.code != -signal.SIGKILL or not (folder / "begun" / "last.pt").exists():
        raise EmukitError("a training was not killed where it should have been", found=begun.err[-500:])
    (folder / "recipe").mkdir()
    (folder / "recipe" / "recipe.toml").write_text(_toml(NETWORK))
    (folder / "study").mkdir()
    (folder / "study" / "study.toml").write_text(STUDY)
    (folder / "card").mkdir()
    from emukit.files import shipped

    shutil.copy(shipped("data_cards", "cse151b-k360.toml"), folder / "card" / "card.toml")
    (folder / "csv").mkdir()
    shutil.copy(folder / "entries/linear/submission.csv", folder / "csv")
    if store:
        linked_copy(Path(store), folder / "known.zarr")


def _damaged(store: str | None) -> list[Campaign]:
    texts = {**BYTES, **TEXTS}
    known = [Campaign("store of a known data set", {**BYTES, **STORES}, "known.zarr", _check_store("known.zarr"))]
    return [
        Campaign("store", {**BYTES, **STORES}, STORE, _check_store(STORE), bad=ALWAYS_BAD),
        *(known if store else ()),
        Campaign("submission", texts, "csv", _ask("score", "csv/submission.csv", STORE, "-q"), compared=False),
        Campaign("entry, scored", texts, "entries/linear", _score_entry),
        Campaign("entry, listed", texts, "entries/linear", _list("entries")),
        Campaign("finished run", texts, "runs/linear", _submit),
        Campaign("finished run, listed", texts, "runs/linear", _list("runs")),
        Campaign("killed run", texts, "begun", _resume),
        Campaign("recipe", texts, "recipe", _ask("plan", "cnn-gru", "--recipe", "recipe/recipe.toml", "-q"), False),
        Campaign("study", texts, "study", _ask("ablate", "study/study.toml", "--dry-run", "-q"), False),
        Campaign("card", texts, "card", _ask("data", "check", STORE, "--card", "card/card.toml"), False),
    ]


def _damage_all(campaign: Campaign, whole: Path, place: Path, cases: int, seed: int) -> list[Tally]:
    """Deal the cases out over the kinds, and count."""
    with _case(whole, place):
        untouched = in_fork(campaign.work, place)
        _well(untouched)
        answer = _answer(place)
    kinds = list(campaign.kinds)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    examples: dict[str, list[str]] = {kind: [] for kind in kinds}
    for number in range(cases):
        kind = kinds[number % len(kinds)]
        random = Random(f"{seed} {campaign.name} {kind} {number}")
        with _case(whole, place):
            part = place / campaign.part
            before = _contents(part)
            # In a fork: what zarr starts to write with would be lost in later forks.
            _well(in_fork(partial(_damage, campaign.kinds[kind], random, part), place))
            changed = sorted(_changes(before, _contents(part)))
            ended = in_fork(campaign.work, place)
            column = _column(ended, untouched, _answer(place) == answer or not campaign.compared)
        counts[kind][column] += 1
        if column in COLUMNS[3:] and len(examples[kind]) < 5:
            examples[kind].append(f"case {number}: {column}: {', '.join(changed)}: {_last(ended)}")
    return [Tally(campaign.name, k, counts[k], campaign.bad, tuple(examples[k])) for k in kinds if counts[k]]


def _damage(damage: Damage, random: Random, part: Path) -> None:
    damage(random, files_below(part))


def _column(ended: Ended, untouched: Ended, same: bool) -> str:
    """How a case ended, compared with the same without damage."""
    if ended.hung:
        return "hung"
    if ended.broken:
        return "broken"
    if ended.greedy:
        return "over 4 GB"
    if ended.code:
        return "refused"
    if set(_notes(ended)) - set(_notes(untouched)):
        return "said"
    return "same" if same else "silent"


def _notes(ended: Ended) -> list[str]:
    """What is said next to a result."""
    return [line for line in (ended.err + ended.out).splitlines() if line.strip() and not line.startswith("run ")]


def _last(ended: Ended) -> str:
    """The end of what a case said."""
    return " | ".join(line for line in ended.err.splitlines()[-6:] if line.strip())[-600:]


def _check_store(name: str) -> Callable[[], None]:
    """`emukit data check`, and what would be computed with."""

    def work() -> None:
        _must(command("data", "check", name))
        from emukit.data.store import open_store

        _tell(open_store(name).digest)

    return work


def _ask(*words: str) -> Callable[[], None]:
    return command(*words)


def _score_entry() -> None:
    """What is computed of a submission whose entry is next to it."""
    _must(command("check-submission", "entries/linear/submission.csv", "--data", STORE, "-q"))
    _must(command("score", "entries/linear/submission.csv", STORE, "--save", "--overwrite", "-q"))
    _tell(str(parse_json(read_text("entries/linear/score.json"))["score"]))


def _list(folder: str) -> Callable[[], None]:
    """A leaderboard of a good and a damaged one: it must come, with the good one in it."""

    def work() -> None:
        _must(command("leaderboard", folder, "--no-published", "--format", "json"))
        sys.stdout.flush()
        rows = parse_json(Path(".out").read_text())
        _tell("\n".join(sorted(str((r.get("name"), r.get("score"))) for r in rows)))

    return work


def _submit() -> None:
    """What a run predicts."""
    _must(command("submit", "runs/linear", "--out", "new", "--data", STORE, "-q"))
    _tell(sha256(Path("new/submission.csv").read_bytes()).hexdigest())


def _resume() -> None:
    """Where a training that goes on ends."""
    _must(command(*_train("begun"), "--resume"))
    _tell("\n".join(map(str, sorted(_trained(Path("begun")).items()))))


def _tell(answer: str) -> None:
    Path("answer").write_text(answer)


def _must(act: Callable[[], None]) -> None:
    """Do it; end here where it refuses."""
    try:
        act()
    except SystemExit as e:
        if e.code:
            raise


def _answer(place: Path) -> str:
    path = place / "answer"
    return path.read_text() if path.exists() else ""


@contextmanager
def _case(whole: Path, place: Path) -> Iterator[None]:
    """A folder of a case: stores linked, because they are only read, the rest copied."""
    place.mkdir()
    try:
        for entry in whole.iterdir():
            if entry.suffix == ".zarr":
                linked_copy(entry, place / entry.name)
            elif entry.is_dir():
                shutil.copytree(entry, place / entry.name)
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _contents(place: Path) -> dict[str, tuple[int, int, int]]:
    """What is at every path, without reading it."""
    paths = [place, *place.rglob("*")]
    stats = {str(p.relative_to(place)): p.lstat() for p in paths if not p.is_dir() or p.is_symlink()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _well(ended: Ended) -> None:
    """Refuse to count faults where it does not work without."""
    if ended.code:
        raise EmukitError("a command fails without any fault", found=(ended.err + ended.out)[-2000:])


@dataclass
class _Moment:
    """Counts events on files, and kills at one.

    Attributes:
        folder: Events below it count.
        at: The event before which the process is killed, from one; never when zero.
        count: Of events so far.
    """

    folder: Path
    at: int
    count: int = field(default=0)

    def event(self, path: Any) -> None:
        """Something is about to happen to a path, or to a file that is open."""
        if path is None or self.folder in [at := Path(os.fsdecode(path)).absolute(), *at.parents]:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ON_PATHS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _watch(folder: str, at: int = 0) -> _Moment:
    """Have a moment see every change of files below a folder that Python makes in this process, before it is made."""
    moment = _Moment(Path(folder).absolute(), at)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] and arguments[2] & _WRITING
        if (opened or event in _ON_PATHS) and not isinstance(arguments[0], int):
            moment.event(arguments[0])

    sys.addaudithook(hook)
    sync = os.fsync

    def synced(file: Any) -> None:
        moment.event(None)
        sync(file)

    # Of what Python does to files this alone has no audit event.
    os.fsync = synced  # type: ignore[assignment]
    return moment


def _counted(words: Sequence[str], folder: str) -> Callable[[], None]:
    """A command that leaves the number of its events in a file ``events``."""

    def work() -> None:
        _fork_jobs()
        moment = _watch(folder)
        _must(command(*words))
        Path("events").write_text(str(moment.count))

    return work


def _killed(words: Sequence[str], folder: str, at: int) -> Callable[[], None]:
    """A command that is killed before one of its events; never when that is zero."""

    def work() -> None:
        _fork_jobs()
        _watch(folder, at)
        command(*words)()

    return work


def _train(folder: str) -> tuple[str, ...]:
    settings = (word for setting in NETWORK for word in ("--set", setting))
    return ("train", "cnn-gru", "--data", STORE, "--protocol", "k360", "--out", folder, "-q", *settings)


def _toml(settings: Sequence[str]) -> str:
    """Settings as they stand in a recipe."""
    tables: dict[str, list[str]] = {}
    for setting in settings:
        path, _, value = setting.partition("=")
        table, _, name = path.rpartition(".")
        tables.setdefault(table, []).append(f"{name} = {value}")
    return "".join(f"[{table}]\n" + "\n".join(lines) + "\n\n" for table, lines in tables.items())


def _trained(folder: Path) -> dict[str, str]:
    """What a training left, but for times: digests of weights, the epochs of its log, and the names of its files."""
    log = [parse_json(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [{k: v for k, v in line.items() if k != "seconds"} for line in log]
    left = {str(p.relative_to(folder)): "" for p in sorted(folder.rglob("*")) if p.is_file()}
    tensors = (folder / "emulator" / "arrays.safetensors").read_bytes()
    return left | {"log": str(epochs), "weights": sha256(tensors).hexdigest()}


def _studied(folder: Path) -> dict[str, str]:
    """What a study left, but for times: digests of the weights and scores of its runs, and the names of its files."""
    left = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes() if path.name in ("arrays.safetensors", "validation.json") else b""
        left[str(path.relative_to(folder))] = sha256(content).hexdigest()
    return left


_ABLATE = ("ablate", "study/study.toml", "--data", STORE, "--out", "ablations", "--seeds", "1", "--jobs", "2", "-q")


@dataclass(frozen=True)
class Killing:
    """A command that is killed, and gone on with.

    Attributes:
        name: What is killed.
        words: The command.
        more: What is added to go on.
        folder: Where it writes.
        left: What it left there, but for times.
    """

    name: str
    words: tuple[str, ...]
    more: tuple[str, ...]
    folder: str
    left: Callable[[Path], dict[str, str]]

    def run(self, whole: Path, place: Path, cases: int, seed: int) -> list[Tally]:
        """Kill it before its file events, at random moments, and twice; each end is compared with the unkilled one."""
        with _case(whole, place):
            unkilled = in_fork(_counted(self.words, self.folder), place)
            _well(unkilled)
            events = int((place / "events").read_text())
            (place / "events").unlink()
            expected = self._end(place)
        kinds = ("before a file event", "at a random moment", "twice")
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        examples: dict[str, list[str]] = {kind: [] for kind in kinds}
        each = max(1, cases // len(kinds))
        for number in range(each * len(kinds)):
            kind = kinds[number % len(kinds)]
            random = Random(f"{seed} {self.name} {kind} {number}")
            at = 1 + number // len(kinds) * events // each
            with _case(whole, place):
                if kind == "at a random moment":
                    moment = random.uniform(0, unkilled.seconds)
                    everything = random.random() < 0.5
                    in_fork(_killed(self.words, self.folder, 0), place, kill_after=moment, kill_all=everything)
                    what = f"after {moment:.2f} of {unkilled.seconds:.2f} s{', all processes' if everything else ''}"
                else:
                    in_fork(_killed(self.words, self.folder, at), place)
                    what = f"before event {at} of {events}"
                if kind == "twice":
                    again = random.randrange(1, events)
                    in_fork(_killed((*self.words, *self.more), self.folder, again), place)
                    what += f", going on before event {again}"
                ended = self._go_on(place)
                column = _column(ended, unkilled, ended.code != 0 or self._end(place) == expected)
                if column in ("silent", "said"):
                    found = self._end(place)
                    differ = [k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)]
                    what += f", differs in {', '.join(sorted(differ))}"
                    column = "silent" if differ else "same"
            counts[kind][column] += 1
            if column != "same" and len(examples[kind]) < 5:
                examples[kind].append(f"case {number}: {column}: {what}: {_last(ended)}")
        bad = ("refused", "silent", *ALWAYS_BAD)
        return [Tally(self.name, k, counts[k], bad, tuple(examples[k])) for k in kinds]

    def _go_on(self, place: Path) -> Ended:
        """As a user would: go on, or begin where there is nothing to go on with."""
        ended = in_fork(_killed((*self.words, *self.more), self.folder, 0), place)
        if ended.code == 2 and self.more and not (place / self.folder / "run.json").exists():
            ended = in_fork(_killed(self.words, self.folder, 0), place)
        return ended

    def _end(self, place: Path) -> dict[str, str]:
        """What is there in the end, with what was left next to the folder."""
        beside = {p.name: "" for p in place.iterdir() if p.name.startswith(".") and p.name not in (".out", ".err")}
        return self.left(place / self.folder) | beside


KILLS = (
    Killing("train, killed", _train("killed"), ("--resume",), "killed", _trained),
    Killing("ablate, killed", _ABLATE, ("--retry",), "ablations", _studied),
)


class _ForkedProcess:
    """What a study starts a run with here: a fork, in the place of `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], stdout: Any, env: Mapping[str, str], **_: object) -> None:
        self._pid = os.fork()
        self._code: int | None = None
        if self._pid == 0:
            code = 1
            try:
                for number in (1, 2):
                    os.dup2(stdout.fileno(), number)
                os.environ.clear()
                os.environ.update(env)
                # The words before are Python's, and the name of the package.
                command(*words[3:])()
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self._code is None:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if done else None
        return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        begun = time.monotonic()
        while self.poll() is None:
            if time.monotonic() - begun > timeout:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        assert self._code is not None
        return self._code

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)


def _fork_jobs() -> None:
    """Have a study fork its runs, and not try how long a process takes to start."""
    from emukit.experiments import costs, jobs

    forking = SimpleNamespace(
        Popen=_ForkedProcess,
        DEVNULL=subprocess.DEVNULL,
        STDOUT=subprocess.STDOUT,
        TimeoutExpired=subprocess.TimeoutExpired,
    )
    jobs.subprocess = forking  # type: ignore[attr-defined, assignment]
    costs.start_seconds = lambda words, environments: 10.0  # type: ignore[attr-defined]
