"""From a recipe and a split to an emulator that is ready to be trained.

Invariant: normalisers are fitted on the split's training spans alone, and initial weights are a function of the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.segments import SegmentSource
from emukit.data.split import Split
from emukit.data.targets import TargetNormalizer
from emukit.emulators.base import Emulator
from emukit.emulators.neural import NeuralEmulator
from emukit.emulators.registry import EMULATORS
from emukit.experiments.evaluate import score_emulator
from emukit.experiments.recipe import NetworkRecipe, Recipe
from emukit.losses.composite import CompositeLoss
from emukit.losses.space import LossSpace
from emukit.models.registry import build_network
from emukit.progress import Reporter
from emukit.training.loop import train

Finish = Callable[[Path, Reporter], tuple[Emulator, dict[str, Any]]]


def prepare(archive: Archive, recipe: Recipe, split: Split, seed: int) -> Finish:
    """Check recipe and data against each other, and make everything ready.

    Returns:
        What does the work: from the run folder and a reporter to the trained emulator and, for the record, how it went.

    Raises:
        RecipeError: Options that cannot be built, an unknown feature or static field.
        ProtocolError: A forcing is missing, or the windows or segments do not fit the training months.
    """
    if isinstance(recipe, NetworkRecipe):
        return Trainer(archive, recipe, split, seed).train
    fitted: Emulator = EMULATORS[recipe.emulator].load().fit(archive, split, **recipe.options)
    return lambda folder, reporter: (fitted, {})


class Trainer:
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
            LossSpace(torch.as_tensor(weights, dtype=torch.float32, device=device), recipe.loss.padding),
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
        outcome = {
            "parameters": parameters,
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
            "seconds": result.seconds,
        }
        return self._emulator, outcome
