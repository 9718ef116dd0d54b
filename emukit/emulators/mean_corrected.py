"""One emulator's fields with another's global means.

Invariant: the area mean of a variable that is held is that of the second base in every month, up to the bounds of the
variable and the rounding to float32; the pattern about it is the first base's.

A network or a regression on many forcings may know patterns well and miss the globe's warming beyond its training; an
energy balance knows that, and little else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import RecipeError
from emukit.physics.budget import BudgetCorrector

How = Literal["add", "multiply"]


class MeanCorrected(Wrapper):
    """The first base, held to the global means of the second.

    Attributes:
        how: Variable to how its global mean is held.
    """

    kind = "mean-corrected"
    by_variable = ("how",)
    most_bases: ClassVar[int | None] = 2
    least_bases: ClassVar[int] = 2

    def __init__(self, domain: Domain, bases: Sequence[Emulator], how: Mapping[str, How]) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.how = dict(how)
        self.corrector = BudgetCorrector(torch.as_tensor(self.grid.weights), self.variables, self.how)

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        how: dict[str, Literal["add", "multiply"]] | None = None,
    ) -> Self:
        """Put two emulators together; nothing is fitted.

        Args:
            archive: The data.
            split: Where it is to be used.
            bases: Whose fields, and whose global means; both predict the mean over runs.
            folds: None.
            how: Variable to how its global mean is held: the same amount is added everywhere (``add``), or fields are
                multiplied by one factor, so that dry cells stay dry (``multiply``). Variables that are not named are
                left alone. The temperature by adding, when nothing is said.

        Raises:
            RecipeError: A variable that is not predicted, or none.
        """
        cls.check(archive, how=how)
        return cls(archive.domain, bases, _held(archive.domain, how))

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse variables that are not predicted; arguments as for `fit`."""
        how = _held(archive.domain, options.get("how"))
        unknown = [v for v in how if v not in archive.variables]
        if unknown or not how:
            raise RecipeError(
                "model.how names what is not predicted" if unknown else "no global mean is held",
                found=", ".join(unknown) or "none",
                expected=f"some of {', '.join(archive.variables)}",
                hint="--set model.how.VARIABLE=add",
            )

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        fields = self.bases[0].predict_fields(scenario, start, stop)
        means = self.grid.mean(self.bases[1].predict_fields(scenario, start, stop))
        budgets = {v: torch.as_tensor(means[:, self.variables.index(v)]) for v in self.how}
        out: NDArray[np.float32] = self.corrector(torch.as_tensor(fields), budgets).numpy().astype(np.float32)
        self.clip_to_bounds(out)
        return out

    def findings(self, archive: Archive, split: Split) -> tuple[str, ...]:
        """What had to be added to the global means of the training months."""
        lines = []
        for span in split.train:
            self.corrector.reset()
            first = max(span.start, self.first_month)
            if first >= span.stop:
                continue
            self.predict_fields(archive[span.scenario], first, span.stop)
            words = ", ".join(
                f"{v} {added['mean']:+.3f} in the mean, {added['largest']:.3f} at most"
                for v, added in self.corrector.added().items()
            )
            lines.append(f"{span.text(archive)}: added to the global mean: {words}")
        self.corrector.reset()
        return tuple(lines)

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What is held, and how."""
        return {"how": self.how}, {}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        return cls(domain, bases, meta["how"])


def _held(domain: Domain, how: Mapping[str, How] | None) -> dict[str, How]:
    if how is None:
        return {} if domain.temperature is None else {domain.variables[domain.temperature]: "add"}
    return dict(how)
