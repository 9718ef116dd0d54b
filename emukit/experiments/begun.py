"""What a study was begun with, in `plan.json`: it goes on with the same variants, data and epochs.

Invariant: the file is there before the first run, and is never written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emukit.data.archive import Archive
from emukit.errors import RunError
from emukit.experiments.budget import Cost
from emukit.experiments.record import card_digest, read_json
from emukit.experiments.study import Study
from emukit.files import write_text

PLAN_FILE = "plan.json"
# More seconds or epochs than anybody has.
MOST = 1e12
WORDS = {"study": "study", "data": "data", "card": "data card", "budget": "budget", "format": "version of emukit"}


@dataclass(frozen=True)
class Begun:
    """What was decided when a study was begun.

    Attributes:
        epochs: By name of the variant; None where they are the recipe's own.
        costs: By name of the variant, as they were measured then.
        budget: To which epochs were fitted; None where they were not.
        runs: How many of each variant the budget was for.
    """

    epochs: Mapping[str, int | None]
    costs: Mapping[str, Cost]
    budget: str | None
    runs: Mapping[str, int]


def plan_exists(folder: Path) -> bool:
    """Whether a study was begun in a folder."""
    return (folder / PLAN_FILE).exists()


def write_begun(folder: Path, begun: Begun, study: Study, archive: Archive, command: str) -> None:
    """Keep it, where nothing is kept yet.

    Args:
        folder: Of the study's results.
        begun: What was decided.
        study: What is asked.
        archive: The data.
        command: What began it.
    """
    if not plan_exists(folder):
        kept = _key(study, archive) | asdict(begun) | {"variants": _variants(study), "command": command}
        write_text(folder / PLAN_FILE, json.dumps(kept, indent=1))


def read_begun(folder: Path, study: Study, archive: Archive, budget: str | None) -> Begun | None:
    """What a study was begun with in a folder; None where none was.

    Raises:
        RunError: It is another one, or the file is damaged.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    kept = read_json(path, f"remove {folder}; its runs are kept")
    now = _key(study, archive) | ({"budget": budget} if budget else {})
    different = [WORDS[k] for k, v in now.items() if kept.get(k) != v]
    begun = None if different else _parsed(kept, study)
    if begun is None:
        changed = "; ".join(_changes(kept.get("variants"), study))
        raise RunError(
            f"{folder} holds another study of this name",
            found=(f"another {', '.join(different)}" if different else "no costs and epochs")
            + (f": {changed}" if changed else ""),
            expected=f"the one that was begun with: {kept.get('command')}",
            hint="another --out, another name in the study's file, or remove the folder: runs of the same settings are "
            "read all the same",
        )
    return begun


def _key(study: Study, archive: Archive) -> dict[str, str | int]:
    return {"format": 2, "study": study.digest, "data": archive.digest, "card": card_digest(archive.card)}


def _parsed(kept: Mapping[str, Any], study: Study) -> Begun | None:
    """None where something is missing or of another kind."""
    names = [v.name for v in study.all_variants()]
    try:
        costs = {v: Cost(**kept["costs"][v]) for v in names}
        epochs = {v: kept["epochs"][v] for v in names}
        runs = {v: kept["runs"][v] for v in names}
        budget = kept["budget"]
    except (KeyError, TypeError):
        return None
    numbers = [x for c in costs.values() for x in (c.start, c.epoch, c.own)]
    counts = [e for e in (*epochs.values(), *(c.epochs for c in costs.values())) if e is not None]
    whole = all(type(n) is int and 0 < n <= MOST for n in (*counts, *runs.values()))
    known = all(type(n) in (int, float) and 0 <= n <= MOST for n in numbers)
    return Begun(epochs, costs, budget, runs) if whole and known and isinstance(budget, str | None) else None


def _variants(study: Study) -> dict[str, Any]:
    """As JSON gives them back, so that they can be compared with what was kept."""
    variants: dict[str, Any] = {v.name: v.model_dump(mode="json", exclude={"name"}) for v in study.all_variants()}
    if study.trials:
        variants["what is searched"] = [[axis.model_dump(mode="json") for axis in study.axes], study.together]
    return dict(json.loads(json.dumps(variants)))


def _changes(kept: object, study: Study) -> list[str]:
    """How the variants differ from those that were kept."""
    if not isinstance(kept, dict):
        return []
    now = _variants(study)
    parts = {
        "new": [v for v in now if v not in kept],
        "gone": [v for v in kept if v not in now],
        "changed": [v for v in now if v in kept and now[v] != kept[v]],
    }
    return [f"{word}: {', '.join(map(repr, names))}" for word, names in parts.items() if names]
