"""A trusted emulator, and what it leaves in training years whose forcings are like those of the month in question.

Invariant: where the forcings are far from all that training showed, the prediction is the base's. The mistakes of the
base are carried as far as forcings are alike, and no further, so nothing is extrapolated.

Regression kriging: the base is the trend, and what it leaves is a Gaussian process over the space of forcings (Matheron
1969; Rasmussen and Williams 2006, section 2.7), with fixed hyperparameters and hence in closed form. Its seasons are a
Fourier series, the coefficients of which are processes of their own; as the basis is orthonormal over whole years, and
as all processes share one kernel, a process for each coefficient is the process of the months.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.features import ForcingSpace, years_of
from emukit.emulators.seasonal_ridge import orthonormal_season
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import RecipeError

Array = NDArray[np.float64]

# Of a variable of which nothing is said. With it a year of three members, alone, corrects the base by an eleventh.
NOISE = 30.0


class Kriging(Wrapper):
    """Its base, plus the mean of a Gaussian process over forcings of what the base leaves.

    Attributes:
        space: Of forcings, with the N training years as points.
        length: Distance in it over which what is left stays much the same.
        loads: (N, H, V, Y, X) what each training year adds, times its kernel similarity, by Fourier coefficient.
    """

    kind = "kriging"
    forcing_options: ClassVar[tuple[str, ...]] = ("forcings",)
    steps: ClassVar[tuple[str, ...]] = ("month",)
    by_variable = ("noise",)

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        space: ForcingSpace,
        length: float,
        loads: NDArray[np.float32],
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.space, self.length, self.loads = space, length, loads

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        forcings: tuple[str, ...] = ("CO2", "CH4", "SO2", "BC"),
        length: float = 1.0,
        noise: dict[str, float] | None = None,
        harmonics: int = 2,
    ) -> Self:
        """Condition the process on the training years.

        Args:
            archive: The data.
            split: Its training spans are used.
            bases: One, which predicts the mean over runs.
            folds: None.
            forcings: The axes of the space, as `emukit.emulators.features` names them.
            length: Scale of the squared exponential kernel, in standard deviations of the training years.
            noise: Variable to the variance of one run's year about the forced response, over that of what the base
                leaves of the forced response; 30 where nothing is said. Larger believes less. The mean of several
                members has so much less noise.
            harmonics: Waves a year of what is left, 0 to 6.

        Raises:
            RecipeError: A value outside its range, or a bad name.
            ProtocolError: A forcing is not in the store, or no training span holds a whole year.
        """
        cls.check(archive, length=length, noise=noise, harmonics=harmonics, forcings=forcings)
        ratio = [float((noise or {}).get(v, NOISE)) for v in archive.variables]
        first = bases[0].first_month
        spans = [replace(s, start=max(s.start, first)) for s in split.train if s.stop > first]
        space = ForcingSpace.fit(archive, spans, forcings)
        season = orthonormal_season(harmonics)
        left, members = [], []
        for span in spans:
            scenario = archive[span.scenario]
            for a, b in years_of(span.start, span.stop):
                truth = np.mean([scenario.truth(m, a, b) for m in span.members], axis=0, dtype=np.float64)
                rest = truth - bases[0].predict_fields(scenario, a, b)
                left.append(np.einsum("th,tvyx->hvyx", season[scenario.calendar_month[a:b]], rest) / (b - a))
                members.append(len(span.members))
        values = np.stack(left)
        near = space.kernel(space.points, length)
        loads = np.empty(values.shape, np.float32)
        for v, own in enumerate(ratio):
            factor = cho_factor(near + np.diag(own / np.array(members)), lower=True)
            part = values[:, :, v]
            loads[:, :, v] = cho_solve(factor, part.reshape(len(part), -1)).reshape(part.shape)
        return cls(archive.domain, bases, space, length, loads)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        noise = options.get("noise") or {}
        unknown = [v for v in noise if v not in archive.variables]
        if unknown:
            raise RecipeError(
                "model.noise names what is not predicted",
                found=", ".join(unknown),
                expected=f"some of {', '.join(archive.variables)}",
            )
        length, harmonics = options.get("length", 1.0), options.get("harmonics", 0)
        for name, value in (("length", length), *((f"noise.{v}", n) for v, n in noise.items())):
            if not (value > 0 and np.isfinite(value)):
                raise RecipeError(f"model.{name} is out of range", found=str(value), expected="more than 0, and finite")
        if not 0 <= harmonics <= 6:
            raise RecipeError("model.harmonics is out of range", found=str(harmonics), expected="0 to 6 waves a year")

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        out = self.bases[0].predict_fields(scenario, start, stop)
        near = self.space.kernel(self.space.of(scenario, self.grid)[start:stop], self.length).astype(np.float32)
        season = orthonormal_season(self.loads.shape[1] // 2).astype(np.float32)
        month = scenario.calendar_month[start:stop]
        for m in np.unique(month):
            rows = month == m
            of_month = np.tensordot(season[m], self.loads, axes=(0, 1))
            out[rows] += np.tensordot(near[rows], of_month, axes=1)
        self.clip_to_bounds(out)
        return out

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Names and length; the space and what its points add."""
        return {"forcings": list(self.space.names), "length": self.length}, self.space.arrays() | {"loads": self.loads}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        space = ForcingSpace.from_arrays(meta["forcings"], arrays)
        return cls(domain, bases, space, float(meta["length"]), np.asarray(arrays["loads"], np.float32))
