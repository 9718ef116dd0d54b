"""Training batches: segments of consecutive target months with the forcing months before them.

Invariant: a batch is what its addresses say, wherever the arrays live. Neighbouring windows share all but one frame, so
a segment holds each frame once; arrays are kept once, and a batch is read out of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from emukit.data.archive import Archive
from emukit.data.frames import EncodedScenario, FrameEncoder
from emukit.data.residency import free_memory, place
from emukit.data.sampler import Sample
from emukit.data.segment_addresses import Segment, SegmentAddresses, SegmentSettings
from emukit.data.split import Span
from emukit.data.targets import TargetNormalizer
from emukit.sphere import ALL, Part, part_shape

__all__ = ["Segment", "SegmentSampler", "SegmentSettings"]

# Batches read ahead at most: the one under way and the next.
AHEAD = 2

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
        own = normalizer.window(*(np.arange(n)[of] for n, of in zip(self.grid, self._part, strict=True)))
        fields = [own.forward(scenario.truth(m, span.start, span.stop)[..., *self._part], season) for m in span.members]
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
