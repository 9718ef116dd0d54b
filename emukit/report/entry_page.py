"""What a page says of a run or a submission: cost, provenance, recipe and learning curves, from its own files.

Invariant: every value is what the folder says; nothing is guessed, and what is not known is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from emukit.figures.learning import Log, draw_learning, draw_terms, has_terms
from emukit.files import atomic_path, below, parse_json, sha256
from emukit.report.pages.model import Entry, identifier
from emukit.report.run_figures import Drawn, picture_size, save
from emukit.runs.leaderboard import RowSource
from emukit.runs.run import Run
from emukit.submission import read_entry
from emukit.training.log import LOG, read_lines


def run_entry(run: Run, source: RowSource) -> Entry:
    """The page of a run, without pictures."""
    record = run.record
    identity, data = record.identity, record.data
    sessions = record.sessions
    facts = {
        "emulator": run.recipe.emulator,
        "description": run.recipe.description,
        "time": _duration(record.seconds) + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
        "parameters": "" if record.parameters is None else f"{record.parameters:,}",
        "epochs": _epochs(run),
        "size on disk": _bytes(sum(f.stat().st_size for f in (run.folder / "emulator").glob("*") if f.is_file())),
        "machine": "" if not sessions else _machine(sessions[-1].machine),
        "findings": "\n".join(record.findings),
    }
    provenance = {
        "command": record.command,
        "protocol": identity.protocol,
        "seed": str(identity.seed),
        "members": "all" if identity.members is None else ", ".join(map(str, identity.members)),
        "trained on": "\n".join(record.train),
        "scored on": "\n".join(f"{name}: {'; '.join(spans)}" for name, spans in record.scored.items()),
        "notes": "\n".join(record.notes),
        "data": data.source,
        "data card": data.card + (f" (--card {data.card_option})" if data.card_option else ""),
        "converted": ", ".join(f"{k} from {v}" for k, v in data.convert.items()),
        "data digest": data.digest,
        "recipe digest": identity.recipe,
        "final fit of": identity.final or "",
    }
    lines = [
        {
            "started": s.started,
            "code": _commit(s.git),
            "versions": ", ".join(f"{k} {v}" for k, v in s.versions.items()),
            "machine": _machine(s.machine),
        }
        for s in sessions
    ]
    return Entry(
        identifier(run.folder.name, run.folder),
        run.folder.resolve().name,
        run.folder.resolve().name,
        "run",
        [r for r in source.rows if r.kind == "run"],
        _known(facts),
        _known(provenance),
        lines,
        json.dumps(record.recipe, indent=1, ensure_ascii=False),
    )


def submission_entry(source: RowSource) -> Entry:
    """The page of a submission.

    Raises:
        SubmissionError: It is damaged.
    """
    entry = read_entry(source.folder)
    validation = ", ".join(f"{k} {v:.4f}" for k, v in entry.validation.items())
    facts = {"emulator": entry.emulator, "validation": validation, "rows": f"{entry.rows:,}"}
    provenance = {
        "written": entry.created,
        "command": "\n".join(entry.commands) or entry.command,
        "protocol": entry.protocol,
        "seed": str(entry.seed),
        "predicts": f"{entry.scenario} {entry.first_month}..{entry.last_month}",
        "to be scored on": entry.split,
        "data digest": entry.data_digest,
        "code": f"emukit {entry.emukit_version}" + (f", commit {entry.git_commit}" if entry.git_commit else ""),
        "file": f"{entry.csv}, SHA-256 {entry.csv_sha256}",
    }
    return Entry(
        identifier(entry.name, source.folder),
        entry.name,
        source.folder.resolve().name,
        "submission",
        source.rows,
        _known(facts),
        _known(provenance),
        [],
        _readable(entry.recipe),
        missing=["maps and curves: a submission is a table of numbers; name the run that made it to see them"],
    )


def training_pictures(run: Run, root: Path) -> dict[str, Drawn]:
    """Learning curves of all networks of a run, and the terms of the loss where it is a single one.

    Raises:
        RunError: A log is damaged.
    """
    logs = _logs(run.folder)
    if not logs:
        return {}
    mark = hashlib.sha256("".join(map(sha256, _log_files(run.folder))).encode()).hexdigest()[:8]
    own = next(iter(logs.values()))
    many = f" of {len(logs)} networks" if len(logs) > 1 else ""
    last = own[-1]["epoch"]
    out = {
        "learning": _drawn(
            root / f"learning-{mark}.webp",
            lambda: draw_learning(logs, "", run.record.data.scoring.competition.direction),
            f"Training loss and validation score{many} over {last} epochs.",
        )
    }
    if len(logs) == 1 and has_terms(own):
        words = f"The terms of the loss over {last} epochs."
        out["terms"] = _drawn(root / f"terms-{mark}.webp", lambda: draw_terms(own, ""), words)
    return out


def _drawn(path: Path, draw: Callable[[], Figure], alt: str) -> Drawn:
    kind = path.name.partition("-")[0]
    size = picture_size(path)
    if size is None:
        old = list(path.parent.glob(f"{kind}-*.webp"))
        with atomic_path(path) as temporary:
            size = save(draw(), temporary, kind, alt)
        for stale in old:
            stale.unlink(missing_ok=True)
    return Drawn(path, size, alt)


def _logs(folder: Path) -> dict[str, Log]:
    """Logs of a run and of what it is made of, by their places in it."""
    out: dict[str, Log] = {}
    for path in _log_files(folder):
        lines = read_lines(path)
        place = path.parent.relative_to(folder).as_posix()
        if lines:
            out["network" if place == "." else place.replace("bases/", "")] = lines
    return out


def _log_files(folder: Path) -> list[Path]:
    return below(folder, LOG)


def _epochs(run: Run) -> str:
    record = run.record
    if record.epochs is None:
        return ""
    best = "" if record.best_epoch is None else f", the best {record.best_epoch}"
    return f"{record.epochs}{best}" + (", averaged weights" if record.best_average else "")


def _commit(git: Mapping[str, str | bool]) -> str:
    if "commit" not in git:
        return "not a checkout"
    return f"commit {git['commit']}" + (", changed since" if git.get("changed") else "")


def _machine(machine: Mapping[str, str | int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in machine.items())


def _known(values: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if v}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _readable(recipe: str) -> str:
    """The recipe of an entry: JSON with line ends, where it is JSON."""
    try:
        return json.dumps(parse_json(recipe), indent=1, ensure_ascii=False)
    except json.JSONDecodeError:
        return recipe
