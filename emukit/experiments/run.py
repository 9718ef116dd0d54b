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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    record = _begin(folder, archive, recipe, split, identity, resume)
    started = time.monotonic()
    for note in split.notes:
        reporter.say(f"note: {note}")
    if isinstance(recipe, NetworkRecipe):
        emulator, outcome = _train_network(archive, recipe, split, seed, folder, reporter)
    else:
        emulator = EMULATORS[recipe.emulator].load().fit(archive, split, **recipe.options)
        outcome = {}
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


def _begin(
    folder: Path, archive: Archive, recipe: Recipe, split: Split, identity: dict[str, Any], resume: bool
) -> dict[str, Any]:
    """A new record, or the record of the run that is resumed."""
    if resume and folder.exists():
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
    if folder.exists() and any(folder.iterdir()):
        raise RunError(
            f"the run folder {folder} exists",
            expected="a new folder",
            hint="--resume to go on with it, or choose another --out",
        )
    record = {
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
    _write_record(folder, record)
    return record


def benchmark(card: Card) -> str:
    """The name under which scores on a card's stores are ranked together."""
    return card.benchmark or card.name


def _command() -> str:
    words = ["emukit", *sys.argv[1:]] if Path(sys.argv[0]).name in ("emukit", "__main__.py") else sys.argv
    return shlex.join(w for w in words if w != "--resume")


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_text(folder / "run.json", json.dumps(record, indent=1))


def _train_network(
    archive: Archive, recipe: NetworkRecipe, split: Split, seed: int, folder: Path, reporter: Reporter
) -> tuple[NeuralEmulator, dict[str, Any]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
    targets = {"tas": recipe.targets.tas, "pr": recipe.targets.pr}
    normalizer = TargetNormalizer.fit(archive, split.train, targets)
    source = SegmentSource(archive, split.train, encoder, normalizer, recipe.training.segments, device)
    torch.manual_seed(seed)
    network = build_network(
        recipe.emulator,
        in_channels=len(encoder.channels),
        variables=len(archive.variables),
        grid=archive.grid.shape,
        history=recipe.inputs.window.history,
        options=recipe.options,
    ).to(device)
    emulator = NeuralEmulator(archive.domain, recipe.emulator, recipe.options, network, encoder, normalizer)
    weights = archive.grid.weights
    if not recipe.loss.area_weighted:
        weights = torch.full(archive.grid.shape, 1.0 / weights.size).numpy()
    loss = CompositeLoss(
        {"tas": recipe.loss.tas, "pr": recipe.loss.pr},
        archive.variables,
        torch.as_tensor(weights, dtype=torch.float32, device=device),
    )
    parameters = sum(p.numel() for p in network.parameters())
    reporter.say(
        f"{recipe.emulator}: {parameters:,} parameters, {len(encoder.channels)} channels, "
        f"{recipe.training.epochs} epochs of {source.steps_per_epoch} steps on {device.type}"
    )
    result = train(
        network,
        source,
        loss,
        recipe.training,
        seed=seed,
        validate=lambda: score_emulator(emulator, archive, split.validation),
        folder=folder,
        reporter=reporter,
    )
    network.eval()
    return emulator, {"parameters": parameters, "best_epoch": result.best_epoch, "epochs": result.epochs}
