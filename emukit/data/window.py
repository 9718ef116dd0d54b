"""Which forcing months a target month sees.

Invariant: a target month sees exactly its own `history` months of one scenario, consecutive, ending with itself or
with the month before it; a scenario's first months get their missing past by a named rule, never from elsewhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emukit.config import Settings
from emukit.errors import ProtocolError


class Window(Settings):
    """The forcing history of a target month.

    Attributes:
        history: Number of forcing months.
        target_month: Whether the target month's own forcing is the last of them (``included``), or the window ends
            with the month before (``excluded``, the convention of the competition's published third place).
        lead_in: What stands before a scenario's first month: its first year again, so that the season is right
            (``repeat-year``), its first month again (``repeat-month``), or nothing (``drop``: months without a full
            history are not trained on and cannot be predicted).
    """

    history: int = Field(12, ge=1, le=1200)
    target_month: Literal["included", "excluded"] = "included"
    lead_in: Literal["repeat-year", "repeat-month", "drop"] = "repeat-year"

    @property
    def offset(self) -> int:
        """Months from the window's last frame to the target month."""
        return 0 if self.target_month == "included" else 1

    @property
    def first_target(self) -> int:
        """The first month of a scenario that can be trained on and predicted."""
        return self.history - 1 + self.offset if self.lead_in == "drop" else 0

    def frames(self, start: int, length: int, months: int) -> NDArray[np.int64]:
        """Frame positions for `length` consecutive target months from `start`.

        Target month ``start + i`` sees positions ``i .. i + history - 1`` of the result.

        Args:
            start: First target month.
            length: Number of target months.
            months: Number of months of the scenario.

        Returns:
            (length + history - 1,) positions in the scenario.

        Raises:
            ProtocolError: The rule is ``drop`` and the history reaches before the scenario, or the scenario is too
                short for a window.
        """
        first = start - self.offset - self.history + 1
        if not 0 <= start <= start + length <= months:
            raise ValueError(f"target months [{start}, {start + length}) are outside [0, {months})")
        if self.history > months:
            raise ProtocolError(
                "the window is longer than the scenario",
                found=f"history of {self.history} months, scenario of {months}",
                hint="choose a shorter --set inputs.window.history",
            )
        if start < self.first_target:
            raise ProtocolError(
                f"target month {start} has no full history",
                found=f"{start - self.offset + 1} months before and including it",
                expected=f"{self.history}, as lead_in = 'drop' invents none",
                hint=f"start at month {self.first_target}, or --set inputs.window.lead_in=repeat-year",
            )
        index = np.arange(first, first + length + self.history - 1)
        before = index < 0
        # % 12 keeps the calendar month: month -1 is the December of the first year, as the season needs.
        index[before] = index[before] % 12 if self.lead_in == "repeat-year" and months >= 12 else 0
        return index
