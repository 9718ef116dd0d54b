"""Training batches: segments of consecutive target months with the forcing months before them.

Invariant: a segment lies inside one training span of one scenario and member. Neighbouring windows share all but one
frame, so a segment holds each frame once; the arrays stay resident on the device and a batch is an index into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from emukit.config import Settings
from emukit.data.archive import Archive
from emukit.data.frames import EncodedScenario, FrameEncoder
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer
from emukit.errors import ProtocolError


class SegmentSettings(Settings):
    """How training months are cut into batches.

    Attributes:
        length: L, consecutive target months of a segment.
        per_batch: S, segments of a batch.
        members: What a segment's target is: the ensemble mean of the training members (``mean``), one member drawn at
            random (``random``), or every member in turn (``all``, as many times more steps an epoch).
    """

    length: int = Field(24, ge=1)
    per_batch: int = Field(4, ge=1)
    members: Literal["mean", "random", "all"] = "mean"


class Segment(NamedTuple):
    """The address of a segment: span number, position of the member in its span, first target month."""

    span: int
    member: int
    start: int


@dataclass(frozen=True, eq=False)
class Batch:
    """What one training step reads.

    Attributes:
        frames: (S, L+H-1, C, Y, X).
        targets: (S, L, V, Y, X), normalised.
    """

    frames: Tensor
    targets: Tensor


class SegmentSource:
    """Cuts the training spans of an archive into batches."""

    def __init__(
        self,
        archive: Archive,
        spans: Sequence[Span],
        encoder: FrameEncoder,
        normalizer: TargetNormalizer,
        settings: SegmentSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        """Normalise the training months and put them on the device.

        Raises:
            ProtocolError: No training span is as long as a segment.
        """
        self.settings = settings
        self.window = encoder.settings.window
        self._encoder = encoder
        self._archive = archive
        first = self.window.first_target
        self.spans = tuple(
            Span(s.scenario, max(s.start, first), s.stop, s.members)
            for s in spans
            if s.stop - max(s.start, first) >= settings.length
        )
        if not self.spans:
            raise ProtocolError(
                "no training span is as long as a segment",
                found=", ".join(s.text(archive) for s in spans),
                expected=f"{settings.length} months or more after month {first}",
                hint="choose a shorter --set training.segments.length",
            )
        for span in self.spans:
            self.window.frames(span.start, settings.length, len(archive[span.scenario]))  # refuses a window too long
        self._encoded: dict[str, EncodedScenario] = {
            name: encoder.encode(archive[name], device) for name in dict.fromkeys(s.scenario for s in self.spans)
        }
        self._targets = [self._span_targets(s, normalizer).to(device) for s in self.spans]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the same for every epoch."""
        return -(-sum(self._segments_of(i) for i in range(len(self.spans))) // self.settings.per_batch)

    def epoch(self, epoch: int, seed: int) -> list[list[Segment]]:
        """Addresses of an epoch's batches, a function of seed and epoch alone.

        Every training month is in at least one segment of every epoch; where segments begin is drawn anew.
        """
        rng = np.random.default_rng([seed, epoch])
        length = self.settings.length
        segments = []
        for i, span in enumerate(self.spans):
            phase = int(rng.integers(length))
            for k in range(self._segments_of(i)):
                block = k // self._copies(i)
                start = span.start + min(max(phase + (block - 1) * length, 0), len(span) - length)
                member = (
                    int(rng.integers(len(self._targets[i])))
                    if self.settings.members == "random"
                    else k % self._copies(i)
                )
                segments.append(Segment(i, member, start))
        order = [segments[j] for j in rng.permutation(len(segments))]
        size = self.settings.per_batch
        return [order[j : j + size] for j in range(0, len(order), size)]

    def batch(self, segments: Sequence[Segment], months: slice | None = None) -> Batch:
        """Read the frames and targets of some segments.

        Args:
            segments: Their addresses.
            months: The target months of each segment whose frames are wanted, all when None; targets come in full.
        """
        length = self.settings.length
        first, last, _ = (months or slice(None)).indices(length)
        frames_of_each = last - first + self.window.history - 1
        shape = (len(segments), frames_of_each, len(self._encoder.channels), *self._encoder.grid.shape)
        frames, targets = self._targets[0].new_empty(shape), []
        for i, segment in enumerate(segments):
            span = self.spans[segment.span]
            encoded = self._encoded[span.scenario]
            months_seen = self.window.frames(segment.start + first, last - first, len(encoded))
            index = torch.from_numpy(months_seen).to(encoded.month.device)
            self._encoder.gather(encoded, index, out=frames[i])
            offset = segment.start - span.start
            targets.append(self._targets[segment.span][segment.member, offset : offset + length])
        return Batch(frames, torch.stack(targets))

    def address(self, segments: Sequence[Segment]) -> str:
        """For people: which months a batch holds."""
        words = []
        for s in segments:
            span = self.spans[s.span]
            members = span.members if self.settings.members == "mean" else (span.members[s.member],)
            words.append(Span(span.scenario, s.start, s.start + self.settings.length, members).text(self._archive))
        return "; ".join(words)

    def _copies(self, span: int) -> int:
        return len(self.spans[span].members) if self.settings.members == "all" else 1

    def _segments_of(self, span: int) -> int:
        # One more block than fits: with a random phase the first and last are clipped to the span, and cover its ends.
        return (-(-len(self.spans[span]) // self.settings.length) + 1) * self._copies(span)

    def _span_targets(self, span: Span, normalizer: TargetNormalizer) -> Tensor:
        scenario = self._archive[span.scenario]
        month = scenario.calendar_month[span.start : span.stop]
        fields = [normalizer.forward(scenario.truth(m, span.start, span.stop), month) for m in span.members]
        if self.settings.members == "mean":
            return torch.from_numpy(np.mean(fields, axis=0, dtype=np.float32, keepdims=True))
        return torch.from_numpy(np.stack(fields))
