"""Emulators that run from a beginning: every step from the states of the step before.

Invariant: a trajectory is a function of its beginning (the fields of some steps), the forcings and the number of its
realisation. What comes after a step does not depend on how many steps are asked for, nor on what else is computed next
to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.data.states import States, normalised_bounds
from emukit.emulators.base import Emulator
from emukit.emulators.neural import NeuralEmulator
from emukit.errors import ProtocolError
from emukit.models.precision import matmul_precision
from emukit.objectives.base import AddressedNoise
from emukit.physics.budget import StateBudgets

Fields = NDArray[np.float32]


class Trajectory(Emulator):
    """What begins from states.

    Attributes:
        begins: Steps of which the fields are known before the first that is predicted.
        beginning: (begins, V, Y, X) the fields that every trajectory begins from; those of the first member of the
            scenario when None.
        begin: The first step that is predicted of a scenario, unless another is asked for; the first that has a
            beginning when None.
    """

    from_beginning = True
    continues = False
    beginning: Fields | None = None
    begin: int | None = None

    @property
    def begins(self) -> int:
        """Steps that a beginning has."""
        return 1

    @property
    def first_month(self) -> int:
        """Where it begins."""
        if self.begin is not None:
            return self.begin
        return 0 if self.beginning is not None else self.begins

    def starting_at(self, begin: int) -> Self:
        """The same, which begins at a step where nothing else is asked for."""
        one = copy(self)
        one.begin = begin
        return one

    def starting_from(self, beginning: Fields) -> Self:
        """The same, with a beginning of one's own.

        Args:
            beginning: (begins, V, Y, X) in physical units, of which the last is the step before the first predicted.

        Raises:
            ProtocolError: It has another shape, or is not finite.
        """
        expected = (self.begins, len(self.variables), *self.grid.shape)
        if beginning.shape != expected or not np.isfinite(beginning).all():
            raise ProtocolError(
                "the beginning of a trajectory does not fit the emulator",
                found=str(beginning.shape) if beginning.shape != expected else "values that are not finite",
                expected=f"{expected}: {self.begins} steps of {', '.join(self.variables)}",
            )
        one = copy(self)
        one.beginning = np.asarray(beginning, np.float32)
        return one

    @abstractmethod
    def forecast(self, scenario: Scenario, starts: Sequence[int], steps: int) -> Fields:
        """Trajectories from several beginnings.

        Args:
            scenario: Whose forcings and, without a beginning of one's own, whose states are read.
            starts: The first predicted step of each.
            steps: How many are predicted.

        Returns:
            (S, steps, V, Y, X) float32 in physical units, within the bounds.

        Raises:
            ProtocolError: A beginning is not known, or a step is outside the scenario.
        """

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Fields:
        """The trajectory that begins at `start`."""
        return np.asarray(self.forecast(scenario, [start], stop - start)[0])

    def states_before(self, scenario: Scenario, start: int) -> Fields:
        """(begins, V, Y, X) the fields that the trajectory from `start` begins from.

        Raises:
            ProtocolError: They are not known.
        """
        if self.beginning is not None:
            return self.beginning
        time, first = scenario.time, start - self.begins
        known = scenario.targets is not None and bool(scenario.members)
        if first < 0 or not known or scenario.hidden[first:start].any():
            raise ProtocolError(
                f"the states before {time.text(start)} of {scenario.name} are not known",
                found=f"the scenario begins at {time.text(0)}" if first < 0 else "its fields are hidden or not there",
                expected=f"{self.begins} {time.unit}s of {', '.join(self.variables)} to begin from",
                hint="a later --begin, or --initial FILE.nc with the fields of these steps",
            )
        return scenario.truth(scenario.members[0], first, start)


class Persistence(Trajectory):
    """Says that everything stays as it was."""

    kind = "persistence"

    @classmethod
    def fit(cls, archive: Archive, split: Split) -> Self:
        """There is nothing to learn."""
        return cls(archive.domain)

    def forecast(self, scenario: Scenario, starts: Sequence[int], steps: int) -> Fields:
        """(S, steps, V, Y, X): the last step of each beginning, again and again."""
        last = np.stack([self.states_before(scenario, start)[-1] for start in starts])
        return np.repeat(last[:, None], steps, axis=1)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Nothing."""
        return {}, {}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        return cls(domain)


class TrajectoryNetwork(NeuralEmulator, Trajectory):
    """A network with outputs among its inputs.

    Attributes:
        states: Which.
    """

    kind = "trajectory"

    def __init__(self, *args: Any, states: States, **options: Any) -> None:
        """As `NeuralEmulator`, with its states."""
        super().__init__(*args, **options)
        self.states = states

    @property
    def begins(self) -> int:
        """The history of its window."""
        return self.encoder.settings.window.history

    @property
    def first_month(self) -> int:
        """Where it begins: there it has a beginning, and a full window."""
        if self.begin is not None:
            return self.begin
        own = 0 if self.beginning is not None else self.begins
        return max(own, self.encoder.settings.window.first_target)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Fields:
        """The trajectory that begins at `start`."""
        return Trajectory.predict_fields(self, scenario, start, stop)

    def forecast(self, scenario: Scenario, starts: Sequence[int], steps: int) -> Fields:
        """(S, steps, V, Y, X), all trajectories step by step together."""
        window, time, device = self.encoder.settings.window, scenario.time, self.device
        encoded = self._encode(scenario)
        training = self.network.training
        self.network.eval()
        history, shape = self.begins, (len(self.variables), *self.grid.shape)
        out = np.empty((len(starts), steps, *shape), np.float32)
        begun = []
        for start in starts:
            places = np.arange(start - history, start).clip(0)
            begun.append(self.normalizer.forward(self.states_before(scenario, start), time.season[places]))
        held = torch.from_numpy(np.stack(begun)).to(device)
        n = len(self.states.places)
        bounds = None
        if self.encoder.settings.bounded:
            bounds = [bound.to(device) for bound in normalised_bounds(self.domain, self.normalizer, self.states)]
        where = list(self.states.places)
        budgets = self._budgets()
        means = budgets.budgets(held[:, -1, where]) if budgets else {}
        try:
            with torch.inference_mode(), matmul_precision("fp32"):
                for step in range(steps):
                    positions = np.stack([window.frames(s + step, 1, len(scenario), time) for s in starts])
                    flat = torch.from_numpy(positions.ravel()).to(device)
                    frames = self.encoder.gather(encoded, flat)
                    frames = frames.reshape(len(starts), history, *frames.shape[1:])
                    frames[:, :, -n:] = self.states.channels(held)
                    noise = AddressedNoise(
                        self.seed, [self.number] * len(starts), [p.tolist() for p in positions], (1, *shape)
                    )
                    said = self._objective.predict(self.network, frames, noise)[:, 0].float()
                    after = self.states.after(held[:, -1], said)
                    if budgets:
                        after[:, where] = budgets.hold(after[:, where], means)
                    if bounds is not None:
                        after = after.clamp(*bounds)
                        if budgets:
                            after[:, where] = budgets.hold(after[:, where], means)
                    held = torch.cat((held[:, 1:], after[:, None]), 1)
                    out[:, step] = after.cpu().numpy()
        finally:
            self.network.train(training)
        for i, start in enumerate(starts):
            out[i] = self.normalizer.inverse(out[i], time.season[start : start + steps])
            self.clip_to_bounds(out[i])
        return out

    def _budgets(self) -> StateBudgets | None:
        """What holds the means that are conserved."""
        settings, places = self.encoder.settings, list(self.states.places)
        if not settings.conserved:
            return None
        known = self.normalizer.line(tuple(settings.conserved))
        areas, *line = (torch.from_numpy(a).to(self.device) for a in (self.grid.weights, *known))
        center, spread = (values[places] for values in line)
        return StateBudgets(areas, settings.states, settings.conserved, center, spread)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """As `NeuralEmulator`, with the states."""
        meta, arrays = super().state()
        return {**meta, "states": self.states.plain()}, arrays

    @classmethod
    def more_of(cls, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The states."""
        return {"states": States.from_plain(meta["states"])}
