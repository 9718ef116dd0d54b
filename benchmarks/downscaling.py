"""Blocks for downscaling: how fast they are read, what training on them takes, and a large map stitched of them.

Invariant: both loaders give the blocks of the same addresses; their sums are the answer that must agree. What the plain
one does is what is published: pass and roll of the whole field for every block, then a crop.
"""

from __future__ import annotations

from typing import Any

from benchmarks import Figure, Work, compare, measure

BATCHES, TIMES, PER_TIME = 20, 8, 2
STITCHED_GB = 4.0


def bench_downscaling(runs: int) -> list[Figure]:
    """Blocks against rolling and cropping whole fields; peaks of a training step; 721 x 1440 cells stitched."""
    blocks = BATCHES * TIMES * PER_TIME
    loader = compare(
        f"{blocks} training blocks of 24 x 36 cells of 96 x 144",
        f"{__name__}:{prepare_sampler.__name__}",
        f"{__name__}:{prepare_roll_and_crop.__name__}",
        [],
        runs=runs,
        # The sampler keeps coarse fields in single precision.
        tolerance=1e-5,
    )
    step = f"{__name__}:{prepare_step.__name__}"
    block, whole = (measure(step, size) for size in (["72", "180"], ["360", "720"]))
    training = Figure(
        "a training step on 72 x 180 cells of 360 x 720, against all",
        block.seconds,
        "s",
        whole.seconds,
        whole.peak_mb / block.peak_mb,
        block.peak_mb,
        "",
        True,
    )
    stitched = measure(f"{__name__}:{prepare_stitched.__name__}", [])
    bound = f"under {STITCHED_GB:g} GB"
    large = Figure(
        "one step of 721 x 1440 cells, two variables, stitched",
        stitched.seconds,
        "s",
        float("nan"),
        float("nan"),
        stitched.peak_mb,
        bound,
        stitched.peak_mb < 1e3 * STITCHED_GB,
    )
    return [loader, training, large]


def prepare_sampler() -> Work:
    """The sampler of blocks."""
    sampler, addresses = _sampler()

    def work() -> float:
        total = 0.0
        for batch in addresses:
            sample = sampler.batch(batch)
            total += float(sample.targets.double().sum()) + float(sample.frames.double().sum())
        return total

    return work


def prepare_roll_and_crop() -> Work:
    """For every block: the pass of the whole field, rolled so that the block begins at its edge, and cropped."""
    import numpy as np

    sampler, addresses = _sampler()
    archive, frames = sampler._archive, sampler._frames[0]

    def work() -> float:
        total = 0.0
        Y, X = archive.grid.shape
        for batch in addresses:
            for block in batch:
                span = sampler.spans[block.span]
                scenario, step = archive[span.scenario], span.start + block.step
                fine = scenario.truth(span.members[block.member], step, step + 1)
                time = scenario.time[step : step + 1]
                coarse = frames.coarsening.down(fine)
                shown, base = frames.block(coarse, time, np.arange(Y), np.arange(X))
                target = frames.residual(fine, base, time, np.arange(Y), np.arange(X))
                height, width = sampler.settings.size
                for field in (target, shown):
                    rolled = np.roll(field, -block.column, -1)
                    cut = rolled[..., block.row : block.row + height, :width].astype(np.float32)
                    total += float(cut.astype(np.float64).sum())
        return total

    return work


def _sampler() -> tuple[Any, Any]:
    """The sampler of a made-up climate of 96 x 144 cells, and the addresses of its first batches."""
    from benchmarks.networks import Job, made_up_archive
    from emukit.data.block_sampler import BlockSampler, BlockSettings
    from emukit.data.coarsen import Coarsening, CoarseSettings
    from emukit.data.split import Span
    from emukit.data.targets import TargetSettings
    from emukit.emulators.downscaler import known_targets
    from emukit.emulators.downscaling_residuals import ConditionSettings, fit_frames

    archive = made_up_archive(Job("none", grid=(96, 144), years=20))
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(24, 36)))
    spans = (Span("ssp126", 0, 240, (0,)),)
    targets = known_targets(archive.domain, lambda v: TargetSettings())
    frames = fit_frames(archive, spans, coarsening, targets, ConditionSettings(base="pass"))
    sampler = BlockSampler(archive, spans, coarsening, frames, BlockSettings(times=TIMES, per_time=PER_TIME))
    return sampler, sampler.epoch(0, 0)[:BATCHES]


def prepare_step(rows: str, columns: str) -> Work:
    """Forward and backward of the default network on a map of this size."""
    import torch

    from emukit.models.block_unet import BlockUNet

    torch.manual_seed(0)
    network = BlockUNet(in_channels=10, variables=2, uniform=2)
    frames = torch.randn(1, 1, 10, int(rows), int(columns))

    def work() -> float:
        (network(frames) - 1).square().mean().backward()
        return 0.0

    return work


def prepare_stitched() -> Work:
    """A downscaler of 721 x 1440 cells from 181 x 360, its network untrained, in blocks of 144 x 360."""
    import numpy as np
    import torch

    from emukit.data.archive import Domain
    from emukit.data.block_sampler import BlockSettings
    from emukit.data.card import load_card
    from emukit.data.coarsen import Coarsening, CoarseSettings
    from emukit.data.grid import Grid
    from emukit.data.targets import Pointwise, TargetNormalizer, TargetSettings
    from emukit.data.time import TimeAxis
    from emukit.emulators.downscaling_residuals import ResidualFrames
    from emukit.emulators.neural_downscaler import NeuralDownscaler
    from emukit.models.block_unet import BlockUNet

    lat, lon = np.arange(721) * 0.25 - 90.0, np.arange(1440) * 0.25
    grid = Grid(np.asarray(lat, np.float64), np.asarray(lon, np.float64))
    time = TimeAxis("month", 540, 1)
    domain = Domain(load_card("demo"), grid, ("tas", "pr"), time)
    coarsening = Coarsening(grid, CoarseSettings(grid=(181, 360)))
    shape = (12, 2, 721, 1440)
    settings = {v: TargetSettings(transform="none") for v in domain.variables}
    points = [Pointwise("none", 1.0)] * 2
    normalizer = TargetNormalizer(settings, points, np.zeros(shape), np.ones(shape))
    statics = np.zeros((4, 721, 1440), np.float32)
    frames = ResidualFrames(coarsening, normalizer, normalizer, None, statics, ("a", "b", "c", "d"), time)
    torch.manual_seed(0)
    network = BlockUNet(in_channels=len(frames.channels), variables=2, uniform=frames.uniform)
    chosen = NeuralDownscaler(domain, coarsening, frames, network, {}, BlockSettings(size=(144, 360)), 24)
    coarse = np.random.default_rng(0).random((1, 2, 181, 360))

    def work() -> float:
        return float(chosen.fields(coarse, time).mean())

    return work
