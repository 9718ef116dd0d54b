"""Realisations of months by networks: blocks of cells step by step, details of cells from blocks, on a forced response.

Invariant: a realisation is a function of seed, number, step and forcings alone, up to rounding, whichever months are
asked for and with whichever other realisations it is drawn: it runs from the scenario's beginning. Beyond the fields
that are asked for, memory does not grow with the number of months. What is drawn is added to what the base says.

A predictor draws what the past does not say of the next blocks, and a projector says the details of every cell from the
full fields before and the new blocks: the division of labour of Atlas (arXiv:2601.18111), on months and on what a run
leaves of its forced response. What a projector does not know is drawn from what it left of training months. Without
networks, regressions stand for both: what they leave of blocks is Gaussian, and of details drawn from training months.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.config import check, options_of
from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.sampler import Sample
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.internal_state import StateSeries, StateSpace, check_blocks
from emukit.emulators.residuals import globe_deviations, training_residuals, usable_spans
from emukit.emulators.sampled import add_variability, globe_deviation, relative_climatology
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError
from emukit.models.precision import matmul_precision
from emukit.models.registry import CONTEXT, NETWORKS, build_network
from emukit.objectives.base import AddressedNoise
from emukit.objectives.registry import OBJECTIVES
from emukit.progress import Reporter

# Months before a scenario's first in which a trajectory forgets that it began with nothing.
SPIN_UP = 36

# Training months of each calendar month whose details are drawn from, where there are so many.
POOL = 100

# Training months on which the size of innovations is seen: their root mean square is then known to 2 % in a cell.
CALIBRATION = 1200

# Which draw of a month is that of the globe: after all those that a solver makes.
GLOBE = 2**32 - 1

PREDICTOR, PROJECTOR = "predictor", "projector"


@dataclass(frozen=True, eq=False)
class Part:
    """A trained network and how it is asked.

    Attributes:
        network: Itself.
        name: In the table of networks.
        options: Its own.
        channels: Of its frames, without those of the objective.
        objective: What it was trained for.
        objective_options: The objective's own.
    """

    network: nn.Module
    name: str
    options: Mapping[str, Any]
    channels: int
    objective: str
    objective_options: Mapping[str, Any]

    def draw(self, frames: Tensor, noise: AddressedNoise, source: Tensor | None = None) -> Tensor:
        """(S, V, Y, X) of frames (S, 1, C, Y, X)."""
        asked = OBJECTIVES.load(self.objective)(None, **self.objective_options)
        answer: Tensor = asked.predict(self.network, frames, noise, None if source is None else source[:, None])
        return answer[:, 0]

    def plain(self) -> dict[str, Any]:
        """Everything except for the weights."""
        return {
            "name": self.name,
            "options": dict(self.options),
            "channels": self.channels,
            "objective": self.objective,
            "objective_options": dict(self.objective_options),
        }

    @classmethod
    def from_plain(
        cls, plain: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], variables: int, grid: tuple[int, int]
    ) -> Part:
        """The inverse of `plain`, with the weights by name.

        Raises:
            RecipeError: Network or objective is unknown, or cannot be imported.
            ValueError: It has no such options, or other weights.
        """
        chosen = OBJECTIVES.load(plain["objective"])
        own = check(options_of(chosen), plain["objective_options"], source="the table of options").model_dump()
        kind = options_of(NETWORKS.load(plain["name"]), CONTEXT)
        options = check(kind, plain["options"], source="the table of options").model_dump()
        network = build_network(
            plain["name"],
            in_channels=int(plain["channels"]) + chosen(None, **own).noise_channels,
            variables=variables,
            grid=grid,
            history=1,
            options=options,
        )
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        network.eval()
        return cls(network, plain["name"], options, int(plain["channels"]), plain["objective"], own)


class TrainPart(Protocol):
    """Trains a network on samples whose addresses are rows; the trainer of the run.

    Attributes:
        reporter: Shows the progress.
    """

    reporter: Reporter

    def __call__(self, part: str, samples: RowSampler, variables: tuple[str, ...]) -> Part:
        """A trained network.

        Args:
            part: ``predictor`` or ``projector``.
            samples: What it is trained on.
            variables: Names of what it answers.
        """


@dataclass(frozen=True, eq=False)
class RowSampler:
    """Samples of single months, or of some months in a row: the rows of a series in a new order every epoch.

    Attributes:
        series: Where they are read from.
        part: For which network: ``predictor`` or ``projector``.
        per_batch: Months of a batch; a last, smaller batch is left out.
        length: L, months of a sample of blocks. Of several the targets are whitened blocks, which differ from
            innovations by what the past says, and `past` and `setting` are what they are drawn from.
    """

    series: StateSeries
    part: str
    per_batch: int = 64
    length: int = 1

    def __post_init__(self) -> None:
        """Refuse samples that no run holds.

        Raises:
            ProtocolError: No training run is as long as a sample.
        """
        if not len(self._rows):
            raise ProtocolError(
                "no training run holds so long a trajectory",
                found=f"{self.length} months",
                expected=f"with the {self.series.space.past} months before them, no more than a training run has",
                hint="shorter --set predictor.training.lengths, or a protocol with longer training spans",
            )

    @property
    def channels(self) -> int:
        """C of its frames."""
        space = self.series.space
        return space.block_channels if self.part == PREDICTOR else space.detail_channels

    @property
    def weights(self) -> NDArray[np.float32]:
        """(Y, X) area weights of its fields, sum one."""
        space = self.series.space
        if self.part == PROJECTOR:
            return space.weights
        rows, columns = (n // space.size for n in space.weights.shape)
        blocks = space.weights.reshape(rows, space.size, columns, space.size)
        return np.asarray(blocks.sum((1, 3)), np.float32)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return max(len(self._rows) // self.per_batch, 1)

    @property
    def _rows(self) -> NDArray[np.int64]:
        """First months of samples: those that a training run follows for the length of a sample."""
        rows, more = self.series.rows, self.length - 1
        first = rows[: len(rows) - more]
        return np.asarray(first[rows[more:] - first == more])

    def epoch(self, epoch: int, seed: int) -> list[list[int]]:
        """Rows of an epoch's batches, a function of seed and epoch alone."""
        order = np.random.default_rng([seed, epoch]).permutation(self._rows).tolist()
        return [order[i * self.per_batch : (i + 1) * self.per_batch] for i in range(self.steps_per_epoch)]

    def batch(self, addresses: Sequence[int], steps: slice | None = None) -> Sample:
        """Frames (S, 1, C, Y, X), targets (S, 1, V, Y, X), and of blocks their state before as `source`."""
        series, rows = self.series, np.asarray(addresses, np.int64)
        space, setting = series.space, series.setting(rows)
        if self.part == PREDICTOR:
            past = series.past(rows)
            frames = space.block_frames(past, setting)
            if self.length > 1:
                every = rows[:, None] + np.arange(self.length)
                settings = series.setting(every.ravel()).reshape(*every.shape, -1)
                return Sample(frames, series.whitened(series.blocks[every]), {"past": past, "setting": settings})
            target = series.block_innovation(rows)
            return Sample(frames, target[:, None], {"source": _source(space, past)[:, None]})
        frames = space.detail_frames(series.state(rows - 1), series.blocks[torch.from_numpy(rows)], setting)
        return Sample(frames, series.detail_innovation(rows)[:, None])

    def prefetch(self, addresses: Sequence[int], steps: slice | None = None) -> None:
        """Nothing: rows are in memory."""

    def address(self, addresses: Sequence[int]) -> str:
        """For people: which months of all training runs, one after the other."""
        return f"months {', '.join(map(str, sorted(addresses)))} of the training runs"


@dataclass
class _Trajectory:
    """Where realisations of a scenario are: what the next month needs.

    Attributes:
        scenario: Theirs.
        numbers: Which realisations.
        warming: (T,) of every month of the scenario, K.
        step: The next month; negative in the spin-up.
        past: (E, P, V, y, x) blocks before it.
        state: (E, V, Y, X) the state before it.
        globe: (E, R) the globe's deviations before it.
    """

    scenario: Scenario
    numbers: tuple[int, ...]
    warming: NDArray[np.float64]
    step: int
    past: Tensor
    state: Tensor = field(repr=False)
    globe: Tensor = field(repr=False)


class Atlas(Wrapper):
    """Its base, which should say the mean over runs, with variability drawn month by month.

    Attributes:
        space: Between variability and states.
        predictor: Draws innovations of blocks; None: they are Gaussian.
        projector: Draws details, or says their mean; None: a regression alone says it.
        climatology: (12, K, Y, X) means of the training months by calendar month, of the K relative variables.
        unresolved: (12, P, V, Y, X) float16, what is left of the innovations of P training months, by calendar month,
            where no projector draws; P is zero where one does.
        seed: Of the run.
        number: Which realisation it gives.
    """

    kind = "atlas"
    steps: ClassVar[tuple[str, ...]] = ("month",)
    varied: ClassVar[bool] = True
    from_beginning: ClassVar[bool] = True
    together: ClassVar[int] = 5
    trains_networks: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        space: StateSpace,
        predictor: Part | None,
        projector: Part | None,
        climatology: NDArray[np.float32],
        seed: int,
        number: int = 0,
        unresolved: NDArray[np.float16] | None = None,
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.space, self.predictor, self.projector = space, predictor, projector
        self.climatology, self.seed, self.number = climatology, seed, number
        self.unresolved = no_fields(space) if unresolved is None else unresolved
        self._live: _Trajectory | None = None
        self._last: tuple[Scenario, int, int, NDArray[np.float32]] | None = None
        # Shared by all realisations.
        self._warm: list[tuple[Scenario, NDArray[np.float64]]] = []

    @property
    def draws(self) -> bool:
        """Always."""
        return True

    def member(self, number: int) -> Self:
        """The same emulator giving another realisation; numbers from 0."""
        one = copy(self)
        one.number, one._live, one._last = number, None, None
        return one

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) of one realisation; within the bounds."""
        asked = (scenario, start, stop)
        # A score is taken against several members, one after the other, of the same months.
        if self._last is None or self._last[0] is not scenario or self._last[1:3] != asked[1:]:
            (fields,) = self._drawn(scenario, start, stop, (self.number,))
            self._last = (*asked, fields)
        return np.array(self._last[3])

    def predict_members(
        self, scenario: Scenario, start: int, stop: int, members: int, first: int = 0
    ) -> NDArray[np.float32]:
        """(E, T, V, Y, X), drawn side by side."""
        return self._drawn(scenario, start, stop, tuple(range(first, first + members)))

    def _drawn(self, scenario: Scenario, start: int, stop: int, numbers: tuple[int, ...]) -> NDArray[np.float32]:
        forced = self.bases[0].predict_fields(scenario, start, stop)
        out = np.empty((len(numbers), *forced.shape), np.float32)
        globe = np.empty((len(numbers), len(forced), self.space.globe.shape[1]), np.float32)
        for live in self._trajectory(scenario, start, stop, numbers):
            if live.step > start:
                out[:, live.step - 1 - start] = live.state.numpy()
                globe[:, live.step - 1 - start] = live.globe.numpy()
        month = scenario.calendar_month[start:stop]
        usual = self.climatology[month].swapaxes(0, 1)
        for i in range(len(numbers)):
            residual = self.space.inverse(out[i], month)
            self._balance(residual, usual, globe[i] * self.space.globe_scale[month])
            out[i] = forced
            add_variability(self.domain, out[i], residual, usual)
            self.clip_to_bounds(out[i])
        return out

    def _balance(self, residual: NDArray[np.float32], usual: NDArray[np.float32], globe: NDArray[np.floating]) -> None:
        """Give factors (T, V, Y, X) of usual fields (R, T, Y, X) the globe's deviations (T, R), in place."""
        relative = np.flatnonzero(self.domain.relative).tolist()
        for v, fields, wanted in zip(relative, usual, globe.T, strict=False):
            found = globe_deviation(self.grid, residual[:, v], fields)
            scaled = np.maximum(1 + wanted, 0.0) / np.where(found > -1, 1 + found, 1.0)
            residual[:, v] *= scaled[:, None, None].astype(np.float32)

    def _trajectory(self, scenario: Scenario, start: int, stop: int, numbers: tuple[int, ...]) -> Iterator[_Trajectory]:
        """A trajectory after every month up to `stop`: all from `start` on, and some before it.

        It continues from where it was left if that is not after `start`; otherwise it begins again.
        """
        live = self._live
        if live is None or live.scenario is not scenario or live.numbers != numbers or live.step > start:
            live = self._begin(scenario, numbers)
        self._live = None
        # Predictions are float32, whatever training was.
        with torch.inference_mode(), matmul_precision("fp32"):
            while live.step < stop:
                self._advance(live)
                yield live
        self._live = live

    def _begin(self, scenario: Scenario, numbers: tuple[int, ...]) -> _Trajectory:
        space, grid, count = self.space, self.grid.shape, len(self.variables)
        blocks = (len(numbers), max(space.past, 1), count, grid[0] // space.size, grid[1] // space.size)
        return _Trajectory(
            scenario,
            numbers,
            self._warming(scenario),
            -SPIN_UP,
            torch.zeros(blocks),
            torch.zeros(len(numbers), count, *grid),
            torch.zeros(len(numbers), space.globe.shape[1]),
        )

    def _advance(self, live: _Trajectory) -> None:
        """Draw the next month, in place."""
        space, step, count = self.space, live.step, len(live.numbers)
        of = max(step, 0)
        month = (int(live.scenario.calendar_month[0]) + step) % 12
        setting = space.setting(np.full(count, month), np.full(count, live.warming[of]))
        source = _source(space, live.past)
        # Even addresses are those of blocks, odd ones those of details.
        address = 2 * (step + SPIN_UP)
        shape = (1, *source.shape[1:])
        noise = AddressedNoise(self.seed, live.numbers, [[address]] * count, shape)
        if self.predictor is None:
            drawn = noise.answer(0)[:, 0]
        else:
            drawn = self.predictor.draw(space.block_frames(live.past, setting), noise, source)
        blocks = space.next_blocks(live.past, drawn)
        drawn = torch.zeros_like(live.state)
        if self.projector is not None:
            noise = AddressedNoise(self.seed, live.numbers, [[address + 1]] * count, (1, *live.state.shape[1:]))
            drawn = self.projector.draw(space.detail_frames(live.state, blocks, setting), noise)
        if (pool := self.unresolved[month]).size:
            keys = (np.random.SeedSequence(self.seed, spawn_key=(n, address + 1)) for n in live.numbers)
            chosen = [int(np.random.default_rng(key).integers(len(pool))) for key in keys]
            drawn = drawn + torch.from_numpy(pool[chosen].astype(np.float32))
        kept = space.expected_details(space.without_blocks(live.state), live.past[:, -1], blocks)
        detail = kept + torch.from_numpy(space.detail_innovation) * drawn
        keys = (np.random.SeedSequence(self.seed, spawn_key=(n, address, GLOBE)) for n in live.numbers)
        drawn_globe = [np.random.default_rng(k).standard_normal(live.globe.shape[1], np.float32) for k in keys]
        live.globe = space.next_globe(live.past, blocks, live.globe, torch.from_numpy(np.stack(drawn_globe)))
        live.state = space.spread_out(blocks) + space.without_blocks(detail)
        live.past = torch.cat((live.past[:, 1:], blocks[:, None]), 1)
        live.step += 1

    def _warming(self, scenario: Scenario) -> NDArray[np.float64]:
        """(T,) global temperature of the base over the year round each month, K; the training's mean without one."""
        v = self.domain.temperature
        if v is None:
            return np.full(len(scenario), self.space.warming[0])
        if self._warm and self._warm[0][0] is scenario:
            return self._warm[0][1]
        first = self.first_month
        series = np.concatenate(
            [
                self.grid.mean(self.bases[0].predict_fields(scenario, a, min(a + 120, len(scenario)))[:, v])
                for a in range(first, len(scenario), 120)
            ]
        )
        series = np.concatenate((np.full(first, series[:12].mean()), series))
        padded = np.pad(series, 6, mode="reflect") if len(series) > 6 else np.pad(series, 6, mode="edge")
        sums = np.cumsum(np.concatenate(([0.0], padded)))
        self._warm[:] = [(scenario, (sums[12:] - sums[:-12])[: len(series)] / 12)]
        return self._warm[0][1]

    @property
    def parts(self) -> dict[str, Part]:
        """Its networks by name."""
        every = {PREDICTOR: self.predictor, PROJECTOR: self.projector}
        return {name: part for name, part in every.items() if part}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was drawn, and from how much of the variance."""
        kept = float((self.space.spread**2).mean())
        rows, columns = (n // self.space.size for n in self.grid.shape)
        return (f"{rows} x {columns} blocks hold {100 * kept:.0f} % of the variance of single cells",)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        for name, least in (("smooth", 1), ("history", 1), ("memory", 0)):
            if options[name] < least:
                raise RecipeError(
                    f"model.{name} is out of range", found=str(options[name]), expected=f"{least} or more"
                )
        check_blocks(archive.grid.shape, options["block"], len(archive.variables))

    @classmethod
    def check_training(cls, archive: Archive, spans: Sequence[Span], **options: Any) -> None:
        """Refuse spans that do not tell variability from forced change; arguments as for `fit`."""
        usable_spans(archive, spans, options["smooth"])

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        train: TrainPart | None = None,
        seed: int = 0,
        smooth: int = 21,
        block: int = 4,
        history: int = 2,
        memory: int = 12,
        learned: bool = True,
    ) -> Self:
        """Learn the variability of the training runs.

        Args:
            archive: The data.
            split: Its training spans are used.
            bases: What is given variability.
            folds: None.
            train: Trains a network; it is the trainer's, and no option.
            seed: Of realisations: that of the run.
            smooth: Years over which the mean of the members is smoothed to tell a training run's forced response
                from its variability; 1: not at all.
            block: Rows and columns of the cells that are predicted together.
            history: Months whose blocks the next ones are drawn from.
            memory: Months whose mean they are drawn from as well; 0: none.
            learned: Whether predictor and projector are trained. Without them regressions say what is known of the next
                month, innovations of blocks are Gaussian, and those of details are drawn from training months.

        Raises:
            RecipeError: A value outside its range, or nobody trains the networks.
            ProtocolError: The training months do not tell variability from forced change, or no run is long enough.
        """
        if learned and train is None:
            raise RecipeError("the networks of atlas are trained by a run", hint="emukit train atlas")
        cls.check(archive, smooth=smooth, block=block, history=history, memory=memory)
        residuals = training_residuals(archive, split.train, smooth)
        climatology = relative_climatology(archive, split)
        series = StateSeries.of(
            residuals,
            archive.grid,
            archive.domain.relative,
            globe_deviations(archive, split.train, smooth),
            size=block,
            history=history,
            memory=memory,
        )
        space, predictor, projector = series.space, None, None
        if learned and train is not None:
            predictor, projector = (
                train(part, RowSampler(series, part), archive.variables) for part in (PREDICTOR, PROJECTOR)
            )
            space = calibrated(series, predictor, projector, seed, train.reporter)
        left = unresolved(series, projector)
        return cls(archive.domain, bases, space, predictor, projector, climatology, seed, unresolved=left)

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Statistics and networks."""
        arrays = {f"space.{name}": values for name, values in self.space.arrays().items()}
        own: dict[str, Any] = {"seed": self.seed, "number": self.number, "space": self.space.numbers()}
        for name, part in self.parts.items():
            own[name] = part.plain()
            arrays |= {f"{name}.{k}": v.detach().cpu().numpy() for k, v in part.network.state_dict().items()}
        return own, {**arrays, "climatology": self.climatology, "unresolved": self.unresolved}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""

        def part(name: str) -> dict[str, NDArray[Any]]:
            return {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}

        space = StateSpace.from_parts(part("space"), meta["space"])
        rows, columns = domain.grid.shape
        coarse, count = (rows // space.size, columns // space.size), len(domain.variables)
        try:
            predictor, projector = (
                Part.from_plain(meta[name], part(name), count, grid) if meta.get(name) else None
                for name, grid in ((PREDICTOR, coarse), (PROJECTOR, domain.grid.shape))
            )
        except RecipeError as e:
            raise ValueError(f"{e.what}: {e.found or e.expected}") from e
        seed, number = int(meta["seed"]), int(meta["number"])
        # Earlier versions drew all details with the projector.
        left = arrays.get("unresolved")
        return cls(domain, bases, space, predictor, projector, arrays["climatology"], seed, number, left)


def no_fields(space: StateSpace) -> NDArray[np.float16]:
    """(12, 0, V, Y, X): nothing to be drawn from, where the projector draws."""
    return np.zeros((12, 0, *space.detail_innovation.shape), np.float16)


def unresolved(series: StateSeries, projector: Part | None) -> NDArray[np.float16]:
    """(12, P, V, Y, X): what regression and projector leave of the details of training months, where none is drawn.

    A mean lacks the variance that it cannot know. What is left of whole fields has the patterns of the smallest scales,
    and of all variables together. P is at most `POOL`, of months that are spread over the runs. A calendar month with
    fewer repeats some of them. One that no run has enough months before takes those of the nearest calendar month.
    """
    space = series.space
    if projector is not None and OBJECTIVES.load(projector.objective).draws:
        return no_fields(space)
    by_month = [series.rows[series.month[series.rows] == m] for m in range(12)]
    there = np.flatnonzero([len(rows) for rows in by_month])
    most = min(POOL, max(len(rows) for rows in by_month))
    out = np.empty((12, most, *space.detail_innovation.shape), np.float16)
    sampler = RowSampler(series, PROJECTOR)
    with torch.inference_mode(), matmul_precision("fp32"):
        for m in range(12):
            rows = by_month[there[np.abs((there - m + 6) % 12 - 6).argmin()]]
            chosen = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
            sample = sampler.batch(chosen.tolist())
            left = sample.targets[:, 0]
            if projector is not None:
                noise = AddressedNoise(0, [0] * most, [[0]] * most, (1, *left.shape[1:]))
                left = left - projector.draw(sample.frames, noise)
            out[m] = left.numpy()
    return out


def calibrated(
    series: StateSeries, predictor: Part | None, projector: Part | None, seed: int, reporter: Reporter
) -> StateSpace:
    """The statistics with innovations scaled so that those that are drawn vary as much as those of training runs.

    A network that was not trained for long draws too little, and a trajectory loses that share of its variance. How
    much is seen on training months, each drawn from its own true past.

    Args:
        series: Training months, of which every nth is drawn: `CALIBRATION` of them where there are so many, up to twice
            as many at most.
        predictor: Draws blocks; None: nothing is to be scaled.
        projector: Draws details, or says their mean, which is not scaled; None likewise.
        seed: Of the draws.
        reporter: Shows the progress.
    """
    space, rows = series.space, series.rows[:: max(len(series.rows) // CALIBRATION, 1)]
    drawing = [(predictor, PREDICTOR)] if predictor else []
    if projector is not None and OBJECTIVES.load(projector.objective).draws:
        drawing.append((projector, PROJECTOR))
    scale = torch.from_numpy(space.detail_innovation)
    sizes, months = {}, len(rows) * len(drawing)
    with (
        torch.inference_mode(),
        matmul_precision("fp32"),
        reporter.step("innovations of training months", months) as step,
    ):
        for network, kind in drawing:
            sums = np.zeros(1)
            for first in range(0, len(rows), 60):
                part = rows[first : first + 60]
                sample = RowSampler(series, kind).batch(part.tolist())
                noise = AddressedNoise(seed, part.tolist(), [[0]] * len(part), (1, *sample.targets.shape[2:]))
                source = sample.named["source"][:, 0] if kind == PREDICTOR else None
                drawn = network.draw(sample.frames, noise, source)
                if kind == PROJECTOR:
                    drawn = space.without_blocks(scale * drawn) / scale
                sums = sums + drawn.double().square().sum(0).numpy()
                step.advance(len(part))
            size = np.sqrt(sums / len(rows))
            sizes[kind] = np.where(size > 0, size, 1.0)
    root = space.root / np.ravel(sizes.get(PREDICTOR, 1.0))
    details = space.detail_innovation / sizes.get(PROJECTOR, 1.0)
    return replace(space, root=root.astype(np.float32), detail_innovation=details.astype(np.float32))


def _source(space: StateSpace, past: Tensor) -> Tensor:
    """(S, V, y, x) the last blocks, of unit variance: where the path of an interpolant begins."""
    return past[:, -1] / torch.from_numpy(space.spread)
