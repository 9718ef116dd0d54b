"""Which segments an epoch's batches hold.

Invariant: batches are a function of settings, spans, seed and epoch alone; every training month is in at least one
segment of every epoch, and a segment lies inside one training span of one scenario and member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from emukit.config import Settings
from emukit.data.archive import Archive
from emukit.data.residency import Residency
from emukit.data.split import Span
from emukit.data.window import Window
from emukit.errors import ProtocolError, RecipeError

# No archive has so many; what is larger is a slip of the keys.
MOST_SEGMENTS = 1_000_000


class SegmentSettings(Settings):
    """How training months, or what else the time axis counts, are cut into batches.

    Attributes:
        length: L, consecutive target steps of a segment.
        per_batch: S, segments of a batch; ``auto``: as many as fit into memory, resolved before training.
        members: What a segment's target is: the ensemble mean of the training members (``mean``), one member drawn at
            random (``random``), or every member in turn (``all``, as many times more steps an epoch).
        mix: Segments of a batch come from anywhere (``any``), or are neighbours: a stretch of S x L consecutive months
            of one scenario, cut into its S segments in the order of time (``scenario``). Where a span is shorter than
            a stretch, its batches hold as many segments as fit.
        residency: Where the arrays live: on the device, in host memory, from where batches are streamed, or on the
            device if they take at most half of its free memory (``auto``).
    """

    # A decade of one member: the ensemble mean has less variability than any run.
    length: int = Field(120, ge=1)
    per_batch: int | Literal["auto"] = 1
    members: Literal["mean", "random", "all"] = "random"
    mix: Literal["any", "scenario"] = "any"
    residency: Residency = "auto"

    @field_validator("per_batch")
    @classmethod
    def _at_least_one(cls, number: int | str) -> int | str:
        if isinstance(number, int) and number < 1:
            raise ValueError("input should be greater than or equal to 1, or 'auto'")
        if isinstance(number, int) and number > MOST_SEGMENTS:
            raise ValueError(f"input should be less than or equal to {MOST_SEGMENTS}, or 'auto'")
        return number

    @property
    def batch_size(self) -> int:
        """Segments of a batch.

        Raises:
            RecipeError: It is ``auto`` still.
        """
        if isinstance(self.per_batch, str):
            raise RecipeError(
                "the batch size is not a number yet",
                found=f"training.segments.per_batch = {self.per_batch!r}",
                expected="a number of segments",
                hint="`emukit train` and `emukit plan` choose it; elsewhere set one",
            )
        return self.per_batch


class Segment(NamedTuple):
    """The address of a segment: span number, position of the member in its span, first target month."""

    span: int
    member: int
    start: int


@dataclass(frozen=True)
class SegmentAddresses:
    """Training spans and how they are cut.

    Attributes:
        spans: Each as long as a segment or longer.
        settings: How.
    """

    spans: tuple[Span, ...]
    settings: SegmentSettings

    @classmethod
    def of(cls, archive: Archive, spans: Sequence[Span], window: Window, settings: SegmentSettings) -> SegmentAddresses:
        """Keep what can be trained on.

        Raises:
            ProtocolError: No training span is as long as a segment, or the window is longer than a scenario.
        """
        first = window.first_target
        kept = tuple(
            Span(s.scenario, max(s.start, first), s.stop, s.members)
            for s in spans
            if s.stop - max(s.start, first) >= settings.length
        )
        if not kept:
            longest = max((s.stop - max(s.start, first) for s in spans), default=0)
            raise ProtocolError(
                "no training span is as long as a segment",
                found=", ".join(s.text(archive) for s in spans),
                expected=f"{settings.length} {archive.time.unit}s or more after {archive.time.unit} {first}",
                hint=f"--set training.segments.length={longest}" if longest > 0 else "use a longer record",
            )
        for span in kept:
            scenario = archive[span.scenario]
            window.frames(span.start, settings.length, len(scenario), scenario.time)  # refuses a window too long
        return cls(kept, settings)

    def steps(self) -> int:
        """Batches of an epoch; the same for every epoch."""
        if self.settings.mix == "scenario":
            return sum(self._pieces(i, self._stretch(i)) for i in range(len(self.spans)))
        return -(-sum(self._pieces(i, 1) for i in range(len(self.spans))) // self.settings.batch_size)

    def epoch(self, epoch: int, seed: int) -> list[list[Segment]]:
        """Addresses of an epoch's batches; where segments begin is drawn again every epoch."""
        rng = np.random.default_rng([seed, epoch])
        if self.settings.mix == "scenario":
            stretches = [piece for i in range(len(self.spans)) for piece in self._draw(rng, i, self._stretch(i))]
            return [stretches[j] for j in rng.permutation(len(stretches))]
        segments = [segment for i in range(len(self.spans)) for (segment,) in self._draw(rng, i, 1)]
        order = [segments[j] for j in rng.permutation(len(segments))]
        size = self.settings.batch_size
        return [order[j : j + size] for j in range(0, len(order), size)]

    def _draw(self, rng: np.random.Generator, i: int, count: int) -> list[list[Segment]]:
        """Cut one span, from a random month on, into pieces of `count` neighbouring segments each."""
        span, length = self.spans[i], self.settings.length
        months, copies = count * length, self._copies(i)
        phase = int(rng.integers(months))
        pieces = []
        for k in range(self._pieces(i, count)):
            first = span.start + min(max(phase + (k // copies - 1) * months, 0), len(span) - months)
            members = [
                int(rng.integers(len(span.members))) if self.settings.members == "random" else k % copies
                for _ in range(count)
            ]
            pieces.append([Segment(i, member, first + n * length) for n, member in enumerate(members)])
        return pieces

    def _stretch(self, i: int) -> int:
        """Segments of a batch of neighbours."""
        return min(self.settings.batch_size, len(self.spans[i]) // self.settings.length)

    def _copies(self, i: int) -> int:
        return len(self.spans[i].members) if self.settings.members == "all" else 1

    def _pieces(self, i: int, count: int) -> int:
        # One more piece than fits: with a random phase the first and last are clipped to the span, and cover its ends.
        return (-(-len(self.spans[i]) // (count * self.settings.length)) + 1) * self._copies(i)


@dataclass(frozen=True)
class StretchAddresses(SegmentAddresses):
    """Every stretch of a trajectory that has the states before it in its own training span.

    Attributes:
        history: H, steps before a stretch of which the states are read: never those of a span that is scored.
    """

    history: int = 1

    @classmethod
    def of(cls, archive: Archive, spans: Sequence[Span], window: Window, settings: SegmentSettings) -> StretchAddresses:
        """Keep what can be trained on.

        Raises:
            ProtocolError: No training span holds a stretch and the states before it.
        """
        needed, first = settings.length + window.history, window.first_target
        kept = tuple(replace(s, start=max(s.start, first - window.history)) for s in spans if len(s) >= needed)
        kept = tuple(s for s in kept if len(s) >= needed)
        if not kept:
            longest = max(map(len, spans), default=0)
            raise ProtocolError(
                "no training span holds a stretch and the states before it",
                found=", ".join(s.text(archive) for s in spans),
                expected=f"{settings.length} {archive.time.unit}s, and {window.history} before them",
                hint=f"a shorter --set training.segments.length than {longest}",
            )
        return cls(kept, settings, window.history)

    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._stretches()) // self.settings.batch_size)

    def epoch(self, epoch: int, seed: int) -> list[list[Segment]]:
        """Every stretch once, in an order that is drawn again every epoch."""
        stretches, size = self._stretches(), self.settings.batch_size
        order = np.random.default_rng([seed, epoch]).permutation(len(stretches))
        return [[stretches[j] for j in order[i : i + size]] for i in range(0, len(order), size)]

    def _stretches(self) -> list[Segment]:
        length = self.settings.length
        return [
            Segment(i, member, start)
            for i, span in enumerate(self.spans)
            for member in range(len(span.members))
            for start in range(span.start + self.history, span.stop - length + 1)
        ]
