"""Trains the networks of a generator, each in a folder of its own, from samples that the generator makes.

Invariant: initial weights are a function of the seed; the averaged weights of the last epoch are kept, since the score
of a competition does not tell which of two generators is closer to the truth.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from emukit.data.archive import Archive
from emukit.data.sampler import Sample
from emukit.emulators.atlas import PROJECTOR, Part, RowSampler
from emukit.emulators.internal_state import StateSeries
from emukit.errors import TrainingError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext, Mean, local_mean
from emukit.metrics import Score
from emukit.models.precision import matmul_precision
from emukit.models.registry import build_network
from emukit.objectives.base import Forward, Objective
from emukit.objectives.crps import Crps
from emukit.objectives.rollout import Curriculum
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.schema import GeneratorRecipe, PartSettings
from emukit.training.engine import Engine, Execution
from emukit.training.loop import KeptWeights, train


class PartTrainer:
    """Trains one network after the other.

    Attributes:
        outcome: Seconds and parameters of all of them together, for the record.
        reporter: Shows the progress.
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
        self._folder, self.reporter = folder, reporter
        self.outcome: dict[str, Any] = {"seconds": 0.0, "parameters": 0}

    def __call__(self, part: str, samples: RowSampler, variables: tuple[str, ...]) -> Part:
        """Train a network, or continue."""
        said: PartSettings = self._recipe.projector if part == PROJECTOR else self._recipe.predictor
        settings = said.training.whole()
        samples = replace(samples, per_batch=min(said.training.per_batch, len(samples.series.rows)))
        weights = torch.from_numpy(samples.weights)
        loss = CompositeLoss({v: {"mse": 1.0} for v in variables}, variables, GridContext(weights))
        objective, curriculum = said.objective.build(loss), said.training.curriculum
        if curriculum.longest > 1:
            samples = replace(samples, length=curriculum.longest)
            assert isinstance(objective, Crps)  # the recipe's own check
            objective = MonthAfterMonth(objective, samples.series, curriculum, said.training.recompute)
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
        self.reporter.say(
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
                reporter=self.reporter,
                keep=KeptWeights(settings.epochs, averaged=True),
            )
        network.eval()
        self.outcome["seconds"] += result.seconds
        self.outcome["parameters"] += parameters
        return Part(network, said.network, options, samples.channels, said.objective.name, said.objective.options)


class MonthAfterMonth(Objective):
    """The fair CRPS of trajectories of several months, each drawn from the blocks that were drawn before.

    Of one month it is the CRPS of what is drawn.
    """

    draws = True
    divisible = False
    single_runs = True

    def __init__(self, crps: Crps, series: StateSeries, curriculum: Curriculum, recompute: bool) -> None:
        """Set it up.

        Args:
            crps: Scores every month, in units of innovations.
            series: Says how blocks follow from those before.
            curriculum: Months of a trajectory.
            recompute: Whether the inside of the network is computed again for the gradient, and not kept.
        """
        super().__init__(crps.composite)
        self._crps, self._series, self._curriculum, self._recompute = crps, series, curriculum, recompute
        self._epochs = 0.0

    @property
    def noise_channels(self) -> int:
        """Those of the score."""
        return self._crps.noise_channels

    @property
    def passes(self) -> int:
        """One for each realisation of each month of the longest trajectory."""
        return self._crps.passes * self._curriculum.longest

    def advance(self, epochs: float) -> None:
        """The length follows from the epochs that are done."""
        self._epochs = epochs

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the months of the trajectory."""
        length = self._curriculum.at(self._epochs)
        drawn = [self._trajectory(forward, sample, length) for _ in range(self._crps.realisations)]
        total, terms = self._crps.score(torch.stack(drawn), sample.targets[:, :length], mean)
        return total, {**terms, "months": torch.tensor(float(length))}

    def _trajectory(self, forward: Forward, sample: Sample, length: int) -> Tensor:
        """(S, L, V, y, x) whitened blocks of one realisation."""
        assert self.composite is not None
        space, past, out = self._series.space, sample.named["past"], []
        for i in range(length):
            frames = space.block_frames(past, sample.named["setting"][:, i])
            shape = (len(frames), 1, self.noise_channels, *frames.shape[-2:])
            frames = torch.cat((frames, self.composite.context.sphere.randn(shape, frames)), 2)
            drawn = recomputed(forward, frames, use_reentrant=False) if self._recompute else forward(frames)
            blocks = space.next_blocks(past, drawn[:, 0].float())
            past = torch.cat((past[:, 1:], blocks[:, None]), 1)
            out.append(self._series.whitened(blocks))
        return torch.stack(out, 1)


def _nothing() -> Score:
    raise AssertionError("nothing is selected")
