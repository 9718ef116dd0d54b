"""Which forcing steps a target step sees: months of a monthly data set, days of a daily one.

Invariant: a target step sees exactly its own `history` steps of one scenario, consecutive, ending with itself or with
the one before it; a scenario's first steps get their missing past by a named rule, never from elsewhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emukit.config import Settings
from emukit.data.time import TimeAxis
from emukit.errors import ProtocolError


class Window(Settings):
    """The forcing history of a target step: a month, or what else the time axis counts.

    Attributes:
        history: Number of forcing steps.
        target_month: Whether the target step's own forcing is the last of them (``included``), or the window ends
            with the step before (``excluded``, the convention of the competition's published third place).
        lead_in: What stands before a scenario's first step: its first year again, so that season and time of the day
            are right (``repeat-year``; of less than a year its first day, else its first step), its first step again
            (``repeat-month``), or nothing (``drop``: steps without a full history are not trained on and cannot be
            predicted).
    """

    history: int = Field(12, ge=1, le=1200)
    target_month: Literal["included", "excluded"] = "included"
    lead_in: Literal["repeat-year", "repeat-month", "drop"] = "repeat-year"

    @property
    def offset(self) -> int:
        """Steps from the window's last frame to the target."""
        return 0 if self.target_month == "included" else 1

    @property
    def first_target(self) -> int:
        """The first step of a scenario that can be trained on and predicted."""
        return self.history - 1 + self.offset if self.lead_in == "drop" else 0

    def frames(self, start: int, length: int, steps: int, time: TimeAxis | None = None) -> NDArray[np.int64]:
        """Frame positions for `length` consecutive target steps from `start`.

        Target step ``start + i`` sees positions ``i .. i + history - 1`` of the result.

        Args:
            start: First target step.
            length: Number of target steps.
            steps: Number of steps of the scenario.
            time: Says how many steps are a year and a day; months when None.

        Returns:
            (length + history - 1,) positions in the scenario.

        Raises:
            ProtocolError: The rule is ``drop`` and the history reaches before the scenario, or the scenario is too
                short for a window.
        """
        first = start - self.offset - self.history + 1
        unit, year = (time.unit, time.per_year) if time else ("month", 12)
        if not 0 <= start <= start + length <= steps:
            raise ValueError(f"target {unit}s [{start}, {start + length}) are outside [0, {steps})")
        if self.history > steps:
            raise ProtocolError(
                "the window is longer than the scenario",
                found=f"history of {self.history} {unit}s, scenario of {steps}",
                hint="choose a shorter --set inputs.window.history",
            )
        if start < self.first_target:
            raise ProtocolError(
                f"target {unit} {start} has no full history",
                found=f"{start - self.offset + 1} {unit}s before and including it",
                expected=f"{self.history}, as lead_in = 'drop' invents none",
                hint=f"start at {unit} {self.first_target}, or --set inputs.window.lead_in=repeat-year",
            )
        index = np.arange(first, first + length + self.history - 1)
        before = index < 0
        # The remainder keeps the season: month -1 is the December of the first year.
        period = next((p for p in (year, time.per_day if time else 1) if p <= steps), 1)
        index[before] = index[before] % period if self.lead_in == "repeat-year" else 0
        return index
