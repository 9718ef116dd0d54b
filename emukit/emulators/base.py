"""Everything that predicts climate: physical units in, physical units out.

Invariant: an emulator is whole. It carries its grid, its normalisers and its weights, so that a folder written by
`save` predicts the same numbers wherever it is loaded; nothing in that folder is unpickled.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.cf import fields_to_dataset
from emukit.data.grid import Grid
from emukit.data.store import scenario_from_dataset
from emukit.data.time import TimeAxis, in_words
from emukit.emulators.features import FAR, ForcingSpace
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.files import atomic_path, check_regular, parse_json, read_text, sha256
from emukit.progress import Reporter, silent_reporter
from emukit.registry import Plugin

FORMAT = 2
# Steps of realisations that are drawn between two signs of progress.
PIECE = 60
# Before the names of the arrays of `trained_in`.
SPACE = "trained_in."


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """How a series of a scenario departs from the response that all scenarios share.

    Attributes:
        years: (N,) middles of years, in calendar years with fractions.
        mean: (N,) the departure.
        deviation: (N,) its posterior standard deviation; NaN where that is not known.
        trained: When its training years end; all later ones are foretold. A calendar year with fractions.
    """

    years: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    trained: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a forced response is made of, and how sure it is.

    Attributes:
        shares: Component to the (V, Y, X) share that it has in the variance of the annual mean response over the
            training years.
        discrepancies: What departs, with its unit, to the discrepancy of each training scenario.
        deviation: (V, Y, X) posterior standard deviation of the mean over the steps asked for, in the variables' units.
    """

    shares: Mapping[str, NDArray[np.floating]]
    discrepancies: Mapping[str, Mapping[str, Discrepancy]]
    deviation: NDArray[np.float64]


class Emulator(ABC):
    """Answers forcings with climate.

    Attributes:
        kind: Name in the registry, by which a saved emulator finds its class. A class of another package need not
            say it: an emulator is called as its recipe names it.
        by_variable: Options of `fit` that are tables by variable, or lists of variables.
        forcing_options: Options of `fit` that name forcings, as `emukit.emulators.features` does.
        domain: What it predicts, and where.
        steps: The kinds of steps it knows, of ``month``, ``year``, ``day`` and ``hour``; empty: all.
        draws: Whether it draws realisations, each with variability as a run has, and not one answer.
        streams: Whether it is fitted from targets on disk, a year or a band of rows at a time, and predicts a year in
            the memory of a year.
        from_beginning: Whether it must run from a scenario's beginning, step by step, to reach a month: a trajectory.
            Work is then divided by scenario and realisation, never by months.
        continues: Whether steps that are asked for piece by piece, in order, are those of one call, and cost no more;
            not so where a call begins a forecast, or runs from the beginning every time.
        together: How many realisations are drawn side by side where they are scored; 1 where that saves no time.
        trained_in: The training years among the forcings that it reads; None where it reads none, or is older.
        knows_error: Whether it knows how far off its forced response may be, as a distribution.
        plugins: What it needs of other packages.
    """

    kind: str
    steps: ClassVar[tuple[str, ...]] = ()
    by_variable: ClassVar[tuple[str, ...]] = ()
    forcing_options: ClassVar[tuple[str, ...]] = ()
    from_beginning: ClassVar[bool] = False
    continues: ClassVar[bool] = True
    together: ClassVar[int] = 1
    streams: ClassVar[bool] = False
    knows_error: bool = False

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.trained_in: ForcingSpace | None = None
        self.plugins: tuple[Plugin, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid it predicts on."""
        return self.domain.grid

    @property
    def variables(self) -> tuple[str, ...]:
        """What it predicts, in the order of the V axis."""
        return self.domain.variables

    @property
    def first_month(self) -> int:
        """The first step of a scenario that can be predicted."""
        return 0

    @property
    def draws(self) -> bool:
        """Whether it draws realisations."""
        return False

    def member(self, number: int) -> Self:
        """The emulator that gives one realisation, a function of the run's seed, its number and the forcings alone.

        Args:
            number: From 0; that of the emulator as it was trained is 0.

        Raises:
            RunError: It has one answer to a scenario.
        """
        raise RunError(
            f"{self.kind} has one answer to a scenario, not an ensemble",
            expected="an emulator that draws realisations",
            hint="leave out --members, or train one: emukit train best-sampled or atlas, on daily data delta-change, "
            "or a network with --objective crps --set training.segments.members=all",
        )

    def predict_members(
        self, scenario: Scenario, start: int, stop: int, members: int, first: int = 0
    ) -> NDArray[np.float32]:
        """Predict months [start, stop) as an ensemble.

        Args:
            scenario: Whose forcings are read.
            start: First month.
            stop: Month after the last.
            members: E, how many realisations; one for an emulator that has one answer.
            first: The number of the first of them.

        Returns:
            (E, stop - start, V, Y, X) float32 in physical units; that of number 0 is what `predict_fields` gives.

        Raises:
            RunError: More than one of an emulator that has one answer.
            ProtocolError: As `predict_fields`.
        """
        if members == 1 and not first:
            return self.predict_fields(scenario, start, stop)[None]
        return np.stack([self.member(first + i).predict_fields(scenario, start, stop) for i in range(members)])

    @classmethod
    def forcings_read(cls, options: Mapping[str, Any]) -> dict[str, Sequence[str]]:
        """The `forcing_options` with the names that they hold."""
        return {name: options[name] for name in cls.forcing_options}

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse options that `fit` would refuse, before anything is trained or fitted.

        Args:
            archive: The data.
            options: Those of `fit`.

        Raises:
            RecipeError: A value outside its range.
            ProtocolError: It does not fit the data.
        """
        return

    @classmethod
    def check_steps(cls, archive: Archive) -> None:
        """Refuse a time axis that the emulator does not know.

        Raises:
            ProtocolError: Its steps are others than `steps`.
        """
        time = archive.time
        kind = time.step if time.step in ("month", "year", "day") else "hour"
        if cls.steps and kind not in cls.steps:
            raise ProtocolError(
                f"{cls.kind} does not know {in_words(time.step)}",
                found=f"the time axis of {archive.source}: {time.describe()}",
                expected=" or ".join(map(in_words, cls.steps)),
                hint="use data of such steps, or train linear, variance-matched or a network",
            )

    @abstractmethod
    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """Predict steps [start, stop) of a scenario from its forcings.

        Returns:
            (stop - start, V, Y, X) float32 in the card's units, within the bounds of the variables.

        Raises:
            ProtocolError: A forcing that the emulator needs is missing, or has another shape.
        """

    def predict_own(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """`predict_fields` of the cells that the scenario holds, (T, V, y, x)."""
        return self.predict_fields(scenario, start, stop)

    def explain(self, scenario: Scenario, start: int, stop: int) -> Explanation | None:
        """What the forced response of steps [start, stop) is made of; None of one that does not know."""
        return None

    def draw_error(
        self, scenario: Scenario, start: int, stop: int, seed: np.random.SeedSequence
    ) -> NDArray[np.float32]:
        """(T, V, Y, X): what the forced response of steps [start, stop) may be off by, drawn from that distribution.

        A function of the seed and the forcings: a step is the same whichever steps are asked for.

        Raises:
            RunError: It does not know.
        """
        raise RunError(
            f"this {self.kind} emulator does not know how far off its forced response may be",
            expected="one that does, such as additive-gp",
            hint="train it again if an earlier version of emukit did, or wrap another base",
        )

    def budget(self, scenario: Scenario) -> dict[str, dict[str, NDArray[np.float64]]]:
        """The energy budget that its answer to a scenario rests on; empty where it rests on none.

        Returns:
            Unit to the (T,) series of all steps in it, by name.
        """
        return {}

    def clip_to_bounds(self, fields: NDArray[np.floating]) -> None:
        """Put the nearest bound of its variable in the place of what lies beyond, in the (T, V, Y, X) fields."""
        for v, variable in enumerate(self.domain.described):
            field, bounds = fields[:, v], variable.bounds
            if bounds.lower is not None:
                np.maximum(field, bounds.lower, out=field)
            if bounds.upper is not None:
                np.minimum(field, bounds.upper, out=field)

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values and arrays from which `from_state` builds the same emulator."""

    @classmethod
    @abstractmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""

    def predict(
        self,
        forcings: Scenario | xr.Dataset,
        start: str | None = None,
        stop: str | None = None,
        members: int | None = None,
        *,
        reporter: Reporter | None = None,
    ) -> xr.Dataset:
        """Predict a scenario, xarray in and out.

        Args:
            forcings: A scenario of an opened store, or a dataset with the forcings on ``time`` (and ``y``, ``x``).
            start: First step, such as ``2070-02``, or ``2070-02-01`` of days;
                the first that can be predicted when None.
            stop: Last step, included; the scenario's last when None.
            members: How many realisations; one answer, without a dimension for it, when None.
            reporter: Shows how many steps of realisations are drawn; nothing when None.

        Returns:
            A dataset with the variables on (time, y, x), or (member, time, y, x), CF attributes and units. Its
            attribute `forcing_distance` says how far its forcings lie from the training at most, in standard deviations
            over the training years.

        Raises:
            ProtocolError: A step is outside the scenario, the scenario has other steps, a forcing is missing, or the
                forcings begin later than in training, so that memories of the past would begin again.
            StoreError: The dataset's forcings are on another grid, in other units, or not finite.
        """
        scenario = (
            forcings
            if isinstance(forcings, Scenario)
            else scenario_from_dataset(forcings, card=self.domain.card, grid=self.grid)
        )
        first = scenario.index(start) if start else self.first_month
        last = scenario.index(stop) + 1 if stop else len(scenario)
        if first >= last:
            unit = scenario.time.unit
            raise ProtocolError(f"no {unit}s from {start} to {stop}", hint=f"name a first {unit} before the last")
        time, known = scenario.time, self.domain.time
        if not time.same_steps(known):
            raise ProtocolError(
                f"the steps of {scenario.name} are not those of the training",
                found=time.describe(),
                expected=known.describe(),
                hint="predict on the time axis of the training",
            )
        if time.first > known.first:
            raise ProtocolError(
                f"the forcings of {scenario.name} begin too late for what the emulator remembers",
                found=time.text(0),
                expected=f"{known.text(0)}, as in training",
                hint=f"let them begin in {known.text(0)}; all of them are predicted, and the first {time.unit}s can be "
                "left out afterwards",
            )
        realisations = self._in_pieces(scenario, first, last, members, reporter or silent_reporter())
        if members is None:
            dataset = self._labelled(realisations[0], scenario, first)
        else:
            number = xr.Variable("member", range(members), {"standard_name": "realization"})
            each = [self._labelled(fields, scenario, first) for fields in realisations]
            dataset = xr.concat(each, number, combine_attrs="identical")
        return dataset.assign_attrs(self.distance_attributes(scenario, first, last))

    def _in_pieces(
        self, scenario: Scenario, first: int, last: int, members: int | None, reporter: Reporter
    ) -> NDArray[np.float32]:
        """(E, last - first, V, Y, X), or of its own realisation alone; with progress where realisations are drawn."""

        def asked(start: int, stop: int) -> NDArray[np.float32]:
            if members is None:
                return self.predict_fields(scenario, start, stop)[None]
            return self.predict_members(scenario, start, stop, members)

        if not (self.draws and self.continues):
            return asked(first, last)
        out = np.empty((members or 1, last - first, len(self.variables), *self.grid.shape), np.float32)
        with reporter.step(f"drawing {scenario.name}", last - first) as step:
            for start in range(first, last, PIECE):
                stop = min(start + PIECE, last)
                out[:, start - first : stop - first] = asked(start, stop)
                step.advance(stop - start)
        return out

    def _labelled(self, fields: NDArray[np.float32], scenario: Scenario, first: int) -> xr.Dataset:
        """Fields of the steps from `first` on as a dataset."""
        steps = scenario.time[first : first + len(fields)]
        return fields_to_dataset(fields, steps, self.grid, self.domain.described, scenario.name)

    def distance_attributes(self, scenario: Scenario, start: int, stop: int) -> dict[str, Any]:
        """Attributes of a prediction of months [start, stop): how far it is from training; none where unknown."""
        space = self.trained_in
        far = space.farthest(scenario, self.grid, start, stop) if space else None
        if space is None or far is None:
            return {}
        return {
            "forcing_distance": round(far[0], 3),
            f"forcing_distance_{scenario.time.unit}": scenario.time.text(far[1]),
            "forcing_distance_units": "standard deviations over the training years",
            "forcing_distance_comment": "largest distance of a year from the nearest training year, in the global "
            f"means of {', '.join(space.names)}",
        }

    def warning_of(self, scenario: Scenario, start: int, stop: int) -> str:
        """What to tell people of forcings in months [start, stop) far outside the training; empty otherwise."""
        space = self.trained_in
        far = space.farthest(scenario, self.grid, start, stop) if space else None
        if space is None or far is None or far[0] <= FAR:
            return ""
        return (
            f"the forcings of {scenario.name} lie far outside the training: the year to {scenario.time.text(far[1])} "
            f"is {far[0]:.1f} times the spread of the training years ({', '.join(space.names)}) from the nearest of "
            "them"
        )

    def save(self, folder: Path) -> None:
        """Write the emulator: `emulator.json` and `arrays.safetensors`, whole or not at all."""
        meta, arrays = self.state()
        head: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "variables": list(self.variables),
            **time_head(self.domain.time),
            "card": self.domain.card.model_dump(mode="json"),
            "meta": meta,
            "trained_in": list(self.trained_in.names) if self.trained_in else [],
        }
        if self.plugins:
            head["plugins"] = [asdict(plugin) for plugin in self.plugins]
        space = self.trained_in.arrays() if self.trained_in else {}
        arrays = {**arrays, **{f"{SPACE}{name}": array for name, array in space.items()}}
        grid = {"grid.lat": self.grid.lat, "grid.lon": self.grid.lon}
        write_saved(folder, head, {**arrays, **grid})


def write_saved(folder: Path, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write plain values and arrays as `read_saved` reads them, whole or not at all."""
    head = dict(head)
    with atomic_path(folder, durable=True) as temporary:
        temporary.mkdir()
        # safetensors writes the bytes behind an array whatever its strides, so each must be contiguous.
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary / "arrays.safetensors")
        head["sha256"] = sha256(temporary / "arrays.safetensors")
        head["head_sha256"] = head_digest(head)
        (temporary / "emulator.json").write_text(json.dumps(head, indent=1), encoding="utf-8")


def time_head(time: TimeAxis) -> dict[str, Any]:
    if time.is_monthly:
        return {"first_month": time.text(0)}
    return {"time": {"step": time.step, "calendar": time.calendar, "first": time.first}}


def time_of(head: Mapping[str, Any]) -> TimeAxis:
    """The beginning of the time axis that `Emulator.save` wrote."""
    if "time" in head:
        return TimeAxis(**head["time"], length=1)
    return TimeAxis.monthly(np.array([head["first_month"]], "datetime64[M]"))


def temperature_position(archive: Archive, setting: str) -> int:
    """Where the near-surface temperature is on the V axis, for a setting that cannot do without.

    Raises:
        RecipeError: No target of the data card is the near-surface temperature.
    """
    position = archive.domain.temperature
    if position is None:
        raise RecipeError(
            f"{setting} needs the near-surface temperature",
            found=f"targets {', '.join(archive.variables)}",
            expected='a target whose standard_name in the data card is "air_temperature"',
            hint=f"say so in the card, or choose a recipe that does without {setting}",
        )
    return position


def head_digest(head: Mapping[str, Any]) -> str:
    """SHA-256 of the plain values in `emulator.json`, without this digest itself."""
    values = {k: v for k, v in head.items() if k != "head_sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def saved_digest(folder: Path) -> str:
    """SHA-256 of everything in the folder of a saved emulator, as it says itself; `read_saved` checks that it is so.

    Raises:
        RunError: The folder holds no saved emulator.
    """
    try:
        return str(parse_json(read_text(folder / "emulator.json"))["head_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(
            f"no trained emulator in {folder}",
            found=f"emulator.json: {getattr(e, 'strerror', None) or e}",
            hint="finish its training, or name another run",
        ) from e


def read_saved(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `Emulator.save` wrote: the head of `emulator.json`, and the arrays.

    Raises:
        RunError: There is no emulator, or it is truncated or of a newer format.
    """
    try:
        head = parse_json(read_text(folder / "emulator.json"))
        check_regular(folder / "arrays.safetensors")
        # Mapped, the file would be in memory in addition to what is read from it: twice the emulator.
        arrays = load_file(folder / "arrays.safetensors", backend="pread")
    except FileNotFoundError as e:
        raise RunError(
            f"no trained emulator in {folder}",
            found=f"{Path(e.filename).name if e.filename else 'a file'} is missing",
            hint="finish its training with `emukit train ... --resume`, or name another run",
        ) from e
    except (OSError, ValueError, SafetensorError) as e:
        raise RunError(
            f"the emulator in {folder} is damaged", found=str(e), hint="train it again, or restore the folder"
        ) from e
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise RunError(
            f"the emulator in {folder} has another format",
            found=str(head.get("format") if isinstance(head, dict) else head),
            expected=str(FORMAT),
            hint="use the version of emukit that wrote it",
        )
    changed = []
    if sha256(folder / "arrays.safetensors") != head.get("sha256"):
        changed.append("weights")
    if head_digest(head) != head.get("head_sha256"):
        changed.append("values in emulator.json")
    if changed:
        raise RunError(
            f"the emulator in {folder} is damaged",
            found=f"{' and '.join(changed)} with another SHA-256 than when it was written",
            hint="train it again, or restore the folder",
        )
    return head, arrays


def refuse_unused(fit: Callable[..., Any], why: str, hint: str, **options: Any) -> None:
    """Refuse options that would do nothing.

    Args:
        fit: Whose keywords they are, with their defaults.
        why: What leaves them without effect, such as ``model.warming names no series``.
        hint: What gives them one.
        options: Their values.

    Raises:
        RecipeError: Some of them are not at their defaults.
    """
    parameters = inspect.signature(fit).parameters
    changed = {name: value for name, value in options.items() if value != parameters[name].default}
    if changed:
        raise RecipeError(
            f"{' and '.join(f'model.{name}' for name in changed)} would do nothing",
            found=f"{', '.join(f'model.{n} = {v!r}' for n, v in changed.items())}, where {why}",
            expected=", ".join(f"{n} at its default, {parameters[n].default!r}" for n in changed),
            hint=f"leave {'it' if len(changed) == 1 else 'them'} out, or {hint}",
        )
