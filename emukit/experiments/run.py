"""One run: an emulator trained by a recipe on a split, kept in a folder with everything that made it.

Invariant: a run folder belongs to one configuration. It says in `run.json` what it is and how far it came; it is never
written over, and resumed only by the configuration that began it.

    run.json            what, from what, with what, how far
    metrics.jsonl       one line an epoch
    last.pt             checkpoint to resume from
    best.safetensors    weights of the best validation score
    emulator/           the trained emulator, whole
    scores/*.json       one evaluation each
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emukit.data.archive import Archive
from emukit.data.card import Card
from emukit.data.frames import FrameEncoder
from emukit.data.segments import SegmentSource
from emukit.data.split import Split, make_split
from emukit.data.targets import TargetNormalizer
from emukit.emulators.base import Emulator
from emukit.emulators.neural import NeuralEmulator
from emukit.emulators.registry import EMULATORS, load_emulator
from emukit.errors import RunError
from emukit.experiments import provenance
from emukit.experiments.evaluate import Evaluation, evaluate, score_emulator
from emukit.experiments.recipe import NetworkRecipe, Recipe, parse_recipe
from emukit.files import write_text
from emukit.losses.composite import CompositeLoss
from emukit.models.registry import build_network
from emukit.progress import Reporter
from emukit.training.loop import train

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A run folder that was read.

    Attributes:
        folder: Where it is.
        recipe: What was trained.
        record: `run.json` whole.
    """

    folder: Path
    recipe: Recipe
    record: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether training has ended and the emulator is whole."""
        return bool(self.record["state"] == "finished")

    def split(self, archive: Archive) -> Split:
        """The split it was trained on, made anew on an archive."""
        return make_split(archive, self.record["protocol"], self.record["members"])

    def emulator(self) -> Emulator:
        """The trained emulator.

        Raises:
            RunError: Training has not finished, or the folder is damaged.
        """
        if not self.finished:
            raise RunError(
                f"the run {self.folder} has not finished",
                found=f"state {self.record['state']!r}",
                hint=f"{self.record['command']} --resume",
            )
        return load_emulator(self.folder / "emulator")

    def evaluation(self, name: str) -> Mapping[str, Any] | None:
        """The stored evaluation of a set, or None."""
        path = self.folder / "scores" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def train_run(
    archive: Archive,
    recipe: Recipe,
    folder: Path,
    *,
    protocol: str | None = None,
    members: Sequence[int] | None = None,
    seed: int = 0,
    resume: bool = False,
    reporter: Reporter,
) -> tuple[Run, Evaluation]:
    """Train, evaluate on validation, and keep everything in a folder.

    Args:
        archive: The data.
        recipe: What to train.
        folder: The run folder; must be new, or the interrupted run of the same configuration with `resume`.
        protocol: Split; the card's default when None.
        members: Members to train on; all when None.
        seed: Of initial weights, dropout and batch order.
        resume: Go on with an interrupted run.
        reporter: Shows progress.

    Raises:
        RunError: The folder exists, or belongs to another configuration.
        ProtocolError: The split cannot be made on this archive.
        TrainingError: The loss is not finite.
    """
    split = make_split(archive, protocol, members)
    identity = {
        "recipe": recipe.digest,
        "protocol": split.protocol,
        "members": list(members) if members is not None else None,
        "seed": seed,
        "data": archive.digest,
    }
    record = _existing(folder, identity) if resume else None
    if record is None:
        _refuse_existing(folder)
    for note in split.notes:
        reporter.say(f"note: {note}")
    # Everything that can be wrong with recipe and data shows in the preparation, before the folder is made.
    started = time.monotonic()
    finish = _prepare(archive, recipe, split, seed)
    record = record or _new_record(archive, recipe, split, identity)
    _write_record(folder, record)
    emulator, outcome = finish(folder, reporter)
    emulator.save(folder / "emulator")
    evaluation = evaluate(emulator, archive, split, "validation")
    save_evaluation(folder, evaluation)
    record |= outcome | {
        "state": "finished",
        "finished": provenance.now(),
        "seconds": round(record["seconds"] + time.monotonic() - started, 1),
    }
    _write_record(folder, record)
    return Run(folder, recipe, record), evaluation


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: It is none, is truncated, or is of another format.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise RunError(
            f"{folder} is not a run", found=f"no {path.name}", hint="name a folder that `emukit train` wrote"
        ) from e
    except ValueError as e:
        raise RunError(f"{path} is damaged", found=str(e), hint="restore it, or train again") from e
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"{path} has another format", expected=f"format {FORMAT}", hint="use the emukit that wrote it")
    try:
        return Run(folder, parse_recipe(record["recipe"], str(path)), record)
    except KeyError as e:
        raise RunError(f"{path} is truncated", found=f"no {e}", hint="restore it, or train again") from e


def save_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Keep an evaluation in the run folder."""
    write_text(folder / "scores" / f"{evaluation.name}.json", json.dumps(evaluation.as_dict(), indent=1))


def _existing(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the run to resume; None where there is no folder yet."""
    if not folder.exists():
        return None
    record = dict(read_run(folder).record)
    different = [k for k, v in identity.items() if record["identity"].get(k) != v]
    if different:
        raise RunError(
            f"the run {folder} belongs to another configuration",
            found=f"another {', '.join(different)}",
            expected="the configuration that began it",
            hint=f"resume with: {record['command']} --resume; or choose another --out",
        )
    return record


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"the run folder {folder} exists",
            expected="a new folder",
            hint="--resume to go on with it, or choose another --out",
        )


def _new_record(archive: Archive, recipe: Recipe, split: Split, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "state": "training",
        "identity": identity,
        "recipe": recipe.model_dump(mode="json"),
        "protocol": split.protocol,
        "members": identity["members"],
        "seed": identity["seed"],
        "data": {
            "source": archive.source,
            "card": archive.card.name,
            "benchmark": benchmark(archive.card),
            "digest": archive.digest,
        },
        "train": [s.text(archive) for s in split.train],
        "scored": {name: [s.text(archive) for s in spans] for name, spans in split.scored.items()},
        "notes": list(split.notes),
        "command": _command(),
        "created": provenance.now(),
        "seconds": 0.0,
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "machine": provenance.machine(),
    }


def benchmark(card: Card) -> str:
    """The name under which scores on a card's stores are ranked together."""
    return card.benchmark or card.name


def _command() -> str:
    words = ["emukit", *sys.argv[1:]] if Path(sys.argv[0]).name in ("emukit", "__main__.py") else sys.argv
    return shlex.join(w for w in words if w != "--resume")


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_text(folder / "run.json", json.dumps(record, indent=1))


Finish = Callable[[Path, Reporter], tuple[Emulator, dict[str, Any]]]


def _prepare(archive: Archive, recipe: Recipe, split: Split, seed: int) -> Finish:
    """All that can go wrong before hours of work; what is returned does the work."""
    if isinstance(recipe, NetworkRecipe):
        return _Trainer(archive, recipe, split, seed).train
    fitted: Emulator = EMULATORS[recipe.emulator].load().fit(archive, split, **recipe.options)
    return lambda folder, reporter: (fitted, {})


class _Trainer:
    """A network with its batches and loss, ready to train."""

    def __init__(self, archive: Archive, recipe: NetworkRecipe, split: Split, seed: int) -> None:
        self._archive, self._recipe, self._split, self._seed = archive, recipe, split, seed
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
        targets = {"tas": recipe.targets.tas, "pr": recipe.targets.pr}
        normalizer = TargetNormalizer.fit(archive, split.train, targets)
        self._source = SegmentSource(archive, split.train, encoder, normalizer, recipe.training.segments, device)
        torch.manual_seed(seed)
        network = build_network(
            recipe.emulator,
            in_channels=len(encoder.channels),
            variables=len(archive.variables),
            grid=archive.grid.shape,
            history=recipe.inputs.window.history,
            options=recipe.options,
        ).to(device)
        self._emulator = NeuralEmulator(archive.domain, recipe.emulator, recipe.options, network, encoder, normalizer)
        cells = archive.grid.shape[0] * archive.grid.shape[1]
        weights = archive.grid.weights if recipe.loss.area_weighted else np.full(archive.grid.shape, 1.0 / cells)
        self._loss = CompositeLoss(
            {"tas": recipe.loss.tas, "pr": recipe.loss.pr},
            archive.variables,
            torch.as_tensor(weights, dtype=torch.float32, device=device),
        )

    def train(self, folder: Path, reporter: Reporter) -> tuple[NeuralEmulator, dict[str, Any]]:
        """Train, or go on; the emulator with its best weights, and what the record keeps of how it went."""
        network, settings = self._emulator.network, self._recipe.training
        parameters = sum(p.numel() for p in network.parameters())
        reporter.say(
            f"{self._recipe.emulator}: {parameters:,} parameters, {len(self._emulator.encoder.channels)} channels, "
            f"{settings.epochs} epochs of {self._source.steps_per_epoch} steps on {self._emulator.device.type}"
        )
        result = train(
            network,
            self._source,
            self._loss,
            settings,
            seed=self._seed,
            validate=lambda: score_emulator(self._emulator, self._archive, self._split.validation),
            folder=folder,
            reporter=reporter,
        )
        network.eval()
        outcome = {"parameters": parameters, "best_epoch": result.best_epoch, "epochs": result.epochs}
        return self._emulator, outcome
