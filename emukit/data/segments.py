"""Training batches: segments of consecutive target months with the forcing months before them.

Invariant: batches are a function of settings, spans, seed and epoch alone; every training month is in at least one
segment of every epoch, and a segment lies inside one training span of one scenario and member. A batch is what its
addresses say, wherever the arrays live. Neighbouring windows share all but one frame, so a segment holds each frame
once; arrays are kept once, and a batch is read out of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from emukit.config import Settings
from emukit.data.archive import Archive
from emukit.data.frames import EncodedScenario, FrameEncoder, Window
from emukit.data.residency import Residency, free_memory, place
from emukit.data.sampler import Sample
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer
from emukit.errors import ProtocolError, RecipeError
from emukit.sphere import ALL, Part, part_shape

# Batches read ahead at most: the one under way and the next.
AHEAD = 2

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


_Key = tuple[tuple[Segment, ...], int, int]


class SegmentSampler:
    """The sampler of segments: cuts the training spans of an archive into batches.

    Attributes:
        settings: How.
        window: Which steps a target step sees.
        spans: What is trained on.
        frame: (C, Y, X), of the cells that are kept.
        grid: (Y, X) of the whole grid.
        variables: V.
        resident_bytes: Size of the arrays that batches are read from.
        residency: Where they live: ``device`` or ``host``.
        addresses: How spans are cut.
    """

    addresses: ClassVar[type[SegmentAddresses]] = SegmentAddresses

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
        """Normalise the training months and put them where they are to live.

        Args:
            archive: The data.
            spans: What is trained on.
            encoder: Makes frames.
            normalizer: Normalises targets.
            settings: How spans are cut.
            device: Where batches are wanted.
            part: Cells of the grid that this process reads and keeps, where a globe is divided.

        Raises:
            ProtocolError: No training span is as long as a segment.
            EmukitError: The arrays are wanted on the device and do not fit.
        """
        self.settings = settings
        self.window = encoder.settings.window
        self._encoder = encoder
        self._archive = archive
        self._addresses = self.addresses.of(archive, spans, self.window, settings)
        self.spans = self._addresses.spans
        self._part, self.grid = part, encoder.grid.shape
        kept = part_shape(part, self.grid)
        self.frame = (len(encoder.channels), *kept)
        self.variables = len(archive.variables)
        self._device = torch.device(device)
        scenarios = tuple(dict.fromkeys(s.scenario for s in self.spans))
        self.resident_bytes = (
            resident_bytes(archive, self._addresses, encoder) * math.prod(kept) // math.prod(self.grid)
        )
        free = free_memory(self._device)
        self.residency = place(settings.residency, self.resident_bytes, free, self._device.type)
        self._streamed = self.residency == "host" and self._device.type != "cpu"
        home = torch.device("cpu") if self._streamed else self._device
        self._encoded: dict[str, EncodedScenario] = {n: encoder.encode(archive[n], home, part) for n in scenarios}
        self._targets = [self._span_targets(s, normalizer).to(home) for s in self.spans]
        self._reader = ThreadPoolExecutor(1, "batches") if self._streamed else None
        self._ahead: OrderedDict[_Key, Future[tuple[Sample, torch.cuda.Event | None]]] = OrderedDict()

    @property
    def length(self) -> int:
        """L, target months of a segment."""
        return self.settings.length

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the same for every epoch."""
        return self._addresses.steps()

    def epoch(self, epoch: int, seed: int) -> list[list[Segment]]:
        """Addresses of an epoch's batches, a function of seed and epoch alone.

        Every training month is in at least one segment of every epoch; where segments begin is drawn again.
        """
        return self._addresses.epoch(epoch, seed)

    def prefetch(self, segments: Sequence[Segment], months: slice | None = None) -> None:
        """Begin to read a batch that will be asked for next, with the same arguments, where batches are streamed."""
        key = self._key(segments, months)
        if self._reader is None or key in self._ahead:
            return
        while len(self._ahead) >= AHEAD:
            self._ahead.popitem(last=False)
        self._ahead[key] = self._reader.submit(self._stream, key)

    def batch(self, segments: Sequence[Segment], months: slice | None = None) -> Sample:
        """Read the frames and targets of some segments.

        Args:
            segments: Their addresses.
            months: The target months of each segment whose frames are wanted, all when None; targets come in full.
        """
        key = self._key(segments, months)
        if self._reader is None:
            return self._read(key)
        self.prefetch(segments, months)
        batch, there = self._ahead.pop(key).result()
        if there is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(there)
            for tensor in batch.tensors():
                tensor.record_stream(now)
        return batch

    def address(self, segments: Sequence[Segment]) -> str:
        """For people: which months a batch holds."""
        words = []
        for s in segments:
            span = self.spans[s.span]
            members = span.members if self.settings.members == "mean" else (span.members[s.member],)
            words.append(Span(span.scenario, s.start, s.start + self.settings.length, members).text(self._archive))
        return "; ".join(words)

    def _key(self, segments: Sequence[Segment], months: slice | None) -> _Key:
        first, last, _ = (months or slice(None)).indices(self.settings.length)
        return tuple(segments), first, last

    def _read(self, key: _Key) -> Sample:
        segments, first, last = key
        length = self.settings.length
        home = self._targets[0]
        months, fields = last - first + self.window.history - 1, self._targets[0].shape[2:]
        pinned = self._streamed and self._device.type == "cuda"
        frames = torch.empty((len(segments), months, *self.frame), device=home.device, pin_memory=pinned)
        targets = torch.empty((len(segments), length, *fields), device=home.device, pin_memory=pinned)
        for i, segment in enumerate(segments):
            span = self.spans[segment.span]
            encoded = self._encoded[span.scenario]
            time = self._archive[span.scenario].time
            positions = self.window.frames(segment.start + first, last - first, len(encoded), time)
            # From here on steps follow each other; before, a scenario's missing past is made up of its first steps.
            joints = np.flatnonzero(np.diff(positions) != 1)
            run = int(joints[-1]) + 1 if len(joints) else 0
            if run:
                index = torch.from_numpy(positions[:run]).to(home.device)
                self._encoder.gather(encoded, index, out=frames[i, :run])
            self._encoder.gather_run(encoded, int(positions[run]), out=frames[i, run:])
            offset = segment.start - span.start
            targets[i] = self._targets[segment.span][segment.member, offset : offset + length]
        return Sample(frames, targets)

    def _stream(self, key: _Key) -> tuple[Sample, torch.cuda.Event | None]:
        """Read a batch from host memory and send it to the device, next to what the device computes."""
        batch = self._read(key)
        if self._device.type != "cuda":
            return batch.to(self._device), None
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            return batch.to(self._device, non_blocking=True), side.record_event()

    def _span_targets(self, span: Span, normalizer: TargetNormalizer) -> Tensor:
        scenario = self._archive[span.scenario]
        season = scenario.time.season[span.start : span.stop]
        own, cut = normalizer.own(self._part, self.grid), partial(scenario.share.cut, part=self._part)
        fields = [own.forward(cut(scenario.truth(m, span.start, span.stop)), season) for m in span.members]
        if self.settings.members == "mean":
            return torch.from_numpy(np.mean(fields, axis=0, dtype=np.float32, keepdims=True))
        return torch.from_numpy(np.stack(fields))


def resident_bytes(archive: Archive, addresses: SegmentAddresses, encoder: FrameEncoder) -> int:
    """Size of the arrays that batches are read from, known before they are made."""
    cells = archive.grid.shape[0] * archive.grid.shape[1]
    scenarios = {s.scenario for s in addresses.spans}
    forcings = sum(encoder.resident_bytes(len(archive[name])) for name in scenarios)
    kept = sum(len(s) * (1 if addresses.settings.members == "mean" else len(s.members)) for s in addresses.spans)
    return forcings + 4 * kept * len(archive.variables) * cells
