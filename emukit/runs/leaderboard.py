"""Collecting the leaderboard's rows from run folders, submissions and published results.

Invariant: every number comes from a file that says on which months it was reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from emukit.competitions.cse151b import UNITS, cse151b
from emukit.competitions.ranking import LIMIT, Row, load_published
from emukit.config import describe, parse_toml
from emukit.data.card import load_card
from emukit.data.protocol import ALL, LOSO
from emukit.errors import EmukitError, RunError, SubmissionError
from emukit.files import read_text
from emukit.metrics import Competition
from emukit.outputs import json_kind, new_output
from emukit.recipes.catalogue import is_random, model_name
from emukit.runs.record import (
    DOWNSCALE_FILE,
    OF_DOWNSCALING,
    RECORD_FILE,
    Identity,
    RunRecord,
    Scoring,
    check_score,
    read_evaluation,
    read_json,
    read_record,
    slug,
    trained_on_validation,
)
from emukit.submission import ENTRY_FILE, SubmissionEntry, read_entry

if TYPE_CHECKING:
    from emukit.runs.run import Run

SCORE_FILE = "score.json"
SCORE = json_kind("a score of `emukit score --save`", ("split", "csv_sha256", "score"))
KINDS: dict[str, Literal["published", "measured", "reference"]] = {
    "competition": "published",
    "measured": "measured",
    "reference": "reference",
}


@dataclass(frozen=True)
class RowSource:
    """A folder that has rows.

    Attributes:
        folder: Of a run or a submission.
        record: None of a submission.
        rows: Its own first, then its references and limits.
    """

    folder: Path
    record: RunRecord | None
    rows: Sequence[Row]

    @cached_property
    def run(self) -> Run | None:
        """The run, with its recipe checked; None of a submission.

        Raises:
            RecipeError: Its recipe does not fit this version of emukit.
        """
        # Needs every emulator and torch, which rows do not.
        from emukit.runs.run import Run, checked_recipe

        return Run(self.folder, checked_recipe(self.folder, self.record), self.record) if self.record else None


def collect_rows(
    places: Iterable[Path], published: bool = True, left_out: Callable[[str], None] | None = None
) -> list[Row]:
    """Rows of every run and submission at or right below the places, references and limits, and published results.

    Args:
        places: Runs, submissions, or folders of such.
        published: Whether to add published results.
        left_out: Called with what is wrong with a damaged folder below a place, which then has no row; None: that is
            an error, as it is where the place itself is damaged.

    Raises:
        EmukitError: A place is neither a run, a submission, nor a folder of such, or is damaged.
    """
    sources: list[RowSource] = []
    for place in places:
        found = entry_folders(place)
        if not found:
            raise RunError(
                f"{place} holds no run and no submission",
                expected="a folder that `emukit train` or `emukit submit` wrote, or a folder of such",
                hint=OF_DOWNSCALING if (place / DOWNSCALE_FILE).exists() else "train first, or name another folder",
            )
        for folder in found:
            try:
                sources.append(read_source(folder))
            except EmukitError as e:
                if left_out is None or folder == place:
                    raise
                left_out(e.line)
    return combine(sources, published)


def entry_folders(place: Path) -> list[Path]:
    """Every run and submission at or right below a place."""
    inside = (place, *folders_in(place))
    # Whatever has a name of theirs: one that is damaged or incomplete is told, not passed over.
    return [f for f in inside if any(os.path.lexists(f / name) for name in (RECORD_FILE, ENTRY_FILE, SCORE_FILE))]


def folders_in(place: Path) -> list[Path]:
    """The folders right below a place, in the order of their names."""
    # Names with a dot in front are parts and leftovers of writers.
    if not place.is_dir():
        return []
    with os.scandir(place) as inside:
        names = [entry.name for entry in inside if not entry.name.startswith(".") and entry.is_dir()]
    return [place / name for name in sorted(names)]


def read_source(folder: Path) -> RowSource:
    """The rows of a run or a submission.

    Raises:
        EmukitError: It is damaged.
    """
    if not (folder / RECORD_FILE).exists():
        return RowSource(folder, None, _entry_rows(folder))
    record = read_record(folder)
    return RowSource(folder, record, _run_rows(folder, record))


def combine(sources: Iterable[RowSource], published: bool) -> list[Row]:
    """All rows of a leaderboard: those of the sources, means over scenarios left out, and published ones."""
    sources = list(sources)
    rows = [row for source in sources for row in source.rows]
    rows += _mean_rows((source.folder, source.record) for source in sources if source.record)
    if published:
        measured = {r.split for r in rows if r.kind == "reference"}
        # The shipped competition's results are there to be read before anything was trained; next to entries of other
        # competitions they would only be in the way.
        competitions = {row.competition.name: row.competition for row in rows} or {cse151b().name: cse151b()}
        found = [row for competition in competitions.values() for row in published_rows(competition)]
        rows += [r for r in found if r.kind != "reference" or r.split not in measured]
    # A reference that is one of the runs (the default linear emulator) needs no second line.
    own = {(r.split, r.score) for r in rows if r.kind == "run"}
    rows = [r for r in rows if r.kind != "reference" or (r.split, r.score) not in own]
    # Every run of a split carries the same references: one line of each is enough.
    return list({r.key: r for r in rows}.values())


def published_rows(competition: Competition) -> list[Row]:
    """What others reached in a competition, each with its split and source; none where it has no published results."""
    rows = []
    for r in load_published(competition):
        place = f"place {r.place}: " if r.place and r.place[0].isdigit() else ""
        board = f"leaderboard {r.leaderboard}" if r.leaderboard else ""
        words = (board, "computed from its numbers" if r.computed else "", r.note, r.source)
        split = _published_split(competition, r.protocol, r.part)
        note = "; ".join(w for w in words if w)
        row = Row(
            place + r.name, KINDS[r.kind], split, r.score, r.numbers, None, r.parameters, note, competition=competition
        )
        rows.append(row)
    return rows


def split_name(benchmark: str, protocol: str, part: str, spans: Sequence[str]) -> str:
    """How the leaderboard names what was scored: `cse151b k360 validation: ssp370 2060-02..2070-01 member 0`.

    Args:
        benchmark: Of the data, as `emukit.runs.record.benchmark_of` names it.
        protocol: Under which the spans are held out.
        part: The set: ``validation`` or ``test``.
        spans: In words, one each.
    """
    return f"{benchmark} {protocol} {part}: {'; '.join(spans)}"


def save_score(path: Path, kept: Mapping[str, Any], overwrite: bool) -> None:
    """Keep the score of a CSV in a file; one that says the same already stays.

    Raises:
        EmukitError: There is another score and it is not to be replaced, or another file; or it cannot be written.
    """
    with suppress(OSError, UnicodeDecodeError):
        if read_text(path) == json.dumps(kept, indent=1):
            return
    with new_output(path, SCORE, overwrite) as temporary:
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")


@cache
def _published_split(competition: Competition, protocol: str, part: str) -> str:
    """The name under which runs on the competition's own store are ranked, for the span that a publication scored."""
    table = competition.published
    assert table is not None
    card, end = load_card(table.card), np.datetime64(table.last_month, "M")
    spec = getattr(card.protocols[protocol], part)[0]
    first, last = end + spec.offsets[0] + 1, end + spec.offsets[1]
    months = f"{spec.scenario} {first}..{last} member {spec.member}"
    return split_name(f"{card.benchmark} {table.cells}", protocol, part, [months])


def _run_rows(folder: Path, record: RunRecord) -> list[Row]:
    parts = sorted(path.stem for path in (folder / "scores").glob("*.json"))
    return [row for part in parts for row in _set_rows(folder, record, part)]


def _set_rows(folder: Path, record: RunRecord, part: str) -> list[Row]:
    """A run on one set, first; then its references and its limit."""
    evaluation = read_evaluation(folder, part, record)
    members = record.identity.members
    name = folder.name + (f" (members {','.join(map(str, members))})" if members is not None else "")
    remark = trained_on_validation(record.identity.protocol, part, final=bool(record.identity.final))
    if record.identity.final:
        name += " (final fit)" if remark else " (final fit, trained on validation too)"
    split = split_name(record.data.benchmark, record.identity.protocol, evaluation["set"], evaluation["spans"])
    competition, seed = record.data.scoring.competition, record.identity.seed
    score, numbers = float(evaluation["score"]), competition.flatten(evaluation)
    model = model_name(record.command, str(record.recipe["emulator"]))
    note = _ensemble_note(folder, part)
    own = Row(name, "run", split, score, numbers, seed, record.parameters, note, competition=competition)
    # An evaluation of an earlier version holds no other members.
    by_member = evaluation.get("members", {})
    each = tuple(float(by_member[m]["score"]) for m in sorted(by_member, key=int))
    rows = [replace(own, model=model, random=is_random(record.recipe), remark=remark, members=each)]
    for reference, scored in evaluation["floors"].items():
        values = competition.flatten(scored)
        rows.append(Row(reference, "reference", split, float(scored["score"]), values, competition=competition))
    # An evaluation of an earlier version holds none.
    if limit := evaluation.get("limit"):
        values = competition.flatten(limit)
        rows.append(Row(LIMIT, "limit", split, float(limit["score"]), values, competition=competition))
    return rows


def _ensemble_note(folder: Path, part: str) -> str:
    """What `emukit evaluate --members` found on a set, next to the same of the climate model; empty where it did not.

    Raises:
        RunError: It is damaged.
    """
    path = folder / "ensembles" / f"{part}.json"
    if not os.path.lexists(path):
        return ""
    remedy = f"emukit evaluate {folder} --split {part} --members 20"
    found = read_json(path, remedy)
    try:
        real = found["climate_model"] or {}
        words = []
        for name, own in found["ensemble"].items():
            beside = f" (members {real[name]['crps']:.3f})" if name in real else ""
            spread = own["spread_over_error"]
            over = "" if spread is None else f", spread over error {spread:.2f}"
            words.append(f"{name} {own['crps']:.3f}{beside}{over}")
        return f"ensemble of {found['realisations']}: fair CRPS {'; '.join(words)}"
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise RunError(f"{path} is damaged", found=repr(e), hint=remedy) from e


def _mean_rows(runs: Iterable[tuple[Path, RunRecord]]) -> list[Row]:
    """What a recipe scores on average over scenarios left out, with the same mean of each reference and of the limit.

    Together go runs that differ in the scenario alone; the split names all months, so that means over other scenarios
    are ranked apart.
    """
    groups: dict[Identity, dict[str, tuple[Path, RunRecord]]] = {}
    for folder, record in runs:
        identity = record.identity
        if identity.protocol.startswith(LOSO) and (folder / "scores" / "test.json").exists():
            alike = identity.model_copy(update={"protocol": ALL, "final": identity.final and ALL})
            groups.setdefault(alike, {}).setdefault(identity.protocol, (folder, record))
    rows: list[Row] = []
    for group in (dict(sorted(g.items())) for g in groups.values() if len(g) > 1):
        sets = [_set_rows(*run, "test") for run in group.values()]
        spans = [span for at, own in group.values() for span in read_evaluation(at, "test", own)["spans"]]
        split = split_name(next(iter(group.values()))[1].data.benchmark, ALL, "test", spans)
        names = {s[0].name.replace(slug(p), slug(ALL)) for p, s in zip(group, sets, strict=True)}
        first, *lines = sets[0]
        rows.append(_mean_row(replace(first, name=" + ".join(sorted(names)), split=split), [s[0] for s in sets]))
        for line in lines:
            alike_lines = [row for s in sets for row in s[1:] if (row.name, row.kind) == (line.name, line.kind)]
            if len(alike_lines) == len(sets):
                rows.append(_mean_row(replace(line, split=split), alike_lines))
    return rows


def _mean_row(row: Row, each: Sequence[Row]) -> Row:
    """The row with the mean of the scores and numbers of several."""
    scores = [r.score for r in each if r.score is not None]
    keys = [key for key in row.competition.keys if all(key in r.numbers for r in each)]
    # Members are alike by their number alone: the first of one scenario and of another.
    alike = {len(r.members) for r in each}
    members = tuple(map(fmean, zip(*(r.members for r in each), strict=True))) if len(alike) == 1 else ()
    numbers = {key: fmean(r.numbers[key] for r in each) for key in keys}
    return replace(row, score=fmean(scores), numbers=numbers, members=members)


def _entry_rows(folder: Path) -> list[Row]:
    entry = read_entry(folder)
    path = folder / SCORE_FILE
    model, random = model_name(entry.command, entry.emulator), _is_random(entry)
    # A link that leads nowhere is not a score, but not the absence of one either.
    if not os.path.lexists(path):
        known = entry.validation.get("score")
        note = "not scored here" if known is None else f"not scored here, validation {known:.4f}"
        competition = Scoring(name=entry.competition, units=entry.units or UNITS).competition
        row = Row(entry.name, "submission", entry.split, None, {}, entry.seed, competition=competition)
        return [replace(row, note=note, model=model, random=random)]
    remedy = "score the submission again with --save"
    scored = read_json(path, remedy)
    if scored.get("csv_sha256") != entry.csv_sha256:
        raise SubmissionError(
            f"{path} is the score of another CSV",
            found=str(scored.get("csv_sha256")),
            expected=entry.csv_sha256,
            hint=remedy,
        )
    competition = _scoring(scored.get("competition", {}), path, remedy)
    check_score(scored, competition, path, remedy)
    split = scored.get("split")
    if not isinstance(split, str) or not split:
        raise SubmissionError(f"{path} does not say what was scored", found=f"split {split!r}", hint=remedy)
    score, numbers = float(scored["score"]), competition.flatten(scored)
    row = Row(entry.name, "submission", split, score, numbers, entry.seed, competition=competition)
    return [replace(row, model=model, random=random)]


def _is_random(entry: SubmissionEntry) -> bool:
    """Whether another seed would have given another submission, as far as the entry tells."""
    alone = is_random({"emulator": entry.emulator})
    # Most are made of no others, and thousands of recipes take a second to parse.
    if alone or "bases" not in entry.recipe:
        return alone
    try:
        return is_random(parse_toml(entry.recipe))
    except ValueError:
        # JSON, in entries of earlier versions.
        return True


def _scoring(values: Any, path: Path, remedy: str) -> Competition:
    """The competition that a file of a score names."""
    try:
        return Scoring.model_validate(values).competition
    except ValidationError as e:
        raise SubmissionError(
            f"{path} does not say by what it was scored", found="; ".join(describe(e)), hint=remedy
        ) from None
