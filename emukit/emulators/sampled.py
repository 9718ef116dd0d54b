"""Realisations: the forced response of an emulator, with weather like a climate model's own.

Invariant: a realisation is a function of seed, number and forcings: a month of it is the same whichever months are
asked for. The mean over realisations is what the base says; no value is beyond a bound. The draws of a number are the
same in every scenario: realisations of one number differ between scenarios by less chance than two runs would.

A squared error is smallest for the mean of all runs, which no run looks like. A realisation looks like a run, and its
squared errors are those of a run: the honest answer to "what could happen", and not the closest guess of any one month.

Weather is drawn as blocks of years, or from modes: patterns of variability whose amplitudes follow the seasons and
remember the month before. At every cell and calendar month what modes draw has the distribution that the residuals have
there, up to the spacing of its quantiles; all variables come from the same patterns, so that they belong together.
Residuals are mapped to a standard normal distribution by their ranks, cell by cell and calendar month by calendar month
(a Gaussian copula), and back through their own quantiles, so that no month is drier than dry. The patterns' amplitudes
are one first-order autoregressive process, in which each remembers all: what remembers long (an ocean) and what forgets
(the land next to it) share patterns, and with a memory for each pattern alone both would remember alike. What the
patterns leave is noise of each cell alone, with a memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import Grid
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator, refuse_unused
from emukit.emulators.features import feature, forcing_of
from emukit.emulators.residuals import Residuals, climatology_of, training_residuals, usable_spans
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError

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
class YearBlocks:
    """Weather as it was: whole years of whole fields of training runs, so that what belongs together stays together.

    Attributes:
        residuals: Where blocks are drawn from; a block may begin in any year.
        years: Length of a block.
        similar: Share of all blocks that are drawn from, those of the most similar climate.
        seed: Of the draws.
        alike: Forcing series that make climates similar next to the global mean temperature, as
            `emukit.emulators.features` names them.
        forcings: (N, A) these of the rows of the residuals.
    """

    residuals: Residuals
    years: int
    similar: float
    seed: int
    alike: tuple[str, ...] = ()
    forcings: NDArray[np.float32] | None = None

    def rows(
        self,
        scenario: Scenario,
        number: int,
        start: int,
        stop: int,
        global_mean: Callable[[int, int], float],
        grid: Grid,
    ) -> NDArray[np.int64]:
        """(T,) rows of the residuals that are the weather of months [start, stop) of a realisation.

        Blocks lie one before the other from the scenario's end, so that a month has its place in its block whichever
        months are asked for.

        Args:
            scenario: Whose months they are.
            number: Of the realisation.
            start: First month.
            stop: Month after the last.
            global_mean: Global mean temperature of the months [first, last) of the forced response, K.
            grid: Of forcings that are fields.
        """
        end, length = len(scenario), 12 * self.years
        series = np.stack([feature(n, scenario, grid) for n in self.alike], 1) if self.alike else np.zeros((end, 0))
        out = np.empty(stop - start, np.int64)
        for block in range((end - stop) // length, (end - start - 1) // length + 1):
            first = end - (block + 1) * length
            row = self._draw(scenario, number, block, global_mean, series)
            low, high = max(first, start), min(first + length, stop)
            out[low - start : high - start] = np.arange(row + low - first, row + high - first)
        return out

    def _draw(
        self,
        scenario: Scenario,
        number: int,
        block: int,
        global_mean: Callable[[int, int], float],
        series: NDArray[np.floating],
    ) -> int:
        """The row of the residuals with which a block begins."""
        length = 12 * self.years
        first = len(scenario) - (block + 1) * length
        rows = self.residuals.starts((int(scenario.calendar_month[0]) + first) % 12, length)
        if self.similar < 1:
            # Whole years, or a season would pass for a climate; of the first block there may be less than one.
            begin = max(first, 0)
            stop = begin + 12 * max((first + length - begin) // 12, 1)
            apart = np.abs(_block_means(self.residuals.global_mean, rows, length) - global_mean(begin, stop))
            if self.forcings is not None:
                # Each in units of what blocks differ by in it; what never moves tells no block from another.
                wanted = [global_mean(begin, stop), *series[begin:stop].mean(0)]
                held = (self.residuals.global_mean, *self.forcings.T)
                square = np.zeros(len(rows))
                for values, value in zip(held, wanted, strict=True):
                    of_block = _block_means(values, rows, length)
                    square += ((of_block - value) / (of_block.std() or np.inf)) ** 2
                apart = np.sqrt(square)
            nearest = np.argsort(apart, kind="stable")
            rows = rows[nearest[: max(1, round(self.similar * len(rows)))]]
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, block)))
        return int(rows[rng.integers(len(rows))])


def _block_means(values: NDArray[np.floating], rows: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """(R,) means of the (N,) values over blocks that begin with some rows."""
    sums = np.cumsum([0.0, *values])
    return np.asarray((sums[rows + length] - sums[rows]) / length, np.float64)


class Sampled(Wrapper):
    """Its base, which should say the mean over runs, with sampled weather.

    Attributes:
        weather: Draws residuals.
        climatology: (12, K, Y, X) means of the training months by calendar month, of the K relative variables, whose
            residuals multiply.
        number: Which realisation it gives.
        uncertain: Whether realisations differ in their forced response too.
    """

    kind = "sampled"
    forcing_options: ClassVar[tuple[str, ...]] = ("alike",)
    steps: ClassVar[tuple[str, ...]] = ("month",)
    varied: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        weather: YearBlocks | Modes,
        climatology: NDArray[np.float32],
        number: int = 0,
        uncertain: bool = False,
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.uncertain = uncertain
        self.weather = weather
        self.climatology = climatology
        self.number = number

    @property
    def draws(self) -> bool:
        """Always."""
        return True

    def member(self, number: int) -> Self:
        """The same emulator giving another realisation; numbers from 0."""
        return type(self)(self.domain, self.bases, self.weather, self.climatology, number, self.uncertain)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) of one realisation; within the bounds."""
        out = self.bases[0].predict_fields(scenario, start, stop)
        if self.uncertain:
            # Blocks have keys of two numbers.
            seed = np.random.SeedSequence(self.weather.seed, spawn_key=(self.number,))
            out = out + self.bases[0].draw_error(scenario, start, stop, seed)
            self.clip_to_bounds(out)
        globe: NDArray[np.float32] | None = None
        if isinstance(self.weather, Modes):
            residual = self.weather.sample(scenario, self.number, start, stop)
        else:
            held = self.weather.residuals
            rows = self.weather.rows(scenario, self.number, start, stop, self._warmth_of(scenario), self.grid)
            residual = held.values[rows].astype(np.float32)
            globe = None if held.globe is None else held.globe[rows]
        usual = self.climatology[scenario.calendar_month[start:stop]].swapaxes(0, 1)
        add_variability(self.domain, out, residual, usual, globe)
        self.clip_to_bounds(out)
        return out

    def _warmth_of(self, scenario: Scenario) -> Callable[[int, int], float]:
        v = self.domain.temperature
        if v is None:
            # Blocks are drawn from all of them: `check` has refused anything else.
            return lambda first, last: 0.0

        def global_mean(first: int, last: int) -> float:
            # Where the base cannot go so far back, or the scenario ends before, the nearest months it can say.
            last = min(max(last, self.first_month + 12), len(scenario))
            fields = self.bases[0].predict_fields(scenario, max(first, self.first_month), last)
            return float(self.grid.mean(fields[:, v]).mean())

        return global_mean

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges, or without effect; arguments as for `fit`."""
        if options["weather"] == "eof":
            own = {name: options[name] for name in ("years", "similar", "alike")}
            refuse_unused(cls.fit, "weather is made from patterns", "set model.weather to 'blocks'", **own)
        else:
            refuse_unused(
                cls.fit, "weather comes in blocks of years", "set model.weather to 'eof'", modes=options["modes"]
            )
        for name in ("smooth", "years", "modes"):
            if options[name] < 1:
                raise RecipeError(f"model.{name} is out of range", found=str(options[name]), expected="1 or more")
        similar = options["similar"]
        if similar == 1:
            refuse_unused(cls.fit, "blocks are drawn from all", "set model.similar below 1", alike=options["alike"])
        if len(set(options["alike"])) < len(options["alike"]):
            found = ", ".join(options["alike"])
            raise RecipeError("model.alike names something twice", found=found, expected="each once")
        for name in options["alike"]:
            feature(name, next(iter(archive.values())), archive.grid)
        if not 0 < similar <= 1:
            raise RecipeError("model.similar is out of range", found=str(similar), expected="a share above 0, up to 1")
        if options["weather"] == "blocks" and similar < 1 and archive.domain.temperature is None:
            raise RecipeError(
                "model.similar compares blocks by the near-surface temperature, and there is none",
                found=f"targets {', '.join(archive.variables)}",
                expected='a target whose standard_name in the data card is "air_temperature"',
                hint="--set model.similar=1.0",
            )

    @classmethod
    def check_training(cls, archive: Archive, spans: Sequence[Span], **options: Any) -> None:
        """Refuse spans without weather or blocks, and series by which no block differs; arguments as for `fit`."""
        usable = usable_spans(archive, spans, options["smooth"])
        if options["weather"] == "eof":
            return
        longest, years = max(map(len, usable)), options["years"]
        # A block begins in the calendar month in which a scenario's last ends: up to eleven months into a run.
        if longest < 12 * years + 11:
            raise ProtocolError(
                f"the training months hold no block of {years} years from any calendar month",
                found=f"runs of {longest} months at most",
                expected=f"at least {12 * years + 11}",
                hint=f"--set model.years={max((longest - 11) // 12, 1)}",
            )
        names = options["alike"]
        series = _forcings(archive, usable, names) if names else np.zeros((1, 0), np.float32)
        for name, least, most in zip(names, series.min(0), series.max(0), strict=True):
            # A passage runs from 0 to 1: less than a hundredth of it is no difference.
            if most - least <= (0.0 if forcing_of(name) else 0.01):
                raise RecipeError(
                    f"model.alike names {name}, by which no training block differs from another",
                    found=f"from {least:.4g} to {most:.4g} in the training {archive.time.unit}s",
                    expected="a series that changes there",
                    hint="leave it out, or name another",
                )

    @classmethod
    def needs_error(cls, **options: Any) -> bool:
        """Where `uncertain` is set."""
        return bool(options["uncertain"])

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """How weather is drawn; residuals, or patterns."""
        own: dict[str, Any] = {"number": self.number, "seed": self.weather.seed, "uncertain": self.uncertain}
        if isinstance(self.weather, Modes):
            return own | {"weather": "eof"}, {"climatology": self.climatology, **self.weather.arrays()}
        blocks = self.weather
        own |= {"weather": "blocks", "years": blocks.years, "similar": blocks.similar, "alike": list(blocks.alike)}
        forcings = {} if blocks.forcings is None else {"forcings": blocks.forcings}
        return own, {"climatology": self.climatology, **blocks.residuals.arrays(), **forcings}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        seed = int(meta["seed"])
        weather: YearBlocks | Modes
        if meta["weather"] == "eof":
            weather = Modes.from_arrays(arrays, seed)
        else:
            residuals, alike = Residuals.from_arrays(arrays), tuple(meta.get("alike", ()))
            years, similar = int(meta["years"]), float(meta["similar"])
            weather = YearBlocks(residuals, years, similar, seed, alike, arrays.get("forcings"))
        climatology = arrays.get("climatology")
        if climatology is None:
            # Of versions in which pr alone was relative, and had zeros where it was not predicted.
            climatology = arrays["rain"][:, None][:, : sum(domain.relative)]
        # Emulators of earlier versions know one forced response alone.
        return cls(domain, bases, weather, climatology, int(meta["number"]), bool(meta.get("uncertain", False)))

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        seed: int = 0,
        weather: Literal["blocks", "eof"] = "blocks",
        smooth: int = 21,
        years: int = 5,
        similar: float = 0.3,
        alike: tuple[str, ...] = (),
        modes: int = 300,
        uncertain: bool = False,
    ) -> Self:
        """Learn the weather of the training runs.

        Args:
            archive: The data.
            split: Its training spans are used.
            bases: What is given weather.
            folds: None.
            seed: Of realisations: that of the run.
            weather: From blocks of years of training runs, or made again from their patterns.
            smooth: Years over which the mean of the members is smoothed to tell a training run's forced response
                from its weather; 1: not at all.
            years: Length of a block (``blocks``).
            similar: Share of all blocks that are drawn from, those of the most similar global temperature (``blocks``).
            alike: Forcing series by which blocks are similar besides, as `emukit.emulators.features` names them, each
                in units of the spread of all blocks (``blocks``).
            modes: Patterns, at most (``eof``).
            uncertain: Give each realisation a forced response of its own, drawn from what the base knows of how far off
                it may be; it must know that, as `additive-gp` does.

        Raises:
            RecipeError: A value outside its range, or a base that does not know how far off it may be.
            ProtocolError: The training months do not tell weather from forced change, or hold no block.
        """
        cls.check(archive, weather=weather, smooth=smooth, years=years, similar=similar, alike=alike, modes=modes)
        if uncertain and not bases[0].knows_error:
            raise RecipeError(
                "model.uncertain needs a base that knows how far off it may be",
                found=bases[0].kind,
                expected="additive-gp, as this version of emukit saves it",
                hint="--set model.uncertain=false",
            )
        cls.check_training(archive, split.train, weather=weather, smooth=smooth, years=years, alike=alike)
        residuals = training_residuals(archive, split.train, smooth)
        climatology = relative_climatology(archive, split)
        if weather == "eof":
            made = Modes.fit(residuals, archive.grid, archive.domain.relative, modes=modes, seed=seed)
            return cls(archive.domain, bases, made, climatology, uncertain=uncertain)
        forcings = _forcings(archive, usable_spans(archive, split.train, smooth), alike) if alike else None
        blocks = YearBlocks(residuals, years, similar, seed, alike, forcings)
        return cls(archive.domain, bases, blocks, climatology, uncertain=uncertain)


def _forcings(archive: Archive, spans: Sequence[Span], names: Sequence[str]) -> NDArray[np.float32]:
    """(N, A) forcings of the months of every member of spans, as residuals follow each other."""
    parts = []
    for s in spans:
        scenario = archive[s.scenario]
        series = np.stack([feature(n, scenario, archive.grid)[s.start : s.stop] for n in names], 1)
        parts += [series] * len(s.members)
    return np.concatenate(parts).astype(np.float32)


def add_variability(
    domain: Domain,
    forced: NDArray[np.float32],
    residual: NDArray[np.floating],
    usual: NDArray[np.float32],
    globe: NDArray[np.float32] | None = None,
) -> None:
    """Give months of a forced response the variability of a run, in place.

    Args:
        domain: Says which variables are relative.
        forced: (T, V, Y, X).
        residual: (T, V, Y, X) what is added, or the factor of a relative variable.
        usual: (K, T, Y, X) the training's mean of each month, of the K relative variables.
        globe: (T, K) deviations of their global means, as shares; None: what the factors give on the training's mean.
    """
    relative = np.flatnonzero(domain.relative).tolist()
    for k, (v, fields) in enumerate(zip(relative, usual, strict=True)):
        deviation = None if globe is None else globe[:, k]
        forced[:, v] = _multiplied(domain.grid, forced[:, v], residual[:, v], fields, deviation)
    for v in (v for v in range(len(domain.variables)) if v not in relative):
        forced[:, v] += residual[:, v]


def relative_climatology(archive: Archive, split: Split) -> NDArray[np.float32]:
    """(12, K, Y, X) means of the training months by calendar month, of the K relative variables."""
    relative = np.flatnonzero(archive.domain.relative)
    climatology = np.zeros((12, len(relative), *archive.grid.shape), np.float32)
    for k, v in enumerate(relative.tolist()):
        climatology[:, k] = climatology_of(archive, split.train, v)
    return climatology


def _multiplied(
    grid: Grid,
    forced: NDArray[np.float32],
    residual: NDArray[np.float32],
    usual: NDArray[np.float32],
    deviation: NDArray[np.floating] | None,
) -> NDArray[np.float32]:
    """(T, Y, X): a relative variable with the deviations of training runs, cell by cell and of the globe's mean.

    Within a run the cells' deviations nearly balance: what rains more here rains less elsewhere. On another mean
    than that of the training they no longer would, and the globe's rain would vary several times too much. So the
    globe is given its own deviations as if it were a cell, and all cells are scaled to that.

    Args:
        grid: Of the fields.
        forced: (T, Y, X) the forced response.
        residual: (T, Y, X) its factor.
        usual: (T, Y, X) the training's mean of each month.
        deviation: (T,) of the globe's mean in the run that the factor is of, as a share; None: what the factor gives on
            the training's mean.
    """
    out = forced * (1 + (residual - 1) * _share(forced, usual))
    globe, globe_usual = grid.mean(forced), grid.mean(usual)
    if deviation is None:
        deviation = globe_deviation(grid, residual, usual)
    wanted = globe * (1 + deviation * _share(globe, globe_usual))
    found = grid.mean(out)
    balance = np.where(found > 0, wanted / np.where(found > 0, found, 1.0), 1.0)
    return np.asarray(out * balance[:, None, None], np.float32)


def globe_deviation(grid: Grid, residual: NDArray[np.floating], usual: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T,) relative deviations of the globe's mean, of factors (T, Y, X) of the usual fields (T, Y, X)."""
    mean = grid.mean(usual)
    return np.asarray(grid.mean(usual * (residual - 1)) / np.where(mean > 0, mean, 1.0))


def _share(forced: NDArray[np.floating], usual: NDArray[np.floating]) -> NDArray[np.floating]:
    """(T, ...) how much of the relative deviations of training runs a month has.

    All, where its mean is no larger than in training; where it is, the deviations in the variable's unit grow with
    the square root of the mean alone, as those of precipitation do with more of the same storms. In training
    scenarios left out, one after the other, that was closer to the members' pr than deviations in proportion, or in
    mm/day, everywhere.
    """
    more = forced > usual
    return np.asarray(np.where(more, np.sqrt(usual / np.where(more, forced, 1.0)), np.float32(1.0)))


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
