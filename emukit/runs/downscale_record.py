"""The record of a downscaling run, as far as it can be read without its network.

Invariant: what is read has the kinds of values that a run writes; whether its recipe is the one that was trained is
seen where that is parsed (`emukit.runs.downscale`). Lists and reports read this, and import no network for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emukit.errors import RunError
from emukit.files import parse_json, read_text
from emukit.runs.record import DOWNSCALE_FILE, checked_command

FORMAT = 1
# Pictures in the folder: maps of errors, and steps at every validation.
ERRORS, SAMPLES = "errors.png", "samples"
# What tables call the network itself.
NETWORK = "network"
_KINDS = {
    "state": str,
    "recipe": dict,
    "identity": dict,
    "command": str,
    "data": dict,
    "scored": dict,
    "scores": dict,
    "sessions": list,
}


@dataclass(frozen=True)
class DownscaleRecord:
    """A record that was read.

    Attributes:
        folder: Of the run.
        values: `downscale.json`.
    """

    folder: Path
    values: Mapping[str, Any]

    @property
    def state(self) -> str:
        """``training`` or ``finished``."""
        return str(self.values["state"])

    @property
    def protocol(self) -> str:
        """The split."""
        return str(self.values["identity"]["protocol"])

    @property
    def seed(self) -> int:
        """Of weights, blocks and noise."""
        return int(self.values["identity"]["seed"])

    @property
    def command(self) -> str:
        """The command that began it, if it is one that trains and does nothing else; folders come from anywhere."""
        return checked_command(self.values["command"])

    @property
    def scores(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Set, and label of what is scored, to its numbers; ``gain`` is among the labels."""
        scores: Mapping[str, Mapping[str, Mapping[str, float]]] = self.values["scores"]
        return scores

    @property
    def units(self) -> dict[str, str]:
        """Variable to its units; of runs of earlier versions without units."""
        known = self.values.get("units")
        names = [v for tables in self.scores.values() for v in tables["gain"]]
        return {v: str(known.get(v, "")) if isinstance(known, dict) else "" for v in names}

    def months(self, name: str) -> str:
        """What a set was scored on, in a way that is the same where scores can be compared."""
        coarse = self.values["recipe"].get("coarse", {})
        cells = " x ".join(str(n) for n in coarse.get("grid", ())) if isinstance(coarse, dict) else ""
        spans = ", ".join(map(str, self.values["scored"].get(name, ())))
        data = str(self.values["identity"].get("data", ""))[:8]
        return f"downscaling from {cells} cells, data {data}, {self.protocol}, {name}: {spans}"


def read_downscale_record(folder: Path) -> DownscaleRecord:
    """Read the record of a downscaling run.

    Raises:
        RunError: There is none, or it is damaged or of another version.
    """
    path = folder / DOWNSCALE_FILE
    try:
        record = parse_json(read_text(path))
        wrong = [key for key, kind in _KINDS.items() if not isinstance(record.get(key), kind)]
        if not wrong:
            identity = record["identity"]
            wrong += [k for k, kind in (("protocol", str), ("seed", int)) if not isinstance(identity.get(k), kind)]
            coarse = record["recipe"].get("coarse", {})
            wrong += [] if isinstance(coarse, dict) and isinstance(coarse.get("grid", []), list) else ["recipe.coarse"]
            wrong += [f"scored.{k}" for k, spans in record["scored"].items() if not isinstance(spans, list)]
        if record.get("state") == "finished":
            wrong += [] if "scores" in wrong or _are_scores(record["scores"]) else ["scores"]
            wrong += [] if isinstance(record.get("seconds"), int | float) else ["seconds"]
    except OSError as e:
        raise RunError(
            f"{folder} is not a downscaling run",
            found=f"{'no ' if isinstance(e, FileNotFoundError) else ''}{DOWNSCALE_FILE}"
            + ("" if isinstance(e, FileNotFoundError) else f": {e.strerror or e}"),
            hint="name a folder that `emukit train downscale` wrote",
        ) from e
    except (ValueError, TypeError, AttributeError) as e:
        raise RunError(f"{path} is damaged", found=str(e), hint="restore it, or train again") from e
    if wrong or record.get("format") != FORMAT:
        found = f"no {', '.join(wrong)} as a run writes them" if wrong else f"format {record.get('format')!r}"
        raise RunError(f"{path} was edited, or is of another version", found=found, hint="restore it, or train again")
    return DownscaleRecord(folder, record)


def _are_scores(scores: Mapping[str, Any]) -> bool:
    """Whether every set has its gain, and every label numbers by name."""
    return all(
        isinstance(tables, dict)
        and {"gain", NETWORK} <= tables.keys()
        and all(
            isinstance(own, dict) and all(isinstance(n, int | float) for n in own.values()) for own in tables.values()
        )
        for tables in scores.values()
    )
