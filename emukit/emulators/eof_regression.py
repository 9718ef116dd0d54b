"""Principal components of the climate as straight lines in forcing series.

Invariant: closed-form; the same patterns and the same regression as under the other classical emulators, so that what
they add to it can be told from it. Beyond the training forcings it continues along its lines.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.components import Array, ComponentEmulator, fit_basis, fit_trend


class EofRegression(ComponentEmulator):
    """Ridge regression of principal components on forcing features."""

    kind = "eof-regression"

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        components: int = 10,
        ridge: float = 1.0,
    ) -> Self:
        """Fit by ridge regression.

        Args:
            archive: The data.
            split: Its training spans are used, in whole years.
            features: Forcing series, as `emukit.emulators.features` names them.
            components: Patterns kept for each variable; what the others hold is left at its training mean.
            ridge: Penalty on the squared coefficients of standardised features, against the sum of squared errors over
                all training years and members.

        Raises:
            RecipeError: No features, a bad name, or a value outside its range.
            ProtocolError: A forcing is not in the store, or no training span holds a whole year.
        """
        basis, years = fit_basis(archive, split, features, components)
        return cls(archive.domain, basis, fit_trend(years, ridge))

    def departure(self, z: Array) -> Array:
        """(T, V, K) zeros: there is nothing next to the lines."""
        return np.zeros((len(z), *self.trend.shape[1:]))
