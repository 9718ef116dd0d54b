"""States as inputs: which outputs a network reads of the step before, and what a step changes of them.

Invariant: a state is a normalised output. What a network says of it is the change over one step, in units of the
standard deviation of such changes in training; of an output that is not a state, it is the normalised field itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emukit.data.archive import Archive, Domain
from emukit.data.frames import FrameEncoder, InputSettings
from emukit.data.sampler import Sample
from emukit.data.segments import Segment, SegmentAddresses, SegmentSampler, SegmentSettings, StretchAddresses
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer
from emukit.errors import ProtocolError, RecipeError
from emukit.sphere import ALL, Part

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class States:
    """Which outputs are states.

    Attributes:
        places: (n,) their places on the V axis, in the order of the channels.
        scale: (V,) standard deviation of the change over a step of a state; zero for an output that is not a state.
    """

    places: tuple[int, ...]
    scale: Array

    @classmethod
    def fit(cls, archive: Archive, spans: Sequence[Span], normalizer: TargetNormalizer, names: Sequence[str]) -> Self:
        """Standard deviations of normalised changes over the training spans, area-weighted over all cells.

        Raises:
            RecipeError: A name is not that of an output, or an output is normalised by season, so that it would jump
                from one season to the next.
            ProtocolError: A state never changes in training.
        """
        places = tuple(_place(name, archive, normalizer) for name in names)
        total, count = np.zeros(len(archive.variables)), 0
        for span in spans:
            season = archive[span.scenario].time.season[span.start : span.stop]
            for member in span.members:
                fields = normalizer.forward(archive[span.scenario].truth(member, span.start, span.stop), season)
                total += archive.grid.mean(np.diff(fields, axis=0) ** 2).sum(0)
                count += len(fields) - 1
        scale = np.zeros(len(archive.variables))
        chosen = list(places)
        scale[chosen] = np.sqrt(total[chosen] / max(count, 1))
        if not (scale[chosen] > 0).all():
            still = [archive.variables[p] for p in chosen if not scale[p] > 0]
            raise ProtocolError(
                f"{', '.join(still)} never changes in training",
                found=f"{count} steps of change",
                hint="leave it out of inputs.states, or train on a longer record",
            )
        return cls(places, scale)

    def channels(self, fields: Tensor) -> Tensor:
        """(..., V, Y, X) normalised fields to the (..., n, Y, X) channels of a frame."""
        return fields[..., list(self.places), :, :]

    def after(self, before: Tensor, said: Tensor) -> Tensor:
        """The fields after a step.

        Args:
            before: (S, V, Y, X) normalised fields of the step before.
            said: (S, V, Y, X) what the network says.
        """
        scale = torch.as_tensor(self.scale, dtype=said.dtype, device=said.device)[:, None, None]
        return torch.where(scale > 0, before + scale * said, said)

    def targets(self, fields: Tensor, before: Tensor) -> Tensor:
        """What the network should say of (S, L, V, Y, X) fields, whose steps before are those of `before`."""
        scale = torch.as_tensor(self.scale, dtype=fields.dtype, device=fields.device)[:, None, None]
        return torch.where(scale > 0, (fields - before) / torch.where(scale > 0, scale, torch.ones_like(scale)), fields)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"places": list(self.places), "scale": self.scale.tolist()}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `plain`."""
        return cls(tuple(int(p) for p in values["places"]), np.asarray(values["scale"], np.float64))


def _place(name: str, archive: Archive, normalizer: TargetNormalizer) -> int:
    if name not in archive.variables:
        raise RecipeError(
            f"inputs.states names {name}, which is not an output",
            found=name,
            expected=f"some of {', '.join(archive.variables)}",
        )
    settings = normalizer.settings[name]
    if "cell-month" in (settings.climatology, settings.scale):
        raise RecipeError(
            f"the state {name} would jump from one season to the next",
            found=f"targets.{name}.climatology {settings.climatology}, scale {settings.scale}",
            expected="cell or global",
            hint=f"--set targets.{name}.climatology=cell --set targets.{name}.scale=cell",
        )
    return archive.variables.index(name)


def normalised_bounds(domain: Domain, normalizer: TargetNormalizer, states: States) -> tuple[Tensor, Tensor]:
    """(V, Y, X) float32 bounds below and above of normalised states; infinite of all else, and where there are none.

    They are those of the first season: states are normalised alike in all, and other outputs need not be.
    """
    limits = []
    for side in ("lower", "upper"):
        known = [getattr(variable.bounds, side) for variable in domain.described]
        fields = np.stack([np.full(domain.grid.shape, 0.0 if k is None else k) for k in known])
        found = torch.from_numpy(normalizer.forward(fields[None], np.zeros(1, np.int64))[0])
        for place, value in enumerate(known):
            if value is None or place not in states.places:
                found[place] = -torch.inf if side == "lower" else torch.inf
        limits.append(found)
    return limits[0], limits[1]


class RolloutSampler(SegmentSampler):
    """The sampler of stretches of a trajectory.

    A sample holds, next to frames and targets, in `Sample.named`: ``states`` (S, n), the places of the states on the V
    axis, and ``scale`` (S, V), as in `States`; of bounded states ``lower`` and ``upper`` (S, V, Y, X), as in
    `normalised_bounds`; and where means are conserved what `emukit.physics.budget.StateBudgets` reads: ``held``
    (S, n), 1 of a state to which is added and 2 of one that is multiplied, ``areas`` (S, Y, X), and ``center`` and
    ``spread`` (S, n, Y, X). The last n channels of a frame are the true states of the step before;
    targets are what the network should say. Every stretch of a training span is in every epoch.
    """

    addresses = StretchAddresses

    def __init__(
        self,
        archive: Archive,
        spans: Sequence[Span],
        encoder: FrameEncoder,
        normalizer: TargetNormalizer,
        settings: SegmentSettings,
        device: torch.device | str = "cpu",
        part: Part = ALL,
    ) -> None:
        """As `SegmentSampler`, with the states that the encoder names.

        Raises:
            ProtocolError: No training span holds a stretch and the states before it, or a state never changes.
            RecipeError: A name is not that of an output.
            EmukitError: The arrays are wanted on the device and do not fit.
        """
        super().__init__(archive, spans, encoder, normalizer, settings, device, part)
        self.states = States.fit(archive, spans, normalizer, encoder.settings.states)
        bounded = encoder.settings.bounded
        self._bounds = normalised_bounds(archive.domain, normalizer, self.states) if bounded else None
        self._conserved = _conserved(archive, encoder.settings, normalizer, self.states)

    def _read(self, key: tuple[tuple[Segment, ...], int, int]) -> Sample:
        segments, first, last = key
        sample = super()._read(key)
        length, history = self.settings.length, self.window.history
        before = torch.empty(
            (len(segments), length + history - 1, *sample.targets.shape[2:]), device=sample.targets.device
        )
        for i, segment in enumerate(segments):
            offset = segment.start - self.spans[segment.span].start - history
            before[i] = self._targets[segment.span][segment.member, offset : offset + length + history - 1]
        channels = self.states.channels(before)
        sample.frames[:, :, -channels.shape[2] :] = channels[:, first : last + history - 1]
        targets = self.states.targets(sample.targets, before[:, history - 1 :])
        home, number = sample.targets.device, len(segments)
        places = torch.tensor(self.states.places, device=home).expand(number, -1)
        scale = torch.tensor(self.states.scale, dtype=targets.dtype, device=home).expand(number, -1)
        named = {**sample.named, "states": places, "scale": scale}
        if self._bounds is not None:
            for name, bound in zip(("lower", "upper"), self._bounds, strict=True):
                named[name] = bound.to(home).expand(number, -1, -1, -1)
        for name, fixed in self._conserved.items():
            named[name] = fixed.to(home).expand(number, *[-1] * fixed.ndim)
        return Sample(sample.frames, targets, named)


def _conserved(
    archive: Archive, settings: InputSettings, normalizer: TargetNormalizer, states: States
) -> dict[str, Tensor]:
    """What a sample holds of means that are conserved."""
    if not settings.conserved:
        return {}
    known = normalizer.line(tuple(settings.conserved))
    center, spread = (torch.from_numpy(values)[list(states.places)] for values in known)
    number = {None: 0, "add": 1, "multiply": 2}
    return {
        "held": torch.tensor([number[settings.conserved.get(name)] for name in settings.states]),
        "areas": torch.from_numpy(archive.grid.weights),
        "center": center,
        "spread": spread,
    }


def sampler_kind(inputs: InputSettings) -> type[SegmentSampler]:
    """The sampler of a network with such inputs."""
    return RolloutSampler if inputs.states else SegmentSampler


def cut(archive: Archive, spans: Sequence[Span], inputs: InputSettings, settings: SegmentSettings) -> SegmentAddresses:
    """The addresses of its samples, before any array is made.

    Raises:
        ProtocolError: No training span is long enough.
    """
    return sampler_kind(inputs).addresses.of(archive, spans, inputs.window, settings)
