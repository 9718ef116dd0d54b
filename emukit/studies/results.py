"""What came of a study: means, spreads and paired differences of its runs, a sentence for each variant, and tables.

Invariant: every number is that of finished run folders named next to it; what has not finished, or failed, is named
too. In a table the base comes first and a difference is to it; a mean stands next to how many seeds it is over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.text import Text

from emukit import provenance
from emukit.competitions.ranking import ANOTHER_RUN, LIMIT, MOST_COLUMNS, add_number_columns, left_out, legends
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import ALL, LOSO, make_split
from emukit.files import write_text
from emukit.metrics import Competition, Score, mean_score
from emukit.metrics.competition import Column
from emukit.progress import Reporter
from emukit.recipes.catalogue import is_random
from emukit.runs.evaluate import ensemble_member, noise_ceiling, scored_spans
from emukit.runs.record import Scoring, benchmark_of
from emukit.runs.run import Run
from emukit.studies import bootstrap
from emukit.studies.ablate import PlannedRun, StudyPlan
from emukit.studies.bootstrap import both_ends, numbers_on_years, years_in
from emukit.studies.search import validation_scores
from emukit.terminal import csv_table, markdown_table, markdown_text, terminal_table

STUDY_FILE, TABLE_FILE, CSV_FILE = "study.json", "table.md", "table.csv"
Array = NDArray[np.float64]
# Variant to, for every seed in its order, the numbers of a run on draws of years; None where it has not finished.
Found = dict[str, list[Array | None]]
# What the column of the difference is called, in a terminal, in a file and on a page.
DIFFERENCE = "score less base's"


def study_result(plan: StudyPlan, archive: Archive, command: str, reporter: Reporter) -> dict[str, Any]:
    """All that is known of a study by now, as plain values for `study.json`.

    Args:
        plan: Its runs.
        archive: The data.
        command: What continues it.
        reporter: Shows progress.

    Raises:
        RunError: A finished run is damaged.
    """
    competition = competition_of(archive)
    finished = {run.folder: run.finished(archive) for run in plan.distinct()}
    results: list[dict[str, Any]] = []
    left_out: list[tuple[dict[str, Any], Found, int]] = []
    with reporter.step("scoring", len(plan.runs)) as bar:
        for protocol, sets in plan.protocols.items():
            runs = [r for r in plan.runs if r.protocol == protocol]
            for name in sets:
                spans = scored_spans(archive, make_split(archive, protocol), name)
                years = min(years_in(s, archive) for s in spans)
                found: Found = {v.name: [None] * len(plan.seeds[v.name]) for v in plan.variants}
                for run in runs:
                    whole = finished[run.folder]
                    if whole:
                        place = plan.seeds[run.variant].index(run.seed)
                        found[run.variant][place] = numbers_on_years(whole, archive, spans, name)
                    if name == sets[0]:
                        bar.advance(note=run.folder.name)
                months = [s.text(archive) for s in spans]
                lines = {"floor": ensemble_member(archive, spans), "limit": noise_ceiling(archive, spans)}
                result = _result(plan, competition, protocol, name, months, lines, found, years)
                results.append(result)
                if protocol.startswith(LOSO) and name == "test":
                    left_out.append(({"months": months, **lines}, found, years))
    if len(left_out) > 1:
        results.append(_mean_result(plan, competition, left_out))
    best = _best_trial(plan, archive)
    if best:
        _say_best(best, plan.study.number_of_trials, results)
    return {
        "format": 1,
        "name": plan.study.name,
        "question": plan.study.question,
        "finding": plan.study.finding,
        "base": plan.study.base_name,
        "model": plan.study.base,
        "protocols": list(plan.protocols),
        "seeds": [*max((len(s), s) for s in plan.seeds.values())[1]],
        "benchmark": benchmark_of(archive),
        "data": archive.digest,
        "competition": Scoring.of(competition).model_dump(),
        "machine": provenance.machine(),
        "trained_with": _trained_with(run for run in finished.values() if run),
        "command": command,
        "best": best,
        "variants": [
            {
                "name": v.name,
                "settings": dict(v.settings),
                "members": None if v.members is None else ",".join(map(str, v.members)),
                "recipe": v.recipe,
                "epochs": plan.epochs[v.name],
                "runs": [_run(plan, r, finished[r.folder]) for r in plan.runs if r.variant == v.name],
            }
            for v in plan.variants
        ],
        "results": results,
    }


def _trained_with(runs: Iterable[Run]) -> list[str]:
    """Under what the runs were trained, each once: they may be older than the study, and of another machine."""
    found = []
    for run in runs:
        for session in run.record.sessions:
            versions, machine, commit = session.versions, session.machine, str(session.git.get("commit", ""))[:12]
            words = [
                f"emukit {versions.get('emukit', '?')}" + (f" (commit {commit})" if commit else ""),
                f"torch {versions.get('torch', '?')}",
                str(machine.get("processor", "?")),
                f"accelerator {machine.get('accelerator', '?')}",
            ]
            found.append(", ".join(words))
    return list(dict.fromkeys(found))


def _best_trial(plan: StudyPlan, archive: Archive) -> str | None:
    """The trial that was searched for with success: the best on the months that validate."""
    trials = [v.name for v in plan.variants[len(plan.study.all_variants()) :]]
    scores = validation_scores(plan, archive) if trials else {}
    known = {name: score for name in trials if (score := scores[name]) is not None}
    cost = competition_of(archive).cost
    return min(known, key=lambda name: cost(known[name])) if known else None


def _say_best(best: str, trials: int, results: Sequence[dict[str, Any]]) -> None:
    """Say in the sentences which trial was chosen, and where that flatters it."""
    words = {True: f"; chosen among {trials} trials by these months, which flatters it", False: "; the one chosen"}
    for result in results:
        for row in result["rows"]:
            if row["variant"] == best:
                row["sentence"] += words[result["set"] == "validation"]


def save_result(plan: StudyPlan, result: Mapping[str, Any]) -> list[StudyTable]:
    """Keep it as JSON, Markdown and CSV; the tables, for printing."""
    found = tables_of(result)
    write_text(plan.folder / STUDY_FILE, json.dumps(result, indent=1))
    write_text(plan.folder / TABLE_FILE, markdown(found))
    write_text(plan.folder / CSV_FILE, to_csv(found))
    return found


def tables_of(result: Mapping[str, Any]) -> list[StudyTable]:
    """One for every set of months."""
    competition = Scoring.model_validate(result.get("competition", {})).competition
    return [
        StudyTable(
            f"{result['name']}, {r['protocol']} {r['set']}: {'; '.join(r['months'])}",
            competition,
            tuple(r["rows"]),
            {k: v for k, v in ((ANOTHER_RUN, r["floor"]), (LIMIT, r["limit"])) if v},
        )
        for r in result["results"]
    ]


def _run(plan: StudyPlan, run: PlannedRun, finished: Run | None) -> dict[str, Any]:
    error = "" if finished else run.error()
    return {
        "protocol": run.protocol,
        "seed": run.seed,
        "folder": os.path.relpath(run.folder, plan.folder),
        "state": "finished" if finished else "failed" if error else "waiting",
        "error": error,
        "command": run.command,
    }


def _result(
    plan: StudyPlan,
    competition: Competition,
    protocol: str,
    name: str,
    months: Sequence[str],
    lines: Mapping[str, Score | None],
    found: Found,
    years: int,
) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "set": name,
        "months": list(months),
        **{k: v.line() if v else None for k, v in lines.items()},
        "rows": [_row(plan, competition, v.name, found, years) for v in plan.variants],
    }


def _mean_result(
    plan: StudyPlan, competition: Competition, parts: Sequence[tuple[Mapping[str, Any], Found, int]]
) -> dict[str, Any]:
    """The mean over scenarios left out, seed by seed; of runs that finished for each of them."""
    mean: Found = {}
    for variant in plan.variants:
        each = zip(*(found[variant.name] for _, found, _ in parts), strict=True)
        mean[variant.name] = [None if any(a is None for a in runs) else np.mean(runs, axis=0) for runs in each]
    lines = {}
    for line in ("floor", "limit"):
        scores = [p[line] for p, _, _ in parts if p[line]]
        lines[line] = mean_score(scores) if len(scores) == len(parts) else None
    months = [m for p, _, _ in parts for m in p["months"]]
    return _result(plan, competition, ALL, "test", months, lines, mean, min(years for *_, years in parts))


def _row(plan: StudyPlan, competition: Competition, name: str, found: Found, years: int) -> dict[str, Any]:
    """A variant's line."""
    seeds = [seed for seed, run in zip(plan.seeds[name], found[name], strict=True) if run is not None]
    names = [column.key for column in competition.columns]
    runs = np.array([run[0] for run in found[name] if run is not None]).reshape(-1, len(names))
    # A number that does not exist for these months is left out.
    there = {key: runs[:, i].tolist() for i, key in enumerate(names) if not np.isnan(runs[:, i]).any()}
    row: dict[str, Any] = {"variant": name, "seeds": seeds, "mean": None, "sd": None, "difference": None}
    if not len(runs):
        return row | {"sentence": "no run has finished"}
    row["mean"] = {key: fmean(values) for key, values in there.items()}
    row["sd"] = {key: stdev(values) for key, values in there.items()} if len(runs) > 1 else None
    base = plan.study.base_name
    if name == base:
        return row | {"sentence": "the base"}
    if plan.folders(name) == plan.folders(base):
        return row | {"sentence": f"the same run{'s' if len(plan.folders(name)) > 1 else ''} as {base}"}
    pairs = list(_pairs(found[name], found[base]))
    if not pairs:
        return row | {"sentence": "no run of the base to compare with has finished"}
    differences = bootstrap.difference([v for v, _ in pairs], [b for _, b in pairs], years, names)
    drawn = is_random(plan.recipes[name].model_dump()) or is_random(plan.recipes[base].model_dump())
    row["difference"] = {k: asdict(d) for k, d in differences.items()}
    return row | {"sentence": bootstrap.sentence(differences, competition, len(pairs), drawn, years)}


def _pairs(variant: Sequence[Array | None], base: Sequence[Array | None]) -> list[tuple[Array, Array]]:
    """Runs of the same seeds; where no seed decides anything, the one run stands next to each of the other's."""
    number = max(len(variant), len(base))
    variant = [*variant] * number if len(variant) == 1 else [*variant]
    base = [*base] * number if len(base) == 1 else [*base]
    return [(v, b) for v, b in zip(variant, base, strict=True) if v is not None and b is not None]


@dataclass(frozen=True)
class StudyTable:
    """A study on one set of months.

    Attributes:
        title: Which study, protocol, set and months.
        competition: Whose numbers they are.
        rows: As `study.json` has them: variant, seeds, mean, sd, difference, sentence.
        lines: A reference and the limit by name, with their numbers.
    """

    title: str
    competition: Competition
    rows: tuple[Mapping[str, Any], ...]
    lines: Mapping[str, Mapping[str, float]]


def tables(studies: Sequence[StudyTable], width: int) -> list[RenderableType]:
    """One rich table each, with the standard deviations under the means, and the sentences below.

    Args:
        studies: What they hold.
        width: Columns of the terminal.
    """
    out: list[RenderableType] = []
    for study in studies:
        # A title of the table's own would be folded to its width.
        out.append(Text(study.title, style="bold"))
        table = terminal_table()
        table.add_column("", overflow="fold")
        table.add_column("seeds", justify="right", no_wrap=True)
        competition, columns, difference = study.competition, _columns(study), DIFFERENCE.replace(" ", "\n")
        rows = [[_two_lines(text, under) for text, under in _cells(row, columns)] for row in study.rows]
        lines = [_numbers(values, columns) for values in study.lines.values()]
        numbers = [[_widest(cell.plain) for cell in cells[1:-1]] for cells in rows]
        labels = [*(row["variant"] for row in study.rows), *study.lines]
        # The columns on either side of the numbers, with a space in front of each.
        around = 2 + len("seeds") + max(len(_widest(text)) for text in (difference, *(r[-1].plain for r in rows)))
        shown = add_number_columns(table, competition, labels, [*numbers, *lines], width - around)
        table.add_column(difference, justify="right", no_wrap=True)
        for row, cells in zip(study.rows, rows, strict=True):
            table.add_row(Text(row["variant"]), *cells[: 1 + shown], *cells[-1:])
        for name, cells_of_line in zip(study.lines, lines, strict=True):
            table.add_row(Text(name), "", *cells_of_line[:shown], "", style="dim")
        out += [table, *left_out(competition, shown)]
        out += [*(Text(f"{row['variant']}: {row['sentence']}") for row in study.rows[1:]), Text("")]
    return out + legends(study.competition for study in studies)


def markdown(studies: Sequence[StudyTable]) -> str:
    """One Markdown table each, and the sentences under it; of many numbers a line each, and a column a variant."""
    lines = []
    for study in studies:
        columns = _columns(study)
        headings: tuple[str, ...] = ("", "seeds", *(markdown_text(c.full_heading) for c in columns), DIFFERENCE)
        rows: list[tuple[str, ...]] = []
        for row in study.rows:
            cells = (f"{text} ({under})" if under else text for text, under in _cells(row, columns))
            rows.append((markdown_text(row["variant"]), *cells))
        rows += [(f"*{name}*", "", *_numbers(values, columns), "") for name, values in study.lines.items()]
        if len(columns) > MOST_COLUMNS:
            # A line a number: nobody can read so many columns as text.
            headings, *rows = zip(headings, *rows, strict=True)
        lines += [f"### {markdown_text(study.title)}", ""]
        lines += markdown_table(headings, rows, right=range(1, len(headings)))
        lines += ["", *(f"- {markdown_text(row['variant'])}: {row['sentence']}" for row in study.rows[1:]), ""]
    return "\n".join(lines)


def to_csv(studies: Sequence[StudyTable]) -> str:
    """One CSV table of all of them: a row for every number of every variant."""
    lines: list[tuple[object, ...]] = []
    for study in studies:
        for row in study.rows:
            for name in (c.key for c in study.competition.columns if c.key in (row["mean"] or ())):
                own = (study.title, row["variant"], name, len(row["seeds"]), row["mean"][name])
                difference = (row["difference"] or {}).get(name, {})
                lines.append((*own, (row["sd"] or {}).get(name), *map(difference.get, ("mean", "low", "high"))))
    return csv_table(("table", "variant", "number", "seeds", "mean", "sd", "difference", "low", "high"), lines)


def _columns(study: StudyTable) -> list[Column]:
    return study.competition.columns_of([*(row["mean"] for row in study.rows if row["mean"]), *study.lines.values()])


def _cells(row: Mapping[str, Any], columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Seeds, the score and the numbers, and the difference in the score; with what stands under each, if any.

    Under a mean stands its standard deviation over seeds, and under the difference the 95 % interval.
    """
    if not row["mean"]:
        return [("0", ""), *[("", "")] * (len(columns) + 1)]
    spread = [f"\N{PLUS-MINUS SIGN}{x}" if x else "" for x in _numbers(row["sd"] or {}, columns)]
    score = row["difference"]["score"] if row["difference"] else None
    ends = " to ".join(both_ends(score["low"], score["high"])) if score and score["low"] is not None else ""
    return [
        (str(len(row["seeds"])), ""),
        *zip(_numbers(row["mean"], columns), spread, strict=True),
        (f"{score['mean']:+.4f}" if score else "", ends),
    ]


def _two_lines(text: str, under: str) -> Text:
    # An interval takes two more: a terminal of 80 columns has room for the names then.
    return Text.assemble(text, ("\n" + under.replace(" to ", " to\n"), "dim") if under else "")


def _widest(text: str) -> str:
    return max(text.split("\n"), key=len)


def _numbers(values: Mapping[str, float], columns: Sequence[Column]) -> list[str]:
    return [column.text(values.get(column.key)) for column in columns]
