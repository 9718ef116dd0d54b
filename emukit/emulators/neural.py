"""A network that predicts climate: frames in by its encoder, physical units out by its normaliser.

Invariant: the prediction for a month does not depend on how many months are asked for, nor in which blocks they are
computed (up to float32 rounding). Processes that share a globe ask the same of it, in the same order, and get whole
fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emukit.config import check, options_of
from emukit.data.archive import Domain, Scenario
from emukit.data.frames import EncodedScenario, FrameEncoder
from emukit.data.residency import free_memory
from emukit.data.targets import TargetNormalizer
from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Wrapper
from emukit.errors import RecipeError, RunError
from emukit.models.precision import matmul_precision
from emukit.models.registry import CONTEXT, NETWORKS, build_network
from emukit.objectives.base import AddressedNoise, Objective
from emukit.objectives.registry import OBJECTIVES, REGRESSION
from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere, check_divisible, divide
from emukit.sphere import WHOLE, Sphere, part_shape

# Target months computed at once: enough to keep two cores busy, few enough that a 353 M-parameter network fits 8 GB.
BLOCK_MONTHS = 60


class NeuralEmulator(Emulator):
    """Network, frame encoder and target normaliser as one."""

    kind = "neural"
    sphere: Sphere
    _last: tuple[Scenario, EncodedScenario] | None

    def __init__(
        self,
        domain: Domain,
        network_name: str,
        options: Mapping[str, Any],
        network: nn.Module,
        encoder: FrameEncoder,
        normalizer: TargetNormalizer,
        *,
        residual: bool = False,
        objective: str = REGRESSION,
        objective_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        number: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            domain: What is predicted, and where.
            network_name: Name in the network table.
            options: The network's own.
            network: Itself.
            encoder: Makes its frames.
            normalizer: Takes its fields back to physical units.
            residual: It says what another emulator leaves, which no bound holds for.
            objective: What it was trained for, which says how it is asked.
            objective_options: The objective's own.
            seed: Of realisations: that of the run.
            number: Which realisation it gives, where it draws any.
        """
        super().__init__(domain)
        self.residual = residual
        self.objective_name, self.objective_options = objective, dict(objective_options or {})
        self.seed, self.number = seed, number
        self._objective: Objective = OBJECTIVES.load(objective)(None, **self.objective_options)
        self.network_name = network_name
        self.options = dict(options)
        self.network = network
        self.encoder = encoder
        self.normalizer = normalizer
        self._keeps, self._last = False, None
        # Which cells of the globe the network computes here; those of others are gathered for every prediction.
        self.sphere = WHOLE

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def draws(self) -> bool:
        """Whether its objective does."""
        return self._objective.draws

    def member(self, number: int) -> Self:
        """The same network asked with the noise of another realisation."""
        if not self.draws:
            return super().member(number)
        one = copy(self)
        one.number = number
        return one

    @property
    def first_month(self) -> int:
        """The first month whose window the scenario, or the lead-in rule, can fill."""
        return self.encoder.settings.window.first_target

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) float32; within the bounds, except for a residual."""
        own = self._predicted(scenario, start, stop)
        if not self.sphere.divided:
            return own
        out = np.empty((*own.shape[:2], *self.grid.shape), np.float32)
        with torch.inference_mode():
            for first in range(0, len(own), BLOCK_MONTHS):
                block = slice(first, first + BLOCK_MONTHS)
                out[block] = self.sphere.gather(torch.from_numpy(own[block]).to(self.device)).cpu().numpy()
        return out

    def predict_own(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, y, x): of a globe that is divided and read so, what this process computes."""
        if self.sphere.divided and scenario.share.divided:
            return self._predicted(scenario, start, stop)
        return scenario.share.own(self.predict_fields(scenario, start, stop))

    def _predicted(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, y, x) of the cells that the network computes here."""
        window, time = self.encoder.settings.window, scenario.time
        part = self.sphere.part(self.grid.shape)
        encoded, normalizer = self._encode(scenario), self.normalizer.own(part, self.grid.shape)
        training = self.network.training
        self.network.eval()
        cells = part_shape(part, self.grid.shape)
        out = np.empty((stop - start, len(self.variables), *cells), np.float32)
        try:
            # Predictions are float32, whatever training was: a score must not depend on where it is computed.
            with torch.inference_mode(), matmul_precision("fp32"):
                for first in range(start, stop, BLOCK_MONTHS):
                    last = min(first + BLOCK_MONTHS, stop)
                    positions = window.frames(first, last - first, len(scenario), time)
                    frames = self.encoder.gather(encoded, torch.from_numpy(positions).to(self.device))[None]
                    shape = (last - first, len(self.variables), *self.grid.shape)
                    noise = AddressedNoise(self.seed, [self.number], [positions.tolist()], shape, part)
                    fields = self._objective.predict(self.network, frames, noise)[0]
                    season = time.season[first:last]
                    out[first - start : last - start] = normalizer.inverse(fields.float().cpu().numpy(), season)
        finally:
            self.network.train(training)
        if not self.residual:
            self.clip_to_bounds(out)
        return out

    @contextmanager
    def keeping_frames(self) -> Iterator[None]:
        """Inside, a scenario that is predicted again and again is encoded once; its forcings must stay as they are."""
        self._keeps = True
        try:
            yield
        finally:
            self._keeps, self._last = False, None

    def _encode(self, scenario: Scenario) -> EncodedScenario:
        """The forcings of a scenario, normalised, on the network's device."""
        if not self._keeps:
            return self.encoder.encode(scenario, self.device, self.sphere.part(self.grid.shape))
        if self._last is None or self._last[0] is not scenario or self._last[1].fields.device != self.device:
            # The last one goes first: two scenarios at once may not fit.
            self._last = None
            self._last = (scenario, self.encoder.encode(scenario, self.device, self.sphere.part(self.grid.shape)))
        return self._last[1]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Names and options; weights, statistics and climatologies."""
        encoder_meta, encoder_arrays = self.encoder.state()
        target_meta, target_arrays = self.normalizer.state()
        meta = {
            "network": self.network_name,
            "options": self.options,
            "residual": self.residual,
            "inputs": encoder_meta,
            "targets": target_meta,
        }
        if self.objective_name != REGRESSION:
            meta["objective"] = {"name": self.objective_name, "options": self.objective_options, "seed": self.seed}
        arrays = {f"inputs.{k}": v for k, v in encoder_arrays.items()}
        arrays |= {f"targets.{k}": v for k, v in target_arrays.items()}
        arrays |= {f"network.{k}": v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        return meta, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`.

        Raises:
            RecipeError: The network is unknown, or cannot be imported.
            ValueError: It has no such options.
        """

        def part(name: str) -> dict[str, NDArray[Any]]:
            return {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}

        asked = meta.get("objective", {"name": REGRESSION, "options": {}, "seed": 0})
        encoder = FrameEncoder.from_state(meta["inputs"], part("inputs"), domain.grid)
        network_class = NETWORKS.load(meta["network"])
        try:
            kind = options_of(network_class, CONTEXT)
            # As strictly as in a recipe: a constructor takes an unknown word for its default.
            options = check(kind, meta["options"], source="the table of options").model_dump(exclude_unset=True)
            chosen = OBJECTIVES.load(asked["name"])
            own = check(options_of(chosen), asked["options"], source="the table of options").model_dump()
            objective = chosen(None, **own)
            network = build_network(
                meta["network"],
                in_channels=len(encoder.channels) + objective.noise_channels,
                variables=len(domain.variables),
                grid=domain.grid.shape,
                history=encoder.settings.window.history,
                options=options,
            )
        except RecipeError as e:
            # The recipe cannot be fixed any more; the caller says what to do instead.
            raise ValueError(f"{e.what}: {e.found or e.expected}") from e
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in part("network").items()})
        network.eval()
        normalizer = TargetNormalizer.from_state(meta["targets"], part("targets"))
        residual = bool(meta.get("residual", False))
        return cls(
            domain,
            meta["network"],
            options,
            network,
            encoder,
            normalizer,
            residual=residual,
            objective=asked["name"],
            objective_options=own,
            seed=int(asked["seed"]),
            **cls.more_of(meta),
        )

    @classmethod
    def more_of(cls, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments of a subclass's constructor, from what its `state` added."""
        return {}


def share_globe(emulator: Emulator, comm: Comm) -> None:
    """Divide the globe of every network of an emulator over processes that hold the same emulator.

    What is saved of it is as before: parameters stay whole, with their names. A network that does not fit on the
    devices of these processes stays whole, where it is.

    Raises:
        TrainingError: A network cannot be divided, or has too few cells.
        RunError: It is a trajectory.
    """
    if comm.domain.world == 1:
        return
    for part in _networks(emulator):
        if part.sphere.divided:
            continue
        if part.from_beginning:
            raise RunError("a trajectory is not divided in space", hint="leave --domain out")
        check_divisible(part.network_name, type(part.network))
        if not _brought(part, comm):
            continue
        part.sphere = sphere = DividedSphere(comm.domain, part.grid.shape)
        divide(part.network, sphere)


def _brought(part: NeuralEmulator, comm: Comm) -> bool:
    """Whether the network is, or now is, where processes speak with each other: GPUs do so from GPU to GPU alone."""
    if part.device.type == comm.device.type:
        return True
    size = sum(t.nbytes for t in (*part.network.parameters(), *part.network.buffers()))
    if comm.any(size > free_memory(comm.device)):
        return False
    part.network.to(comm.device)
    return True


def _networks(emulator: Emulator) -> list[NeuralEmulator]:
    if isinstance(emulator, Wrapper):
        return [part for base in emulator.bases for part in _networks(base)]
    return [emulator] if isinstance(emulator, NeuralEmulator) else []
