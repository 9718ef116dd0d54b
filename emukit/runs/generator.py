"""Trains the networks of a generator, each in a folder of its own, from samples that the generator makes.

Invariant: initial weights are a function of the seed; the averaged weights of the last epoch are kept, since the score
of a competition does not tell which of two generators is closer to the truth.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emukit.data.archive import Archive
from emukit.emulators.atlas import PROJECTOR, Part, RowSampler
from emukit.errors import TrainingError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.metrics import Score
from emukit.models.precision import matmul_precision
from emukit.models.registry import build_network
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.schema import GeneratorRecipe, PartSettings
from emukit.training.engine import Engine, Execution
from emukit.training.loop import KeptWeights, train


class PartTrainer:
    """Trains one network after the other.

    Attributes:
        outcome: Seconds and parameters of all of them together, for the record.
    """

    def __init__(
        self, recipe: GeneratorRecipe, archive: Archive, seed: int, comm: Comm, folder: Path, reporter: Reporter
    ) -> None:
        """Nothing is trained yet.

        Args:
            recipe: Says how.
            archive: For its grid and variables.
            seed: Of weights, noise and batch order.
            comm: One process.
            folder: Where each network has a folder.
            reporter: Shows the progress.

        Raises:
            TrainingError: There are several processes.
        """
        if comm.world > 1:
            raise TrainingError(
                f"{recipe.emulator} trains its networks in one process",
                found=f"{comm.world} processes",
                hint="leave --devices out",
            )
        self._recipe, self._archive, self._seed, self._comm = recipe, archive, seed, comm
        self._folder, self._reporter = folder, reporter
        self.outcome: dict[str, Any] = {"seconds": 0.0, "parameters": 0}

    def __call__(self, part: str, samples: RowSampler, variables: tuple[str, ...]) -> Part:
        """Train a network, or continue."""
        said: PartSettings = self._recipe.projector if part == PROJECTOR else self._recipe.predictor
        settings = said.training.whole()
        samples = replace(samples, per_batch=min(said.training.per_batch, len(samples.series.rows)))
        weights = torch.from_numpy(samples.weights)
        loss = CompositeLoss({v: {"mse": 1.0} for v in variables}, variables, GridContext(weights))
        objective = said.objective.build(loss)
        options = said.model.model_dump(mode="python")
        torch.manual_seed(self._seed)
        network = build_network(
            said.network,
            in_channels=samples.channels + objective.noise_channels,
            variables=len(variables),
            grid=(weights.shape[0], weights.shape[1]),
            history=1,
            options=options,
        )
        parameters = sum(p.numel() for p in network.parameters())
        place = self._folder / part
        place.mkdir(parents=True, exist_ok=True)
        self._reporter.say(
            f"{part}: {said.network}, {parameters:,} parameters, objective {said.objective.name}, "
            f"{settings.epochs} epochs of {samples.steps_per_epoch} steps"
        )
        with matmul_precision(settings.precision):
            result = train(
                Engine(network, samples, objective, settings, self._comm, Execution()),
                samples,
                settings,
                seed=self._seed,
                ramp=lambda done: 1.0,
                validate=_nothing,
                folder=place,
                reporter=self._reporter,
                keep=KeptWeights(settings.epochs, averaged=True),
            )
        network.eval()
        self.outcome["seconds"] += result.seconds
        self.outcome["parameters"] += parameters
        return Part(network, said.network, options, samples.channels, said.objective.name, said.objective.options)


def _nothing() -> Score:
    raise AssertionError("nothing is selected")
