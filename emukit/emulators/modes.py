"""Generated weather: patterns of variability whose amplitudes follow the seasons and remember the month before.

Invariant: at every cell and calendar month what is drawn has the distribution that the residuals have there, up to the
spacing of its quantiles; all variables come from the same patterns, so that they belong together.

Residuals are mapped to a standard normal distribution by their ranks, cell by cell and calendar month by calendar month
(a Gaussian copula), and back through their own quantiles, so that no month is drier than dry.
The patterns' amplitudes are one first-order autoregressive process, in which each remembers all: what remembers long
(an ocean) and what forgets (the land next to it) share patterns, and with a memory for each pattern alone both would
remember alike. What the patterns leave is noise of each cell alone, with a memory of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from emukit.data.archive import Scenario
from emukit.data.grid import Grid
from emukit.emulators.residuals import Residuals

Field = NDArray[np.float32]

# Normal scores at which quantiles are kept: a quarter of a standard deviation apart, out to one month in 1,700. A value
# further out is the outermost.
NODES = np.linspace(-3.25, 3.25, 27)

# Months before a scenario's end at which amplitudes begin from zero. The slowest of the real store forgets half in a
# year or two.
WARM_UP = 240

ARRAYS = ("patterns", "amplitude", "propagator", "innovation", "local", "local_autocorrelation", "spread", "quantiles")
# What emulators saved by earlier versions call them.
FORMER_ARRAYS = {
    "amplitude": "strength",
    "propagator": "memory",
    "innovation": "fresh",
    "local_autocorrelation": "local_memory",
}


@dataclass(frozen=True, eq=False)
class Modes:
    """Patterns, the process of their coefficients, and the quantiles that take normal scores back.

    Attributes:
        patterns: (K, V, Y, X) float16, in normal scores for an amplitude of one.
        amplitude: (12, K) standard deviation of each pattern's coefficient by calendar month.
        propagator: (K, K) regression of standardised coefficients on those of the month after.
        innovation: (K, K) factor of the covariance of what that leaves: it times white noise is the innovation.
        local: (12, V, Y, X) float16, standard deviation of what the patterns leave.
        local_autocorrelation: (V, Y, X) its correlation from one month to the next.
        spread: (12, V, Y, X) float16, standard deviation of both together: one, except for what the process simplifies.
        quantiles: (12, len(NODES), V, Y, X) float16, residuals at the normal scores `NODES`.
        seed: Of the noise.
    """

    patterns: NDArray[np.float16]
    amplitude: Field
    propagator: Field
    innovation: Field
    local: NDArray[np.float16]
    local_autocorrelation: Field
    spread: NDArray[np.float16]
    quantiles: NDArray[np.float16]
    seed: int

    @classmethod
    def fit(cls, residuals: Residuals, grid: Grid, relative: Sequence[bool], *, modes: int, seed: int) -> Modes:
        """Find the patterns.

        Args:
            residuals: Weather of training runs.
            grid: Where.
            relative: (V,) which variables have residuals that multiply.
            modes: How many patterns, at most.
            seed: Of the noise.
        """
        # Heavy, and not needed where nothing is fitted.
        from sklearn.decomposition import PCA

        scores, quantiles = _normal_scores(residuals, relative)
        shape = scores.shape[1:]
        root = np.sqrt(np.broadcast_to(grid.weights, shape)).astype(np.float32)
        table = (scores * root).reshape(len(scores), -1)
        pca = PCA(min(modes, *table.shape), random_state=0).fit(table)
        coefficients = pca.transform(table)
        patterns = (pca.components_.reshape(-1, *shape) / root).astype(np.float16)
        del table
        month = residuals.month
        amplitude = _by_month(coefficients, month)
        standard = coefficients / np.where(amplitude > 0, amplitude, 1.0)[month]
        left = scores
        for rows in residuals.runs:
            left[rows] -= np.tensordot(coefficients[rows], patterns.astype(np.float32), axes=1)
        local = _by_month(left, month)
        covariance, propagator, innovation = _process(standard, residuals.runs)
        spread = _spread(patterns, amplitude, covariance, local)
        local_autocorrelation = _autocorrelation(left, residuals.runs)
        half = np.float16
        return cls(
            patterns,
            amplitude,
            propagator,
            innovation,
            local.astype(half),
            local_autocorrelation,
            spread.astype(half),
            quantiles,
            seed,
        )

    def sample(self, scenario: Scenario, number: int, start: int, stop: int) -> Field:
        """(T, V, Y, X) residuals of months [start, stop) of a realisation.

        The processes run backwards from the scenario's end, so that a month has one value whichever months are asked
        for; they were fitted to run so.
        """
        last = len(scenario) - stop
        month = scenario.calendar_month[start:stop][::-1]
        months = len(scenario) - start
        noise = self._white(number, 0, months, self.propagator.shape[:1]) @ self.innovation.T
        # Begun from nothing, years before: what is left of the beginning is gone by the scenario's last month.
        state = np.zeros(len(self.propagator), np.float32)
        for row in self._white(number, 1, WARM_UP, self.propagator.shape[:1]) @ self.innovation.T:
            state = self.propagator @ state + row
        for t in range(months):
            state = self.propagator @ state + noise[t]
            noise[t] = state
        scores = np.tensordot(noise[last:] * self.amplitude[month], self.patterns.astype(np.float32), axes=1)
        local = self._white(number, 2, months, self.local_autocorrelation.shape)
        innovation = np.sqrt(1 - self.local_autocorrelation**2)
        for t in range(1, months):
            local[t] = self.local_autocorrelation * local[t - 1] + innovation * local[t]
        scores += local[last:] * self.local.astype(np.float32)[month]
        scores /= self.spread.astype(np.float32)[month]
        return self._residuals(scores, month)[::-1]

    def _white(self, number: int, stream: int, months: int, shape: tuple[int, ...]) -> Field:
        """(months, ...) white noise, of which more months begin alike."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, stream)))
        return rng.standard_normal((months, *shape), dtype=np.float32)

    def _residuals(self, scores: Field, month: NDArray[np.int64]) -> Field:
        """Normal scores (T, V, Y, X) to residuals, on straight lines between quantiles."""
        place = np.clip((scores - NODES[0]) / (NODES[1] - NODES[0]), 0, len(NODES) - 1)
        below = np.minimum(place.astype(np.int64), len(NODES) - 2)
        out = np.empty_like(scores)
        for m in np.unique(month):
            rows, table = month == m, self.quantiles[m].astype(np.float32)
            low = np.take_along_axis(table, below[rows], axis=0)
            high = np.take_along_axis(table, below[rows] + 1, axis=0)
            out[rows] = low + (place[rows] - below[rows]).astype(np.float32) * (high - low)
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` needs next to the seed."""
        return {name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], seed: int) -> Modes:
        """The inverse of `arrays`."""
        saved = {name: name if name in arrays else FORMER_ARRAYS.get(name, name) for name in ARRAYS}
        return cls(**{name: arrays[key] for name, key in saved.items()}, seed=seed)


def _normal_scores(residuals: Residuals, relative: Sequence[bool]) -> tuple[Field, NDArray[np.float16]]:
    """Residuals as normal scores by cell and calendar month, (N, V, Y, X), and the quantiles that take them back."""
    scores = np.empty(residuals.values.shape, np.float32)
    quantiles = np.zeros((12, len(NODES), *scores.shape[1:]), np.float16)
    rng = np.random.default_rng(0)
    for m in range(12):
        # Months without any rain are equal: in the order of time, equal ranks would make a trend.
        rows = rng.permutation(np.flatnonzero(residuals.month == m))
        if not rows.size:
            continue
        values = residuals.values[rows].astype(np.float32)
        order = np.argsort(values, axis=0, kind="stable")
        normal = ndtri((np.arange(len(rows)) + 0.5) / len(rows)).astype(np.float32)
        ranked = np.empty_like(values)
        np.put_along_axis(ranked, order, np.broadcast_to(normal[:, None, None, None], values.shape), axis=0)
        scores[rows] = ranked
        quantiles[m] = _quantiles(np.take_along_axis(values, order, axis=0), relative)
    return scores, quantiles


def _quantiles(ordered: Field, relative: Sequence[bool]) -> Field:
    """(len(NODES), V, Y, X) values of ordered ones (n, V, Y, X) at `NODES`, with the mean a normal draw must have."""
    place = np.clip(ndtr(NODES) * len(ordered) - 0.5, 0, len(ordered) - 1)
    below = np.minimum(place.astype(np.int64), max(len(ordered) - 2, 0))
    share = (place - below).astype(np.float32)[:, None, None, None]
    above = np.minimum(below + 1, len(ordered) - 1)
    table = ordered[below] + share * (ordered[above] - ordered[below])
    mean = np.tensordot(_node_weights(), table, axes=1)
    for v, shares in enumerate(relative):
        if shares:
            table[:, v] /= np.where(mean[v] > 0, mean[v], 1.0)
        else:
            table[:, v] -= mean[v]
    return np.asarray(table, np.float32)


def _node_weights() -> Field:
    """(len(NODES),) weights of the expected value, under a normal distribution, of straight lines between nodes."""
    fine = ndtri((np.arange(20_000) + 0.5) / 20_000)
    return np.array([np.interp(fine, NODES, unit).mean() for unit in np.eye(len(NODES))], np.float32)


def _by_month(values: Field, month: NDArray[np.int64]) -> Field:
    """(12, ...) root mean squares by calendar month; zero where there is none."""
    out = np.zeros((12, *values.shape[1:]), np.float32)
    for m in np.unique(month):
        rows = values[month == m]
        out[m] = np.sqrt(np.einsum("n...,n...->...", rows, rows) / len(rows))
    return out


def _process(coefficients: Field, runs: Sequence[slice]) -> tuple[Field, Field, Field]:
    """Covariance of coefficients (N, K), their regression on those of the row after, a factor of what that leaves."""
    before = np.concatenate([coefficients[r][:-1] for r in runs]).astype(np.float64)
    after = np.concatenate([coefficients[r][1:] for r in runs]).astype(np.float64)
    covariance = (before.T @ before + after.T @ after) / (2 * len(before))
    propagator = np.linalg.solve(covariance, after.T @ before / len(before)).T
    left, axes = np.linalg.eigh(covariance - propagator @ covariance @ propagator.T)
    innovation = axes * np.sqrt(np.maximum(left, 0.0))
    # In one order in memory, or a loaded emulator would add up in another.
    half = np.ascontiguousarray(propagator, np.float32), np.ascontiguousarray(innovation, np.float32)
    return covariance.astype(np.float32), *half


def _spread(patterns: NDArray[np.float16], amplitude: Field, covariance: Field, local: Field) -> Field:
    """(12, V, Y, X) standard deviation of patterns with coefficients of a covariance, and of local noise, together."""
    table = patterns.astype(np.float32).reshape(len(patterns), -1)
    out = np.empty_like(local)
    for m in range(12):
        by_mode = covariance * amplitude[m] * amplitude[m][:, None]
        variance = np.einsum("kc,kc->c", table, by_mode @ table).reshape(local.shape[1:])
        out[m] = np.sqrt(np.maximum(variance + local[m] ** 2, 1e-6))
    return out


def _autocorrelation(values: Field, runs: Sequence[slice]) -> Field:
    """(...) correlation from one row to the next within runs, in [0, 0.99]."""
    product, square = np.zeros((2, *values.shape[1:]))
    for rows in runs:
        run = values[rows]
        product += np.einsum("n...,n...->...", run[1:], run[:-1])
        square += (np.einsum("n...,n...->...", run[1:], run[1:]) + np.einsum("n...,n...->...", run[:-1], run[:-1])) / 2
    return np.asarray(np.clip(product / np.where(square > 0, square, 1.0), 0.0, 0.99), np.float32)
