"""What a training will cost, before it begins: memory, operations, time, and which bottleneck it meets first.

Invariant: a plan is made with what training itself would allocate, or less: a model that does not fit is counted, never
built. Of a fit to daily fields (typical-year, delta-change and other closed forms), time is that of one year of one
variable, read, sorted, predicted and packed here, times how often that is done; memory and disk follow from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numcodecs import Blosc
from torch import nn

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.residency import host_free, place
from emukit.data.segments import SegmentSampler, resident_bytes
from emukit.data.split import Split
from emukit.data.states import cut, sampler_kind
from emukit.data.targets import TargetNormalizer
from emukit.emulators.registry import EMULATORS
from emukit.emulators.typical_year import DAYS, TrainingYear, order_days, regress_sorted, training_years
from emukit.errors import ProtocolError, RecipeError, TrainingError
from emukit.metrics.extremes import VARIABLES, Thresholds, indices_of_year, quantile_of_days
from emukit.models.precision import matmul_precision
from emukit.models.registry import NETWORKS
from emukit.parallel.comm import Comm
from emukit.parallel.domain import check_divisible
from emukit.planning.memory import (
    SAFE,
    TRIED,
    DividedCost,
    MemoryPlan,
    batch_bytes,
    build_for,
    count_divided,
    count_state,
    free_share,
    largest_batch,
    largest_share,
    memory_plan,
    on_device,
    resolve_batch,
)
from emukit.progress import Reporter
from emukit.recipes.fitting import fit_recipe
from emukit.recipes.schema import GeneratorRecipe, NetworkRecipe, Recipe, WrapperRecipe
from emukit.terminal import duration, size
from emukit.training.engine import Engine, Execution
from emukit.training.footprint import forward_rate
from emukit.training.settings import composite_loss

# Longer than a night is the bottleneck of time.
PATIENCE_SECONDS = 12 * 3600.0
# A part of a step that takes this long is not followed by a larger one, and a quick one is timed so often.
SLOW_SECONDS, REPEATS = 4.0, 3
# On a CPU, which other programs use: part of the free memory that planning may take, and seconds of computing, of
# which a pass that tells how fast the machine is may take so many.
PLANNING_SHARE, PLANNING_SECONDS, RATE_SECONDS = 1 / 3, 30.0, 2.0
# Of typical-year: float32 level and slope, and uint16 ranks, for every sorted day of every cell and variable.
LEARNED_BYTES = 10
# Copies of a year of one variable that are alive together while it is read, sorted and ranked; and the libraries.
# Measured on 192 x 288 cells and 7 variables, whose learned arrays are 1.4 GB: 2.3 GB in all for the fit, and 4.1 GB
# until it is validated.
COPIES, LIBRARIES = 8, 400 << 20
# Of the coefficients of `linear`: twice in float64 while they are fitted, which is four times what is kept.
LINEAR_COPIES = 4
# Of percentiles.
BASE_YEARS = 30
# Of fields in memory: what they take until the run is validated, its references included. Measured on the lite files.
UNTIL_VALIDATED = 1.7


@dataclass(frozen=True)
class Bottleneck:
    """A limit.

    Attributes:
        name: ``time``, ``activations`` or ``model``.
        reached: Part of it that the training takes: 1 is at the bottleneck; None where it is not known.
        what: In words.
        advice: What to switch on to stay away from it.
    """

    name: str
    reached: float | None
    what: str
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The cost of a training on this machine.

    Attributes:
        recipe: What is to be trained.
        memory: Of one process.
        steps: Optimiser steps of an epoch.
        flops: Of one step, forward and backward; None where the model could not be measured.
        step_seconds: Of one step; None likewise.
        timed: Whether real steps were timed; otherwise extrapolated from a small one.
        divided: What a step takes where one field is divided over several processes: those that were asked for, or the
            fewest that fit where one does not.
    """

    recipe: NetworkRecipe
    memory: MemoryPlan
    steps: int
    flops: float | None
    step_seconds: float | None
    timed: bool
    divided: DividedCost | None = None

    @property
    def seconds(self) -> float | None:
        """Of all epochs, validation not included."""
        each = self.step_seconds
        return None if each is None else each * self.steps * self.recipe.training.epochs

    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """The three, the nearest first; one whose distance is unknown comes last."""
        m, safe = self.memory, SAFE * self.memory.available
        room = safe - (m.on_device - m.batch - (m.activations or 0))
        known = m.activations is not None
        needed = m.batch + (m.activations or 0)
        bottlenecks = (
            Bottleneck(
                "time",
                None if self.seconds is None else self.seconds / PATIENCE_SECONDS,
                f"{'?' if self.seconds is None else duration(self.seconds)} of {duration(PATIENCE_SECONDS)}, a night",
                tuple(self._faster()),
            ),
            Bottleneck(
                "activations",
                (needed / room if room > 0 else float("inf")) if known else None,
                f"{size(needed) if known else '?'} of {size(max(0.0, room))}, what model and data leave of {SAFE:.0%}",
                tuple(self._fewer_activations()),
            ),
            Bottleneck(
                "model",
                m.own_state / safe if safe > 0 else float("inf"),
                f"{size(m.own_state)} of {size(safe)}, {SAFE:.0%} of memory",
                tuple(self._smaller_state()),
            ),
        )
        return tuple(sorted(bottlenecks, key=lambda w: -1.0 if w.reached is None else w.reached, reverse=True))

    def _faster(self) -> Iterator[str]:
        cuda = self.memory.device == "cuda"
        if cuda and self.recipe.training.precision == "fp32":
            yield "--precision bf16 (or tf32)"
        if cuda:
            yield "--compile"
            yield "--devices N, where there are several GPUs"
        else:
            yield "a GPU"
        yield f"fewer --set training.epochs (now {self.recipe.training.epochs})"
        yield from self._smaller_model()

    def _fewer_activations(self) -> Iterator[str]:
        training, segments = self.recipe.training, self.recipe.training.segments
        if self.recipe.options.get("checkpoint") is False:
            yield "--set model.checkpoint=true computes activations again instead of keeping them"
        if training.precision in ("fp32", "tf32"):
            yield "--precision bf16 halves most of them"
        number = self.memory.whole
        if number > 1 and (self.steps > 1 or training.accumulate == 1):
            parts = next(p for p in range(2, number + 1) if number % p == 0)
            fewer, more = number // parts, parts * training.accumulate
            yield (
                f"--set training.segments.per_batch={fewer} --set training.accumulate={more}: as many segments a step, "
                f"in {parts} parts; batch normalisation, and ratios such as dice, then see a part at a time"
            )
        if segments.length > 1:
            yield f"shorter --set training.segments.length (now {segments.length})"
        yield "--devices N divides a batch among N devices"
        if self.divided:
            each, number = size(on_device(self.memory, self.divided)), self.divided.processes
            yield f"--domain {self.divided.option} divides every field among {number} devices: {each} on each"
        yield from self._smaller_model()

    def _smaller_state(self) -> Iterator[str]:
        room = int(SAFE * self.memory.available)
        devices = -(-self.memory.state.total // room) if room else 0
        if devices > 1 or self.memory.device == "cuda":
            yield f"--strategy fsdp --devices {max(2, devices)} shards it over devices of this memory"
        if self.memory.state.average:
            yield "--set training.average.kind=none keeps no second copy"
        yield from self._smaller_model()

    def _smaller_model(self) -> Iterator[str]:
        widths = [n for n in ("width", "hidden", "dim", "layers", "depth") if n in self.recipe.options]
        if widths:
            now = ", ".join(f"{n}={self.recipe.options[n]}" for n in widths)
            yield f"a smaller model (now {now})"


def make_plan(
    archive: Archive,
    recipe: Recipe,
    split: Split,
    comm: Comm,
    reporter: Reporter,
    domain: tuple[int, int] = (1, 1),
) -> Plan:
    """Count, measure and time.

    Args:
        archive: The data.
        recipe: A network's.
        split: Its training spans.
        comm: This process and its device.
        reporter: Shows progress.
        domain: Processes that rows, and each row, are to be divided among, for what each of them would take.

    Raises:
        RecipeError: The recipe is of an emulator that is fitted in closed form.
        TrainingError: The network cannot be divided over these processes.
    """
    if not isinstance(recipe, NetworkRecipe):
        raise RecipeError(
            f"{recipe.emulator} needs no plan",
            found="an emulator whose own networks are small"
            if isinstance(recipe, GeneratorRecipe)
            else "an emulator that is fitted in closed form, in seconds",
            expected="a network",
            hint=f"emukit train {recipe.emulator}; `emukit models` lists the networks",
        )
    if domain != (1, 1):
        check_divisible(recipe.emulator, NETWORKS.load(recipe.emulator))
    recipe = fit_recipe(recipe, archive, split, reporter)
    recipe = resolve_batch(recipe, archive, split, comm, reporter)
    training, history = recipe.training, recipe.inputs.window.history
    encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
    addresses = cut(archive, split.train, recipe.inputs, training.segments)
    steps = -(-addresses.steps() // training.accumulate)
    frame = (len(encoder.channels), *archive.grid.shape)
    state = count_state(recipe, archive, len(encoder.channels))
    free, data = free_share(comm), resident_bytes(archive, addresses, encoder)
    if state.total > SAFE * free:
        whole = largest_batch(addresses)
        segments, months = largest_share(whole, training.segments.length, comm.data.world)
        batch = batch_bytes(segments, months, frame, len(archive.variables), history)
        where = place("auto", data, max(0, free - state.total), comm.device.type)
        wanted = training.segments.batch_size
        memory = MemoryPlan(state, 1, data, where, batch, whole, wanted, None, None, free, comm.device.type)
        return Plan(recipe, memory, steps, None, None, timed=False)
    targets = {v: recipe.targets.of(v) for v in archive.variables}
    normalizer = TargetNormalizer.fit(archive, split.train, targets)
    with reporter.step("measuring", 3) as bar, matmul_precision(training.precision):
        sampler = sampler_kind(recipe.inputs)
        source = sampler(archive, split.train, encoder, normalizer, training.segments, comm.device)
        network = build_for(recipe, archive, len(encoder.channels)).to(comm.device)
        bar.advance(note="data and network")
        memory = memory_plan(network, source, recipe, comm)
        divided = _divided(network, recipe, source, memory, domain)
        bar.advance(note="memory")
        if memory.footprint is None:
            return Plan(recipe, memory, steps, None, None, timed=False, divided=divided)
        each, length = training.accumulate, training.segments.length
        one, most = memory.footprint.flops.at(1, length), _planning_segments(memory, length)
        share = recipe.objective.build(None).share(training.epochs)
        flops = each * memory.footprint.flops.at(memory.whole, length) * share
        rate = memory.footprint.flops_per_second
        if rate is None:
            reporter.say(f"planning: counted, not computed; a forward pass is timed for {RATE_SECONDS:g} s at most")
            wide = (recipe.network_channels(source.frame[0]), *source.frame[1:])
            rate = forward_rate(network, wide, history, training.precision, RATE_SECONDS)
        seconds, timed = flops / rate if rate else None, False
        # A step to prepare, one, and one of four segments.
        passes = 6 if memory.whole > 1 else 2
        quick = comm.device.type != "cpu" or (rate is not None and passes * one / rate <= PLANNING_SECONDS)
        if memory.fits and quick and most:
            objective = recipe.objective.build(composite_loss(recipe.loss, archive, comm.device))
            engine = Engine(network, source, objective, training, comm, Execution())
            longest, timed = _time_steps(engine, source, each, most)
            seconds = longest * share
        bar.advance(note="time")
    return Plan(recipe, memory, steps, flops, seconds, timed, divided)


def _divided(
    network: nn.Module, recipe: NetworkRecipe, source: SegmentSampler, memory: MemoryPlan, domain: tuple[int, int]
) -> DividedCost | None:
    """What a step takes of several processes that share a globe, where that was asked for or is needed."""
    divides = getattr(network, "DIVIDES", False) is True
    if domain == (1, 1) and (memory.fits or memory.activations is None or not divides):
        return None
    frame = (recipe.network_channels(source.frame[0]), *source.grid)
    batch = memory.whole, recipe.training.segments.length

    def count(rows: int, columns: int = 1) -> DividedCost:
        history, precision = source.window.history, recipe.training.precision
        cost = count_divided(network, frame, history, batch, precision, rows, columns)
        passes = recipe.objective.build(None).passes
        return replace(cost, kept=passes * cost.kept, sent=passes * cost.sent)

    if domain != (1, 1):
        return count(*domain)
    for processes in TRIED:
        # Rows alone send least; where there are not enough of them, longitude is divided too.
        for columns in (c for c in (1, *TRIED) if c <= processes):
            with suppress(TrainingError):
                cost = count(processes // columns, columns)
                if on_device(memory, cost) <= SAFE * memory.available:
                    return cost
                break
    return None


def _planning_segments(memory: MemoryPlan, months: int) -> int:
    """Segments of the largest step that planning may compute: 0 where not even one is safe."""
    if memory.device != "cpu" or memory.footprint is None:
        return memory.whole
    room = PLANNING_SHARE * memory.available - memory.own_state - memory.data
    number = memory.whole
    while number and memory.footprint.activations.at(number, months) + memory.batch * number / memory.whole > room:
        number //= 2
    return number


def _time_steps(engine: Engine[Any], source: SegmentSampler, accumulate: int, most: int) -> tuple[float, bool]:
    """Seconds of a real step, and whether all of it was timed.

    Parts of a batch are timed, one segment first and then four times as many, up to `most`, the whole or a part that
    is slow; from that one on, further segments are taken to cost what the last ones did.
    """
    batch = max(source.epoch(0, seed=0), key=len)
    engine.network.train()

    def seconds(number: int) -> float:
        started = perf_counter()
        # Steps of the last epoch are the longest.
        engine.step([batch[:number]], rate=0.0, ramp=1.0, epochs=engine.settings.epochs)
        return perf_counter() - started

    seconds(1)  # prepares what later steps find ready: the optimiser's state, above all
    number, taken = 1, seconds(1)
    if taken < SLOW_SECONDS:
        taken = min(taken, *(seconds(1) for _ in range(REPEATS if taken < SLOW_SECONDS / 4 else 1)))
    each = taken
    while number < min(most, len(batch)) and (taken < SLOW_SECONDS or number == 1):
        larger = min(4 * number, most, len(batch))
        longer = min(seconds(larger) for _ in range(REPEATS if taken < SLOW_SECONDS / 4 else 1))
        each = max(0.0, longer - taken) / (larger - number)
        number, taken = larger, longer
    return accumulate * (taken + (len(batch) - number) * each), number == len(batch)


def is_daily_fit(archive: Archive, recipe: Recipe) -> bool:
    """Whether a recipe is an emulator that is fitted to days a year at a time."""
    if isinstance(recipe, NetworkRecipe | WrapperRecipe) or archive.time.step != "day":
        return False
    return bool(EMULATORS[recipe.emulator].load().streams)


def daily_plan(archive: Archive, recipe: Recipe, split: Split) -> Iterator[tuple[str, str, str]]:
    """What, how much, and a remark, a line each.

    Args:
        archive: Daily data, in memory or on disk.
        recipe: As `is_daily_fit` has it.
        split: Its training spans.

    Raises:
        ProtocolError: No whole year trains.
    """
    years = training_years(archive, split)
    if not years:
        raise ProtocolError("the training spans hold no whole year", hint="choose another protocol")
    cells, variables = archive.grid.weights.size, len(archive.variables)
    year, span = 4 * DAYS * cells, split.test
    files = [p for p in Path(archive.source).expanduser().rglob("*.nc") if p.is_file()]
    held = sum(len(s) for s in archive.values() if s.targets is not None or s.stored is not None)
    raw = 4 * held * cells * variables
    where = "on disk, read a part at a time" if archive.on_disk else "in memory"
    yield "data", size(raw), f"of {size(sum(p.stat().st_size for p in files))} in files; {where}"
    yield "training", f"{len(years):,} years", f"of {variables} variables on {cells:,} cells"
    took = _timed(archive, years[0])
    seconds = (took.read + took.sort) * len(years) * variables
    share = f"one year of one variable took {duration(took.read + took.sort)}, most of it reading"
    yield "time", duration(seconds), f"{share if archive.on_disk else share.partition(',')[0]}; one process"
    if competition_of(archive).derive:
        scored = sum(math.ceil(len(s) / DAYS) for s in split.scored.get("validation", ()))
        # The run and, the first time, the climatology that stands beside its score.
        passes = 2 * scored * (variables * (took.read + took.predict) + 2 * took.indices)
        base = BASE_YEARS * len(Thresholds.QUANTILES) * took.read + took.percentiles
        yield (
            "validation",
            duration(passes + base),
            f"{scored} years; {duration(base)} of it percentiles of {BASE_YEARS} years; `evaluate` takes as long again",
        )
        written = math.ceil(len(span) / DAYS) * (variables * (took.predict + 1.5 * took.pack) + took.indices) + base
        yield "submitting", duration(written), "days predicted and written, read again, and their indices"
    if archive.on_disk:
        yield "digest", size(sum(p.stat().st_size for p in files)), "of files are read once more, the first time"
    learned, fitted = LEARNED_BYTES * DAYS * cells * variables, 0
    if recipe.emulator == "delta-change":
        learned = int(recipe.options["years"]) * year * variables
    elif recipe.emulator == "linear":
        series = {*recipe.options["features"], *recipe.options["warming"]}
        learned = 4 * 12 * (1 + len(series)) * cells * variables
        fitted = LINEAR_COPIES * learned
    elif recipe.emulator != "typical-year":
        learned = 8 * 12 * cells * variables
    needed = (fitted or learned) + COPIES * year + LIBRARIES
    if archive.on_disk and competition_of(archive).derive:
        # A year of prediction and of truth, and the percentiles: the run is validated once it is fitted.
        scoring = learned + (2 * variables + COPIES) * year + 8 * len(Thresholds.QUANTILES) * DAYS * cells + LIBRARIES
        needed = max(needed, scoring)
    if not archive.on_disk:
        maps = sum(f.nbytes for s in archive.values() for f in s.forcings.values() if f.ndim == 3)
        needed += int(UNTIL_VALIDATED * (raw + maps))
    verdict = "fits" if needed < host_free() else "DOES NOT FIT"
    yield "memory", size(needed), f"{verdict} into {size(host_free())} that are free"
    yield "run", size(learned), "on disk"
    fields = 4 * len(span) * cells * variables
    rows = math.ceil(len(span) / DAYS) * 192 * 288
    yield (
        "submission",
        size(fields),
        f"of daily fields before compression, and about {size(rows * 54)} for {rows:,} rows",
    )


@dataclass(frozen=True)
class _Seconds:
    """What one year of one variable takes to be read, sorted, predicted and packed; and its indices, and percentiles.

    Attributes:
        read, sort, predict, pack: Seconds for a variable and a year.
        indices: For a year, of all variables that they need.
        percentiles: For all of them, without reading.
    """

    read: float
    sort: float
    predict: float
    pack: float
    indices: float
    percentiles: float


def _timed(archive: Archive, year: TrainingYear) -> _Seconds:
    """Reading, of two years the second, as the first one opens what it reads; then what is done with the days."""
    band = archive.bands[0]
    share = len(range(*band.indices(archive.grid.shape[0]))) / archive.grid.shape[0]
    read = 0.0
    for variable in (0, len(archive.variables) - 1):
        begun = perf_counter()
        values = year.values(archive, variable, band)
        read = perf_counter() - begun
    if len(archive.bands) > 1:
        # A band is read with all of its years.
        read /= max(len(archive[year.span.scenario]) / DAYS, 1.0)
    cells = values[0].size
    ranks = np.broadcast_to(np.arange(DAYS, dtype=np.uint16)[:, None, None], values.shape)
    nowhere = Thresholds(*(np.zeros((DAYS, cells)) for _ in Thresholds.QUANTILES))
    row = np.zeros((BASE_YEARS * DAYS, 1, values.shape[2]), np.float32)
    steps: list[Callable[[], object]] = [
        lambda: regress_sorted(iter([values]), np.zeros(1)),
        # Of typical-year, which takes longer than others.
        lambda: order_days(values, values, 0.5, ranks, np.empty_like(values)),
        lambda: Blosc(cname="lz4").encode(np.ascontiguousarray(values)),
        lambda: indices_of_year(dict.fromkeys(VARIABLES, values), nowhere, None),
        lambda: quantile_of_days(
            lambda a, b, _: row[a:b], len(row), row.shape[1:], (slice(None),), 0.9, lambda _: None
        ),
    ]
    took = []
    for step in steps:
        begun = perf_counter()
        step()
        took.append(perf_counter() - begun)
    sort, predict, pack, indices, percentiles = took
    rows = len(Thresholds.QUANTILES) * archive.grid.shape[0]
    return _Seconds(read / share, sort / share, predict / share, pack / share, indices / share, rows * percentiles)
