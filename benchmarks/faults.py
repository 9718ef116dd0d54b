"""Campaigns of faults: what kills, and damaged files of every sort, do to commands.

Invariant: a case is a function of the seed, its campaign, its kind and its number.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random

from benchmarks.cases import ALWAYS_BAD, COLUMNS, STORE, Tally, case_folder, column_of, expect_well, last_words, must
from benchmarks.damage import BYTES, NETCDF, STORES, TEXTS, TWO_FILES, Damage, files_below, linked_copy
from benchmarks.forked import command, in_fork, preload
from benchmarks.kills import ABLATE, KILLS, NETWORK, counted, killed, trained, training
from emukit.data.card import DIGESTS_ATTRIBUTE
from emukit.errors import EmukitError
from emukit.files import parse_json, read_text, shipped

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


@dataclass(frozen=True)
class Campaign:
    """Damaged files of one sort, and what is done with them.

    Attributes:
        name: What is damaged.
        kinds: Name to how.
        part: The folder that is damaged, or a file, below the folder of whole files.
        work: What is done with it, called in the folder of the case. What it writes to a file ``answer`` is compared.
        compared: Whether another answer is wrong: not where a changed file means something else.
        findings: Whether what it finds wrong stands in its result.
        bad: Columns in which none may end.
    """

    name: str
    kinds: Mapping[str, Damage]
    part: str
    work: Callable[[], None]
    compared: bool = True
    findings: bool = False
    bad: tuple[str, ...] = ("silent", *ALWAYS_BAD)


def bench_faults(cases: int, seed: int, store: str | None = None, only: Sequence[str] = ()) -> list[Tally]:
    """Kills of `train` and `ablate`, and damaged stores, submissions, entries, recipes and run folders.

    Args:
        cases: Of each campaign, dealt out over its kinds.
        seed: Of everything that is drawn.
        store: Of a data set that a card knows by its digests; damaged like the made-up one where it is named.
        only: Campaigns to run; all when empty.

    Raises:
        EmukitError: As `check_campaigns`, or what is not damaged cannot be used.
    """
    check_campaigns(store, only)
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


def check_campaigns(store: str | None, only: Sequence[str]) -> None:
    """Refuse what cannot be run, before it is.

    Raises:
        EmukitError: This is not Linux, a campaign is unknown, or the store is not on disk.
    """
    if sys.platform != "linux":
        raise EmukitError("campaigns of faults need Linux", found=sys.platform)
    if store and not Path(store).is_dir():
        raise EmukitError(
            f"{store} cannot be damaged", expected="a Zarr store in a folder", hint="name one with --data"
        )
    known = [*(k.name for k in KILLS), *(c.name for c in _damaged(store))]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise EmukitError(f"unknown campaign {', '.join(unknown)}", expected=", ".join(known))


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
        expect_well(in_fork(command(*line), folder))
    expect_well(in_fork(counted(training("whole"), "whole"), folder))
    # A training that was killed in its last epoch, when three quarters of what it does to files was done.
    at = int((folder / "events").read_text()) * 3 // 4
    stopped = in_fork(killed(training("interrupted"), "interrupted", at), folder)
    shutil.rmtree(folder / "whole")
    if stopped.code != -signal.SIGKILL or not (folder / "interrupted" / "last.pt").exists():
        raise EmukitError("a training was not killed where it should have been", found=stopped.err[-500:])
    (folder / "recipe").mkdir()
    (folder / "recipe" / "recipe.toml").write_text(_toml(NETWORK))
    (folder / "study").mkdir()
    (folder / "study" / "study.toml").write_text(STUDY)
    (folder / "card").mkdir()
    shutil.copy(shipped("data_cards", "demo.toml"), folder / "card" / "card.toml")
    (folder / "csv").mkdir()
    shutil.copy(folder / "entries/linear/submission.csv", folder / "csv")
    shutil.copytree(folder / STORE, folder / "unknown.zarr")
    for name in (".zattrs", ".zmetadata"):
        path = folder / "unknown.zarr" / name
        document = parse_json(read_text(path))
        del document.get("metadata", {".zattrs": document})[".zattrs"][DIGESTS_ATTRIBUTE]
        path.write_text(json.dumps(document))
    expect_well(in_fork(_write_netcdf, folder))
    if store:
        linked_copy(Path(store), folder / "known.zarr")


def _write_netcdf() -> None:
    """The store once more, as one file."""
    import xarray as xr

    Path("netcdf").mkdir()
    with xr.open_zarr(STORE, consolidated=True, decode_times=False) as dataset:
        for variable in dataset.variables.values():
            # Compressors of Zarr are none of NetCDF.
            variable.encoding.clear()
        dataset.to_netcdf("netcdf/store.nc", engine="netcdf4")


def _damaged(store: str | None) -> list[Campaign]:
    texts, stores = {**BYTES, **TEXTS}, {**BYTES, **STORES}
    one_file = {**{k: d for k, d in BYTES.items() if k not in TWO_FILES}, **NETCDF}
    known, unknown = "known.zarr", "unknown.zarr"
    return [
        Campaign("store", stores, STORE, _check_store(STORE), findings=True),
        *([Campaign("store, named", stores, known, _check_store(known), findings=True)] if store else ()),
        Campaign("store without digests", stores, unknown, _check_store(unknown), findings=True, bad=ALWAYS_BAD),
        Campaign("NetCDF store", one_file, "netcdf", _check_store("netcdf/store.nc"), findings=True),
        Campaign("submission", texts, "csv", command("score", "csv/submission.csv", STORE, "-q"), compared=False),
        Campaign("entry, scored", texts, "entries/linear", _score_entry),
        Campaign("entry, listed", texts, "entries/linear", _list("entries")),
        Campaign("finished run", texts, "runs/linear", _submit),
        Campaign("finished run, listed", texts, "runs/linear", _list("runs")),
        Campaign("killed run", texts, "interrupted", _resume),
        Campaign("recipe", texts, "recipe", command("plan", "cnn-gru", "--recipe", "recipe/recipe.toml", "-q"), False),
        Campaign("study", texts, "study", killed((*ABLATE, "--dry-run"), ".", 0), compared=False),
        Campaign("card", texts, "card", command("data", "check", STORE, "--card", "card/card.toml"), compared=False),
    ]


def _damage_all(campaign: Campaign, whole: Path, place: Path, cases: int, seed: int) -> list[Tally]:
    """Deal the cases out over the kinds, and count."""
    with case_folder(whole, place):
        untouched = in_fork(campaign.work, place)
        expect_well(untouched)
        answer = _answer(place)
    kinds = list(campaign.kinds)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    examples: dict[str, list[str]] = {kind: [] for kind in kinds}
    for number in range(cases):
        kind = kinds[number % len(kinds)]
        random = Random(f"{seed} {campaign.name} {kind} {number}")
        with case_folder(whole, place):
            part = place / campaign.part
            before = _contents(part)
            # In a fork: what zarr starts to write with would be lost in later forks.
            damage = partial(_damage, campaign.kinds[kind], random, part)
            expect_well(in_fork(damage, place, hang_seconds=math.inf), f"{kind}, case {number},")
            changed = sorted(_changes(before, _contents(part)))
            ended = in_fork(campaign.work, place)
            same = _answer(place) == answer or not campaign.compared
            column = column_of(ended, untouched, same, campaign.findings)
        counts[kind][column] += 1
        if column in COLUMNS[3:] and len(examples[kind]) < 5:
            examples[kind].append(f"case {number}: {column}: {', '.join(changed)}: {last_words(ended)}")
    return [Tally(campaign.name, k, counts[k], campaign.bad, tuple(examples[k])) for k in kinds if counts[k]]


def _damage(damage: Damage, random: Random, part: Path) -> None:
    damage(random, files_below(part))


def _check_store(name: str) -> Callable[[], None]:
    """`emukit data check`, and what would be computed with."""

    def work() -> None:
        must(command("data", "check", name))
        from emukit.data.store import open_store

        _tell(open_store(name).digest)

    return work


def _score_entry() -> None:
    """What is computed of a submission whose entry is next to it."""
    must(command("check-submission", "entries/linear/submission.csv", "--data", STORE, "-q"))
    must(command("score", "entries/linear/submission.csv", STORE, "--save", "--overwrite", "-q"))
    _tell(str(parse_json(read_text("entries/linear/score.json"))["score"]))


def _list(folder: str) -> Callable[[], None]:
    """A leaderboard of a good and a damaged one: it must come, with the good one in it."""

    def work() -> None:
        must(command("leaderboard", folder, "--no-published", "--format", "json"))
        sys.stdout.flush()
        rows = parse_json(Path(".out").read_text())
        _tell("\n".join(sorted(str((r.get("name"), r.get("score"))) for r in rows)))

    return work


def _submit() -> None:
    """What a run predicts."""
    must(command("submit", "runs/linear", "--out", "new", "--data", STORE, "-q"))
    _tell(sha256(Path("new/submission.csv").read_bytes()).hexdigest())


def _resume() -> None:
    """The weights at the end of a training that is resumed."""
    must(command(*training("interrupted"), "--resume"))
    _tell("\n".join(map(str, sorted(trained(Path("interrupted")).items()))))


def _tell(answer: str) -> None:
    Path("answer").write_text(answer)


def _answer(place: Path) -> str:
    path = place / "answer"
    return path.read_text() if path.exists() else ""


def _contents(place: Path) -> dict[str, tuple[int, int, int]]:
    """What is at every path, without reading it."""
    paths = [place, *place.rglob("*")]
    stats = {str(p.relative_to(place)): p.lstat() for p in paths if not p.is_dir() or p.is_symlink()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _toml(settings: Sequence[str]) -> str:
    """Settings as they stand in a recipe."""
    tables: dict[str, list[str]] = {}
    for setting in settings:
        path, _, value = setting.partition("=")
        table, _, name = path.rpartition(".")
        tables.setdefault(table, []).append(f"{name} = {value}")
    return "".join(f"[{table}]\n" + "\n".join(lines) + "\n\n" for table, lines in tables.items())
