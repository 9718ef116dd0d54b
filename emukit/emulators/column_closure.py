"""A learned closure of columns on an energy balance: what it leaves of every column, month by month, with its water.

Invariant: a realisation is a function of seed, number and the forcings up to each month. Where the closure says nothing
the prediction is the base's, bit for bit. Whatever it says, the global mean of column water changes by evaporation less
precipitation: precipitation is what the budget of water leaves.

Next to the base, which says the forced response, every column has a departure of temperature a and one of water w:

    da/dt = -a / memory + D (mean of the neighbours - a) + Psi_T        tas = base + a
    dw/dt = -w / days + Psi_W                                          pr = base + E + C - dw/dt

Psi are tendencies of a network of columns, held through some substeps of a month. E is evaporation, C the convergence
of moisture by winds, whose global mean is taken off. Rain below zero becomes none, and evaporation is more by as much.
Noise of several length scales is among what the network reads. It is trained by the fair CRPS of two realisations over
months that follow each other (as in NeuralGCM, Kochkov et al. 2024, doi:10.1038/s41586-024-07744-y; the water as in
Yuval et al. 2024, arXiv:2412.11973).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError
from emukit.models.closure import ColumnClosure
from emukit.models.heads import soft_clip
from emukit.models.layers import check_sizes
from emukit.models.precision import matmul_precision
from emukit.sphere import WHOLE

# Days of a month; (days) in which water of a column is renewed, van der Ent and Tuinenburg (2017,
# doi:10.5194/hess-21-779-2017); and mm of it that are one unit to the network.
DAYS = 365.0 / 12
RENEWAL = 8.5
WATER = 2.0
RAIN = ("lwe_precipitation_rate", "precipitation_flux")
# Blocks of cells whose means are scored too: rows and columns of the map.
BLOCKS = (6, 12)
# Optimiser steps over which the weights that are kept are averaged.
REMEMBERED = 0.98


class Columns(nn.Module):
    """The equations of departures, one month after the other.

    Attributes:
        closure: Says the tendencies.
    """

    position: Tensor
    place: Tensor
    areas: Tensor
    spread: Tensor

    def __init__(
        self,
        areas: NDArray[np.float64],
        spread: NDArray[np.floating],
        latitudes: NDArray[np.float64],
        *,
        substeps: int,
        held: int,
        hidden: int,
        blocks: int,
        position: int,
        noise: int,
        memory: float,
        diffusion: float,
    ) -> None:
        """Fresh weights: it says nothing.

        Args:
            areas: (Y, X) weights that sum to one.
            spread: (2, Y, X) standard deviations of departures of temperature (K) and precipitation (mm/day).
            latitudes: (Y,) degrees.
            substeps: Of a month.
            held: Of these, through how many one answer of the closure is held.
            hidden: Width of the closure.
            blocks: Its residual blocks.
            position: Learned numbers of each cell.
            noise: Fields of noise.
            memory: Months in which a departure of temperature falls to 1/e by itself; 0: none outlasts its month.
            diffusion: Share of a departure that goes over to the mean of the neighbours in a month.
        """
        super().__init__()
        self.substeps, self.held, self.noise = substeps, held, noise
        self.memory, self.diffusion = memory, diffusion
        self.grid = (areas.shape[0], areas.shape[1])
        self.closure = ColumnClosure(9 + noise + position, [1.0] * 4, hidden=hidden, blocks=blocks)
        self.position = nn.Parameter(0.1 * torch.randn(position, *self.grid))
        lat = np.deg2rad(latitudes)[:, None] * np.ones(self.grid)
        for name, values in (
            ("place", np.stack([np.sin(lat), np.cos(lat)])),
            ("areas", areas),
            ("spread", spread),
        ):
            self.register_buffer(name, torch.tensor(np.asarray(values), dtype=torch.float32))

    def month(self, state: Tensor, told: Tensor, rain: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One month.

        Args:
            state: (B, 2, Y, X) departures of temperature (K) and column water (mm) before it.
            told: (B, 3) sine and cosine of its position in the year, and how warm the globe is by the base (K).
            rain: (B, Y, X) precipitation by the base, mm/day.
            noise: (B, N, Y, X).

        Returns:
            (B, 2, Y, X) departures after it, (B, Y, X) precipitation, and (B, Y, X) evaporation and convergence
            together, more than the base's, mm/day.
        """
        number, part = len(state), 1.0 / self.substeps
        known = [
            told[..., None, None].expand(-1, -1, *self.grid),
            (rain / self.spread[1].clamp(min=0.1))[:, None],
            *(p[None].expand(number, -1, -1, -1) for p in (self.place, self.position)),
            noise,
        ]
        warmth, water = state[:, 0], state[:, 1]
        if self.memory == 0:
            warmth = torch.zeros_like(warmth)
        supply, said = torch.zeros_like(warmth), None
        kept = math.exp(-part / self.memory) if self.memory else 1.0
        for step in range(self.substeps):
            if said is None or step % self.held == 0:
                near = neighbours(warmth)
                columns = torch.cat(
                    (*known, torch.stack((warmth / self.spread[0], near / self.spread[0], water / WATER), 1)), 1
                )
                said = self.closure(soft_clip(columns).movedim(1, -1)).movedim(-1, 1)
            warmth = kept * warmth + part * (
                self.spread[0] * said[:, 0] + self.diffusion * (neighbours(warmth) - warmth)
            )
            water = math.exp(-part * DAYS / RENEWAL) * water + part * WATER * said[:, 1]
            winds = said[:, 3] * self.spread[1]
            winds = winds - (winds * self.areas).sum((-2, -1), keepdim=True)
            supply = supply + part * (self.spread[1] * said[:, 2] + winds)
        falls = rain + (supply - (water - state[:, 1]) / DAYS)
        dry = F.relu(-falls)
        return torch.stack((warmth, water), 1), falls + dry, supply + dry


def neighbours(fields: Tensor) -> Tensor:
    """Mean of the four cells around each, (B, Y, X) -> (B, Y, X), over poles and dateline."""
    padded = WHOLE.pad(fields[:, None], 1)[:, 0]
    around: Tensor = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] + padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]
    return around / 4


def noise_fields(generator: np.random.Generator, number: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """(N, Y, X) independent fields of variance near one: of 8, 4, 2 cells and of one, and so on again."""
    fields = []
    for i in range(number):
        sizes = [grid]
        for _ in range(max(3 - i % 4, 0)):
            if min(sizes[-1]) > 3:
                sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        field = torch.from_numpy(generator.standard_normal(sizes[-1], np.float32))[None, None]
        for size in reversed(sizes[:-1]):
            field = WHOLE.upsample(field, size)
        # Linear interpolation between n values takes a third of their variance away in each direction.
        fields.append(field[0, 0].numpy() * (1.5 if len(sizes) > 1 else 1.0))
    return np.stack(fields) if fields else np.zeros((0, *grid), np.float32)


@dataclass(frozen=True, eq=False)
class RunSeries:
    """A member of a training span, for the loop.

    Attributes:
        departure: (T, Y, X) of temperature from the base, K.
        truth: (T, Y, X) precipitation, mm/day.
        base: (T, Y, X) the same of the base.
        told: (T, 3) as `Columns.month` reads it.
    """

    departure: NDArray[np.float32]
    truth: NDArray[np.float32]
    base: NDArray[np.float32]
    told: NDArray[np.float32]


class ColumnClosureEmulator(Wrapper):
    """Its base, which should be an energy balance, with departures of columns that a network says month by month.

    Attributes:
        columns: The equations, with their weights.
        options: Of `fit` that say how they are built.
        usual: Global mean temperature of the base over the training months, K.
        seed: Of the run.
        number: Which realisation it gives.
    """

    kind = "column-closure"
    steps: ClassVar[tuple[str, ...]] = ("month",)
    varied: ClassVar[bool] = True
    from_beginning: ClassVar[bool] = True
    # It keeps no state between calls.
    continues: ClassVar[bool] = False

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        columns: Columns,
        options: Mapping[str, Any],
        usual: float,
        seed: int,
        number: int = 0,
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.columns, self.options, self.usual = columns.eval(), dict(options), usual
        self.seed, self.number = seed, number

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        substeps: int = 4,
        held: int = 4,
        hidden: int = 32,
        blocks: int = 1,
        position: int = 8,
        noise: int = 4,
        memory: float = 2.0,
        diffusion: float = 0.1,
        rounds: int = 100,
        months: int = 6,
        runs: int = 2,
        regional: float = 0.5,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> Self:
        """Train the closure on the months that the base leaves.

        Args:
            archive: The data.
            split: Its training spans are used.
            bases: The core: says the mean over runs.
            folds: None.
            substeps: Steps of the columns in a month.
            held: Of these, through how many one answer of the closure is held.
            hidden: Width of the closure.
            blocks: Its residual blocks.
            position: Learned numbers of each cell that it reads.
            noise: Fields of noise that it reads.
            memory: Months in which a departure of temperature decays to 1/e; 0: it has no memory.
            diffusion: Share of a departure of temperature that goes over to the mean of its neighbours in a month.
            rounds: Steps of the optimiser.
            months: That a rollout is long.
            runs: Rollouts of a step, each from the state of a training run, with two realisations.
            regional: Weight of the score of means over blocks of cells.
            learning_rate: At its largest; it falls as a cosine.
            seed: Of weights, noise, and the choice of months.

        Raises:
            RecipeError: A value outside its range.
            ProtocolError: There is no temperature, no precipitation, or no training span is long enough.
        """
        given = {n: v for n, v in locals().items() if n not in ("cls", "archive", "split", "bases", "folds", "seed")}
        cls.check(archive, **{k: v for k, v in given.items() if k != "__class__"})
        base, (warm, wet) = bases[0], _places(archive.domain)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = ("substeps", "held", "hidden", "blocks", "position", "noise", "memory", "diffusion")
            options = {name: given[name] for name in built}
            usual, series = _training_runs(archive, split, base, warm, wet, months)
            spread = np.stack(
                [
                    np.sqrt(np.mean([np.square(s.departure).mean(0) for s in series], 0)),
                    np.sqrt(np.mean([np.square(s.truth - s.base).mean(0) for s in series], 0)),
                ]
            )
            spread = np.maximum(spread, 1e-3 * spread.mean((1, 2), keepdims=True))
            columns = Columns(archive.grid.weights, spread, archive.grid.lat, **options)
            _train(columns, series, rounds, months, runs, regional, learning_rate, seed)
        return cls(archive.domain, bases, columns, options, usual, seed)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        _places(archive.domain)
        try:
            check_sizes(
                1,
                **{
                    n: options[n]
                    for n in ("substeps", "held", "hidden", "blocks", "rounds", "months", "runs")
                    if n in options
                },
            )
            check_sizes(0, **{n: options[n] for n in ("position", "noise") if n in options})
        except ValueError as e:
            raise RecipeError(f"model.{e}", hint="fix --set model.*") from e
        if "held" in options and options.get("substeps", 4) % options["held"]:
            raise RecipeError(
                "model.held must divide model.substeps",
                found=f"{options['held']} of {options.get('substeps', 4)}",
                expected="a divisor",
            )
        for name in ("memory", "diffusion", "regional", "learning_rate"):
            value = options.get(name, 1.0)
            # More would take a departure beyond the mean of its neighbours in one substep.
            most = options.get("substeps", 4) if name == "diffusion" else math.inf
            if not (0 <= value <= most and value < math.inf):
                expected = "zero or more, and finite" if most == math.inf else f"from 0 to model.substeps, {most}"
                raise RecipeError(f"model.{name} is out of range", found=str(value), expected=expected)

    @property
    def draws(self) -> bool:
        """Whether noise is among what the closure reads."""
        return self.columns.noise > 0

    def member(self, number: int) -> Self:
        """The same emulator giving another realisation; numbers from 0."""
        if not self.draws:
            return super().member(number)
        one = copy(self)
        one.number = number
        return one

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) of one realisation; within the bounds."""
        first, (warm, wet) = self.bases[0].first_month, _places(self.domain)
        out = self.bases[0].predict_fields(scenario, first, stop)
        for step, (state, rain, _) in enumerate(self.course(scenario, out)):
            out[step, warm] += state[0, 0].numpy()
            out[step, wet] = rain[0].numpy()
        out = out[start - first :]
        self.clip_to_bounds(out)
        return out

    def course(self, scenario: Scenario, base: NDArray[np.float32]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Month after month what `Columns.month` gives, from the first month that the base can predict.

        Args:
            scenario: For its calendar.
            base: (T, V, Y, X) what the base says from there on; it may be changed behind the iteration.
        """
        wet = _places(self.domain)[1]
        first = self.bases[0].first_month
        told = torch.from_numpy(
            _told(scenario.calendar_month[first : first + len(base)], self._warmth(base), self.usual)
        )
        state = torch.zeros(1, 2, *self.grid.shape)
        rains = base[:, wet].copy()
        with torch.inference_mode(), matmul_precision("fp32"):
            for step, rain in enumerate(rains):
                key = np.random.SeedSequence(self.seed, spawn_key=(self.number, first + step))
                noise = noise_fields(np.random.default_rng(key), self.columns.noise, self.grid.shape)
                said = self.columns.month(
                    state, told[step : step + 1], torch.from_numpy(rain)[None], torch.from_numpy(noise)[None]
                )
                state = said[0]
                yield said

    def _warmth(self, base: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.grid.mean(base[:, _places(self.domain)[0]])

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Options, weights, and what they were trained about."""
        weights = {name: value.detach().numpy() for name, value in self.columns.state_dict().items()}
        return {"options": self.options, "usual": self.usual, "seed": self.seed}, weights

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        columns = Columns(domain.grid.weights, arrays["spread"], domain.grid.lat, **meta["options"])
        columns.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        return cls(domain, bases, columns, meta["options"], float(meta["usual"]), int(meta["seed"]))


def _places(domain: Domain) -> tuple[int, int]:
    """Where temperature and precipitation are on the V axis."""
    wet = [i for i, variable in enumerate(domain.described) if variable.standard_name in RAIN]
    if domain.temperature is None or not wet or domain.described[wet[0]].units != "mm/day":
        raise ProtocolError(
            "column-closure needs near-surface temperature, and precipitation in mm/day",
            found=", ".join(f"{v.name} ({v.units})" for v in domain.described),
            hint="say so in the data card: standard_name air_temperature and lwe_precipitation_rate",
        )
    return domain.temperature, wet[0]


def _told(month: NDArray[np.int64], warmth: NDArray[np.float64], usual: float) -> NDArray[np.float32]:
    """(T, 3) position in the year, and how warm the globe is by the base over the year to each month, K."""
    sums = np.cumsum(np.concatenate([[0.0], warmth]))
    first = np.maximum(np.arange(len(warmth)) - 11, 0)
    year = (sums[1:] - sums[first]) / (np.arange(len(warmth)) - first + 1)
    angle = 2 * np.pi * month / 12
    return np.stack([np.sin(angle), np.cos(angle), year - usual], 1).astype(np.float32)


def _training_runs(
    archive: Archive, split: Split, base: Emulator, warm: int, wet: int, months: int
) -> tuple[float, list[RunSeries]]:
    """The global mean temperature of the base over the training months, and the members of spans long enough."""
    said, usual, count = {}, 0.0, 0
    for span in split.train:
        if span.scenario not in said:
            said[span.scenario] = base.predict_fields(
                archive[span.scenario], base.first_month, len(archive[span.scenario])
            )
        first = max(span.start, base.first_month)
        fields = said[span.scenario][first - base.first_month : span.stop - base.first_month, warm]
        usual += float(archive.grid.mean(fields).sum())
        count += len(fields)
    usual /= max(count, 1)
    runs = []
    for span in split.train:
        scenario, first = archive[span.scenario], max(span.start, base.first_month)
        if span.stop - first <= months:
            continue
        fields = said[span.scenario]
        warmth = archive.grid.mean(fields[:, warm])
        told = _told(scenario.calendar_month[base.first_month :], warmth, usual)
        part = slice(first - base.first_month, span.stop - base.first_month)
        for member in span.members:
            truth = scenario.truth(member, first, span.stop)
            runs.append(RunSeries(truth[:, warm] - fields[part, warm], truth[:, wet], fields[part, wet], told[part]))
    if not runs:
        raise ProtocolError(
            "no training span is long enough for a rollout",
            found=", ".join(s.text(archive) for s in split.train),
            expected=f"more than {months} months",
            hint="--set model.months=6",
        )
    return usual, runs


def _train(
    columns: Columns,
    series: Sequence[RunSeries],
    rounds: int,
    months: int,
    runs: int,
    regional: float,
    learning_rate: float,
    seed: int,
) -> None:
    """Minimise the CRPS of two realisations, and leave the average of the weights."""
    draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    optimizer = torch.optim.AdamW(columns.parameters(), lr=learning_rate)
    average = {name: p.detach().clone() for name, p in columns.named_parameters()}
    lengths = np.array([len(s.departure) - months for s in series], np.float64)
    areas = columns.areas
    scales = columns.spread
    shares = WHOLE.region_means(areas[None, None], BLOCKS) if regional else None
    for step in range(rounds):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / rounds))
        chosen = draws.choice(len(series), runs, p=lengths / lengths.sum())
        starts = [int(draws.integers(1, len(series[i].departure) - months + 1)) for i in chosen]

        def at(name: str, offset: int, chosen: Any = chosen, starts: Any = starts) -> Tensor:
            return torch.from_numpy(
                np.stack([getattr(series[i], name)[s + offset] for i, s in zip(chosen, starts, strict=True)])
            )

        warmth = at("departure", -1)
        state = torch.stack((warmth, torch.zeros_like(warmth)), 1).repeat(2, 1, 1, 1)
        total = torch.zeros(())
        for month in range(months):
            noise = np.stack([noise_fields(draws, columns.noise, columns.grid) for _ in range(2 * runs)])
            state, rain, _ = columns.month(
                state, at("told", month).repeat(2, 1), at("base", month).repeat(2, 1, 1), torch.from_numpy(noise)
            )
            said = torch.stack((state[:, 0] / scales[0], rain / scales[1]), 1)
            said = said.reshape(2, runs, *said.shape[1:])
            true = torch.stack((at("departure", month) / scales[0], at("truth", month) / scales[1]), 1)
            total = total + (_crps(said, true) * areas).sum((-2, -1)).mean()
            if shares is not None:
                blocks = [WHOLE.region_means((f * areas).flatten(0, -4), BLOCKS) / shares for f in (said, true)]
                score = _crps(blocks[0].reshape(2, runs, *blocks[0].shape[1:]), blocks[1])
                # A mean over a block varies less than a cell: its own size is the unit.
                total = total + regional * (score / blocks[1].std((0, 2, 3), keepdim=True).clamp(min=0.1)).mean()
        optimizer.zero_grad(set_to_none=True)
        (total / months).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(columns.parameters(), 1.0)
        optimizer.step()
        keep = min(REMEMBERED, (1 + step) / (10 + step))
        for name, parameter in columns.named_parameters():
            average[name].lerp_(parameter.detach(), 1 - keep)
    with torch.no_grad():
        for name, parameter in columns.named_parameters():
            parameter.copy_(average[name])


def _crps(said: Tensor, true: Tensor) -> Tensor:
    """Fair CRPS of two realisations, (2, ...) and (...) -> (...), in a form that is never negative by rounding."""
    spread: Tensor = (said[0] - true).abs() + (said[1] - true).abs() - (said[0] - said[1]).abs()
    return spread / 2
