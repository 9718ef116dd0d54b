"""What a study was started with, in `plan.json`: it continues with the same base, data and epochs.

Invariant: the file is there before the first run, and is never written again. Other variants than the base may be
fixed, added or left out in between: each is compared with the base alone, over the same epochs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emukit.data.archive import Archive
from emukit.errors import RunError
from emukit.files import LOCK_FILE, PART, write_text
from emukit.planning.training_time import Cost
from emukit.runs.record import card_digest, read_json
from emukit.studies.study import Study, epoch_paths, recipe_of, seconds_of

PLAN_FILE = "plan.json"
# More seconds or epochs than anybody has.
MOST = 1e12
WORDS = {
    "study": "base, match or search",
    "data": "data",
    "card": "data card",
    "budget": "budget",
    "format": "version of emukit",
}


@dataclass(frozen=True)
class SavedPlan:
    """What was decided when a study was started.

    Attributes:
        epochs: By name of the variant; None where they are the recipe's own.
        costs: By name of the variant, as they were measured then.
        budget: To which epochs were fitted; None where they were not.
        runs: How many of each variant the budget was for.
        changes: How the variants differ from those it was started with, in words.
        untimed: Those that were not there then, or were others.
    """

    epochs: Mapping[str, int | None]
    costs: Mapping[str, Cost]
    budget: str | None
    runs: Mapping[str, int]
    changes: str = ""
    untimed: Sequence[str] = ()


def plan_exists(folder: Path) -> bool:
    """Whether a study was started in a folder."""
    return (folder / PLAN_FILE).exists()


def write_saved_plan(folder: Path, saved: SavedPlan, study: Study, archive: Archive, command: str) -> None:
    """Keep it, where nothing is kept yet.

    Args:
        folder: Of the study's results.
        saved: What was decided.
        study: What is asked.
        archive: The data.
        command: What began it.

    Raises:
        RunError: The folder holds something else.
    """
    if not plan_exists(folder):
        there = folder.iterdir() if folder.is_dir() else ()
        others = sorted(p.name for p in there if p.name != LOCK_FILE and not PART.fullmatch(p.name))
        if others:
            raise RunError(
                f"{folder} is not the folder of a study",
                found=f"no {PLAN_FILE}, and {', '.join(others[:5])}",
                expected="a new or empty folder: results are written there",
                hint="another --out, or another name in the study's file",
            )
        decided = {name: value for name, value in asdict(saved).items() if name not in ("changes", "untimed")}
        kept = _key(study, archive) | decided | {"variants": _variants(study), "command": command}
        write_text(folder / PLAN_FILE, json.dumps(kept, indent=1))


def read_saved_plan(folder: Path, study: Study, archive: Archive, budget: str | None) -> SavedPlan | None:
    """What a study was started with in a folder; None where none was.

    A variant that has come to it, or is another now, trains as many epochs as the others, and is taken to cost what the
    base does.

    Raises:
        RunError: It is another one, or the file is damaged.
        RecipeError: The recipe of a variant is wrong.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    kept = read_json(path, f"remove {folder}; its runs are kept")
    now = _key(study, archive) | ({"budget": budget} if budget else {})
    different = [WORDS[k] for k, v in now.items() if kept.get(k) != v]
    changes = _changes(kept.get("variants"), study)
    if changes and not different:
        different = _unfitted(changes, kept, study)
    saved = None if different or changes is None else _parsed(kept, study, changes)
    if saved is None:
        raise RunError(
            f"{folder} holds another study of this name",
            found=(f"another {', '.join(different)}" if different else f"a damaged {PLAN_FILE}")
            + (f": {_told(changes)}" if changes else ""),
            expected="the study that it holds",
            hint=f"another name in the study's file, or remove {folder}: its runs lie next to it, and are found again",
        )
    return saved


def _key(study: Study, archive: Archive) -> dict[str, str | int]:
    return {"format": 3, "study": study.digest, "data": archive.digest, "card": card_digest(archive.card)}


def _unfitted(changes: Mapping[str, Sequence[str]], kept: Mapping[str, Any], study: Study) -> list[str]:
    """What of a changed study was not fitted when it was started, and cannot be now."""
    if study.match == "cost":
        return ["cost to be matched"]
    networks = [v.name for v in study.all_variants() if v.name in _untimed(changes) and epoch_paths(recipe_of(v))]
    epochs = kept.get("epochs")
    fitted = isinstance(epochs, dict) and any(e is not None for e in epochs.values())
    return ["budget, which was fitted to no network"] if networks and kept.get("budget") and not fitted else []


def _untimed(changes: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for word, names in changes.items() if word != "gone" for name in names]


def _parsed(kept: Mapping[str, Any], study: Study, changes: Mapping[str, Sequence[str]]) -> SavedPlan | None:
    """None where something is missing or of another kind."""
    variants, others = study.all_variants(), _untimed(changes)
    same = [v.name for v in variants if v.name not in others]
    try:
        costs = {v: Cost(**kept["costs"][v]) for v in same}
        epochs = {v: kept["epochs"][v] for v in same}
        runs = dict(kept["runs"])
        budget = kept["budget"]
        fitted = next((e for e in kept["epochs"].values() if e is not None), None)
        if budget is not None:
            seconds_of(budget)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    for variant in variants:
        trained = bool(epoch_paths(recipe_of(variant)))
        if variant.name in others:
            epochs[variant.name], costs[variant.name] = _like(trained, fitted, costs[study.base_name])
        elif study.match == "epochs" and epochs[variant.name] != (fitted if trained else None):
            return None
        if trained and budget and epochs[variant.name] is None:
            return None
    numbers = [x for c in costs.values() for x in (c.start, c.epoch, c.own)]
    counts = [e for e in (*epochs.values(), *(c.epochs for c in costs.values())) if e is not None]
    whole = all(type(n) is int and 0 < n <= MOST for n in (*counts, *runs.values()))
    known = all(type(n) in (int, float) and 0 <= n <= MOST for n in numbers)
    if not (whole and known and runs.keys() >= set(same)):
        return None
    return SavedPlan(epochs, costs, budget, runs, _told(changes), others)


def _like(trained: bool, epochs: int | None, base: Cost) -> tuple[int | None, Cost]:
    """Epochs and cost of a variant that was not timed: those of the others, where it trains by epochs at all."""
    return (epochs, base) if trained else (None, Cost(base.start, 0.0, None, 0.0))


def _variants(study: Study) -> dict[str, Any]:
    """As JSON gives them back, so that they can be compared with what was kept."""
    variants: dict[str, Any] = {v.name: v.model_dump(mode="json", exclude={"name"}) for v in study.all_variants()}
    return dict(json.loads(json.dumps(variants)))


def _changes(kept: object, study: Study) -> dict[str, list[str]] | None:
    """Names of variants that differ from those that were kept, by how they do; None where none were kept."""
    now = _variants(study)
    if not isinstance(kept, dict) or study.base_name not in kept:
        return None
    parts = {
        "new": [v for v in now if v not in kept],
        "gone": [v for v in kept if v not in now],
        "changed": [v for v in now if v in kept and now[v] != kept[v]],
    }
    return {word: names for word, names in parts.items() if names}


def _told(changes: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{word}: {', '.join(map(repr, names))}" for word, names in changes.items())
