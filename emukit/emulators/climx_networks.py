"""The two networks among the baselines that the organisers of ClimX published, rebuilt from their description.

Invariant: both are what was published, weaknesses included: they predict daily means, cell by cell, of the forcings of
that day in that cell. What emukit has of its own is in `emukit.models`.

Inputs: concentrations and emissions, interpolated to days by straight lines; of emissions sign(x) log10(|x| + 1e-6),
in three parts (where positive, where negative, whether zero); sine and cosine of 2 pi (day of the year) / 365.25. Of
ClimX these are 22. Targets: log10(x + 1e-6) of precipitation and humidity, less the monthly climatology of the
historical run, divided by one standard deviation of each variable. Trained on the scenarios, not on the historical run:
mean squared error, Adam, 5 epochs, batches of 4,096 cells by 30 days.

Guesses, where nothing is published: days of a batch follow each other, and batches are drawn in a new order in every
epoch; months lie on their 15th; inputs are standardised except for zeros, sine and cosine; the graph is directed, with
loops, and its convolution is that of Kipf and Welling (2017); a batch of the graph network is of all cells.

Dimension letters: D days, C cells, F inputs, V variables, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.protocol import HISTORICAL
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.climx_baselines import (
    DAYS,
    OFFSET,
    Array,
    Field,
    Knots,
    check_historical,
    daily_series,
    historical_means,
    in_space,
    knots_of,
    logarithmic_variables,
    spline_of_months,
)
from emukit.errors import ProtocolError, RecipeError

WIDTH, EMBEDDING = 128, 8
RATE = 1e-3
BATCH_CELLS, BATCH_DAYS = 4096, 30
# Probability of an edge from one cell to another. The 216 cells of the lite files have 0.05 edges on average.
EDGE = 1e-6
# Every so many training days enter the means and standard deviations of the inputs, which change by the month.
STATISTICS_STEP = 10


class CellNetwork(nn.Module):
    """A perceptron of the inputs of a cell and of a vector that each cell learns; all cells share the rest.

    The published network has a last layer for each variable; one layer for all of them is the same.
    """

    def __init__(self, cells: int, inputs: int, variables: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(cells, EMBEDDING)
        self.layers = nn.Sequential(
            nn.Linear(inputs + EMBEDDING, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, variables),
        )

    def forward(self, x: Tensor, cells: Tensor) -> Tensor:
        """(D, C, V) of (D, C, F) inputs of the (C,) cells named."""
        own = self.embedding(cells).expand(len(x), -1, -1)
        out: Tensor = self.layers(torch.cat([x, own], -1))
        return out


class GraphNetwork(nn.Module):
    """Three graph convolutions over the edges given, from each cell's inputs to its outputs."""

    edges: Tensor
    weights: Tensor

    def __init__(self, cells: int, inputs: int, variables: int, edges: NDArray[np.int64]) -> None:
        """Args as for `CellNetwork`, and (2, E) from which cell to which."""
        super().__init__()
        # Weights of D^-1/2 (A + I) D^-1/2, D what arrives in each cell.
        whole = np.concatenate([edges, np.stack([np.arange(cells)] * 2)], 1)
        root = np.sqrt(np.bincount(whole[1], minlength=cells))
        self.register_buffer("edges", torch.from_numpy(whole), persistent=False)
        weights = (1 / (root[whole[0]] * root[whole[1]])).astype(np.float32)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)
        self.plain = edges.size == 0
        sizes = (inputs, WIDTH, WIDTH, variables)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor, cells: Tensor) -> Tensor:
        """(D, C, V) of (D, C, F) inputs of all cells."""
        for i, layer in enumerate(self.layers):
            x = layer(x if self.plain else self._gather(x))
            x = torch.relu(x) if i < len(self.layers) - 1 else x
        return x

    def _gather(self, x: Tensor) -> Tensor:
        """(D, C, F) what arrives in each cell."""
        source, target = self.edges
        return torch.zeros_like(x).index_add_(1, target, x[:, source] * self.weights[:, None])


class _Forcings:
    """The inputs of one scenario, a few days at a time."""

    def __init__(self, scenario: Scenario) -> None:
        self._maps = [f for f in scenario.forcings.values() if f.ndim == 3]
        series = [daily_series(scenario, name) for name, f in scenario.forcings.items() if f.ndim == 1]
        angle = 2 * np.pi * (scenario.time.day_of_year + 1) / 365.25
        self._season = np.stack([np.sin(angle), np.cos(angle)], 1)
        self._series = np.stack(series, 1) if series else np.zeros((len(scenario), 0))
        self._day = scenario.time.year * DAYS + scenario.time.day_of_year
        _, first = np.unique(scenario.time.year * 12 + scenario.time.month, return_index=True)
        self._first, self._at = first, self._day[first] + 14.0
        self.standardised = np.repeat(
            [True, True, True, False, False],
            [self._series.shape[1], len(self._maps), len(self._maps), len(self._maps), 2],
        )

    def days(self, start: int, stop: int, cells: NDArray[np.int64]) -> Field:
        """(D, C, F) inputs of days [start, stop) in some cells, not standardised."""
        signed = [self._interpolated(f, start, stop)[:, cells] for f in self._maps]
        logs = [np.sign(x) * np.log10(np.abs(x) + OFFSET) for x in signed]
        series, season = (
            [np.broadcast_to(v[start:stop, None], (stop - start, len(cells))) for v in values.T]
            for values in (self._series, self._season)
        )
        parts = [
            *series,
            *(np.where(x > 0, y, 0) for x, y in zip(signed, logs, strict=True)),
            *(np.where(x < 0, y, 0) for x, y in zip(signed, logs, strict=True)),
            *(x == 0 for x in signed),
            *season,
        ]
        return np.stack(parts, -1, dtype=np.float32)

    def _interpolated(self, maps: NDArray[np.floating], start: int, stop: int) -> Array:
        """(D, Y X) a monthly forcing on days: straight lines between the 15th of months, and beyond at both ends."""
        days = self._day[start:stop]
        last = len(self._at) - 1
        low = np.clip(np.searchsorted(self._at, days, side="right") - 1, 0, max(last - 1, 0))
        high = np.minimum(low + 1, last)
        share = (days - self._at[low]) / np.maximum(self._at[high] - self._at[low], 1.0)
        a, b = (np.asarray(maps[self._first[i]], np.float64).reshape(len(days), -1) for i in (low, high))
        return a + share[:, None] * (b - a)


class ClimxNetwork(Emulator):
    """The organisers' network for each cell."""

    kind = "climx-nn"
    steps = ("day",)
    graph = False

    def __init__(
        self, domain: Domain, network: nn.Module, arrays: Mapping[str, NDArray[Any]], knots: Knots, forcings: list[str]
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            network: Trained.
            arrays: ``means`` (12, V, Y, X) of calendar months; ``center`` and ``scale`` (F,) of the inputs; ``middle``
                and ``spread`` (V,) of the targets; ``edges`` (2, E).
            knots: As in `climx-climatology`.
            forcings: Names of the forcings that it was trained with.
        """
        super().__init__(domain)
        self._network, self._arrays, self._knots, self._forcings = network, arrays, knots, forcings

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse what `fit` would refuse; arguments as for `fit`."""
        check_historical(archive, cls.kind)
        if options["epochs"] < 1:
            raise RecipeError("model.epochs must be at least 1", found=str(options["epochs"]))

    @classmethod
    def fit(cls, archive: Archive, split: Split, *, epochs: int = 5, knots: Knots = "first", seed: int = 0) -> Self:
        """Train on the training days of all scenarios but the historical run, as published.

        Args:
            archive: Daily data; all of their forcings are inputs.
            split: Its training spans; those of the historical run give the climatology alone.
            epochs: Passes over the training days.
            knots: Where the mean of a month lies in the climatology: on its first day, as published, or in its middle.
            seed: Of the weights, the order of batches and the graph: that of the run.

        Raises:
            RecipeError: No epoch.
            ProtocolError: The data are not daily, or no day of the historical run, or of another scenario, trains.
        """
        cls.check(archive, epochs=epochs)
        spans = [s for s in split.train if s.scenario != HISTORICAL]
        if not spans:
            raise ProtocolError(f"{cls.kind} trains on scenarios after the historical run", found="none in the split")
        cells = np.arange(archive.grid.weights.size)
        arrays: dict[str, NDArray[Any]] = {"means": historical_means(archive, split)}
        forcings = {name: _Forcings(archive[name]) for name in dict.fromkeys(s.scenario for s in spans)}
        arrays |= _input_statistics(spans, forcings, cells)
        targets = _Targets(archive.domain, arrays["means"], knots)
        arrays |= _target_statistics(archive, spans, targets)
        random = np.random.default_rng([seed, 0])
        number = int(random.binomial(len(cells) ** 2, EDGE)) if cls.graph else 0
        arrays["edges"] = random.integers(len(cells), size=(2, number))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = cls._network_of(len(cells), len(arrays["center"]), len(archive.variables), arrays["edges"])
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        names = list(archive[spans[0].scenario].forcings)
        emulator = cls(archive.domain, network, arrays, knots, names)
        blocks = np.array_split(cells, 1 if cls.graph else -(-len(cells) // BATCH_CELLS))
        pieces = [(span, *days, block) for span in spans for days in _pieces(span) for block in blocks]
        middle, spread = arrays["middle"], arrays["spread"]
        for _ in range(epochs):
            for i in random.permutation(len(pieces)):
                span, start, stop, block = pieces[i]
                scenario = archive[span.scenario]
                truth = scenario.truth(span.members[0], start, stop)
                y = (targets.departures(truth, scenario.time.day_of_year[start:stop]) - middle) / spread
                x = emulator._standardised(forcings[span.scenario], start, stop, block)
                wanted = torch.from_numpy(y[:, block].astype(np.float32))
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(network(x, torch.from_numpy(block)), wanted)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return emulator

    @classmethod
    def _network_of(cls, cells: int, inputs: int, variables: int, edges: NDArray[np.int64]) -> nn.Module:
        return CellNetwork(cells, inputs, variables)

    def _standardised(self, forcings: _Forcings, start: int, stop: int, cells: NDArray[np.int64]) -> Tensor:
        x = forcings.days(start, stop, cells)
        return torch.from_numpy((x - self._arrays["center"]) / self._arrays["scale"])

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Field:
        """(T, V, Y, X) float32.

        Raises:
            ProtocolError: The forcings are others than in training.
        """
        if list(scenario.forcings) != self._forcings:
            raise ProtocolError(
                f"{scenario.name} has other forcings than {self.kind} was trained with",
                found=", ".join(scenario.forcings),
                expected=", ".join(self._forcings),
            )
        forcings, cells = _Forcings(scenario), np.arange(self.grid.weights.size)
        targets = _Targets(self.domain, self._arrays["means"], self._knots)
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        with torch.inference_mode():
            for first in range(start, stop, BATCH_DAYS):
                last = min(first + BATCH_DAYS, stop)
                said = self._network(self._standardised(forcings, first, last, cells), torch.from_numpy(cells))
                departures = said.numpy() * self._arrays["spread"] + self._arrays["middle"]
                out[first - start : last - start] = targets.fields(departures, scenario.time.day_of_year[first:last])
        self.clip_to_bounds(out)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The weights, and what stands before and behind the network."""
        weights = {f"network.{name}": w.numpy() for name, w in self._network.state_dict().items()}
        return {"knots": self._knots, "forcings": self._forcings}, {**self._arrays, **weights}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        mark = "network."
        plain = {name: np.asarray(a) for name, a in arrays.items() if not name.startswith(mark)}
        weights = {n.removeprefix(mark): torch.from_numpy(np.array(a)) for n, a in arrays.items() if n.startswith(mark)}
        cells, edges = domain.grid.weights.size, plain["edges"].astype(np.int64)
        if edges.size and not 0 <= edges.min() <= edges.max() < cells:
            raise ValueError(f"an edge to a cell that a grid of {cells} has not")
        network = cls._network_of(cells, len(plain["center"]), len(domain.variables), edges)
        network.load_state_dict(weights)
        return cls(domain, network, plain, knots_of(meta), [str(name) for name in meta["forcings"]])


class ClimxGraphNetwork(ClimxNetwork):
    """The organisers' graph network, whose edges are drawn at random."""

    kind = "climx-gnn"
    graph = True

    @classmethod
    def _network_of(cls, cells: int, inputs: int, variables: int, edges: NDArray[np.int64]) -> nn.Module:
        return GraphNetwork(cells, inputs, variables, edges)


class _Targets:
    """Between fields and their departures from the climatology, in the space in which networks learn them."""

    def __init__(self, domain: Domain, means: Array, knots: Knots) -> None:
        self._logarithmic = logarithmic_variables(domain)
        self._climatology = np.tensordot(spline_of_months(knots), means, 1)

    def departures(self, fields: Field, day: NDArray[np.int64]) -> Array:
        """(D, C, V) of (D, V, Y, X) fields and the (D,) days of their years."""
        each = [in_space(fields[:, v], logarithmic) for v, logarithmic in enumerate(self._logarithmic)]
        found = np.stack(each, -1) - np.moveaxis(self._climatology[day], 1, -1)
        return found.reshape(len(found), -1, len(each))

    def fields(self, departures: NDArray[np.floating], day: NDArray[np.int64]) -> Array:
        """The inverse of `departures`."""
        climatology = self._climatology[day]
        out = np.moveaxis(departures, -1, 1).reshape(climatology.shape) + climatology
        for v, logarithmic in enumerate(self._logarithmic):
            if logarithmic:
                out[:, v] = 10.0 ** out[:, v] - OFFSET
        return np.asarray(out)


def _pieces(span: Span) -> Iterator[tuple[int, int]]:
    """The days of a span, as many at a time as are in a batch."""
    for start in range(span.start, span.stop, BATCH_DAYS):
        yield start, min(start + BATCH_DAYS, span.stop)


def _input_statistics(
    spans: list[Span], forcings: Mapping[str, _Forcings], cells: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """``center`` and ``scale`` of the inputs over every tenth training day, 0 and 1 of those not standardised."""
    total = square = 0.0
    number = 0
    for span in spans:
        for day in range(span.start, span.stop, STATISTICS_STEP):
            x = forcings[span.scenario].days(day, day + 1, cells).astype(np.float64)
            total, square, number = total + x.sum((0, 1)), square + (x**2).sum((0, 1)), number + len(cells)
    mean = total / number
    # Of sums in float64: what is constant is not told from rounding more finely.
    sd = np.sqrt(np.maximum(square / number - mean**2, 0.0))
    chosen = forcings[spans[0].scenario].standardised & (sd > 1e-9 * np.abs(mean))
    return {
        "center": np.where(chosen, mean, 0.0).astype(np.float32),
        "scale": np.where(chosen, sd, 1.0).astype(np.float32),
    }


def _target_statistics(archive: Archive, spans: list[Span], targets: _Targets) -> dict[str, Array]:
    """``middle`` and ``spread`` (V,) of the targets over all training days and cells."""
    total = square = np.zeros(len(archive.variables))
    number = 0
    for span in spans:
        scenario = archive[span.scenario]
        for start, stop in _pieces(span):
            truth = scenario.truth(span.members[0], start, stop)
            y = targets.departures(truth, scenario.time.day_of_year[start:stop])
            total, square, number = total + y.sum((0, 1)), square + (y**2).sum((0, 1)), number + y[..., 0].size
    middle = total / number
    return {"middle": middle, "spread": np.sqrt(np.maximum(square / number - middle**2, 1e-12))}
